"""Every hazard that was raised about Dynamic PAMT: who has it, who fixed it, how it shows; data.

H1 to H42 are hazards of the series, L1 to L4 those of the attempt before it.  ``designs`` are ours
that have it, as posted; a hazard without one was avoided, was of code that is not modelled, or is
no matter of a design.  Where the code of a posting decides otherwise than its review, ``note`` says
so.  What only the verifier found is in docs/findings.md.

Source: threads on `[RFC, PATCH 00/12] TDX: Enable Dynamic PAMT` (2025-05-02), `[PATCHv2 00/12]`
(2025-06-09), `[PATCH v3 00/16]` (2025-09-18), `[PATCH v4 00/16]` (2025-11-20), `[RFC PATCH v5
00/45] TDX: Dynamic PAMT + S-EPT Hugepage` (2026-01-28), `[PATCH v6 00/11] Dynamic PAMT`
(2026-05-25).
"""

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["protocol", "context", "sizing", "policy"]
Sign = Literal[
    "missing pair seen",
    "double ADD",
    "REMOVE of a used pair",
    "negative count",
    "tolerated status",
    "BUSY",
    "deadlock",
    "livelock",
    "leak",
    "uncleaned page",
    "crash",
    "cost",
    "none",
]
"""What a run or a verifier sees of it.  ``BUSY``: outside the rules of what is tried again."""


@dataclass(frozen=True, slots=True)
class Hazard:
    """One of them; ``fixed_in`` is the first design of ours without it after one that had it."""

    id: str
    title: str
    raised: str
    """By whom, where or when."""
    kind: Kind
    sign: Sign
    designs: tuple[str, ...] = ()
    fixed_in: str = ""
    note: str = ""


_WINDOW: Final = ("v1", "v2", "v3", "v4", "v5")
"""Those whose count falls to 0 before the lock is taken."""
_V3: Final = ("v3-simple", "v3")
_UNLOCKED_DEMOTE: Final = "the others too, with no lock around DEMOTE (KernelBehaviour.demote_lock)"

