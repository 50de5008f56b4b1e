"""The folder for what can be made again: ``dpamt`` in the user's cache folder.

Source: XDG Base Directory Specification 0.8: ``$XDG_CACHE_HOME``, else ``$HOME/.cache``; a path
that is not absolute is to be ignored.
"""

import os
from pathlib import Path

from dpamt.errors import InputError


def cache_folder() -> Path:
    """The folder, which need not exist.

    Raises InputError for a user without a home folder, as in a container with a user of its own.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):
        return Path(given) / "dpamt"
    home = os.environ.get("HOME", "")
    if not os.path.isabs(home):
        home = _home_by_the_system()
    if not os.path.isabs(home):
        raise InputError("no home folder; expected HOME or XDG_CACHE_HOME to name one")
    return Path(home) / ".cache" / "dpamt"


def _home_by_the_system() -> str:
    """Empty where the system does not know the user."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return ""
