"""What is installed only on request: whoever needs it and has it not gets one line, before any
work."""

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
    """The line: ``plan --html needs plotly: pip install 'dpamt[plots]'``."""
    package, extra = EXTRAS[module]
    return InputError(f"{what} needs {package}: pip install 'dpamt[{extra}]'")
