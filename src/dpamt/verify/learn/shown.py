"""What a local shows: its value, as something hashable that is equal where it would act alike.

Objects that are the machine itself (the kernel, the module, their words) are the same for every run
and show as themselves; everything else shows what it holds, so that private pools, register files
and lock lists tell places apart by content.

Whatever holds something is shown by a :class:`Shown`, of which there is one for each content.  So
two of them are equal where they are one object, and a list in a list in an object costs no more to
hash and to keep than a number.
"""

from collections.abc import Callable, Hashable
from enum import Enum
from operator import attrgetter
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    MethodType,
    ModuleType,
)
from typing import Any, Final

from dpamt.errors import ModelError
from dpamt.sync.entry_pages import EntryPage, EntryPages
from dpamt.sync.host_priority import HostPriorityWord, HostPriorityWords
from dpamt.sync.kernel_locks import BareLock, RwLock, RwLocks, SpinLocks
from dpamt.sync.shared import Shared
from dpamt.sync.shared_exclusive import SharedExclusiveLock, SharedExclusiveLocks
from dpamt.sync.words import Word, Words


class Fixed:
    """What is one and the same object in every run of a thread, and holds no state of one."""

    __slots__ = ()


class Shown:
    """What a value holds; equal to itself alone."""

    __slots__ = ()


PLAIN: Final = frozenset({int, str, bytes, type(None)})
"""Shown as themselves; values of other types are equal to some of these (True, 1.0)."""
_PLAIN_BESIDES: Final = (bool, float, complex, range)
"""Shown with their type."""
_SHARED_STATE: Final = (
    Word,
    Words,
    HostPriorityWord,
    HostPriorityWords,
    EntryPage,
    EntryPages,
    SharedExclusiveLock,
    SharedExclusiveLocks,
    BareLock,
    SpinLocks,
    RwLock,
    RwLocks,
    Shared,
    ModuleType,
    BuiltinFunctionType,
    type,
    CodeType,
    Fixed,
)
_NO_STATE_OF_ITS_OWN: Final = getattr(object, "__reduce__", None)
"""What classes pickle by when their instances are their attributes and nothing else."""
_BUILT_IN: Final = (int, str, bytes, bytearray, float, tuple, list, dict, set, frozenset)
"""Kinds that a subclass adds state to; the kinds themselves have their own ways."""
_DEPTH: Final = 12
_MOST_KEPT: Final = 4096
"""Values of one type whose showing is remembered."""
_UNSET: Final = Shown()
"""Of an attribute that is not there."""

Way = Callable[[Any, int], Hashable]
"""How a value is shown that lies so deep in others."""


