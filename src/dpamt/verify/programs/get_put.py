"""What the threads of a verification do: the host's own functions, on a machine set up for them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dpamt.abi.pages import LEVEL_2M, LEVEL_4K, PAGE_SHIFT, PAGES_PER_2M
from dpamt.errors import ModelError
from dpamt.host.core.demote import tdx_mem_page_demote
from dpamt.host.core.kernel import Cpu, KernelBehaviour
from dpamt.host.core.leftovers import kept_count, stays
from dpamt.host.core.missing_pair import REPEAT, tdx_pamt_removed, tdx_pamt_repeat
from dpamt.host.core.page_cache import alloc_pamt_pages, free_pamt_pages
from dpamt.host.core.seamcall import tdh_mem_page_aug, tdh_mem_page_remove, tdh_mem_sept_add
from dpamt.host.core.tdx_errno import EBUSY, ENOMEM
from dpamt.host.designs.base import Design
from dpamt.sync.observed import ObservedShared
from dpamt.verify.learn.automaton import NO_LEAF, Body, Recorder
from dpamt.verify.programs.other_agent import GUEST, Holds, OtherAgent
from dpamt.verify.programs.problem import OwnWord, Problem, ThreadClass
from dpamt.verify.programs.worker import with_worker
from dpamt.verify.programs.world import ObservedAllocator, World
from dpamt.verify.properties.named import AT_REST, LEAK

APART: Final = "apart"
CROSSED: Final = "crossed"
OWN: Final = "own"
PLACEMENTS: Final = (APART, CROSSED, OWN)
"""Where the pages of a pair lie: in a region of their own; in the next region that is verified,
so that with two regions each pair lies in the other's; in the region itself."""

_DONOR_SLOT: Final = 400
"""Index in a region of the first page that is donated from it."""


def get_use_put(world: World, cpu: Cpu, tdr: int, pfn: int, gpa: int) -> int:
    """Back a page, give it to the TD, take it back, drop the backing; as KVM's hooks do it."""
    kernel = world.kernel
    error = kernel.tdx_pamt_get(kernel, cpu, pfn, None)
    if error:
        return 0 if error == -ENOMEM else error
    again = REPEAT
    while again == REPEAT:
        status = tdh_mem_page_aug(cpu, tdr, gpa, LEVEL_4K, pfn)
        again = tdx_pamt_repeat(kernel, cpu, pfn, None, status)
    if status:
        kernel.tdx_pamt_put(kernel, cpu, pfn)
        return 0 if again in (-EBUSY, -ENOMEM) else again  # BUSY: the fault is retried later
    status, hint = tdh_mem_page_remove(cpu, tdr, gpa, LEVEL_4K)
    if status:
        return 0
    tdx_pamt_removed(kernel, cpu, pfn, hint)
    return 0


def get_and_put(world: World, cpu: Cpu, pfn: int) -> int:
    """Back a page and drop the backing, with nothing between."""
    kernel = world.kernel
    error = kernel.tdx_pamt_get(kernel, cpu, pfn, None)
    if error:
        return error
    kernel.tdx_pamt_put(kernel, cpu, pfn)
    return 0


def put_in_softirq(world: World, cpu: Cpu, pfn: int) -> int:
    """Drop the backing of a page that was backed before, once the softirq has begun."""
    kernel = world.kernel
    world.recorder.mark(NO_LEAF)
    kernel.tdx_pamt_put(kernel, cpu, pfn)
    return 0


def demote(world: World, cpu: Cpu, tdr: int, gpa: int, pfn: int, sept: int) -> int:
    """Split a 2M page with a pair from the allocator; the pair is freed when that fails."""
    kernel = world.kernel
    pages = alloc_pamt_pages(kernel, None)
    if pages is None:
        return 0
    status = tdx_mem_page_demote(kernel, cpu, tdr, gpa, pfn, sept, pages)
    if status:
        free_pamt_pages(kernel, pages[0], pages[1])
    return 0


@dataclass(frozen=True, slots=True)
class Choices:
    """What may happen beside the schedule.

    So many allocations fail, at any place; so many SEAMCALLs meet a lock that somebody holds who is
    no thread of the program, one of those in ``holds``.
    """

    failures: int = 0
    busy: int = 0
    holds: Holds = GUEST

    def agent(self, shared: ObservedShared, recorder: Recorder) -> OtherAgent | None:
        """Who holds those locks; None: nobody."""
        return OtherAgent(shared, recorder, self.holds, self.busy) if self.busy else None

    def told(self) -> dict[str, str]:
        """As bounds of a verdict."""
        told = {"allocations that fail": f"at most {self.failures}" if self.failures else "none"}
        if self.busy:
            told["SEAMCALLs that meet a lock of nobody here"] = f"at most {self.busy}"
        return told


