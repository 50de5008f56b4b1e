"""Whether a user's file has changed dpamt itself: a function, class or constant of its modules.

What a verdict says holds for the code of dpamt as it is.  A design that puts another function in
the place of one of dpamt's (a quieter ``warn``, a word that never changes) would be verified by
code that nobody has seen.
"""

import sys
from types import FunctionType, ModuleType
from typing import Any, Final

from dpamt.errors import InputError

_OWN: Final = "dpamt"
_DUNDER: Final = "__"
Members = dict[tuple[str, str], tuple[Any, Any]]
"""By module, class or function and name: whose it is, and what stands there."""


def members() -> Members:
    """All that the loaded modules of dpamt and their classes have."""
    found: Members = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] != _OWN or module is None:
            continue
        for key, value in list(vars(module).items()):
            if isinstance(value, ModuleType) or key.startswith(_DUNDER):
                continue  # importing a module puts it into its package
            found[name, key] = module, value
            if isinstance(value, type) and value.__module__ == name:
                for part, member in list(vars(value).items()):
                    if isinstance(member, FunctionType) or not part.startswith(_DUNDER):
                        found[f"{name}.{key}", part] = value, member
            elif isinstance(value, FunctionType):
                found[f"{name}.{key}", "__code__"] = value, value.__code__
    return found


def check_untouched(before: Members, source: str) -> None:
    """Raise InputError where something of ``before`` is another one now; it is put back."""
    now = members()
    changed = [
        key for key, (_, value) in before.items() if now.get(key, (None, None))[1] is not value
    ]
    for key in changed:
        owner, value = before[key]
        setattr(owner, key[1], value)
    if changed:
        where, name = changed[0]
        raise InputError(
            f"{source}: {where}.{name} is changed; expected a design that leaves dpamt as it is"
        )
