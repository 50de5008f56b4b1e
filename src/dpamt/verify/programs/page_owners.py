"""Who has each page of the pools: nobody, the kernel, a TD or the module, as words of their own.

A page is given to the module before the SEAMCALL that names it (and is the kernel's again when that
fails), and comes back after the SEAMCALL that let it go.  So no other thread can see a page as
somebody's whose it is not any more: between the two, nobody but the caller knows of it.

A page that comes back from the module was written with a key of the module's.  Where the CPU has
the partial-write erratum it must be reset before it goes anywhere but to the module again (A.
Hunter, 2025-06-27; hazard H29).
"""

from typing import Final, NamedTuple

from dpamt.abi.leaves import (
    TDH_MEM_PAGE_ADD,
    TDH_MEM_PAGE_AUG,
    TDH_MEM_PAGE_DEMOTE,
    TDH_MEM_PAGE_REMOVE,
    TDH_MEM_SEPT_ADD,
    TDH_MNG_ADDCX,
    TDH_MNG_CREATE,
    TDH_PHYMEM_PAGE_RECLAIM,
    TDH_PHYMEM_PAMT_ADD,
    TDH_PHYMEM_PAMT_REMOVE,
    TDH_VP_ADDCX,
    TDH_VP_CREATE,
)
from dpamt.abi.pages import INFO_LEVEL_MASK, LEVEL_4K, MAX_PA_LIMIT, PAGE_SHIFT
from dpamt.abi.registers import TdxModuleArgs
from dpamt.platform.physical_memory import PhysicalMemory
from dpamt.sync.observed import ObservedShared
from dpamt.verify.learn.automaton import Event, Recorder

FREE: Final = 0
KERNEL: Final = 1
UNRESET: Final = 2
TD: Final = 3
PAMT: Final = 4
"""Values of a page's word: free in the allocator; the kernel's; the kernel's, but written by the
module and not reset; a TD's; the module's, as PAMT."""

STATES: Final = (
    "free",
    "the kernel's",
    "the kernel's and was not reset since the module had it",
    "in use by a TD",
    "the module's, as PAMT",
)
"""A page's word in words."""

_GIVEN: Final[dict[int, tuple[tuple[str, int], ...]]] = {
    TDH_PHYMEM_PAMT_ADD: (("rdx", PAMT), ("r8", PAMT)),
    TDH_MEM_PAGE_DEMOTE: (("r8", TD), ("r12", PAMT), ("r13", PAMT)),
    TDH_MNG_CREATE: (("rcx", TD),),
    TDH_MNG_ADDCX: (("rcx", TD),),
    TDH_VP_CREATE: (("rcx", TD),),
    TDH_VP_ADDCX: (("rcx", TD),),
    TDH_MEM_SEPT_ADD: (("r8", TD),),
    TDH_MEM_PAGE_ADD: (("r8", TD),),
    TDH_MEM_PAGE_AUG: (("r8", TD),),
}
"""By leaf: the registers that name 4K pages which the module takes, and what they become."""
_LET_GO: Final[dict[int, tuple[str, ...]]] = {
    TDH_PHYMEM_PAMT_REMOVE: ("rdx", "r8"),
    TDH_MEM_PAGE_REMOVE: ("rcx",),
}
"""By leaf: the registers that name, after success, 4K pages that the module has let go.
PAGE.RECLAIM names its page before the call."""
_WITH_LEVEL: Final = frozenset({TDH_MEM_PAGE_AUG, TDH_MEM_PAGE_REMOVE})
"""Leaves that take pages of any level; those above 4K are not followed."""
_FRAME: Final = (MAX_PA_LIMIT >> PAGE_SHIFT) - 1


class Taking(NamedTuple):
    """What a SEAMCALL that is being made does with pages: those it is given, with what they were,
    and the one that PAGE.RECLAIM or PAGE.REMOVE may let go (its frame is known after the latter).
    """

    given: tuple[tuple[int, int], ...]
    reclaims: int
    lets_go: bool


