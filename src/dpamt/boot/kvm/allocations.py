"""Memory allocations of a small TD's life failed in turn, one life for each.

In the first life none fails; its allocations are counted, those of the VMM's calls to KVM alone.
In the lives after it the kernel's fault injection fails one of them, by ``fail-nth`` of the task
that calls (``guest/vmm/fail.c``).  What KVM does about it is shown by the function that asked for
memory; what it does not give back is a finding, for no SEAMCALL failed.

Pages that the module never had are not in its tables.  All lives are alike, so a kernel that loses
some in each has ever less free memory.  That number has noise (slabs, counts that each CPU keeps),
so only the second half of many lives counts, and only a loss well above the noise.  KASAN keeps
freed objects for a while, so with it free memory says nothing.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from dpamt.boot.kvm.script import Script
from dpamt.boot.kvm.stock import PhaseStock
from dpamt.boot.kvm.sweep import LIFE, LIFE_TD
from dpamt.boot.kvm.told import errno_name, read_vmm
from dpamt.errors import InputError
from dpamt.kernel_image.vmlinux import KernelImage

MOST_LIVES: Final = 1500
_LEAST_LIVES: Final = 20
_NOISE: Final = 96
"""Pages that slabs and the like may hold more at one time than at another."""
_LEAST_PAGES: Final = 4.0
NONE_FAILS: Final = 0x7FFFFFFF
"""ALLOCATIONS in ``guest/vmm/vmm.h``."""
_NEEDED: Final = ("proc_fail_nth_operations", "fault_create_debugfs_attr")
_KINDS: Final = ("fail_page_alloc", "failslab")
_PHASE: Final = re.compile(r"^dpamt: phase (\d+)$")
_COUNTED: Final = re.compile(r"^dpamt: td \d+ allocations (\d+)$")
_FAILED: Final = re.compile(r"^dpamt: td \d+ allocation failed in call (\d+) result (-?\d+)$")
_FORCED: Final = "FAULT_INJECTION: forcing a failure."
_KIND: Final = re.compile(r"^name (\w+),")
_FRAME: Final = re.compile(r"^ *([A-Za-z_][\w.]*)\+0x[0-9a-f]+/0x[0-9a-f]+(?: \[(\w+)\])?")
_OURS: Final = ("tdx_", "dpamt_", "kvm_")
_ALLOCATOR: Final = re.compile(r"dump_stack|should_fail|_*(?:k[mvz]*alloc|kmem_cache|alloc_|slab)")
_CALLS: Final = {3: "close", 9: "mmap", 11: "munmap", 16: "ioctl", 285: "fallocate"}
"""System calls by number (Linux arch/x86/entry/syscalls/syscall_64.tbl)."""


@dataclass(slots=True)
class FailedLife:
    """A life in which allocation ``nth`` failed: where, and what came of it."""

    number: int
    nth: int
    kind: str = ""
    """The kernel's name of what failed: fail_page_alloc, failslab.  Empty: nothing did."""
    where: str = ""
    """KVM's or the core's function that asked for the memory."""
    call: str = ""
    """The VMM's system call, and what it returned."""
    reactions: list[str] = field(default_factory=list)
    tds: int = 0
    pages: int = 0
    pairs: int = 0
    freed: int = 0


