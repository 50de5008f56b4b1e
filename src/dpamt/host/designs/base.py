"""What a design is, and the shared state that every design may use.

A design is the answer to one question: when is the page pair of a 2M region added, and when is it
taken away?  It is one Python file.  The file's contract:

=======================================================  ========================================
``DYNAMIC_PAMT = False``  (default True)                 never ask the module for Dynamic PAMT
``DPAMT_NAMES = True``  (default False)                  counters and lock are shown by the names
                                                         that were merged: ``dpamt_refcounts``,
                                                         ``dpamt_lock``
``MEMINFO = True``  (default False)                      show the ``TDX:`` line in /proc/meminfo
``POOL_FOR_EVERY_VM = True``  (default False)            VMs that are no TDs keep a page pool too
``COUNTS = "none"``  (default "pages")                   what a region's count is: see below
``TOLERATED = ((leaf, status), ...)``  (default none)    answers of the module that the design takes
                                                         as benign
``SEPT_BACKING = "top-up"``  (default "link")            S-EPT pages get their PAMT when a VCPU's
                                                         pool is filled, not when they are linked
``SEPT_CACHE_PAGES = 40``  (default 5)                   how far that pool is filled
``SEPT_PUT = "rcu"``  (default "at-once")                S-EPT pages are put in an RCU callback
                                                         (softirq context), not by the task
``SPLIT_BACKS_SEPT = False``  (default True)             a split forgets the PAMT of its S-EPT page
``CACHE_FROM_CREATE = False``  (default True)            a VCPU's page pool is initialised late, in
                                                         KVM_TDX_INIT_VCPU
``PAIRS_MAY_STAY = True``  (default False)               the pair of a region with count 0 may stay
``SPARE_PAGES = 2``  (default 0)                         the design keeps at most 2 pages for
                                                         itself, in words of its own
``REMOVAL = "worker"``  (default "at-once")              pairs are removed later by a worker, or
                                                         with ``"rcu"`` by RCU callbacks (softirq
                                                         context): ``tdx_pamt_work``
``tdx_pamt_get(kernel, cpu, pfn, cache) -> int``         required: before the module may use the 4K
                                                         page ``pfn``; 0 or a negative errno.
                                                         ``cache`` is the VCPU's page pool on the
                                                         fault path, None where the allocator may
                                                         be asked
``tdx_pamt_put(kernel, cpu, pfn) -> None``               required: after the module let it go
``tdx_pamt_missing(kernel, cpu, pfn, cache) -> int``     optional: a SEAMCALL that was to use
                                                         ``pfn`` met no pair; 0 to repeat it, or a
                                                         negative errno
``tdx_pamt_hint(kernel, cpu, pfn) -> None``              optional: the module let ``pfn`` go and
                                                         says that its region has no user any more
``tdx_pamt_demote(kernel, cpu, tdr, gpa, pfn, sept,``    optional: DEMOTE with its pair, and the
``pages) -> int``                                        count from 0 to 512; the status (default:
                                                         under ``pamt_lock``)
``tdx_pamt_work(kernel, cpu, item) -> None``             required with ``REMOVAL``: what
                                                         ``queue_work(kernel, item)``, or with
                                                         ``"rcu"`` ``call_rcu(kernel, item)``,
                                                         asked for (host/core/workqueue.py)
``init_pamt_metadata(kernel) -> int``                    optional: counters' memory at boot; 0 or
                                                         a negative errno (default: one 4-byte
                                                         counter per 2M region up to max_pfn)
``populate_pamt_metadata(kernel, start_pfn, end_pfn)``   optional: called for each memory entry;
                                                         returns 0 or a negative errno
``free_pamt_metadata(kernel) -> None``                   optional: undo both when boot fails
=======================================================  ========================================

Get and put are called for every 4K page that the module uses (control, S-EPT and guest pages), from
any CPU, also inside ``mmu_lock``; for a 2M guest page they are not called.  They are called without
Dynamic PAMT too (an older module) and then have nothing to do: test ``kernel.dynamic_pamt`` first.

When nothing runs, a region's count in ``kernel.pamt_refcounts`` is the number of its 4K pages that
the module uses (``COUNTS = "pages"``), or at least that (``"at-least"``: pages that wait in pools
count too), and its pair is installed exactly while that is not 0; with ``"none"`` nothing is
counted, and the pair is there exactly while a page is in use.  The audit after each phase of a run
holds every design to it, except for what it declares: with ``PAIRS_MAY_STAY`` the pair of a region
with count 0 may be there, with ``SPARE_PAGES`` that many may be missing from the allocator and
be in no pair, with ``REMOVAL`` the worker has its turn before the audit.  Every verdict prints
them.

State that two CPUs share is :class:`PamtState`, and words and locks of the design's own, made once
in ``init_pamt_metadata``: ``kernel.spare = kernel.shared.words("host.spare")`` (docs/designs.md);
each operation on them stands alone in its statement.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from dpamt.sync import Shared

if TYPE_CHECKING:
    from dpamt.host.core.kernel import Cpu, Kernel
    from dpamt.host.core.page_cache import PamtCache

    PamtGet = Callable[[Kernel, Cpu, int, PamtCache | None], int]
    PamtPut = Callable[[Kernel, Cpu, int], None]
    PamtMissing = Callable[[Kernel, Cpu, int, PamtCache | None], int]
    PamtHint = Callable[[Kernel, Cpu, int], None]
    PamtDemote = Callable[[Kernel, Cpu, int, int, int, int, tuple[int, int]], int]
    InitMetadata = Callable[[Kernel], int]
    PopulateMetadata = Callable[[Kernel, int, int], int]
    FreeMetadata = Callable[[Kernel], None]
    PamtWork = Callable[[Kernel, Cpu, int], None]


Counts = Literal["pages", "at-least", "none"]
SeptBacking = Literal["link", "top-up"]
SeptPut = Literal["at-once", "rcu"]
Removal = Literal["at-once", "worker", "rcu"]

SEPT_CACHE_PAGES: Final = 5
"""What one fault needs: PT64_ROOT_MAX_LEVEL."""


class PamtState:
    """The words that get and put share between CPUs."""

    __slots__ = ("lock", "pair_count", "refcounts", "region_locks", "region_rwlocks", "rwlock")

    def __init__(self, shared: Shared, dpamt_names: bool = False) -> None:
        prefix = "dpamt" if dpamt_names else "pamt"
        self.refcounts = shared.words(f"host.{prefix}_refcounts")
        """Counter of each 2M region, at index pfn >> 9."""
        self.lock = shared.spinlock(f"{prefix}_lock")
        """One lock for the whole machine."""
        self.rwlock = shared.rwlock("pamt_rwlock")
        """The same as a reader/writer lock."""
        self.region_locks = shared.spinlocks("pamt_region_lock")
        """A lock for each 2M region, at index pfn >> 9."""
        self.region_rwlocks = shared.rwlocks("pamt_region_rwlock")
        """The same as reader/writer locks."""
        self.pair_count = shared.words("host.pamt_pairs").at(0)
        """Pairs installed in the module."""


class OtherCode(Protocol):
    """Code of a design that is not Python: what a verdict has to say of it.

    ``buffers``: the search goes through its stores and loads with a store buffer for each CPU.
    ``shares_pamt_lock``: the lock of its get and put is known, so that a DEMOTE can take it too.
    """

    buffers: bool
    shares_pamt_lock: bool

    def bounds(self) -> dict[str, str]:
        """What a verdict on it holds for."""

    def assumptions(self) -> list[str]:
        """What a verdict on it rests on, a sentence each."""

    def not_reached(self) -> tuple[str, ...]:
        """What of it no thread came to: ``file:line text``."""

    def digest(self) -> str:
        """SHA-256 of what ran."""

    def identity(self) -> str:
        """SHA-256 of all that may run."""

    def kept(self) -> dict[str, Any]:
        """What a search has seen of it and its threads' histories do not say, as plain values."""

    def take_up(self, kept: Mapping[str, Any]) -> None:
        """Take what :meth:`kept` gave as seen; raises for anything else."""


