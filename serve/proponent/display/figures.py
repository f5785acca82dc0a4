"""Numbers, shares and times as text, in the same form as on the explorer's page."""

from __future__ import annotations

from math import floor, isfinite, log10

MINUS = "\u2212"
UNTOLD = "\u2014"
"""What stands for a figure that a service does not tell."""
_NARROW = "\u00a0"
_SMALL, _LARGE = 1e-4, 1e7


def count(value: int) -> str:
    """A whole number with its thousands set apart.

    >>> count(50000)
    '50,000'
    """
    return _fixed(value, 0)


def counted(number: int, singular: str, plural: str = "") -> str:
    """A number with its noun.

    >>> counted(1, "example"), counted(2, "example")
    ('1 example', '2 examples')
    """
    return f"{count(number)} {singular if number == 1 else plural or singular + 's'}"


def figure(value: float | None, digits: int = 3) -> str:
    """A few digits that count; "unknown" for what is None or not finite.

    >>> figure(0.12345), figure(float("nan")), figure(-2.0)
    ('0.123', 'unknown', '\u22122')
    """
    if value is None or not isfinite(value):
        return "unknown"
    if value and not _SMALL <= abs(value) < _LARGE:
        return _scientific(value, digits)
    text = _fixed(value, min(decimals_for(abs(value), digits), 8))
    return text.rstrip("0").rstrip(".") if "." in text else text


def aligned(value: float, largest: float) -> str:
    """A number with as many decimals as the largest of those that stand below each other needs.

    >>> aligned(2.0, 419.25), aligned(419.25, 419.25)
    ('2.0', '419.2')
    """
    if largest and not _SMALL <= largest < _LARGE:
        return _scientific(value, 4)
    return _fixed(value, decimals_for(largest))


def decimals_for(largest: float, digits: int = 4) -> int:
    """Decimals that show so many digits of the largest of several numbers."""
    return max(0, digits - 1 - floor(log10(largest))) if largest else 0


def score(value: float, largest: float) -> str:
    """A signed score, with as many decimals as the largest of those that stand with it needs; a dash where it is nan.

    >>> score(1.5, 10.0), score(-0.25, 1.0), score(float("nan"), 0.0)
    ('+1.50', '\u22120.250', '\u2014')
    """
    if not isfinite(value):
        return UNTOLD
    sign = MINUS if value < 0 else "+"
    if largest and not _SMALL <= largest < _LARGE:
        return sign + _scientific(abs(value), 4)
    return sign + _fixed(abs(value), decimals_for(largest))


def signed(value: float) -> str:
    """A change on its own.

    >>> signed(0.02384)
    '+0.02384'
    """
    return score(value, abs(value))


def percent(share: float, decimals: int = 1) -> str:
    r"""A share in 0..1 in per cent; what is not wholly none or all is not shown as such.

    >>> percent(0.888), percent(0.99999), percent(1.0)
    ('88.8\xa0%', '>\xa099.9\xa0%', '100.0\xa0%')
    """
    if not isfinite(share):
        return "unknown"
    least, value = 10.0**-decimals, share * 100
    if 0 < value < least / 2:
        return f"<{_NARROW}{_fixed(least, decimals)}{_NARROW}%"
    if 100 - least / 2 < value < 100:
        return f">{_NARROW}{_fixed(100 - least, decimals)}{_NARROW}%"
    return f"{_fixed(value, decimals)}{_NARROW}%"


def percents(first: float, second: float) -> tuple[str, str]:
    r"""Two shares with as many decimals as it takes to tell them apart, at most four.

    >>> percents(0.5, 0.5002)
    ('50.00\xa0%', '50.02\xa0%')
    """
    tries = [(percent(first, n), percent(second, n)) for n in range(1, 5)]
    return next((pair for pair in tries if pair[0] != pair[1]), tries[0])


def date(time: str) -> str:
    """The day and minute of an RFC 3339 time.

    >>> date("2026-01-02T03:04:05+00:00")
    '2026-01-02 03:04 UTC'
    """
    return f"{time[:10]} {time[11:16]} UTC" if time else "unknown"


def _fixed(value: float, decimals: int) -> str:
    text = f"{abs(value):,.{decimals}f}"
    return MINUS + text if value < 0 and text.strip("0.,") else text


def _scientific(value: float, digits: int) -> str:
    mantissa, exponent = f"{abs(value):.{digits - 1}e}".split("e")
    return f"{MINUS if value < 0 else ''}{mantissa}e{MINUS if int(exponent) < 0 else ''}{abs(int(exponent))}"