class Ground:
    """A machine with one TD, S-EPT pages for its first 2 MiB, and the threads' allocator."""

    def __init__(
        self,
        design: Design,
        choices: Choices | None = None,
        behaviour: KernelBehaviour | None = None,
    ) -> None:
        self.world = World(design, behaviour)
        self.tdr = self.world.make_td().tdr
        self.septs = self.world.alloc_backed(3)
        cpu = self.world.kernel.cpus[0]
        for level in range(3, 0, -1):
            status = tdh_mem_sept_add(cpu, self.tdr, 0, level, self.septs[3 - level])
            _must(status == 0)
        self.choices = choices or Choices()
        self.world.agent = self.choices.agent(self.world.shared, self.world.recorder)
        self.allocator = ObservedAllocator(self.world, self.choices.failures)

    def begin(self) -> None:
        """From here on pages come from the threads' allocator."""
        self.world.kernel.allocator = self.allocator  # type: ignore[assignment]

    def region(self, number: int) -> int:
        """First page of the ``number``-th region that is verified."""
        return self.world.free_region(number)

    def donors(self, number: int, regions: int, placement: str, user: int = 0) -> tuple[int, int]:
        """The two pages that a pair for that region is made of, of each ``user`` its own."""
        if placement == APART:
            first = self.world.free_region(100) + 2 * number
        elif placement == CROSSED:
            first = self.region((number + 1) % regions) + _DONOR_SLOT
        else:
            first = self.region(number) + _DONOR_SLOT
        first += 2 * regions * user
        return first, first + 1

    def start(self, pair: tuple[int, int], run: Callable[[Cpu], int]) -> Callable[[], Body]:
        """A thread that runs ``run`` on a CPU of its own, taking these pages for a pair."""

        def start() -> Body:
            self.allocator.pair_pages = pair
            cpu = self.world.cpu(0)

            def body() -> object:
                return run(cpu)

            return body

        return start

    def at_rest(self, regions: int, kept: int = 0) -> list[str]:
        """What is wrong when all threads have ended and ``kept`` pairs are to be there."""
        world = self.world
        lines = [f"{AT_REST}: {line}" for line in world.findings()]
        taken = self.allocator.balance.load()
        found = 0
        for n in range(regions):
            region = self.region(n) >> 9
            count = world.kernel.pamt_refcounts.at(region).load()
            if kept == 0 and count:
                lines.append(f"{LEAK}: region {region:#x} keeps a count and nobody uses it")
            if region in world.view.pairs():
                found += 1
                if kept == 0 and not stays(world.design, count):
                    lines.append(f"{LEAK}: region {region:#x} keeps its pair and nobody uses it")
        kept_wrongly = kept_count(world.design, taken, found)
        if kept_wrongly:
            lines.append(f"{LEAK}: {kept_wrongly}")
        return lines


def regions(
    design: Design,
    cpus: tuple[int, ...],
    placement: str = APART,
    choices: Choices | None = None,
    interchangeable: bool = True,
) -> Problem:
    """Threads in several 2M regions, so many in each: get, use, put.

    Each thread has a page of its own.  The pages that get takes for a pair are the same two for all
    threads of a region, and others for another region: at most one pair can be installed for a
    region, so no thread can tell, and threads stay interchangeable; unless they are to be told
    apart, each a class of its own.
    """
    ground = Ground(design, choices)
    ground.begin()
    own_pairs = design.spare_pages > 0  # what it keeps must not be given to the next thread too
    kinds = []
    gfn = 0
    for number, count in enumerate(cpus):
        pages = tuple(range(ground.region(number), ground.region(number) + count))
        gfns = tuple(range(gfn, gfn + count))
        gfn += count
        septs = tuple(ground.septs[2] << 9 | g % PAGES_PER_2M for g in gfns)
        pair = ground.donors(number, len(cpus), placement)
        name = f"get, use, put in region {number}"
        pairs = [
            ground.donors(number, len(cpus), placement, n) if own_pairs else pair
            for n in range(count)
        ]
        starts = tuple(
            ground.start(pairs[n], _user(ground, pages[n], gfns[n])) for n in range(count)
        )
        if own_pairs or not interchangeable:
            kinds += [ThreadClass(name, start) for start in starts]
            continue
        own = (
            OwnWord("module.pamt.4k", pages),
            OwnWord("module.pamt.4k.bepoch", pages),
            OwnWord("module.td.sept", septs, 8 + 16),
        )
        kinds.append(ThreadClass(name, starts[0], count, own, pages, starts=starts))
    world = ground.world
    problem = Problem(
        f"get, use, put; CPUs by region {'+'.join(map(str, cpus))}",
        world.shared,
        world.recorder,
        world.places,
        tuple(kinds),
        lambda: ground.at_rest(len(cpus)),
        bounds=_bounds(design, cpus, placement, choices),
        world=world,
    )
    return with_worker(problem)