HAZARDS: Final = (
    Hazard(
        "H1",
        "a get between a put's decrement and its lock finds the pair in place",
        "R. Edgecombe, answered by K. Shutsemau, 2025-09-16",
        "protocol",
        "tolerated status",
        _WINDOW,
        "v6",
        "called benign, and is for one get; for a get with its put see H4",
    ),
    Hazard(
        "H2",
        "two first gets at once add two pairs",
        "threads on v1 to v3",
        "protocol",
        "double ADD",
        note="avoided: the count is looked at again with the lock held",
    ),
    Hazard(
        "H3",
        "a count that is raised before ADD is done",
        "threads on v1 to v3",
        "protocol",
        "missing pair seen",
        note="avoided: the count is stored after ADD, with the lock held",
    ),
    Hazard(
        "H4",
        "decrement, then lock, is not atomic against a lock-free get",
        "D. Hansen, 2026-02-10",
        "protocol",
        "missing pair seen",
        _WINDOW,
        "v6",
        "the cause of H1; found by dpamt verify: both puts go on to remove the pair, and v2 to v5 "
        "then put back a count without one; a TD that ends beside a fault is enough "
        "(docs/findings.md)",
    ),
    Hazard(
        "H5",
        "a counter that starts at -1",
        "K. Huang, v1 thread",
        "policy",
        "none",
        note="a proposal, not adopted",
    ),
    Hazard(
        "H6",
        "a PAMT.REMOVE that fails leaves count 0 and a pair that nobody knows of",
        "v1; consequence for 2M pages: R. Edgecombe, v4 thread",
        "protocol",
        "leak",
        ("v1",),
        "v2",
        "from v2 on the count stays at 1 or more: the pair stays for good, and a line says so",
    ),
    Hazard(
        "H7",
        "a PAMT.ADD that fails is reported as success",
        "R. Edgecombe, 2025-11-26",
        "protocol",
        "missing pair seen",
        (*_V3, "v4"),
        "v5",
        "the put after it makes the count negative, where it counts without looking",
    ),
    Hazard(
        "H7b",
        "get does not count a second user, put removes the pair of both",
        "X. Li, v3 thread",
        "protocol",
        "missing pair seen",
        ("v3-simple",),
        "v3",
        "where the second page is in use the module refuses, and the pair stays until the last put",
    ),
    Hazard(
        "H7c",
        "a put too many makes the count negative",
        "reading of the code",
        "protocol",
        "negative count",
        (*_WINDOW, "v6", "global-rwlock"),
        "merged",
        "only after a fault of the caller; merged asks the module, which refuses",
    ),
    Hazard(
        "H8",
        "a failed boot on an older module frees counters that were never there",
        "v1 thread",
        "sizing",
        "crash",
        ("v1",),
        "v2",
    ),
    Hazard(
        "H9",
        "a boot on an older module populates counters that were never there",
        "K. Huang, 2025-10-15",
        "sizing",
        "crash",
        ("v2", *_V3),
        "v4",
    ),
    Hazard(
        "H10",
        "counters rounded down: the last region, or a page alone, has none; one page too many",
        "R. Edgecombe, K. Shutsemau, v3 thread",
        "sizing",
        "crash",
        ("v2", *_V3),
        "v4",
    ),
    Hazard(
        "H11",
        "memory added above max_pfn",
        "threads on v1 to v3",
        "sizing",
        "none",
        note="not reachable: it may only go online inside an entry of the boot-time list",
    ),
    Hazard(
        "H12",
        "a large page is refused after its get, without a put",
        "C. Gao, v2 thread",
        "protocol",
        "leak",
        note="first posting of v2's patch 8; v2 here is the re-posting of 2025-06-12. As posted, "
        "get counts nothing at other levels than 4K, so the missing put kept no reference",
    ),
    Hazard(
        "H13",
        "SEPT.ADD or AUG is BUSY after the get",
        "threads on v1 to v3",
        "protocol",
        "leak",
        note="avoided: every failure is followed by a put; but in v2 to v5 that put may be one of "
        "the two of H4, and the next try meets no pair (docs/findings.md)",
    ),
    Hazard(
        "H14",
        "a page counted before it is added",
        "R. Edgecombe, v2 thread",
        "protocol",
        "leak",
        note="v2's premap is not modelled: pages are counted when they are added",
    ),
    Hazard(
        "H15",
        "a map without a running VCPU",
        "v2 to v6 threads",
        "context",
        "crash",
        note="avoided: the VM is bugged, -EIO",
    ),
    Hazard(
        "H16",
        "a cache is empty under mmu_lock",
        "K. Shutsemau, v3 thread",
        "context",
        "none",
        note="avoided: the top-up covers every level; an empty pool is -ENOMEM",
    ),
    Hazard(
        "H17",
        "no second page for the pair: the first is not given back",
        "Y. Zhao, v3 thread",
        "protocol",
        "leak",
        _V3,
        "v4",
    ),
    Hazard(
        "H18",
        "a VCPU freed before it is initialised has no list of pages",
        "Y. Zhao, v3 thread",
        "protocol",
        "crash",
        _V3,
        "v4",
        "v4 is taken to have it repaired; certain for v6",
    ),
    Hazard(
        "H19",
        "the check of VP.FLUSH inverted",
        "reading of v3",
        "protocol",
        "none",
        note="not modelled: the flush is one for all designs",
    ),
    Hazard(
        "H20",
        "a software error code taken for a mask",
        "X. Li, v3 thread",
        "protocol",
        "none",
        note="not modelled: no SEAMCALL instruction faults here",
    ),
    Hazard(
        "H21",
        "pair pages lie in a region that another CPU adds or removes a pair of",
        "Y. Zhao, 2025-09-26",
        "protocol",
        "BUSY",
        ("per-2m-lock",),
        "merged",
    ),
    Hazard(
        "H22",
        "locks taken as the module takes its own wait for each other",
        "Y. Zhao, 2025-09-28",
        "protocol",
        "deadlock",
        ("per-2m-rwlock",),
        "merged",
        "the reserve, global-rwlock, has neither H21 nor this",
    ),
    Hazard(
        "H23",
        "DEMOTE meets the ADD of the region where one of its pair pages lies",
        "Y. Zhao, 2026-06-11, seen in a test",
        "protocol",
        "BUSY",
        ("lazy", "v5", "per-2m-lock"),
        "merged",
        _UNLOCKED_DEMOTE,
    ),
    Hazard(
        "H24",
        "a failed DEMOTE takes back a pair that others use by now",
        "Y. Zhao, v4 thread",
        "protocol",
        "REMOVE of a used pair",
        note="avoided: the S-EPT page is put; the pair of the DEMOTE was never installed "
        "(`dpamt verify` with DEMOTE refused twice)",
    ),
    Hazard(
        "H25",
        "a split does not back its new S-EPT page",
        "Y. Zhao, v4 and v5 threads",
        "protocol",
        "missing pair seen",
        ("v5",),
        "v6",
        "where the region has a pair already the split succeeds, the count is one too low, and the "
        "last put of another TD goes for a pair that is in use (docs/findings.md)",
    ),
    Hazard(
        "H26",
        "SEAMCALLs on pages of a region against its ADD or REMOVE",
        "threads on v1 to v3",
        "protocol",
        "BUSY",
        ("lazy", "global-rwlock"),
        "",
        "with counts nobody uses a page of the region while ADD or REMOVE runs; but the reserve "
        "idea lets a second first get make its ADD late (docs/findings.md)",
    ),
    Hazard(
        "H27",
        "a put in softirq context takes the lock that its CPU's task holds",
        "Y. Zhao, 2026-02-06 (lockdep)",
        "context",
        "deadlock",
        ("v5",),
        "v6",
    ),
    Hazard(
        "H28",
        "S-EPT pages that wait in caches keep pairs",
        "review of v5, 2026-02",
        "policy",
        "cost",
        ("v5",),
        "v6",
    ),
    Hazard(
        "H29",
        "a pair comes back written with the module's key and is not cleaned",
        "A. Hunter, 2025-06-27",
        "protocol",
        "uncleaned page",
        ("lazy", "v1", "v2"),
        "v3",
    ),
    Hazard(
        "H30",
        "an array laid over registers is written past its end",
        "D. Hansen, v2 thread",
        "protocol",
        "none",
        note="not modelled: registers have names here",
    ),
    Hazard(
        "H31",
        "a cache is not freed between two patches of v3",
        "v3 thread",
        "protocol",
        "none",
        note="an intermediate commit that is not modelled",
    ),
    Hazard(
        "H32",
        "an array over RDX does not fit DEMOTE",
        "v3 thread",
        "protocol",
        "none",
        note="not modelled: registers have names here",
    ),
    Hazard(
        "H33",
        "one guest that converts pages in a loop holds up the faults of all",
        "S. Christopherson, v2 thread; K. Shutsemau, v6 thread",
        "policy",
        "cost",
        ("v3-simple", "merged"),
        "",
        "fewer holds of the lock in designs with a fast path, more CPUs at once in the last three",
    ),
    Hazard(
        "H34",
        "a global lock under a shared mmu_lock",
        "R. Edgecombe, v2 thread",
        "policy",
        "cost",
        ("v3-simple", "merged"),
    ),
    Hazard(
        "H35",
        "two pages are taken and given back on every get of a region that has its pair",
        "K. Shutsemau, v6 thread",
        "policy",
        "cost",
        (*_V3, "merged", "per-2m-lock", "per-2m-rwlock", "global-rwlock"),
        "",
        "v6 had repaired it, and was not merged; merged clears both as well on CPUs with the "
        "partial-write erratum",
    ),
    Hazard(
        "H36",
        "a lost race that returns before it has counted",
        "R. Edgecombe, v2 thread",
        "protocol",
        "REMOVE of a used pair",
        note="avoided: the loser counts too",
    ),
    Hazard(
        "H37",
        "all pairs at the first TD, none after the last",
        "D. Hansen, 2025-09-08",
        "policy",
        "none",
        note="a proposal, not adopted: 2M pages and pairs exclude each other",
    ),
    Hazard(
        "H38",
        "VMs that are no TDs keep page pools",
        "R. Edgecombe, v2 thread",
        "policy",
        "cost",
        ("v2",),
        "v3",
    ),
    Hazard(
        "H39",
        "two single pages spoil two 2M blocks",
        "D. Hansen, v4 thread",
        "policy",
        "cost",
        note="of every design with Dynamic PAMT",
    ),
    Hazard(
        "H40",
        "how many pages a top-up takes is hidden",
        "Y. Zhao, S. Christopherson, v4 thread",
        "policy",
        "none",
        note="of names and parameters only",
    ),
    Hazard(
        "H41",
        "small slips of v5",
        "review of v5, 2026-02",
        "policy",
        "none",
        note="not modelled, except for what is H25",
    ),
    Hazard(
        "H42",
        "pages are given back to the allocator with the spinlock held",
        "v1 thread",
        "context",
        "cost",
        ("v1",),
        "v2",
    ),
    Hazard(
        "L1",
        "a pair is taken out between ADD and use, again and again",
        "covers of v1 and v2",
        "protocol",
        "livelock",
        ("lazy",),
        "v1",
    ),
    Hazard(
        "L2",
        "ADD and REMOVE meet the locks of any SEAMCALL in the region, of any TD",
        "covers of v1 and v2",
        "protocol",
        "BUSY",
        ("lazy",),
        "v1",
    ),
    Hazard(
        "L3",
        "a removal that is BUSY cannot be reported, so its pair stays",
        "covers of v1 and v2",
        "protocol",
        "leak",
        ("lazy",),
        "v1",
    ),
    Hazard(
        "L4",
        "a hint comes too late",
        "follows from L1",
        "protocol",
        "tolerated status",
        ("lazy",),
        "v1",
    ),
)
"""In the order of their numbers."""

BY_ID: Final = {hazard.id: hazard for hazard in HAZARDS}