class ShownValues:
    """Shows the values of one machine's threads.

    ``machine`` are the objects that are one and the same in every run; ``fixed_types`` are types
    all of whose instances are.
    """

    def __init__(self, machine: tuple[object, ...], fixed_types: tuple[type, ...]) -> None:
        self._machine: dict[int, Hashable] = {id(item): Shown() for item in machine}
        self._kept: list[object] = list(machine)
        """Objects that are known by their id, which stays their own while they are alive."""
        self._fixed_types = (*_SHARED_STATE, *fixed_types)
        self._ways: dict[type, Way] = {}
        self._contents: dict[Hashable, Shown] = {}
        self._codes: dict[int, Shown] = {}
        self._seen: dict[int, int] = {}
        """Objects that the place being made shows already, by id."""
        self.can_change = False
        """Whether something was shown of which the content can change."""

    def show(self, value: Any, depth: int = 0) -> Hashable:
        """A value as something hashable that is equal where the value would act alike.

        Part of a place: an object that the place shows already is only named again.

        Raises ModelError for something that cannot be shown (an iterator, a generator).
        """
        kind = type(value)
        if kind in PLAIN:
            plain: Hashable = value
            return plain
        known = self._machine.get(id(value))
        if known is not None:
            return known
        how = self._ways.get(kind)
        if how is None:
            how = self._ways[kind] = self._way(kind)
        return how(value, depth)

    def code(self, code: CodeType) -> Shown:
        """A code object; those that are equal show alike, and none is hashed twice."""
        known = self._codes.get(id(code))
        if known is None:
            self._kept.append(code)
            known = self._codes[id(code)] = self._one(("code", code))
        return known

    def _one(self, content: Hashable) -> Shown:
        """The one that stands for this content."""
        known = self._contents.get(content)
        if known is None:
            known = self._contents[content] = Shown()
        return known

    def _tag(self, kind: type) -> Shown:
        """A type; the garbage collector need not look at contents that have this in its place."""
        return self._one(("type", kind))

    def _way(self, kind: type) -> Way:
        """How values of a type are shown."""
        one, tag = self._one, self._tag(kind)
        if kind is bool:
            yes, no = one((tag, True)), one((tag, False))
            return lambda value, depth: yes if value else no
        if kind is range:  # those without numbers are equal, and begin elsewhere
            return lambda value, depth: one((tag, value.start, value.stop, value.step))
        if kind in _PLAIN_BESIDES or (issubclass(kind, float) and not _has_more(kind)):
            return lambda value, depth: one((tag, repr(value)))  # 0.0 and -0.0 are equal
        if issubclass(kind, Enum):
            return lambda value, depth: one((tag, value.name))  # one object of its class
        if issubclass(kind, (int, str, bytes, tuple)) and not _has_more(kind):
            if issubclass(kind, tuple):
                return self._items(kind)
            return lambda value, depth: one((tag, value))
        if issubclass(kind, self._fixed_types):
            return self._fixed
        if issubclass(kind, MethodType):
            return self._method
        ways: dict[type, Way] = {
            list: self._items(kind),
            FunctionType: self._function,
            dict: self._mapping,
            frozenset: self._frozen_set,
        }
        way = ways.get(kind)
        return self._once(way if way is not None else self._content(kind), kind)

    def _once(self, way: Way, kind: type) -> Way:
        """Show the whole the first time, then its name: one object is not two equal ones."""
        one, seen = self._one, self._seen
        empty = one((self._tag(kind),)) if kind is list else None

        def show(value: Any, depth: int) -> Hashable:
            self.can_change = True
            if depth > _DEPTH:
                raise ModelError(f"a thread holds a {kind.__name__} too deep to be shown")
            at = id(value)
            number = seen.get(at)
            if number is not None:
                return one(("same", number))
            seen[at] = len(seen)
            return way(value, depth) if empty is None or value else empty

        return show

    def _frozen_set(self, value: Any, depth: int) -> Hashable:
        """Of plain values: those of other types may be equal and hold something else.

        In their order, and with the room that is left: equal sets may go through their values in
        different ways.  In which way one that can change will do so cannot be seen at all.
        """
        for item in value:
            if type(item) not in PLAIN and type(item) is not bool:
                raise ModelError(
                    f"a thread holds a {type(value).__name__} of a {type(item).__name__} across a "
                    "step, and what it holds cannot be shown"
                )
        return self._one((self._tag(type(value)), value.__sizeof__(), *map(repr, value)))

    def _items(self, kind: type) -> Way:
        show, plain, tag = self.show, PLAIN, self._tag(kind)
        contents = self._contents

        def items(value: Any, depth: int) -> Hashable:
            content = (
                tag,
                *[item if type(item) in plain else show(item, depth + 1) for item in value],
            )
            known = contents.get(content)
            if known is None:
                known = contents[content] = Shown()
            return known

        return self._kept_if_fixed(items) if kind is tuple else items

    def _kept_if_fixed(self, way: Way) -> Way:
        """Show a value once only, if all that it holds are values that nobody can change."""
        kept: dict[int, tuple[Any, Hashable]] = {}
        """By id: the value, which is alive so that its id stays its own, and how it shows."""

        def show(value: Any, depth: int) -> Hashable:
            known = kept.get(id(value))
            if known is not None:
                return known[1]
            before, self.can_change = self.can_change, False
            shown = way(value, depth)
            if not self.can_change:
                if len(kept) >= _MOST_KEPT:
                    kept.clear()
                kept[id(value)] = value, shown
            self.can_change |= before
            return shown

        return show

    def _mapping(self, value: Any, depth: int) -> Hashable:
        show = self.show
        return self._one(
            (
                self._tag(type(value)),
                *[(show(k, depth + 1), show(v, depth + 1)) for k, v in value.items()],
            )
        )

    def _method(self, value: MethodType, depth: int) -> Hashable:
        if depth > _DEPTH:
            raise ModelError("a thread holds a method too deep to be shown")
        return self._one(("method", value.__func__, self.show(value.__self__, depth + 1)))

    def _function(self, value: FunctionType, depth: int) -> Hashable:
        show = self.show
        deeper = depth + 1
        held = value.__dict__
        attributes = [(name, show(held[name], deeper)) for name in sorted(held)] if held else ()
        closure = [show(_inside(cell), deeper) for cell in value.__closure__ or ()]
        defaults = [show(item, deeper) for item in value.__defaults__ or ()]
        by_name = [show(item, deeper) for item in (value.__kwdefaults__ or {}).values()]
        return self._one((self.code(value.__code__), *attributes, *closure, *defaults, *by_name))

    def _fixed(self, value: Any, depth: int) -> Hashable:
        address = getattr(value, "address", None)
        known = Shown() if address is None else self._one(("word", address))
        self._machine[id(value)] = known
        self._kept.append(value)
        return known

    def _content(self, kind: type) -> Way:
        """How objects are shown that are their attributes and nothing else.

        Raises ModelError where that is not all that they hold.
        """
        names = self._attributes(kind)
        show, plain, one, tag = self.show, PLAIN, self._one, self._tag(kind)
        simple = _is_simple(kind)
        have_slots = _getter(names)
        orders: dict[tuple[str, ...], tuple[str, ...]] = {}
        """Names of attributes as an object has them, and sorted."""

        def content(value: Any, depth: int) -> Hashable:
            try:
                slots = have_slots(value)
            except AttributeError:
                slots = tuple([getattr(value, name, _UNSET) for name in names])
            shown = [
                item if type(item) in plain or item is _UNSET else show(item, depth + 1)
                for item in slots
            ]
            held = getattr(value, "__dict__", None)
            if held is None:
                if not simple and all(item is _UNSET for item in slots):
                    raise _cannot_be_shown(kind)
                return one((tag, *shown))
            present = tuple(held)
            order = orders.get(present)
            if order is None:
                order = orders[present] = tuple(sorted(present))
            for name in order:
                item = held[name]
                shown.append(item if type(item) in plain else show(item, depth + 1))
            return one((tag, order, *shown))

        own = kind.__module__.startswith("dpamt.") and not getattr(kind, "__dictoffset__", 0)
        if own and getattr(getattr(kind, "__dataclass_params__", None), "frozen", False):
            return self._kept_if_fixed(content)
        return content

    def _attributes(self, kind: type) -> list[str]:
        """What there is to see of instances beside their __dict__.

        Raises ModelError where that is not all that they hold.
        """
        if issubclass(kind, BaseException) and _is_args_alone(kind):
            return ["args", "__cause__", "__context__", *slots_of(kind)]
        if issubclass(kind, _BUILT_IN) or (kind.__module__ == "builtins" and kind is not object):
            raise _cannot_be_shown(kind)
        if getattr(kind, "__reduce__", None) is not _NO_STATE_OF_ITS_OWN:
            raise _cannot_be_shown(kind)  # a state of its own that its attributes do not show
        return slots_of(kind)


