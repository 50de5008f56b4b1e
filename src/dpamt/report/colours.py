"""Verdicts in colour, for a terminal: what holds is green, what fails is red, the rest yellow.

The words are those of the reports; a report stays the same text without them.
"""

import os
import re
import sys
from typing import Final

_GOOD, _BAD, _OPEN = "32", "31", "33"

_VERDICTS: Final = (
    (
        _BAD,
        r"^FAILS( AGAIN)?\b|^ *NOT CONFIRMED\b|^FINDING\b|^ *DIFFERS?\b|^KERNEL SAYS\b|: FAILS$",
    ),
    (_BAD, r"(?<=\s)fails(?= {2,})|(?<=: )DIFFERS\b|(?<=  )FAILS AGAIN\b|\b\d+ findings?$"),
    (_OPEN, r"^NOT FINISHED\b|^NOT SEEN\b|(?<=\s)not finished(?= {2,})|: NOT FINISHED$|^ +!"),
    (_GOOD, r"^HOLDS\b|^Audit: clean\b|^Clean:|(?<=  )holds(?= {2,})|: HOLDS$"),
    (_GOOD, r"(?<=  )NO LONGER FAILS\b|^As the certificate says\b"),
)
_PATTERN: Final = re.compile(
    "|".join(f"(?P<v{n}>{pattern})" for n, (_, pattern) in enumerate(_VERDICTS)), re.MULTILINE
)


def wanted() -> bool:
    """Whether standard output is a terminal that shows colours to somebody who wants them.

    ``NO_COLOR`` (no-color.org), not empty, and ``TERM=dumb`` say no.
    """
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return bool(sys.stdout.isatty())


def coloured(text: str) -> str:
    """The text with its verdicts in colour."""

    def paint(match: re.Match[str]) -> str:
        colour = _VERDICTS[int((match.lastgroup or "v0")[1:])][0]
        return f"\x1b[1;{colour}m{match[0]}\x1b[0m"

    return _PATTERN.sub(paint, text)