@dataclass(frozen=True)
class Helpers:
    """What of the core's page caches and control pages is the design's own; each may be none.

    As the functions of these names in :mod:`dpamt.host.core.page_cache` and ``control_pages``.
    """

    topup_pamt_cache: "Callable[[Kernel, PamtCache, int], int] | None"
    free_pamt_cache: "Callable[[Kernel, PamtCache], None] | None"
    alloc_control_page: "Callable[[Kernel, Cpu, str], int | None] | None"
    free_control_page: "Callable[[Kernel, Cpu, int], None] | None"


@dataclass(frozen=True)
class Design:
    """A design, ready to run: what its file defines, defaults filled in."""

    name: str
    source: str
    dynamic_pamt: bool
    meminfo: bool
    pool_for_every_vm: bool
    tdx_pamt_get: "PamtGet"
    tdx_pamt_put: "PamtPut"
    init_pamt_metadata: "InitMetadata"
    populate_pamt_metadata: "PopulateMetadata"
    free_pamt_metadata: "FreeMetadata"
    tdx_pamt_demote: "PamtDemote"
    tdx_pamt_missing: "PamtMissing | None" = None
    tdx_pamt_hint: "PamtHint | None" = None
    counts: Counts = "pages"
    tolerated: frozenset[tuple[int, int]] = frozenset()
    """(leaf, status) that the design takes as benign."""
    sept_backing: SeptBacking = "link"
    sept_cache_pages: int = SEPT_CACHE_PAGES
    sept_put: SeptPut = "at-once"
    split_backs_sept: bool = True
    cache_from_create: bool = True
    pairs_may_stay: bool = False
    spare_pages: int = 0
    removal: Removal = "at-once"
    tdx_pamt_work: "PamtWork | None" = None
    dpamt_names: bool = False
    code: OtherCode | None = None
    """Where get and put are not Python."""
    helpers: "Helpers | None" = None
    """The core's functions around get and put, where they are not Python either."""

    def functions(self) -> tuple[Callable[..., object], ...]:
        """The functions of the design: those that threads call."""
        values = (getattr(self, field.name) for field in fields(self))
        return tuple(value for value in values if callable(value))