def _user(ground: Ground, pfn: int, gfn: int) -> Callable[[Cpu], int]:
    return lambda cpu: get_use_put(ground.world, cpu, ground.tdr, pfn, gfn << PAGE_SHIFT)


def _bounds(
    design: Design, cpus: tuple[int, ...], placement: str, choices: Choices | None
) -> dict[str, str]:
    return {
        "design": design.source,
        "CPUs by region": "+".join(map(str, cpus)),
        "each CPU does": "get, AUG, REMOVE, put, once",
        "pages of a pair": {
            APART: "in a region of their own",
            CROSSED: "in the other region that is verified",
            OWN: "in the region that they describe",
        }[placement],
        **(choices or Choices()).told(),
        "memory model": "sequentially consistent",
    }


def softirq(design: Design) -> Problem:
    """A task's get and put in a region, interrupted at any place by a put in softirq context.

    The page of the softirq is backed already, in another region: an S-EPT page that an RCU callback
    frees.
    """
    ground = Ground(design)
    first = ground.region(0)
    world = ground.world
    ground.begin()
    pair, other_pair = ground.donors(0, 2, APART), ground.donors(1, 2, APART)
    ground.allocator.pair_pages = other_pair
    sept = ground.region(1)
    error = world.kernel.tdx_pamt_get(world.kernel, world.kernel.cpus[0], sept, None)
    _must(error == 0)
    task = ThreadClass(
        "task: get, put", ground.start(pair, lambda cpu: get_and_put(world, cpu, first))
    )
    callback = ThreadClass(
        "softirq on the same CPU: put",
        ground.start(other_pair, lambda cpu: put_in_softirq(world, cpu, sept)),
        interrupts=0,
    )
    problem = Problem(
        "get and put of a task, put of an RCU callback on its CPU",
        world.shared,
        world.recorder,
        world.places,
        (task, callback),
        lambda: ground.at_rest(2),
        bounds={"design": design.source, "CPUs": "1, its task and its softirq"},
        world=world,
    )
    return with_worker(problem)


def demote_and_get(design: Design, behaviour: KernelBehaviour | None = None) -> Problem:
    """DEMOTE on one CPU, its pair from region 0; get and put of a page in region 0 on another.

    ``behaviour`` says whether DEMOTE takes ``pamt_lock``.
    """
    ground = Ground(design, behaviour=behaviour)
    world = ground.world
    large = ground.region(1)
    cpu = world.kernel.cpus[0]
    septs = world.alloc_backed(1)
    gpa = 1 << 21
    status = tdh_mem_page_aug(cpu, ground.tdr, gpa, LEVEL_2M, large)
    _must(status == 0)
    ground.begin()
    donor = ground.region(0) + _DONOR_SLOT
    splitter = ThreadClass(
        "DEMOTE with a pair from region 0",
        ground.start(
            (donor, donor + 1),
            lambda cpu: demote(world, cpu, ground.tdr, gpa, large, septs[0]),
        ),
    )
    getter = ThreadClass(
        "get, put in region 0",
        ground.start(
            ground.donors(0, 1, APART), lambda cpu: get_and_put(world, cpu, ground.region(0))
        ),
    )
    problem = Problem(
        "DEMOTE of one TD, get and put for another",
        world.shared,
        world.recorder,
        world.places,
        (splitter, getter),
        lambda: ground.at_rest(2, kept=1),
        bounds={
            "design": design.source,
            "CPUs": "2",
            "DEMOTE and its count": "under no lock"
            if behaviour is not None and behaviour.demote_lock == "none"
            else "as the design does it",
        },
        world=world,
    )
    return with_worker(problem)


def _must(fine: bool) -> None:
    if not fine:
        raise ModelError("the verifier's machine cannot be brought to where the threads begin")
