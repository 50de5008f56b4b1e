"""Machine code on a CPU of the model: its steps on the words, calls and SEAMCALLs of that machine.

:meth:`MachineCode.call` is a function of the host like any other: it keeps the discipline that each
step stands alone in its statement, and what it is between two steps is one number, its place.  So a
thread that runs it is learned, merged, searched, reduced, replayed and reported as every thread is
(:mod:`dpamt.verify.learn.automaton`), with Python functions above it (KVM, a trial's program) and
below it (the TDX module).
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from types import FrameType
from typing import Any

from dpamt.host.core.kernel import Cpu, Kernel, KernelOops
from dpamt.host.core.page_cache import SITE_PAIR
from dpamt.sync.observed import Address, ObservedShared
from dpamt.verify.learn.automaton import CHOICE
from dpamt.verify.learn.control_point import CallSite, tell_sites
from dpamt.verify.machine_code import answered
from dpamt.verify.machine_code.answers import Answers
from dpamt.verify.machine_code.interrupts import sections
from dpamt.verify.machine_code.memory_model import (
    MODELS,
    SC,
    SEEN,
    TSO,
    empties,
    is_unlock_call,
    looks_first,
)
from dpamt.verify.machine_code.operations import (
    ATOMIC_STEP,
    BUG,
    CALL,
    CLEAR,
    LOAD,
    OOPS,
    RETURN,
    STORE,
    WARN,
    Returned,
)
from dpamt.verify.machine_code.places import Places
from dpamt.verify.machine_code.reach import executed, may_run
from dpamt.verify.machine_code.side import ImageSide
from dpamt.verify.machine_code.told import assumptions_of, not_reached_of


def _hash(parts: Iterable[tuple[str, bytes]]) -> str:
    digest = hashlib.sha256()
    for name, code in parts:
        digest.update(f"{name} {code.hex()}\n".encode())
    return digest.hexdigest()


def choose(kernel: Kernel, what: str) -> int:
    """One of two ways to go on; 1 where nobody explores the other."""
    shared = kernel.shared
    assert isinstance(shared, ObservedShared)
    observer = shared.watch.observer
    if observer is None:
        return 1
    chosen: int = observer.step(Address("", 0), CHOICE, (what, 2))
    return chosen


class MachineCode(Answers):
    """The functions of one image."""

    def __init__(self, places: Places, model: str) -> None:
        self.places = places
        self.roots: tuple[str, ...] = ()
        """Functions that the model calls."""
        self.said: list[str] = []
        """What else a verdict rests on."""
        self.buffers = model == TSO
        """Whether a CPU's plain stores wait in its store buffer."""
        self.shares_pamt_lock = False
        """Whether get and put take the lock that a DEMOTE of dpamt's own takes."""

    def prepare(self, kernel: Kernel) -> None:
        """Give a machine the words and locks of the image; before any thread runs."""
        kernel.image = ImageSide(kernel, self.places)  # type: ignore[attr-defined]

    def call(
        self,
        kernel: Kernel,
        cpu: Cpu,
        function: str,
        arguments: tuple[int, ...],
        own: tuple[tuple[int, int], ...] = (),
        sites: tuple[str, ...] = SITE_PAIR,
        pages: tuple[int, ...] = (),
    ) -> int:
        """Run a function of the image to its end; the place where it ends.

        ``sites`` name the pages that it allocates, in their order, again from the first on;
        ``pages`` are those that it is given by number.

        Raises InputError where the code does what is in no table; KernelOops at a BUG and at an
        address where no memory can be.
        """
        places = self.places
        place = places.enter(function, arguments, (*own, *places.of_cpu(cpu.index)), pages)
        taken = 0
        quiet = 0  # sections that keep interrupts off
        buffer: tuple[int, ...] = ()  # places of stores that no other CPU has seen, oldest first
        while True:
            kind = places.operation(place).kind
            result: Any = 0
            if buffer and kind == LOAD:
                while buffer:
                    seen = choose(kernel, SEEN)
                    if not seen:
                        break
                    self.drain(kernel, buffer[0])
                    buffer = buffer[1:]
                waiting = self._waiting(place, buffer)
                if waiting >= 0:
                    result = places.operation(waiting).arguments[0]
                    place = places.after(place, result)
                    continue
            elif buffer and empties(places.operation(place)):
                if looks_first(self.places, place, buffer):
                    look = self._look_method(kernel, place)
                    held = look()
                    if held:
                        place = places.after(place, Returned(0))
                        continue
                while buffer:
                    self.drain(kernel, buffer[0])
                    buffer = buffer[1:]
            if kind == RETURN:
                self._check_end(kernel, place)
                return place
            if kind == LOAD:
                word = self._word(kernel, place)
                result = word.load()
            elif self._waits(place):
                buffer = (*buffer, place)
                result = Returned(1) if kind == CALL else 0
            elif kind == STORE:
                self.drain(kernel, place)
            elif kind == ATOMIC_STEP:
                method = self._method(kernel, place)
                result = method(*places.operation(place).arguments)
            elif kind == CALL:
                result = self.answer(kernel, cpu, place, sites[taken % len(sites)])
                taken += self._takes(place, result)
            elif kind == WARN:
                self.warn(kernel, place)
            elif kind == CLEAR:
                self.clear(kernel, place)
            elif kind == BUG:
                raise KernelOops(f"BUG in {self._where(place)}")
            elif kind == OOPS:
                address = places.operation(place).arguments[0]
                raise KernelOops(f"page fault at {address:#x} in {self._where(place)}")
            quiet += sections(places.operation(place))
            place = places.after(place, result)
            if quiet and places.has_interrupts(place):
                kernel.log.warn(
                    f"interrupts are on, in {self._where(place)}, and a lock keeps them off"
                )
                quiet = 0

    def _waits(self, place: int) -> bool:
        """Whether what a place does is a store that waits in the buffer; an unlock is one."""
        operation = self.places.operation(place)
        return self.buffers and (operation.kind == STORE or is_unlock_call(operation))

    def _look_method(self, kernel: Kernel, place: int) -> Callable[[], bool]:
        operation = self.places.operation(place)
        lock = self._lock_of(kernel, operation)
        method: Callable[[], bool] = getattr(lock, answered.LOOKS[operation.method])
        return method

    def drain(self, kernel: Kernel, place: int) -> None:
        """The store of a place reaches memory: others see it."""
        operation = self.places.operation(place)
        if operation.kind == CALL:
            method = self._lock_method(kernel, operation)
            method()
            return
        if self._is_unlock(kernel, place):
            lock = self._lock(kernel, place)
            lock.unlock()
            return
        word = self._word(kernel, place)
        word.store(self.places.operation(place).arguments[0])

    def _waiting(self, place: int, buffer: tuple[int, ...]) -> int:
        """The youngest store in the buffer to the word that a place loads; -1: none."""
        cell = self.places.operation(place).cell
        for store in reversed(buffer):
            if self.places.operation(store).cell == cell:
                return store
        return -1

    def value(self, place: int) -> int:
        """What a call that has ended at a place returned: EAX, signed."""
        value = self.places.operation(place).arguments[0] & 0xFFFF_FFFF
        return value - (1 << 32) if value >> 31 else value

    def long_value(self, place: int) -> int:
        """The same: the whole of RAX."""
        return self.places.operation(place).arguments[0]

    def sites(self, frame: FrameType) -> tuple[CallSite, ...]:
        """Where a frame of this class's stands, in C: one site, what was inlined named in it."""
        place = frame.f_locals.get("place")
        return () if place is None else (self._site(place),)

    def _site(self, place: int) -> CallSite:
        """``tdx_pamt_get/atomic_read``, at the innermost line in the file of the first of these.

        What a function of another file has inlined in turn is not named.
        """
        lines = self.places.sites(place)
        own = [n for n, line in enumerate(lines) if line.file == lines[0].file]
        function = "/".join(dict.fromkeys(line.function for line in lines[: own[-1] + 2]))
        address = self.places.operation(place).site
        return CallSite(function, lines[own[-1]].file, lines[own[-1]].line, address)

    # What a verdict says of it.

    def bounds(self) -> dict[str, str]:
        """What a verdict on this code holds for."""
        image = self.places.image
        return {
            "image": "; module ".join(
                f"{file.path.name}, build id {file.build_id or 'none'}, "
                f"{file.compiler or 'compiler not named'}"
                for file in image.files()
            ),
            "memory model": MODELS[TSO if self.buffers else SC],
        }

    def assumptions(self) -> list[str]:
        """What a verdict on this code rests on, a sentence each."""
        return [*assumptions_of(self.places, self.buffers), *self.said]

    def not_reached(self) -> tuple[str, ...]:
        """Instructions of the functions that ran which no thread came to, as lines of C."""
        return not_reached_of(self.places)

    def digest(self) -> str:
        """SHA-256 of the instructions that ran, each with the symbol and offset where it lies."""
        return _hash(executed(self.places))

    def kept(self) -> dict[str, Any]:
        """What a search has seen of it beyond its places: what ran, and what was answered."""
        places = self.places
        return {
            "ran": sorted(places.ran),
            "called": list(places.called),
            "passed": list(places.passed),
            **places.memory.kept(),
        }

    def take_up(self, kept: Mapping[str, Any]) -> None:
        """Take what :meth:`kept` gave as seen.

        Raises KeyError and TypeError for anything else, InputError for what is no code here.
        """
        ran, called, passed = kept["ran"], kept["called"], kept["passed"]
        if any(type(at) is not int for at in ran):
            raise TypeError("ran")
        if any(type(name) is not str for name in (*called, *passed)):
            raise TypeError("called or passed")
        for at in ran:
            self.places.instructions.at(at)
        self.places.memory.take_up(kept)
        self.places.take_up(ran, called, passed)

    def identity(self) -> str:
        """The same of get, put, their helpers, and every function that those call by name."""
        return _hash(may_run(self.places, self.roots))

    # Steps.

    def _word(self, kernel: Kernel, place: int) -> Any:
        cell = self.places.operation(place).cell
        assert cell is not None
        return self._side(kernel).word(cell)

    def _method(self, kernel: Kernel, place: int) -> Callable[..., int]:
        method: Callable[..., int] = getattr(
            self._word(kernel, place), self.places.operation(place).method
        )
        return method

    def _is_unlock(self, kernel: Kernel, place: int) -> bool:
        """Whether a store of 0 is an inlined unlock: into a lock that was taken by a call."""
        operation = self.places.operation(place)
        assert operation.cell is not None
        return operation.arguments == (0,) and self._side(kernel).is_lock(operation.cell.address)

    def _lock(self, kernel: Kernel, place: int) -> Any:
        cell = self.places.operation(place).cell
        assert cell is not None
        return self._side(kernel).spinlock(cell.address)

    def _where(self, place: int) -> str:
        site = self._site(place)
        return f"{site.function} ({site.file}:{site.line})" if site.line else site.function

    def _check_end(self, kernel: Kernel, place: int) -> None:
        """A function gives preemption and interrupts back as it found them."""
        odd = self.places.operation(place).method
        if odd:
            kernel.log.warn(f"{odd} at the end of {self._where(place)}")


def _sites_of(frame: FrameType) -> tuple[CallSite, ...]:
    code: MachineCode = frame.f_locals["self"]
    return code.sites(frame)


def _sites_of_choice(frame: FrameType) -> tuple[CallSite, ...]:
    """A store buffer's choice stands where the load is that it is made before."""
    return _sites_of(frame.f_back) if frame.f_back is not None else ()


tell_sites(choose.__code__, _sites_of_choice)

for _function in (
    MachineCode.call,
    MachineCode.answer,
    MachineCode.seamcall,
    MachineCode.alloc,
    MachineCode.free,
    MachineCode.reset,
    MachineCode.clear,
    MachineCode.print,
    MachineCode.warn,
    MachineCode.sleeps,
    MachineCode.sleeps_in_vain,
    MachineCode.drain,
    MachineCode.dec_and_lock,
):
    tell_sites(_function.__code__, _sites_of)
