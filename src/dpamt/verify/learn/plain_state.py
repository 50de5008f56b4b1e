"""What a design keeps outside words: it may be read by threads, and no thread may change it.

A thread is run again from its start for every edge that is learned, on the same objects.  State
that a run changes and no word shows would survive into the next run, and would be the same for all
CPUs at once: the automaton would be wrong without a word.  So all of it is looked at after each
run: the attributes of the kernel and of its CPUs, and whatever can be reached from the functions of
the design through their globals, defaults, closures and attributes, and through the classes and
modules of the user's.  A change is refused; the run is made again, step by step, to name the line.
An object of a kind that cannot be looked into (an iterator, a file, a ``partial``, a
``SimpleNamespace``) is refused where a design keeps one.

Of dpamt's own modules, classes and objects only the members themselves are compared, not what they
hold: dpamt's own state is words, and its tests hold it to that.  What a design may import is held
to a list before (:mod:`dpamt.sync.design_reach`): files, clocks and processes are nobody's state
here.
"""

import sys
import sysconfig
from collections import deque, namedtuple
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import (
    BuiltinFunctionType,
    EllipsisType,
    FrameType,
    FunctionType,
    GenericAlias,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
    NotImplementedType,
    UnionType,
    WrapperDescriptorType,
)
from typing import Any, Final

import dpamt
from dpamt.errors import InputError
from dpamt.host.core.kernel import Cpu, Kernel
from dpamt.verify.learn.shown import slots_of

