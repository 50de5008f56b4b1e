"""A process of its own that loads the compiled loop: it is loaded once in each."""

import os
import subprocess
import sys

_TELL = (
    "from dpamt.verify.explore.compiled.library import library, why_not;"
    "print(library() is None, why_not())"
)


def told(**environment: str) -> str:
    """``False``, or ``True`` and why there is no compiled loop, in this environment."""
    found = subprocess.run(
        [sys.executable, "-c", _TELL],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return found.stdout.strip()
