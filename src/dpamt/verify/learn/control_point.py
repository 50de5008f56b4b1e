"""Where a thread stands: the stack of code positions with their live locals, as one hashable value.

What a local shows is its value, or what it holds (:mod:`dpamt.verify.learn.shown`).
"""

from collections.abc import Callable, Hashable
from functools import cache
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR
from pathlib import Path
from types import CodeType, FrameType
from typing import Final, NamedTuple

import dpamt
from dpamt.errors import DpamtError, InputError, ModelError
from dpamt.verify.learn.liveness import liveness_of
from dpamt.verify.learn.shown import PLAIN, Shown, ShownValues
from dpamt.verify.learn.waiting import check_nothing_waits

_GENERATORS: Final = CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR
_ROOT: Final = Path(dpamt.__file__).parent


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


@cache
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

    code: Shown
    offset: int
    names: tuple[str, ...]
    """Of the locals that may still be read."""
    sites: tuple[CallSite, ...]
    """Empty: the frame itself must be asked."""
    can_change: bool
    """Others than the frame's own code may give these names another value."""


_Looked = tuple[Standing, tuple[CallSite, ...]]
"""How a frame stands, and its call sites."""


class ControlPoints(ShownValues):
    """Turns stopped threads into places.

    A place is made for every step that is learned, and its outer frames are mostly those of the
    place before.  A frame that has waited in one call since then is not looked at again, if all
    that it holds are values that nobody can change.
    """

    def __init__(self, machine: tuple[object, ...], fixed_types: tuple[type, ...]) -> None:
        super().__init__(machine, fixed_types)
        self._spots: dict[tuple[int, int], _Spot] = {}
        """By id of the code and offset; only calls that keep nothing on their frame's stack."""
        self._standing: dict[tuple[Hashable, ...], Standing] = {}
        self._stack: list[FrameType] = []
        """The frames of the place made last, the outermost first."""
        self._settled: list[_Looked | None] = []
        """Of each, what was seen, if nothing in it can change while it waits."""

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
        settled: list[_Looked | None] = [None] * len(stack)
        self._seen.clear()
        keys: list[Standing] = []
        told: list[tuple[CallSite, ...]] = []
        for n in range(len(stack) - 1, -1, -1):
            current = stack[n]
            known = self._settled[n] if n < waited else None
            if known is None:
                known = self._look(current, called)
                settled[n] = None if self.can_change else known
            else:
                settled[n] = known
            keys.append(known[0])
            told.append(known[1])
            called = current.f_code.co_name
        self._stack, self._settled = stack, settled
        keys.reverse()
        return tuple(keys), tuple([site for sites in reversed(told) for site in sites])

    def forget(self) -> None:
        """The thread runs from its start: what the place made last shows is over."""
        self._stack, self._settled = [], []
        self._seen.clear()

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

    def _look(self, frame: FrameType, called: str) -> _Looked:
        """How a frame stands, and its call sites; ``can_change``: whether that may change."""
        at = id(frame.f_code), frame.f_lasti
        spot = self._spots.get(at)
        if spot is None:
            check_nothing_waits(frame, called)
            spot = self._spots[at] = self._spot(frame)
        self.can_change = spot.can_change
        shown: list[Hashable] = []
        if spot.names:
            here, plain, show = frame.f_locals, PLAIN, self.show
            try:
                # Most values are plain: a call for each of them would take most of the time.
                held = [here.get(name) for name in spot.names]
                shown = [item if type(item) in plain else show(item) for item in held]
            except ModelError as error:
                raise _of_whom(frame, error) from None
        key = spot.code, spot.offset, *shown
        standing = self._standing.get(key)
        if standing is None:
            standing = self._standing[key] = Standing(frame.f_code)
        return standing, spot.sites or sites_of_frame(frame)

    def _spot(self, frame: FrameType) -> _Spot:
        code = frame.f_code
        told = code in _TELLERS
        return _Spot(
            self.code(code),
            frame.f_lasti,
            liveness_of(code).after(frame.f_lasti),
            () if told else (_site_of(frame),),
            bool(told or code.co_cellvars or code.co_freevars),
        )


def _of_whom(frame: FrameType, error: ModelError) -> DpamtError:
    """Ours, or that of the user whose function holds it."""
    if frame.f_globals.get("__name__", "").startswith("dpamt."):
        return error
    return InputError(
        f"{frame.f_code.co_filename}:{frame.f_lineno}: {error}; expected numbers, tuples, lists "
        "and words (docs/verify.md)"
    )