def _getter(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    """All these attributes of an object; raises AttributeError where one is not there."""
    if not names:
        return lambda value: ()
    get = attrgetter(*names)
    return get if len(names) > 1 else lambda value: (get(value),)


def _cannot_be_shown(kind: type) -> ModelError:
    return ModelError(
        f"a thread holds a {kind.__name__} across a step, and what it holds cannot be shown"
    )


def _has_more(kind: type) -> bool:
    """Whether instances of a subclass of a plain type hold more than its value."""
    return bool(slots_of(kind)) or getattr(kind, "__dictoffset__", 0) != 0


def _is_args_alone(kind: type) -> bool:
    """Whether an exception of C holds its arguments and what it came from, and no more."""
    of_c = next(base for base in kind.__mro__ if base.__module__ == "builtins")
    return of_c.__basicsize__ == BaseException.__basicsize__


def slots_of(kind: type) -> list[str]:
    """The attributes behind the __slots__ of a class and of its bases."""
    return [name for base in kind.__mro__ for name in _slots(base)]


def _slots(base: type) -> list[str]:
    """The attributes behind a class's own __slots__."""
    declared = base.__dict__.get("__slots__", ())
    names = [declared] if isinstance(declared, str) else list(declared)
    prefix = "_" + base.__name__.lstrip("_")
    return [
        prefix + name if name.startswith("__") and not name.endswith("__") else name
        for name in names
    ]


def _inside(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # the variable has no value yet
        return CellType


def _is_simple(kind: type) -> bool:
    """Whether instances are all there is to see of them: they have neither slots nor a dict."""
    return kind is object or any("__slots__" in base.__dict__ for base in kind.__mro__[:-1])
