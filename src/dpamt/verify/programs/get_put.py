"""What the threads of a verification do: the host's own functions, on a machine set up for them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dpamt.abi.leaves import LEAF_NAMES
from dpamt.abi.pages import LEVEL_4K, PAGE_SHIFT, PAGES_PER_2M
from dpamt.errors import Finding
from dpamt.host.core.kernel import Cpu, KernelBehaviour
from dpamt.host.core.leftovers import kept_count, stays
from dpamt.host.core.missing_pair import REPEAT, tdx_pamt_removed, tdx_pamt_repeat
from dpamt.host.core.seamcall import tdh_mem_page_aug, tdh_mem_page_remove, tdh_mem_sept_add
from dpamt.host.core.tdx_errno import EBUSY, ENOMEM
from dpamt.host.designs.base import Design
from dpamt.sync.observed import ObservedShared
from dpamt.verify.learn.automaton import NO_LEAF, Body, Event, Recorder
from dpamt.verify.programs.other_agent import GUEST, Holds, OtherAgent
from dpamt.verify.programs.problem import OwnWord, Problem, ThreadClass
from dpamt.verify.programs.refusals import Refusals
from dpamt.verify.programs.worker import with_worker
from dpamt.verify.programs.world import PACKAGES, ObservedAllocator, World
from dpamt.verify.properties.named import AT_REST, DEADLOCK, LEAK

APART: Final = "apart"
CROSSED: Final = "crossed"
OWN: Final = "own"
STRADDLING: Final = "straddling"
PLACEMENTS: Final = (APART, CROSSED, OWN, STRADDLING)
"""Where the pages of a pair lie: in a region of their own; in the next region that is verified,
so that with two regions each pair lies in the other's; in the region itself; straddling: of three
regions, the second page of the first one's pair and the first page of the third one's lie in the
second, all other pages in regions of their own, so that no lock of one page's region will do."""

_REPEATED: Final = (
    "the AUG of page {0:#x} met no pair {1} times: each time its own ADD had succeeded, another "
    "CPU took the pair out again, and nothing ends that"
)
_MOST_REPEATS: Final = 2
"""A SEAMCALL that is to be repeated once more after that goes round."""
_SPREAD: Final = (0, 255, 128, 127, 1, 254, 64, 192, 2, 32, 96, 160, 224, 33, 100, 200)
"""Index in a region of the page of each of several equal threads: the first page, and others spread
over the half whose PAMT entries one page of the pair holds, since PAMT.REMOVE looks at each half by
itself."""
_ENDS: Final = (0, 511, 256, 255)
"""The same of threads that are told apart: first and last page, both sides of the middle."""
_DONOR_SLOT: Final = 400
"""Index in a region of the first page that is donated from it."""


def get_use_put(
    world: World, cpu: Cpu, tdr: int, pfn: int, gpa: int, most_repeats: int = -1
) -> int:
    """Back a page, give it to the TD, take it back, drop the backing; as KVM's hooks do it.

    A SEAMCALL that is repeated more than ``most_repeats`` times, unless that is -1, is an event.
    """
    kernel = world.kernel
    error = kernel.tdx_pamt_get(kernel, cpu, pfn, None)
    if error:
        return 0 if error == -ENOMEM else error
    left = most_repeats
    again = REPEAT
    while again == REPEAT:
        status = tdh_mem_page_aug(cpu, tdr, gpa, LEVEL_4K, pfn)
        again = tdx_pamt_repeat(kernel, cpu, pfn, None, status)
        if again == REPEAT and not left:
            world.recorder.tell(Event("repeats", _REPEATED.format(pfn, most_repeats + 1)))
            return 0
        if left > 0:
            left -= 1
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
        return 0 if error == -ENOMEM else error
    kernel.tdx_pamt_put(kernel, cpu, pfn)
    return 0


def put_in_softirq(world: World, cpu: Cpu, pfn: int) -> int:
    """Drop the backing of a page that was backed before, once the softirq has begun."""
    kernel = world.kernel
    world.recorder.mark(NO_LEAF)
    kernel.tdx_pamt_put(kernel, cpu, pfn)
    return 0


