"""What is installed only on request: whoever needs it and has it not gets one line, before any
work."""

import os
import sys
from typing import Final

from dpamt.errors import InputError

EXTRAS: Final = {
    "elftools": ("pyelftools", "boot"),
    "numpy": ("numpy", "plan"),
    "pyarrow": ("pyarrow", "plan"),
    "plotly": ("plotly", "plots"),
    "ray": ("ray", "ray"),
    "unicorn": ("unicorn", "machine"),
    "capstone": ("capstone", "machine"),
}
"""Module to the package that has it and to the extra of pyproject.toml that installs it."""


def require(what: str, *modules: str) -> None:
    """Raise InputError unless these modules are installed; nothing is imported."""
    from importlib.util import find_spec

    for module in modules:
        try:
            known = find_spec(module) is not None
        except ValueError:  # put aside by whoever runs us
            known = False
        if not known:
            raise needs(what, module)


def needs(what: str, module: str) -> InputError:
    """The line: ``plan --html needs plotly: pip install 'dpamt[plots]'``, or what pipx has for it.

    Both find the dpamt that is installed, and add to it what the extra has besides.
    """
    package, extra = EXTRAS[module]
    by_pipx = f"{os.sep}pipx{os.sep}venvs{os.sep}" in sys.prefix
    install = "pipx runpip dpamt install" if by_pipx else "pip install"
    return InputError(f"{what} needs {package}: {install} 'dpamt[{extra}]'")
