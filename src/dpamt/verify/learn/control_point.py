"""Where a thread stands: the stack of code positions with their live locals, as one hashable value.

What a local shows is its value.  Objects that are the machine itself (the kernel, the module, their
words) are the same for every run and show as themselves; everything else shows what it holds, so
that private pools, register files and lock lists tell places apart by content.
"""

from collections.abc import Callable, Hashable
from enum import Enum
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR
from pathlib import Path
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FrameType,
    FunctionType,
    MethodType,
    ModuleType,
)
from typing import Any, Final, NamedTuple

import dpamt
from dpamt.errors import DpamtError, InputError, ModelError
from dpamt.sync.entry_pages import EntryPage, EntryPages
from dpamt.sync.host_priority import HostPriorityWord, HostPriorityWords
from dpamt.sync.kernel_locks import BareLock, RwLock, RwLocks, SpinLocks
from dpamt.sync.shared import Shared
from dpamt.sync.shared_exclusive import SharedExclusiveLock, SharedExclusiveLocks
from dpamt.sync.words import Word, Words
from dpamt.verify.learn.liveness import liveness_of
from dpamt.verify.learn.waiting import check_nothing_waits


class Fixed:
    """What is one and the same object in every run of a thread, and holds no state of one."""

    __slots__ = ()


_PLAIN: Final = frozenset({int, str, bytes, type(None)})
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
_GENERATORS: Final = CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR
_ROOT: Final = Path(dpamt.__file__).parent
_UNSET: Final = object()


class CallSite(NamedTuple):
    """A frame of a thread's stack: the function and the line it is at, for people."""

    function: str
    file: str
    line: int
    address: int = 0
    """Of the instruction, where the function is machine code; else 0."""


_TELLERS: Final[dict[CodeType, Callable[[FrameType], tuple[CallSite, ...]]]] = {}


def tell_sites(code: CodeType, teller: Callable[[FrameType], tuple[CallSite, ...]]) -> None:
    """Frames of ``code`` stand for other code, and ``teller`` says where that is, innermost last.

    For an interpreter: what people look for is the place in the program that it runs.
    """
    _TELLERS[code] = teller


def sites_of_frame(frame: FrameType) -> tuple[CallSite, ...]:
    """Where a frame is, for people: its line, or what it stands for, innermost last."""
    teller = _TELLERS.get(frame.f_code)
    told = teller(frame) if teller is not None else ()
    return told or (_site_of(frame),)


def _site_of(frame: FrameType) -> CallSite:
    code = frame.f_code
    return CallSite(code.co_qualname, code.co_filename, frame.f_lineno or 0)


def sites_of(frame: FrameType | None, stop: CodeType) -> tuple[CallSite, ...]:
    """The stack from ``frame`` outwards, up to the frame of ``stop``; the innermost comes last."""
    sites: list[CallSite] = []
    while frame is not None and frame.f_code is not stop:
        sites += reversed(sites_of_frame(frame))
        frame = frame.f_back
    return tuple(reversed(sites))


def short_path(file: str) -> str:
    """A source file as people name it: below the package, or as given."""
    path = Path(file)
    return str(path.relative_to(_ROOT)) if path.is_relative_to(_ROOT) else path.name


def sites_text(sites: tuple[CallSite, ...]) -> str:
    """The place of a step for people: its function, file and line.

    A helper of the host's core is named with who called it.
    """
    shown = [site for site in sites if "/sync/" not in site.file and "<" not in site.function]
    if not shown:
        return "a place that is not known"
    text = _site_text(shown[-1])
    if len(shown) > 1 and Path(shown[-1].file).is_relative_to(_ROOT / "host" / "core"):
        text += f", called by {_site_text(shown[-2])}"
    return text


def _site_text(site: CallSite) -> str:
    return f"{site.function} ({short_path(site.file)}:{site.line})"


class Standing:
    """How a frame stands: equal to itself alone, and made once for all frames that are alike."""

    __slots__ = ("code",)

    def __init__(self, code: CodeType) -> None:
        self.code = code


class _Spot(NamedTuple):
    """What is known of all frames of one code object at one instruction."""

    code: CodeType
    """One of those that are equal."""
    own: CodeType
    """The frames' own: it stays alive, so that its id stays its own."""
    offset: int
    names: tuple[str, ...]
    """Of the locals that may still be read."""
    sites: tuple[CallSite, ...]
    """Empty: the frame itself must be asked."""
    waits: bool
    """Nothing but calls that come from the frame itself can change what these names are bound to:
    while it waits in one call, they stay as they are."""


