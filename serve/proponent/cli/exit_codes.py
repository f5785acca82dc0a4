"""What the exit codes of the command line mean, beside those that errors have themselves."""

DAMAGED = 4
GATE = 7

HELP = (
    "Exit codes: 0 done; 2 bad input or another error; 3 unknown model, bundle, example or file; 4 a bundle is "
    "damaged or does not fit its model; 5 another rebuild or change is running; 6 the disk is full or read-only; "
    "7 a gate (--fail-below) failed."
)
SERVE = HELP
