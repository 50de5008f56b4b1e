"""Calls of machine code that are answered: what each does to the machine of the model.

Which functions these are, :mod:`dpamt.verify.machine_code.answered` says.
"""

from collections.abc import Callable
from typing import Any, Final

from dpamt.abi.leaves import TDH_PHYMEM_PAMT_ADD, TDH_PHYMEM_PAMT_REMOVE
from dpamt.abi.pages import PAGE_SHIFT
from dpamt.abi.registers import TdxModuleArgs
from dpamt.errors import InputError
from dpamt.host.core.erratum import tdx_quirk_reset_page
from dpamt.host.core.kernel import Cpu, Kernel, KernelOops
from dpamt.verify.learn.automaton import CONTEXT, Event
from dpamt.verify.learn.shown import Fixed
from dpamt.verify.machine_code import answered
from dpamt.verify.machine_code.interrupts import may_sleep
from dpamt.verify.machine_code.memory import (
    COUNT_BYTES,
    MEMORY_PAGES,
    PAGE_OFFSET,
    STRUCT_PAGE,
    VMEMMAP,
    is_nowhere,
)
from dpamt.verify.machine_code.operations import Operation, Returned
from dpamt.verify.machine_code.places import Places
from dpamt.verify.machine_code.side import ImageSide

_REGISTERS: Final = ("rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13")
"""Of struct tdx_module_args, in its order (Linux 7.3.4 arch/x86/include/asm/shared/tdx.h)."""
_CLOBBERED: Final = 6
"""Those that __seamcall and __seamcall_ret pass; __seamcall_saved_ret passes more of them."""
_MASK: Final = (1 << 64) - 1
_DIRECT_RECLAIM: Final = 0x400
"""___GFP_DIRECT_RECLAIM (Linux 7.3.4 include/linux/gfp_types.h): the allocation may sleep."""
_STEPS: Final = {**answered.LOCKS, **answered.RWLOCKS, **answered.MUTEXES}
"""The step of a lock that each function is."""
_LEAF: Final = 0xFFFF
"""The number of a leaf in RAX; above it are its version and flags."""


class Answers(Fixed):
    """The answers on the machine of one image's places."""

    places: Places

    def _side(self, kernel: Kernel) -> ImageSide:
        side: ImageSide = kernel.image  # type: ignore[attr-defined]
        return side

    def _where(self, place: int) -> str:
        """Where in C a place is, for people."""
        raise NotImplementedError

    def warn(self, kernel: Kernel, place: int) -> None:
        """A WARN of the code."""
        kernel.log.warn_on_once(self._where(place))

    def answer(self, kernel: Kernel, cpu: Cpu, place: int, site: str) -> Returned:
        """Do what a call stands for; ``site`` names a page that it allocates."""
        operation = self.places.operation(place)
        name = operation.method
        value = 1
        if operation.atomic and may_sleep(operation):
            self.sleeps_in_vain(kernel, place)
        if name in answered.SEAMCALLS:
            return self.seamcall(kernel, cpu, place)
        if name in answered.LOCKS or name in answered.RWLOCKS or name in answered.MUTEXES:
            method = self._lock_method(kernel, operation)
            taken = method()
            return Returned(0 if taken is False else 1)  # a trylock's; of others nobody looks
        if name in answered.COUNT_AND_LOCK:
            return self.dec_and_lock(kernel, place)
        if name in answered.ALLOC:
            return self.alloc(kernel, place, site)
        if name in answered.FREE:
            return self.free(kernel, place)
        if name in answered.RESET:
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
        name, address = operation.method, operation.arguments[0]
        if is_nowhere(address):
            where = self.places.image.name_of(operation.site)
            raise KernelOops(f"page fault at {address:#x} in {name}() called at {where}")
        method: Callable[[], Any] = getattr(self._lock_of(kernel, operation), _STEPS[name])
        return method

    def _lock_of(self, kernel: Kernel, operation: Operation) -> Any:
        """The lock that an answered call is about."""
        side, name, address = self._side(kernel), operation.method, operation.arguments[0]
        if name in answered.LOCKS:
            return side.spinlock(address)
        return side.rwlock(address) if name in answered.RWLOCKS else side.mutex(address)

    def _takes(self, place: int, result: Returned) -> int:
        """By how much the pages that this call has taken are more."""
        name = self.places.operation(place).method
        if name in answered.ALLOC:
            return 1 if result.value else 0
        return 0

    def alloc(self, kernel: Kernel, place: int, site: str) -> Returned:
        """One page: the address of its struct page; 0 when there is none."""
        gfp, order = self.places.operation(place).arguments[:2]
        self._only(order & 0xFFFF_FFFF == 0, place, f"{order} as order", "one whole 4K page")
        may_sleep = bool(gfp & _DIRECT_RECLAIM)
        self._only(may_sleep, place, f"{gfp:#x} as gfp", "GFP_KERNEL or another that may sleep")
        pfn = kernel.allocator.alloc_page(site)
        if pfn is None:
            return Returned(0)
        return Returned(VMEMMAP + STRUCT_PAGE * pfn, taken=(pfn,))

    def free(self, kernel: Kernel, place: int) -> Returned:
        """Give a page back, by its struct page."""
        page, order = self.places.operation(place).arguments[:2]
        fine = (page - VMEMMAP) % STRUCT_PAGE == 0
        self._only(fine, place, f"{page:#x} as struct page", "one of vmemmap")
        pfn = (page - VMEMMAP) // STRUCT_PAGE
        if self.places.operation(place).method in answered.FREE_ORDER:
            self._only(order & 0xFFFF_FFFF == 0, place, f"{order} as order", "one whole 4K page")
        kernel.allocator.free_page(pfn)
        return Returned(1, let_go=(pfn,))

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

    def clear(self, kernel: Kernel, place: int) -> None:
        """The last line of a page was cleared by MOVDIR64B."""
        tdx_quirk_reset_page(kernel, self.places.operation(place).arguments[0])

    def print(self, kernel: Kernel, place: int) -> None:
        """A line of dmesg: the format, not filled in."""
        text = self.places.text(self.places.operation(place).arguments[0])
        kernel.log.info(text.lstrip("\x010123456789").rstrip("\n"))

    def sleeps(self, kernel: Kernel, place: int) -> None:
        """might_sleep(): whoever may not sleep may not come here."""
        recorder = self._side(kernel).recorder
        recorder.may_sleep(f"{self.places.operation(place).method}()")

    def sleeps_in_vain(self, kernel: Kernel, place: int) -> None:
        """What may sleep is called where the CPU's own state forbids it."""
        operation = self.places.operation(place)
        self._side(kernel).recorder.tell(
            Event(
                CONTEXT,
                f"{operation.method}() may sleep, in {self._where(place)}, with {operation.atomic}",
            )
        )

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
        pair = args.rdx >> PAGE_SHIFT, args.r8 >> PAGE_SHIFT
        is_done, number = not status, leaf & _LEAF
        return Returned(
            status & _MASK,
            written,
            pair if is_done and number == TDH_PHYMEM_PAMT_REMOVE else (),
            pair if is_done and number == TDH_PHYMEM_PAMT_ADD else (),
        )

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
