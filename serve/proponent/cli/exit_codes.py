"""What the exit codes of the command line mean, beside those that errors have themselves."""

DAMAGED = 4
GATE = 7
UNFIT = 8
INTERRUPTED = 130

_MEANINGS = {
    3: "unknown model, bundle, example or file",
    DAMAGED: "a bundle is damaged or does not fit its model",
    5: "another rebuild or change is running",
    6: "the disk is full or read-only",
    GATE: "the overlap is below --fail-below",
    UNFIT: "a check failed",
    INTERRUPTED: "interrupted",
}


def exits(*codes: int) -> str:
    """What help says of a command that may also end with these codes."""
    special = "".join(f"; {code} {_MEANINGS[code]}" for code in codes)
    always = "0 done; 1 a defect, with a traceback, or nobody reads the output; 2 bad input or another error"
    return f"Exit codes: {always}{special}."


READS = exits(3, DAMAGED, INTERRUPTED)
WRITES = exits(3, DAMAGED, 5, 6, INTERRUPTED)