class ControlPoints:
    """Turns stopped threads into places.

    A place is made for every step that is learned, and its outer frames are mostly those of the
    place before.  A frame that has waited in one call since then is not looked at again, if all
    that it holds are values that nobody can change.

    ``machine`` are the objects that are one and the same in every run; ``fixed_types`` are types
    all of whose instances are.
    """

    def __init__(self, machine: tuple[object, ...], fixed_types: tuple[type, ...]) -> None:
        self._machine = {id(item): n for n, item in enumerate(machine)}
        self._kept: list[object] = list(machine)
        self._fixed_types = (*_SHARED_STATE, *fixed_types)
        self._ways: dict[type, Callable[[Any, int], Hashable]] = {}
        """How values are shown, by type."""
        self._slots: dict[type, list[str]] = {}
        self._seen: dict[int, int] = {}
        """Objects that the place being made shows already, by id."""
        self._is_settled = True
        """Whether nothing was shown of which the content can change."""
        self._spots: dict[tuple[int, int], _Spot] = {}
        """By id of the code and offset; only calls that keep nothing on their frame's stack."""
        self._codes: dict[CodeType, CodeType] = {}
        """Of code objects that are equal, one."""
        self._standing: dict[tuple[int, int, tuple[Hashable, ...]], Standing] = {}
        self._stack: list[FrameType] = []
        """The frames of the place made last, the outermost first; with them, by frame, how it
        stands and its call sites if it holds nothing that can change, else None."""
        self._settled: list[tuple[Standing, tuple[CallSite, ...]] | None] = []

    def of(
        self, frame: FrameType, stop: CodeType, called: str
    ) -> tuple[tuple[Standing, ...], tuple[CallSite, ...]]:
        """(key, call sites) of the stack from ``frame`` outwards, up to the frame of ``stop``.

        ``called`` is the step that ``frame`` calls.  The innermost comes last.  Call sites are for
        people and not part of the key.

        Raises InputError or ModelError where a frame holds something that is not shown.
        """
        stack: list[FrameType] = []
        current: FrameType | None = frame
        while current is not None and current.f_code is not stop:
            stack.append(current)
            current = current.f_back
        stack.reverse()
        waited = self._have_waited(stack)
        settled: list[tuple[Standing, tuple[CallSite, ...]] | None] = [None] * len(stack)
        self._seen.clear()
        keys: list[Standing] = []
        told: list[tuple[CallSite, ...]] = []
        for n in range(len(stack) - 1, -1, -1):
            current = stack[n]
            known = self._settled[n] if n < waited else None
            if known is None:
                known = self._look(current, called)
                if self._is_settled:
                    settled[n] = known
            else:
                settled[n] = known
            keys.append(known[0])
            told.append(known[1])
            called = current.f_code.co_name
        self._stack, self._settled = stack, settled
        keys.reverse()
        return tuple(keys), tuple([site for sites in reversed(told) for site in sites])

    def forget(self) -> None:
        """The frames of the place made last are over."""
        self._stack, self._settled = [], []

    def _have_waited(self, stack: list[FrameType]) -> int:
        """How many of the outermost frames have been in the same call since the last place.

        The innermost frame that both have may have gone on; those around it have not.
        """
        same = 0
        for now, before in zip(stack, self._stack, strict=False):
            if now is not before or now.f_code.co_flags & _GENERATORS:
                break  # a generator may be gone on with from a second call
            same += 1
        return same - 1

    def _look(self, frame: FrameType, called: str) -> tuple[Standing, tuple[CallSite, ...]]:
        """How a frame stands, and its call sites; ``_is_settled`` says whether that can change."""
        at = id(frame.f_code), frame.f_lasti
        spot = self._spots.get(at)
        if spot is None:
            check_nothing_waits(frame, called)
            spot = self._spots[at] = self._spot(frame)
        self._is_settled = spot.waits
        plain, show = _PLAIN, self.show
        shown: tuple[Hashable, ...] = ()
        if spot.names:
            here = frame.f_locals
            try:
                # Most values are plain: a call for each of them would take most of the time.
                held = [here.get(name) for name in spot.names]
                shown = tuple([item if type(item) in plain else show(item) for item in held])
            except ModelError as error:
                raise _of_whom(frame, error) from None
        key = id(spot.code), spot.offset, shown
        standing = self._standing.get(key)
        if standing is None:
            standing = self._standing[key] = Standing(spot.code)
        return standing, spot.sites or sites_of_frame(frame)

    def _spot(self, frame: FrameType) -> _Spot:
        code = frame.f_code
        names = liveness_of(code).after(frame.f_lasti)
        told = code in _TELLERS
        return _Spot(
            self._codes.setdefault(code, code),
            code,
            frame.f_lasti,
            names,
            () if told else (_site_of(frame),),
            not (told or code.co_cellvars or code.co_freevars),
        )

    def show(self, value: Any, depth: int = 0) -> Hashable:
        """A value as something hashable that is equal where the value would act alike.

        Part of a place: an object that the place shows already is only named again.

        Raises ModelError for something that cannot be shown (an iterator, a generator).
        """
        kind = type(value)
        if kind in _PLAIN:
            plain: Hashable = value
            return plain
        known = self._machine.get(id(value))
        if known is not None:
            return ("machine", known)
        how = self._ways.get(kind)
        if how is None:
            how = self._ways[kind] = self._way(kind)
        return how(value, depth)

    def _way(self, kind: type) -> Callable[[Any, int], Hashable]:
        """How values of a type are shown."""
        if kind in _PLAIN_BESIDES:
            return lambda value, depth: (kind, value)
        if issubclass(kind, Enum):
            return lambda value, depth: (kind, value.name)  # a member is one object of its class
        if issubclass(kind, (int, str, bytes, float, tuple)) and not _has_more(kind):
            return self._items if issubclass(kind, tuple) else lambda value, _: (kind, value)
        if issubclass(kind, self._fixed_types):
            return self._fixed
        if issubclass(kind, MethodType):
            return self._method
        ways: dict[type, Callable[[Any, int], Hashable]] = {
            list: self._items,
            FunctionType: self._function,
            dict: self._mapping,
            set: self._set,
            frozenset: self._set,
        }
        return self._once(ways.get(kind, self._content), kind)

    def _once(
        self, way: Callable[[Any, int], Hashable], kind: type
    ) -> Callable[[Any, int], Hashable]:
        """Show the whole the first time, then its name: one object is not two equal ones."""

        def show(value: Any, depth: int) -> Hashable:
            self._is_settled = False
            if depth > _DEPTH:
                raise ModelError(f"a thread holds a {kind.__name__} too deep to be shown")
            seen = self._seen.get(id(value))
            if seen is not None:
                return ("same", seen)
            self._seen[id(value)] = len(self._seen)
            return way(value, depth)

        return show

    def _set(self, value: Any, depth: int) -> Hashable:
        """Of plain values: those of other types may be equal and hold something else."""
        for item in value:
            if type(item) not in _PLAIN and type(item) is not bool:
                raise ModelError(
                    f"a thread holds a {type(value).__name__} of a {type(item).__name__} across a "
                    "step, and what it holds cannot be shown"
                )
        return (type(value), *sorted(map(repr, value)))

    def _items(self, value: Any, depth: int) -> Hashable:
        show, plain = self.show, _PLAIN
        return (
            type(value),
            *[item if type(item) in plain else show(item, depth + 1) for item in value],
        )

    def _mapping(self, value: Any, depth: int) -> Hashable:
        show = self.show
        return (
            type(value),
            *((show(k, depth + 1), show(v, depth + 1)) for k, v in value.items()),
        )

    def _method(self, value: MethodType, depth: int) -> Hashable:
        if depth > _DEPTH:
            raise ModelError("a thread holds a method too deep to be shown")
        return ("method", value.__func__, self.show(value.__self__, depth + 1))

    def _function(self, value: FunctionType, depth: int) -> Hashable:
        defaults = (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values())
        return (
            value.__code__,
            *((name, self.show(item, depth + 1)) for name, item in sorted(vars(value).items())),
            *(self.show(_inside(cell), depth + 1) for cell in value.__closure__ or ()),
            *(self.show(item, depth + 1) for item in defaults),
        )

    def _fixed(self, value: Any, depth: int) -> Hashable:
        address = getattr(value, "address", None)
        if address is not None:
            return ("word", address)
        number = self._machine.setdefault(id(value), len(self._kept))
        if number == len(self._kept):
            self._kept.append(value)  # keeps it alive, so that its id stays its own
        return ("machine", number)

    def _content(self, value: Any, depth: int) -> Hashable:
        kind = type(value)
        names = self._slots.get(kind)
        if names is None:
            names = self._slots[kind] = self._attributes(kind)
        show, plain = self.show, _PLAIN
        fields: list[tuple[str, Hashable]] = []
        for name in names:
            item = getattr(value, name, _UNSET)
            if item is not _UNSET:
                fields.append((name, item if type(item) in plain else show(item, depth + 1)))
        held = getattr(value, "__dict__", None)
        if held is not None:
            fields += [
                (name, item if type(item) in plain else show(item, depth + 1))
                for name, item in sorted(held.items())
            ]
        elif not fields and not _is_simple(kind):
            raise _cannot_be_shown(kind)
        return (kind, *fields)

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


def _of_whom(frame: FrameType, error: ModelError) -> DpamtError:
    """Ours, or that of the user whose function holds it."""
    if frame.f_globals.get("__name__", "").startswith("dpamt."):
        return error
    return InputError(
        f"{frame.f_code.co_filename}:{frame.f_lineno}: {error}; expected numbers, tuples, lists "
        "and words (docs/verify.md)"
    )


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