@dataclass(frozen=True, slots=True)
class Choices:
    """What may happen beside the schedule.

    At most ``failures`` allocations, or SEAMCALLs of the leaves in ``refused``, fail, at any place;
    at most ``busy`` SEAMCALLs meet a lock that somebody holds who is no thread of the program, one
    of those in ``holds``.  Without ``memory`` no allocation fails.
    """

    failures: int = 0
    busy: int = 0
    holds: Holds = GUEST
    refused: tuple[int, ...] = ()
    memory: bool = True

    def settle(self, world: World) -> None:
        """Tell the machine what may fail, and put in who may get in the way of SEAMCALLs."""
        world.failures.store(self.failures)
        world.memory_fails = self.memory and self.failures > 0
        shared, recorder = world.shared, world.recorder
        world.agent = self.agent(shared, recorder)
        if self.refused:
            world.refusals = Refusals(shared, recorder, world.failures, self.refused)

    def agent(self, shared: ObservedShared, recorder: Recorder) -> OtherAgent | None:
        """Who holds those locks; None: nobody."""
        return OtherAgent(shared, recorder, self.holds, self.busy) if self.busy else None

    def told(self) -> dict[str, str]:
        """As bounds of a verdict."""
        most = f"at most {self.failures}" if self.failures else "none"
        told = {"allocations that fail": most}
        if self.refused:
            which = "allocations that fail or SEAMCALLs" if self.memory else "SEAMCALLs"
            told = {
                f"{which} that are refused": most,
                "SEAMCALLs that may be refused": ", ".join(LEAF_NAMES[n] for n in self.refused),
                "accepted after a refusal": "a WARN or an error on that CPU; after one of "
                "PAMT.REMOVE the pair stays, with a count one higher than its users",
            }
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
        cpus: int = 2,
    ) -> None:
        self.world = World(design, behaviour, cpus)
        self.tdr = self.world.make_td().tdr
        self.septs = self.world.alloc_backed(3)
        cpu = self.world.kernel.cpus[0]
        kernel = self.world.kernel
        for level in range(3, 0, -1):
            sept = self.septs[3 - level]
            again = REPEAT
            while again == REPEAT:
                status = tdh_mem_sept_add(cpu, self.tdr, 0, level, sept)
                again = tdx_pamt_repeat(kernel, cpu, sept, None, status)
            must(status == 0)
        self.choices = choices or Choices()
        self.choices.settle(self.world)
        self.allocator = ObservedAllocator(self.world)

    def begin(self) -> None:
        """From here on pages come from the threads' allocator."""
        self.world.kernel.allocator = self.allocator  # type: ignore[assignment]

    def region(self, number: int) -> int:
        """First page of the ``number``-th region that is verified."""
        return self.world.free_region(number)

    def page(self, number: int, instance: int, apart: bool = False) -> int:
        """The page of the ``instance``-th thread in that region, 0 to 15, or ``apart`` 0 to 3."""
        return self.region(number) + (_ENDS if apart else _SPREAD)[instance]

    def donors(self, number: int, regions: int, placement: str, user: int = 0) -> tuple[int, int]:
        """The two pages that a pair for that region is made of, of each ``user`` its own."""
        if placement == STRADDLING:
            apart = self.world.free_region(100 + number) + 2 * user
            after = self.region((number + 1) % regions) + _DONOR_SLOT + user
            before = self.region((number - 1) % regions) + 2 * _DONOR_SLOT // 3 + user
            straddling = (apart, after), (apart, apart + 1), (before, apart)
            return straddling[number % 3]
        if placement == APART:
            first = self.world.free_region(100) + 2 * number
        elif placement == CROSSED:
            first = self.region((number + 1) % regions) + _DONOR_SLOT
        else:
            first = self.region(number) + _DONOR_SLOT
        first += 2 * regions * user
        return first, first + 1

    def start(
        self, pair: tuple[int, int], run: Callable[[Cpu], int], number: int = 0
    ) -> Callable[[], Body]:
        """A thread that runs ``run`` on CPU ``number``, taking these pages for a pair."""
        self.allocator.pages.update(pair)

        def start() -> Body:
            self.allocator.pair_pages = pair
            cpu = self.world.cpu(number)

            def body() -> object:
                result = run(cpu)
                return self.world.ended(result)

            return body

        return start

    def at_rest(self, regions: int) -> list[str]:
        """What is wrong when all threads have ended."""
        world = self.world
        lines = [f"{AT_REST}: {line}" for line in world.findings()]
        lines += locks_held(world)
        taken = self.allocator.balance.load()
        found = 0
        for n in range(regions):
            region = self.region(n) >> 9
            count = world.kernel.pamt_refcounts.at(region).load()
            if count:
                lines.append(f"{LEAK}: region {region:#x} keeps a count and nobody uses it")
            if region in world.view.pairs():
                found += 1
                if not stays(world.design, count):
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
    ground = Ground(design, choices, cpus=sum(cpus))
    ground.begin()
    own_pairs = design.spare_pages > 0  # what it keeps must not be given to the next thread too
    kinds = []
    gfn = 0
    for number, count in enumerate(cpus):
        pages = tuple(ground.page(number, instance) for instance in range(count))
        gfns = tuple(range(gfn, gfn + count))
        first, gfn = gfn, gfn + count
        septs = tuple(ground.septs[2] << 9 | g % PAGES_PER_2M for g in gfns)
        pair = ground.donors(number, len(cpus), placement)
        name = f"get, use, put in region {number}"
        pairs = [
            ground.donors(number, len(cpus), placement, n) if own_pairs else pair
            for n in range(count)
        ]
        starts = tuple(
            ground.start(pairs[n], _user(ground, pages[n], gfns[n]), first + n)
            for n in range(count)
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
        "packages": str(PACKAGES) if sum(cpus) > 1 else "1",
        "each CPU does": "get, AUG, REMOVE, put, once",
        "pages of a pair": {
            APART: "in a region of their own",
            CROSSED: "in the other region that is verified",
            OWN: "in the region that they describe",
            STRADDLING: "one in another region that is verified, one in a region of its own",
        }[placement],
        **(choices or Choices()).told(),
        "memory model": "sequentially consistent",
    }


