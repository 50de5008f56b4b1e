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
from typing import Any, Final

from dpamt.abi.pages import PAGE_SHIFT
from dpamt.abi.registers import TdxModuleArgs
from dpamt.errors import InputError
from dpamt.host.core.erratum import tdx_quirk_reset_page
from dpamt.host.core.kernel import Cpu, Kernel, KernelOops
from dpamt.host.core.page_cache import SITE_PAIR
from dpamt.sync.observed import Address, ObservedShared
from dpamt.verify.learn.automaton import CHOICE
from dpamt.verify.learn.control_point import CallSite, tell_sites
from dpamt.verify.learn.shown import Fixed
from dpamt.verify.machine_code import answered
from dpamt.verify.machine_code.memory import (
    COUNT_BYTES,
    MEMORY_PAGES,
    PAGE_OFFSET,
    STRUCT_PAGE,
    VMEMMAP,
    is_nowhere,
)
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
    LOAD,
    OOPS,
    RETURN,
    STORE,
    WARN,
    Operation,
    Returned,
)
from dpamt.verify.machine_code.places import Places
from dpamt.verify.machine_code.reach import executed, may_run
from dpamt.verify.machine_code.side import ImageSide
from dpamt.verify.machine_code.told import assumptions_of, not_reached_of

_REGISTERS: Final = ("rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13")
"""Of struct tdx_module_args, in its order (Linux 7.3.4 arch/x86/include/asm/shared/tdx.h)."""
_CLOBBERED: Final = 6
"""Those that __seamcall and __seamcall_ret pass; __seamcall_saved_ret passes more of them."""
_MASK: Final = (1 << 64) - 1
_DIRECT_RECLAIM: Final = 0x400
"""___GFP_DIRECT_RECLAIM (Linux 7.3.4 include/linux/gfp_types.h): the allocation may sleep."""


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


