"""Numbers as people read them: bytes in binary units, counts in groups of three, shares."""

from typing import Final

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_BLOCKS: Final = " ▏▎▍▌▋▊▉█"


def amount(size: int) -> str:
    """Bytes to three or four figures: ``42.1 MiB``, ``4.01 GiB``, ``255.9 GiB``.

    A number without decimals is exact: ``4 GiB`` is no byte more or less, ``4.00 GiB`` may be.
    """
    unit = 0
    scaled = float(size)
    while scaled >= 1024 and unit < len(_UNITS) - 1:
        scaled /= 1024
        unit += 1
    if scaled == int(scaled):
        return f"{int(scaled)} {_UNITS[unit]}"
    decimals = 2 if scaled < 10 else 1
    text = f"{scaled:.{decimals}f}"
    if float(text) >= 1024 and unit < len(_UNITS) - 1:
        return f"1.00 {_UNITS[unit + 1]}"
    return f"{text} {_UNITS[unit]}"


def count(number: int) -> str:
    """``262,144``."""
    return f"{number:,}"


def some(number: int, what: str) -> str:
    """``1 TD``, ``31 TDs``."""
    return f"{count(number)} {what}" + ("" if number == 1 else "s")


def percent(part: int, whole: int) -> str:
    """A share to three significant figures: ``0.391 %``, ``12.0 %``, ``0.00415 %``."""
    if not whole:
        return "-"
    share = 100 * part / whole
    if not share:
        return "0 %"
    decimals = 0
    threshold = 100.0
    while share < threshold and decimals < 8:
        decimals += 1
        threshold /= 10
    return f"{share:.{decimals}f} %"


def bar(part: int, whole: int, width: int) -> str:
    """A bar of ``width`` characters at ``whole``, to an eighth of one; never blank above 0."""
    if whole <= 0 or part <= 0:
        return ""
    eighths = max(1, round(8 * width * part / whole))
    full, rest = divmod(min(eighths, 8 * width), 8)
    return "█" * full + (_BLOCKS[rest] if rest else "")
