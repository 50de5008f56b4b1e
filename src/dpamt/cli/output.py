"""Text on standard output, whatever characters it can take."""

import sys
from typing import Final

_ASCII: Final = str.maketrans({"…": "~", "█": "#", **dict.fromkeys("▏▎▍▌▋▊▉", "|")})


def write_text(text: str) -> None:
    """Write it; where the output's encoding has no block characters, with ASCII in their place."""
    encoding = sys.stdout.encoding or "ascii"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
    sys.stdout.write(text)