class MachineCode(Fixed):
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
    ) -> int:
        """Run a function of the image to its end; the place where it ends.

        ``sites`` name the pages that it allocates, in their order, again from the first on.

        Raises InputError where the code does what is in no table; KernelOops at a BUG and at an
        address where no memory can be.
        """
        places = self.places
        place = places.enter(function, arguments, (*own, *places.of_cpu(cpu.index)))
        taken = 0
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
            elif kind == BUG:
                raise KernelOops(f"BUG in {self._where(place)}")
            elif kind == OOPS:
                address = places.operation(place).arguments[0]
                raise KernelOops(f"page fault at {address:#x} in {self._where(place)}")
            place = places.after(place, result)

    def _waits(self, place: int) -> bool:
        """Whether what a place does is a store that waits in the buffer; an unlock is one."""
        operation = self.places.operation(place)
        return self.buffers and (operation.kind == STORE or is_unlock_call(operation))

    def _look_method(self, kernel: Kernel, place: int) -> Callable[[], bool]:
        operation = self.places.operation(place)
        side, address = self._side(kernel), operation.arguments[0]
        is_spin = operation.method in answered.LOCKS
        lock: Any = side.spinlock(address) if is_spin else side.rwlock(address)
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
        return {"ran": sorted(self.places.ran), "called": list(self.places.called)}

    def take_up(self, kept: Mapping[str, Any]) -> None:
        """Take what :meth:`kept` gave as seen.

        Raises KeyError and TypeError for anything else, InputError for what is no code here.
        """
        ran, called = kept["ran"], kept["called"]
        if any(type(at) is not int for at in ran) or any(type(name) is not str for name in called):
            raise TypeError("ran or called")
        for at in ran:
            self.places.instructions.at(at)
        self.places.take_up(ran, called)

    def identity(self) -> str:
        """The same of get, put, their helpers, and every function that those call by name."""
        return _hash(may_run(self.places, self.roots))

    # Steps.

    def _side(self, kernel: Kernel) -> ImageSide:
        side: ImageSide = kernel.image  # type: ignore[attr-defined]
        return side

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

    def warn(self, kernel: Kernel, place: int) -> None:
        """A WARN of the code."""
        kernel.log.warn_on_once(self._where(place))

    # Calls that are answered.

    def answer(self, kernel: Kernel, cpu: Cpu, place: int, site: str) -> Returned:
        """Do what a call stands for; ``site`` names a page that it allocates."""
        operation = self.places.operation(place)
        name = operation.method
        value = 1
        if name in answered.SEAMCALLS:
            return self.seamcall(kernel, cpu, place)
        if name in answered.LOCKS or name in answered.RWLOCKS or name in answered.MUTEXES:
            method = self._lock_method(kernel, operation)
            taken = method()
            return Returned(0 if taken is False else 1)  # a trylock's; of others nobody looks
        if name in answered.COUNT_AND_LOCK:
            return self.dec_and_lock(kernel, place)
        if name in answered.ALLOC:
            value = self.alloc(kernel, place, site)
        elif name in answered.FREE:
            self.free(kernel, place)
        elif name in answered.RESET:
            self.reset(kernel, place)
        elif name in answered.PRINT:
            self.print(kernel, place)
        elif name in answered.WARNS:
            self.warn(kernel, place)
        elif name in answered.MAY_SLEEP:
            self.sleeps(kernel, place)
        return Returned(value)

    def dec_and_lock(self, kernel: Kernel, place: int) -> Returned:
        """atomic_dec_and_lock(): 1 with the lock held where the count has fallen to 0."""
        operation = self.places.operation(place)
        where = self.places.image.name_of(operation.site)
        count, address = operation.arguments[:2]
        cell = self.places.memory.cell(count, COUNT_BYTES, where, operation.site)
        word, lock = self._side(kernel).word(cell), self._side(kernel).spinlock(address)
        lowered = word.add_unless(-1, 1)
        if lowered:
            return Returned(0)
        lock.lock()
        before = word.fetch_add(-1)
        if before == 1:
            return Returned(1)
        lock.unlock()
        return Returned(0)

    def _lock_method(self, kernel: Kernel, operation: Operation) -> Callable[[], Any]:
        side, name, address = self._side(kernel), operation.method, operation.arguments[0]
        if is_nowhere(address):
            where = self.places.image.name_of(operation.site)
            raise KernelOops(f"page fault at {address:#x} in {name}() called at {where}")
        if name in answered.LOCKS:
            lock: Any = side.spinlock(address)
            step = answered.LOCKS[name]
        elif name in answered.RWLOCKS:
            lock, step = side.rwlock(address), answered.RWLOCKS[name]
        else:
            lock, step = side.mutex(address), answered.MUTEXES[name]
        method: Callable[[], Any] = getattr(lock, step)
        return method

    def _takes(self, place: int, result: Returned) -> int:
        """By how much the pages that this call has taken are more."""
        name = self.places.operation(place).method
        if name in answered.ALLOC:
            return 1 if result.value else 0
        return 0

    def alloc(self, kernel: Kernel, place: int, site: str) -> int:
        """One page: the address of its struct page; 0 when there is none."""
        gfp, order = self.places.operation(place).arguments[:2]
        self._only(order & 0xFFFF_FFFF == 0, place, f"{order} as order", "one whole 4K page")
        may_sleep = bool(gfp & _DIRECT_RECLAIM)
        self._only(may_sleep, place, f"{gfp:#x} as gfp", "GFP_KERNEL or another that may sleep")
        pfn = kernel.allocator.alloc_page(site)
        return 0 if pfn is None else VMEMMAP + STRUCT_PAGE * pfn

    def free(self, kernel: Kernel, place: int) -> None:
        """Give a page back, by its struct page."""
        page = self.places.operation(place).arguments[0]
        fine = (page - VMEMMAP) % STRUCT_PAGE == 0
        self._only(fine, place, f"{page:#x} as struct page", "one of vmemmap")
        kernel.allocator.free_page((page - VMEMMAP) // STRUCT_PAGE)

    def reset(self, kernel: Kernel, place: int) -> None:
        """Clear a page that the module may have written with its key."""
        base, size = self.places.operation(place).arguments[:2]
        fine = base % 4096 == 0 and size == 4096
        self._only(fine, place, f"{size:,} bytes from {base:#x}", "one whole 4K page")
        if base >> PAGE_SHIFT >= MEMORY_PAGES:
            raise KernelOops(
                f"page fault at {PAGE_OFFSET + base & _MASK:#x} in {self._where(place)}"
            )
        tdx_quirk_reset_page(kernel, base >> PAGE_SHIFT)

    def print(self, kernel: Kernel, place: int) -> None:
        """A line of dmesg: the format, not filled in."""
        text = self.places.text(self.places.operation(place).arguments[0])
        kernel.log.info(text.lstrip("\x010123456789").rstrip("\n"))

    def sleeps(self, kernel: Kernel, place: int) -> None:
        """might_sleep(): whoever may not sleep may not come here."""
        recorder = self._side(kernel).recorder
        recorder.may_sleep(f"{self.places.operation(place).method}()")

    def seamcall(self, kernel: Kernel, cpu: Cpu, place: int) -> Returned:
        """Through the wall, as the assembly in seamcall.S does it."""
        leaf, address = self.places.operation(place).arguments[:2]
        saves = self.places.operation(place).method == answered.SAVES
        registers = _REGISTERS if saves else _REGISTERS[:_CLOBBERED]
        args = TdxModuleArgs()
        self._load(args, place, address, registers)
        status = cpu.seamcall(leaf, args)
        written: tuple[tuple[int, int], ...] = ()
        if answered.SEAMCALLS[self.places.operation(place).method]:
            written = tuple(
                (address + 8 * n, getattr(args, name)) for n, name in enumerate(registers)
            )
        return Returned(status & _MASK, written)

    def _load(
        self, args: TdxModuleArgs, place: int, address: int, registers: tuple[str, ...]
    ) -> None:
        for n, name in enumerate(registers):
            setattr(args, name, self.places.own_at(place, address + 8 * n))

    def _only(self, fine: bool, place: int, what: str, expected: str) -> None:
        if not fine:
            operation = self.places.operation(place)
            image = self.places.image
            raise InputError(
                f"{image.path_at(operation.site)}: {image.name_of(operation.site)}: "
                f"{operation.method}() is given {what}; expected {expected}"
            )


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
    MachineCode.print,
    MachineCode.warn,
    MachineCode.sleeps,
    MachineCode.drain,
    MachineCode.dec_and_lock,
):
    tell_sites(_function.__code__, _sites_of)
