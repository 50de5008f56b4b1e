"""Under observation every public method of a word is a step, or is refused."""

from types import FunctionType
from typing import Any

import pytest

from dpamt.errors import InputError
from dpamt.sync.observed import Address, ObservedShared


class Stopped(BaseException):
    """Raised by a step."""


class Stops:
    def step(self, address: Address, method: str, arguments: tuple[Any, ...]) -> Any:
        raise Stopped


FINDS = frozenset({"at"})
"""Methods that find a word and look at nothing in it."""


def things() -> dict[str, Any]:
    shared = ObservedShared()
    made: dict[str, Any] = {
        "words": shared.words("words"),
        "host priority words": shared.host_priority_words("host priority words"),
        "pages": shared.entry_pages("pages"),
        "shared/exclusive locks": shared.shared_exclusive_locks("shared/exclusive locks"),
        "spinlocks": shared.spinlocks("spinlocks"),
        "rwlocks": shared.rwlocks("rwlocks"),
        "a spinlock": shared.spinlock("a spinlock"),
        "a mutex": shared.mutex("a mutex"),
        "an rwlock": shared.rwlock("an rwlock"),
    }
    for name in list(made):
        if hasattr(made[name], "at"):
            made[f"one of {name}"] = made[name].at(1)
    shared.watch.observer = Stops()
    return made


METHODS = [
    (name, method)
    for name, thing in things().items()
    for method in dir(thing)
    if not method.startswith("_")
    and isinstance(getattr(type(thing), method, None), FunctionType)
    and method not in FINDS
]


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_no_public_method_answers_a_thread(name: str, method: str) -> None:
    operation = getattr(things()[name], method)
    if (name, method) == ("one of shared/exclusive locks", "contended"):
        assert operation() is False  # never, by construction: it looks at nothing
        return
    given = (1,) * operation.__func__.__code__.co_argcount
    refused = pytest.raises(InputError, match=r"test_observed.py:\d+: .* is for audits")
    try:
        with refused:
            operation(*given[1:] if operation.__func__.__code__.co_argcount > 1 else ())
    except Stopped:
        pass
    except TypeError:
        with pytest.raises(Stopped):  # a step of a page, that names one entry
            operation(1)