class PageOwners:
    """The words of the pages in ``pages``; all other pages are not followed."""

    def __init__(self, shared: ObservedShared, recorder: Recorder, erratum: bool) -> None:
        self.words = shared.words("verify.pages")
        self.pages: set[int] = set()
        self._recorder = recorder
        self._after_module = UNRESET if erratum else KERNEL

    def take(self, pfn: int) -> bool:
        """Out of the allocator, if it is free."""
        page = self.words.at(pfn)
        return page.compare_and_swap(FREE, KERNEL)

    def free(self, pfn: int) -> None:
        """Back into the allocator."""
        if pfn not in self.pages:
            self._wrong(pfn, "freed, and the allocator never gave it out")
            return
        page = self.words.at(pfn)
        freed = page.compare_and_swap(KERNEL, FREE)
        if freed:
            return
        state = page.load()
        self._wrong(pfn, f"freed while it is {STATES[state]}")
        if state == UNRESET:
            page.store(FREE)

    def reset(self, pfn: int) -> None:
        """The kernel writes the whole page with MOVDIR64B."""
        if pfn not in self.pages:
            return
        page = self.words.at(pfn)
        done = page.compare_and_swap(UNRESET, KERNEL)
        if done:
            return
        state = page.load()
        if state != KERNEL:
            self._wrong(pfn, f"reset while it is {STATES[state]}")

    def before(self, leaf: int, args: TdxModuleArgs) -> Taking:
        """A SEAMCALL is about to be made: what it is given is the module's from here on."""
        reclaims = args.rcx >> PAGE_SHIFT & _FRAME if leaf == TDH_PHYMEM_PAGE_RECLAIM else 0
        leveled = leaf in _WITH_LEVEL and args.rcx & INFO_LEVEL_MASK != LEVEL_4K
        if leveled:
            return Taking((), 0, False)
        given: tuple[tuple[int, int], ...] = ()
        registers = _GIVEN.get(leaf, ())
        for index in range(len(registers)):
            name, becomes = registers[index]
            pfn = getattr(args, name) >> PAGE_SHIFT
            if pfn in self.pages:
                was = self._give(pfn, becomes)
                if was >= 0:
                    given = (*given, (pfn, was))
        return Taking(given, reclaims, leaf in _LET_GO)

    def after(self, leaf: int, taking: Taking, status: int, args: TdxModuleArgs) -> None:
        """The SEAMCALL has answered."""
        if status:
            for index in range(len(taking.given)):
                pfn, was = taking.given[index]
                page = self.words.at(pfn)
                page.store(was)
            return
        back: tuple[int, ...] = (taking.reclaims,)
        if taking.lets_go:
            back = tuple(getattr(args, name) >> PAGE_SHIFT & _FRAME for name in _LET_GO[leaf])
        for index in range(len(back)):
            if back[index] in self.pages:
                page = self.words.at(back[index])
                page.store(self._after_module)

    def _give(self, pfn: int, becomes: int) -> int:
        """The module gets the page: what it was before; -1 when it is nobody's to give."""
        page = self.words.at(pfn)
        given = page.compare_and_swap(KERNEL, becomes)
        if given:
            return KERNEL
        was = page.load()
        if was != UNRESET:
            self._wrong(pfn, f"given to the module while it is {STATES[was]}")
            return -1
        page.store(becomes)
        return UNRESET

    def _wrong(self, pfn: int, what: str) -> None:
        self._recorder.tell(Event("page", f"page {pfn:#x} is {what}"))


class OwnedMemory:
    """Memory as the kernel reaches it: to clear a page is to reset it."""

    def __init__(self, memory: PhysicalMemory, owners: PageOwners) -> None:
        self._memory = memory
        self._owners = owners
        self.read = memory.read
        self.write = memory.write
        self.read64 = memory.read64
        self.write64 = memory.write64

    def clear_page(self, pfn: int) -> None:
        """Fill the 4 KiB page with zeros."""
        self._memory.clear_page(pfn)
        self._owners.reset(pfn)

    def clear_pages(self, first: int, pages: int) -> None:
        """Fill as many 4 KiB pages with zeros."""
        for index in range(pages):
            self.clear_page(first + index)
