"""The ground of a program: a machine with one TD, where pages and pairs lie, what may fail."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dpamt.abi.leaves import LEAF_NAMES
from dpamt.errors import Finding
from dpamt.host.core.kernel import Cpu, KernelBehaviour
from dpamt.host.core.leftovers import kept_count, stays
from dpamt.host.core.missing_pair import REPEAT, tdx_pamt_repeat
from dpamt.host.core.seamcall import tdh_mem_sept_add
from dpamt.host.designs.base import Design
from dpamt.sync.observed import ObservedShared
from dpamt.verify.learn.automaton import Body, Recorder
from dpamt.verify.programs.other_agent import GUEST, Holds, OtherAgent
from dpamt.verify.programs.refusals import Refusals
from dpamt.verify.programs.world import ObservedAllocator, World
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

_SPREAD: Final = (
    *(0, 255, 128, 127, 1, 254, 64, 192, 2, 32, 96, 160, 224, 33, 100, 200),
    *(16, 48, 80, 112, 144, 176, 208, 240),
)
"""Index in a region of the page of each of several equal threads: the first page, and others spread
over the half whose PAMT entries one page of the pair holds, since PAMT.REMOVE looks at each half by
itself."""
_ENDS: Final = (0, 511, 256, 255)
"""The same of threads that are kept apart: first and last page, both sides of the middle."""
_DONOR_SLOT: Final = 400
"""Index in a region of the first page that is donated from it."""


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


def offsets(threads: int) -> tuple[int, ...]:
    """Which pages of a region as many threads use, counted from its first one."""
    return _SPREAD[:threads]


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
        """The page of the ``instance``-th thread in that region, 0 to 23, or ``apart`` 0 to 3."""
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