class Allocations:
    """Each ``every``-th allocation fails; the lives so far."""

    def __init__(self, every: int, keeps_freed: bool = False) -> None:
        self.every = every
        self.keeps_freed = keeps_freed
        """Whether the kernel has KASAN: what it frees is not free memory at once."""
        self.counted = 0
        """Allocations of the life in which none failed."""
        self.lives: list[FailedLife] = []
        self.done = False
        self._free: list[int] = []
        """Free pages of the machine at the end of each phase."""

    def next_life(self, stocks: list[PhaseStock], failed: bool, free_pages: int = 0) -> bool:
        """A life has ended, or boot has, or the life in peace; False: there is nothing more."""
        self._free.append(free_pages)
        ended = len(stocks) - 2
        if ended >= 1:
            now, before = stocks[-1], stocks[-2]
            life = FailedLife(ended, ended * self.every)
            life.tds, life.pairs = now.tds - before.tds, now.pairs - before.pairs
            life.pages = now.pages - before.pages
            life.freed = max(now.freed_pages - before.freed_pages, 0)
            self.lives.append(life)
            self.done = not failed
        return not self.done

    def finish(self, console: list[str], tds: tuple[str, ...]) -> None:
        """What was said in each life."""
        parts: dict[int, list[str]] = {}
        number = 0
        for line in console:
            if found := _PHASE.match(line):
                number = int(found[1])
            if found := _COUNTED.match(line):
                self.counted = self.counted or int(found[1])
            parts.setdefault(number, []).append(line)
        for life in self.lives:
            _read(life, parts.get(life.number + 1, []), tds)
        if self.done and not self.lives[-1].kind:
            self.lives.pop()  # that with nothing left to fail

    def lost_in_a_life(self) -> float:
        """Pages that the machine loses for good in each life, by the second half of them; 0: none,
        or too few lives to tell."""
        half = self._free[len(self._free) // 2 :]
        if self.keeps_freed or len(half) < _LEAST_LIVES or not all(half):
            return 0.0
        lost = half[0] - half[-1]
        in_a_life = lost / (len(half) - 1)
        return in_a_life if lost >= _NOISE and in_a_life >= _LEAST_PAGES else 0.0

    def findings(self) -> list[str]:
        """Lives after which something is left."""
        found = [_lost(life) for life in self.lives if life.tds or life.pages or life.pairs]
        lost = self.lost_in_a_life()
        if lost:
            found.append(
                f"leak: the kernel loses about {lost:.0f} pages of its own in each life of a TD: "
                "they are neither free nor the module's"
            )
        if not self.done:
            found.append(
                f"allocations: {len(self.lives):,} lives were lived, and there is more to fail"
            )
        return found


def _read(life: FailedLife, lines: list[str], tds: tuple[str, ...]) -> None:
    told = read_vmm([*lines, "dpamt: end passed 0 failed 0"], tds)
    life.reactions = list(dict.fromkeys(told.troubles))
    frames: list[tuple[str, str]] = []
    for at, line in enumerate(lines):
        if line == _FORCED and not frames:
            kind = _KIND.match(lines[at + 1]) if at + 1 < len(lines) else None
            life.kind = kind[1] if kind is not None else "?"
            frames = list(_frames(lines[at + 2 :]))
        elif found := _FAILED.match(line):
            number, result = int(found[1]), int(found[2])
            what = errno_name(result) if result > 0 else "no error"
            life.call = f"{_CALLS.get(number, f'system call {number}')}: {what}"
    ours = (name for name, module in frames if module or name.startswith(_OURS))
    others = (name for name, _ in frames if not _ALLOCATOR.match(name))
    life.where = next(ours, "") or next(others, "")


def _frames(lines: list[str]) -> Iterator[tuple[str, str]]:
    """(Function, module) of a stack, innermost first."""
    for line in lines[:80]:
        if line.strip() == "</TASK>":
            return
        found = _FRAME.match(line)
        if found is not None:
            yield found[1], found[2] or ""


def _lost(life: FailedLife) -> str:
    kinds = ((life.tds, "TD"), (life.pages, "page"), (life.pairs, "page pair"))
    what = ", ".join(f"{count} {name}{'s' * (count != 1)}" for count, name in kinds if count)
    freed = f", {life.freed} of them freed all the same" if life.freed else ""
    return f"allocation {life.nth:,} failed in {life.where}: NOT GIVEN BACK: {what}{freed}"


def keeps_freed(image: KernelImage) -> bool:
    """Whether this is a kernel with KASAN (Linux mm/kasan/quarantine.c)."""
    return image.symbol("kasan_quarantine_put") is not None


def check_kernel(image: KernelImage) -> None:
    """Raises InputError for a kernel that was not built with fault injection."""
    missing = [name for name in _NEEDED if image.symbol(name) is None]
    if not any(image.symbol(name) for name in _KINDS):
        missing.append(" or ".join(_KINDS))
    if missing:
        raise InputError(
            f"{image.path}: no {missing[0]}; expected for --fail-allocations a kernel with "
            "CONFIG_FAULT_INJECTION_DEBUG_FS and CONFIG_FAIL_PAGE_ALLOC or CONFIG_FAILSLAB"
        )


def allocations_script(every: int, lives: int = MOST_LIVES) -> Script:
    """As many lives of the TD of the sweep; allocation K * ``every`` fails in the K-th."""
    lines = [LIFE_TD, "failing", "phase 1", f"fail 0 {NONE_FAILS}", *LIFE, "phase 2"]
    for number in range(1, lives + 1):
        lines += [f"fail 0 {number * every}", *LIFE, f"phase {number + 2}"]
    names = ("boot", "in peace", *(f"life {number}" for number in range(1, lives + 1)))
    return Script("\n".join(lines) + "\n", names, ("the TD",))