_OWN: Final = Path(dpamt.__file__).parent
_INSTALLED: Final = tuple(
    Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
_DEPTH: Final = 20
_MOST_RUNS: Final = 64
"""Runs after which is looked in any case."""
_PLAIN: Final = (int, str, bool, bytes, float, complex, range)
_CONTAINERS: Final = frozenset({list, tuple, deque, set, frozenset, dict, bytearray, memoryview})
_WITHOUT_STATE: Final = frozenset(
    {
        *("__future__", "_operator", "dataclasses", "decimal", "enum", "fractions", "operator"),
        *("pathlib", "re", "typing"),
    }
)
"""Modules whose objects, none of the kinds above, hold nothing that a thread could change."""
_STATELESS: Final = (
    BuiltinFunctionType,
    GenericAlias,
    UnionType,
    EllipsisType,
    NotImplementedType,
    object,
)
"""The same of Python's own kinds, the kind itself and no subclass."""
_DESCRIPTORS: Final = (
    property,
    staticmethod,
    classmethod,
    MemberDescriptorType,
    GetSetDescriptorType,
    WrapperDescriptorType,
    MethodDescriptorType,
    type(namedtuple("_Pair", "first").first),  # type: ignore[attr-defined]
)
"""What the members of a class are."""
_PYTHONS_OWN: Final = frozenset(
    {
        *("__builtins__", "__name__", "__doc__", "__file__", "__loader__", "__spec__"),
        *("__package__", "__cached__", "__annotations__", "__annotate__", "__dict__"),
        *("__weakref__", "__module__", "__qualname__", "__firstlineno__"),
        *("__static_attributes__", "__conditional_annotations__", "__wrapped__"),
    }
)
"""Names that Python itself gives to modules, classes and functions."""
_OF_THE_KERNEL: Final = frozenset(Kernel.__init__.__code__.co_names)
"""Attributes that the kernel gives itself; all others are a design's."""
_LEAVES: Final[set[type]] = set()
"""Types met so far of which nothing is looked at: dpamt's own, and installed ones."""

Item = tuple[str, Hashable]
"""Where something is kept, by the name a reader knows it by, and what it holds."""


class PlainState:
    """The plain state of one kernel and its design."""

    def __init__(self, kernel: Any, functions: Iterable[Callable[..., Any]]) -> None:
        self._kernel = kernel
        self._functions = list(functions)
        self._before: list[Item] = []
        self._contents: list[tuple[Any, Any]] = []
        """Containers with a copy of what was in them, to be put back."""
        self._runs: list[Callable[[], object]] = []
        """Runs made since the last look."""
        self._together = False

    def begin(self) -> None:
        """From now on nothing may change."""
        self._contents, self._runs = [], []
        self._before = self._look(self._contents)

    def ran(self, again: Callable[[], object]) -> None:
        """A run was made, which ``again`` makes once more.

        Raises InputError when something has changed; inside ``together`` that may come later.
        """
        self.made(again)
        if not self._together or len(self._runs) >= _MOST_RUNS:
            self.check()

    def made(self, again: Callable[[], object]) -> None:
        """The same of a run that was broken off: whoever made it looks when all is over."""
        self._runs.append(again)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Look once after all runs that are made inside; a look costs as much as a run.

        What one of them has changed may mislead the next, so nothing may be made of them before
        the end, and what is raised here comes before whatever they raise.  Inside another
        ``together`` this is a part of that.
        """
        if self._together:
            yield
            return
        self._together = True
        try:
            yield
        finally:
            self._together = False
            if self._runs:
                self.check()

    def check(self) -> None:
        """Raise InputError when something has changed since the last time."""
        runs, self._runs = self._runs, []
        now = self._look(None)
        if now == self._before:
            return
        name = _changed(self._before, now)
        for container, content in self._contents:
            _put_back(container, content)
        where = self._line_of(runs) if self._look(None) == self._before else ""
        raise InputError(
            f"{where}{name} is changed by a thread; expected what threads share in words and locks "
            "of kernel.shared (docs/verify.md)"
        )

    def _line_of(self, runs: list[Callable[[], object]]) -> str:
        """``file:line: `` of the first line after which something has changed."""
        found: list[str] = []
        last: dict[FrameType, int] = {}

        def trace(frame: FrameType, event: str, argument: object) -> Any:
            line = last.get(frame, frame.f_lineno)
            if not found and _is_users(frame.f_code.co_filename):
                if self._look(None) != self._before:
                    found.append(f"{frame.f_code.co_filename}:{line}: ")
                last[frame] = frame.f_lineno
            return None if found else trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            for again in runs:
                again()
        finally:
            sys.settrace(before)
        return found[0] if found else ""

    def _look(self, contents: list[tuple[Any, Any]] | None) -> list[Item]:
        look = _Look(contents)
        for name, value in sorted(vars(self._kernel).items()):
            look.at(f"kernel.{name}", value, ours=name in _OF_THE_KERNEL)
        for cpu in self._kernel.cpus:
            look.slots(f"kernel.cpus[{cpu.index}]", cpu)
        for kind in {type(self._kernel), Kernel, Cpu, type(self._kernel.design)}:
            look.shallow(kind.__name__, vars(kind))
        look.shallow("kernel.design", vars(self._kernel.design))
        for function in self._functions:
            look.at(function.__qualname__, function)
        return look.found


class _Look:
    """One walk over everything that can be reached."""

    def __init__(self, contents: list[tuple[Any, Any]] | None) -> None:
        self.found: list[Item] = []
        self._seen: set[int] = set()
        self._contents = contents

    def at(self, name: str, value: Any, depth: int = 0, ours: bool = False) -> None:
        """Note what is kept under the name, and what can be reached from there.

        ``ours``: of an object that dpamt put there nothing more is looked at.
        """
        kind = type(value)
        if value is None or kind in _PLAIN:
            self.found.append((name, _exactly(value)))
            return
        self.found.append((name, id(value)))
        if kind in _LEAVES or id(value) in self._seen:
            return
        self._seen.add(id(value))
        if depth > _DEPTH:
            raise InputError(f"{name}: expected fewer objects inside each other")
        if self._is_container(name, value, depth, ours):
            if kind not in _CONTAINERS and _is_of_users(kind):
                self._object(name, value, depth)
        elif isinstance(value, FunctionType):
            self._function(value.__qualname__, value, depth)
        elif isinstance(value, MethodType):
            self.at(name, value.__self__, depth + 1, ours)
        elif isinstance(value, ModuleType):
            if _is_users(getattr(value, "__file__", None)):
                self._mapping(value.__name__, vars(value), depth)
            else:
                self.shallow(value.__name__, vars(value))
        elif isinstance(value, type):
            if _is_of_users(value):
                if self._contents is not None:
                    self._contents.append((value, dict(vars(value))))
                self._members(value.__name__, vars(value), depth, of_class=True)
            else:
                self.shallow(value.__name__, vars(value))
        elif _is_of_users(kind):
            self._object(name, value, depth)
        elif hasattr(value, "cache_info"):
            self.found.append((name, value.cache_info()))
        elif ours:
            return
        elif _holds_nothing(value, kind):
            _LEAVES.add(kind)
        else:
            raise InputError(
                f"{name} is a {kind.__name__}, and what it holds cannot be watched; expected "
                "numbers, tuples, words and locks (docs/verify.md)"
            )

    def _is_container(self, name: str, value: Any, depth: int, ours: bool) -> bool:
        if isinstance(value, (list, tuple, deque)):
            self._keep(value)
            for n, item in enumerate(value):
                self.at(f"{name}[{n}]", item, depth + 1, ours)
        elif isinstance(value, (set, frozenset)):
            self._keep(value)
            self.found.append((name, tuple(map(id, value))))
        elif isinstance(value, dict):
            self._keep(value)
            for key, item in list(value.items()):
                self.at(f"{name}[{key!r}]", item, depth + 1, ours)
        elif isinstance(value, (bytearray, memoryview)):
            self._keep(value)
            self.found.append((name, bytes(value)))
        elif isinstance(value, _PLAIN):
            self.found.append((name, _exactly(value)))
        else:
            return False
        return True

    def shallow(self, name: str, members: Mapping[str, Any]) -> None:
        """Which objects the members are, and nothing of what those hold."""
        if self._contents is not None and isinstance(members, dict):
            self._contents.append((members, members.copy()))
        self.found.append((name, tuple(map(id, members.values()))))
        for key, member in members.items():
            if isinstance(member, FunctionType) and member.__dict__:
                self._members(f"{name}.{key}", vars(member), 0)

    def slots(self, name: str, value: Any) -> None:
        """The same of an object's slots."""
        held = {slot: getattr(value, slot, None) for slot in slots_of(type(value))}
        if self._contents is not None:
            self._contents.append((value, held))
        self.found.append((name, tuple(map(id, held.values()))))

    def _keep(self, value: Any) -> None:
        if self._contents is not None and not isinstance(value, (tuple, frozenset)):
            self._contents.append((value, value.copy() if hasattr(value, "copy") else value))

    def _object(self, name: str, value: Any, depth: int) -> None:
        self._members(name, getattr(value, "__dict__", {}), depth)
        held = {slot: getattr(value, slot, None) for slot in slots_of(type(value))}
        if self._contents is not None and held:
            self._contents.append((value, held))
        for slot, item in held.items():
            self.at(f"{name}.{slot}", item, depth + 1)

    def _mapping(self, name: str, value: Mapping[Any, Any], depth: int) -> None:
        self._keep(value)
        for key, item in list(value.items()):
            if key not in _PYTHONS_OWN:
                self.at(f"{name}[{key!r}]", item, depth + 1)

    def _members(
        self, name: str, value: Mapping[str, Any], depth: int, of_class: bool = False
    ) -> None:
        """The members of an object; those of a class that Python put there are not looked into."""
        if isinstance(value, dict):
            self._keep(value)
        for key, item in list(value.items()):
            if key not in _PYTHONS_OWN:
                self.at(f"{name}.{key}", item, depth + 1, of_class and key.startswith("_"))

    def _function(self, name: str, value: FunctionType, depth: int) -> None:
        for variable, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            try:
                ours = not _is_users(value.__code__.co_filename)
                self.at(f"{variable} of {name}", cell.cell_contents, depth + 1, ours)
            except ValueError:  # it has no value yet
                continue
        if value.__dict__:
            self._members(name, vars(value), depth)
        if not _is_users(value.__code__.co_filename):
            return  # of ours what it encloses is enough: the user's function behind a wrapper
        for n, item in enumerate(value.__defaults__ or ()):
            self.at(f"a default of {name} ({n})", item, depth + 1)
        for key, item in (value.__kwdefaults__ or {}).items():
            self.at(f"the default {key} of {name}", item, depth + 1)
        used = value.__globals__
        if id(used) not in self._seen:
            self._seen.add(id(used))
            self._keep(used)
            for key, item in list(used.items()):
                if key not in _PYTHONS_OWN:
                    self.at(key, item, depth + 1)


def _exactly(value: Any) -> Hashable:
    """A plain value, so that two are equal only where nobody could tell them apart."""
    kind = type(value)  # True is equal to 1, 0.0 to -0.0, one empty range to all others
    return kind, repr(value) if issubclass(kind, (float, complex, range)) else value


def _holds_nothing(value: object, kind: type) -> bool:
    """Whether no thread can change anything in an object that is neither plain nor the user's."""
    if kind.__module__ in _WITHOUT_STATE or kind.__module__.startswith("dpamt."):
        return True
    if getattr(getattr(kind, "__dataclass_params__", None), "frozen", False):
        return True
    if isinstance(value, BuiltinFunctionType):
        return value.__self__ is None or isinstance(value.__self__, ModuleType)
    return kind in _STATELESS or isinstance(value, _DESCRIPTORS)


def _is_users(file: str | None) -> bool:
    """Whether a file is neither dpamt's nor installed."""
    if file is None or file.startswith("<"):
        return False
    known = _USERS.get(file)
    if known is None:
        path = Path(file)
        known = _USERS[file] = not any(path.is_relative_to(p) for p in (_OWN, *_INSTALLED))
    return known


def _is_of_users(kind: type) -> bool:
    """Whether a class is neither dpamt's nor installed; a design's module has no name to find."""
    module = sys.modules.get(kind.__module__)
    return module is None or _is_users(getattr(module, "__file__", None))


_USERS: Final[dict[str, bool]] = {}


def _changed(before: list[Item], now: list[Item]) -> str:
    """The name of the first thing that is not as it was."""
    for (name, value), (other, after) in zip(before, now, strict=False):
        if name != other:
            return other
        if value != after:
            return name
    return (now if len(now) > len(before) else before)[min(len(now), len(before))][0]


def _put_back(container: Any, content: Any) -> None:
    if isinstance(container, type):
        for name, value in content.items():
            if vars(container)[name] is not value:
                setattr(container, name, value)
    elif isinstance(container, (dict, set)):
        container.clear()
        container.update(content)
    elif isinstance(container, (list, deque, bytearray)):
        container.clear()
        container.extend(content)
    elif type(content) is dict:  # the slots of an object
        for name, value in content.items():
            if getattr(container, name, None) is not value:
                setattr(container, name, value)