def taken_again(design: Design) -> Problem:
    """One CPU's get, use, put in a region where another's begins again each time it has ended.

    What the second CPU does twice it could do without end: its rounds are all alike.
    """
    ground = Ground(design)
    ground.begin()
    world, first = ground.world, ground.region(0)
    pair = ground.donors(0, 1, APART)

    def again_and_again(cpu: Cpu) -> int:
        error = 0
        rounds = _MOST_REPEATS
        while rounds and not error:
            error = get_use_put(world, cpu, ground.tdr, first + 1, 1 << PAGE_SHIFT)
            rounds -= 1
        return error

    return Problem(
        "get, use, put beside a CPU that does it again and again",
        world.shared,
        world.recorder,
        world.places,
        (
            ThreadClass(
                "get, use, put",
                ground.start(
                    pair,
                    lambda cpu: get_use_put(world, cpu, ground.tdr, first, 0, _MOST_REPEATS),
                ),
            ),
            ThreadClass(
                f"get, use, put, {_MOST_REPEATS} times", ground.start(pair, again_and_again, 1)
            ),
        ),
        lambda: ground.at_rest(1),
        bounds={
            "design": design.source,
            "CPUs": f"2, on {PACKAGES} packages",
            "going round": f"a SEAMCALL that meets no pair {_MOST_REPEATS + 1} times",
            "memory model": "sequentially consistent",
        },
        world=world,
    )


def softirq(design: Design, same_region: bool = False) -> Problem:
    """A task's get and put in a region, interrupted at any place by a put in softirq context.

    The page of the softirq is backed already, in another region or in the same one: an S-EPT page
    that an RCU callback frees.
    """
    ground = Ground(design)
    first = ground.region(0)
    world = ground.world
    ground.begin()
    pair = ground.donors(0, 2, APART)
    other_pair = pair if same_region else ground.donors(1, 2, APART)
    ground.allocator.pair_pages = other_pair
    sept = first + 1 if same_region else ground.region(1)
    error = world.kernel.tdx_pamt_get(world.kernel, world.kernel.cpus[0], sept, None)
    must(error == 0)
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
        bounds={
            "design": design.source,
            "CPUs": "1, its task and its softirq",
            "region of the softirq's page": "that of the task's" if same_region else "another one",
        },
        world=world,
    )
    return with_worker(problem)


def locks_held(world: World) -> list[str]:
    """A line for each lock of the kernel that is held when every thread has ended."""
    return [
        f"{DEADLOCK}: {name} is held, and every thread has ended" for name in world.locks_held()
    ]


def must(fine: bool) -> None:
    """What is done before the threads begin has to succeed.  Raises Finding: one CPU does it."""
    if not fine:
        raise Finding(
            "one CPU alone cannot bring the machine to where the threads begin: the design has "
            "used up the pages there, or refuses what it is asked"
        )
