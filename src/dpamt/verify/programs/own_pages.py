"""Gets, puts and DEMOTE with every page by its name: each thread takes its pages from a pool.

What the threads of :mod:`dpamt.verify.programs.get_put` cannot tell, because all of a region take
the same two pages: a page that is freed twice, freed or reset while the module has it, given back
without a reset, or another page freed in its place.
"""

from collections.abc import Callable
from typing import Final

from dpamt.abi.pages import LEVEL_2M, PAGE_SHIFT
from dpamt.host.core.demote import tdx_mem_page_demote
from dpamt.host.core.kernel import Cpu, KernelBehaviour
from dpamt.host.core.page_cache import alloc_pamt_pages, free_pamt_pages
from dpamt.host.core.seamcall import tdh_mem_page_aug
from dpamt.host.designs.base import Design
from dpamt.verify.learn.automaton import Start
from dpamt.verify.programs.get_put import get_and_put, get_use_put
from dpamt.verify.programs.ground import Choices, Ground, must
from dpamt.verify.programs.problem import Problem, ThreadClass
from dpamt.verify.programs.refusals import PAIR_LEAVES, SPLITTING_LEAVES
from dpamt.verify.programs.td_machine import at_rest
from dpamt.verify.programs.worker import with_worker
from dpamt.verify.programs.world import PACKAGES, World

_PAGES: Final = 4
"""Pages of a thread's pool: one get takes two, and one that is repeated two more."""


def demote(world: World, cpu: Cpu, tdr: int, gpa: int, pfn: int, sept: int) -> int:
    """Split a 2M page with a pair from the allocator; all of it goes back when that fails."""
    kernel = world.kernel
    pages = alloc_pamt_pages(kernel, None)
    if pages is None:
        kernel.tdx_pamt_put(kernel, cpu, sept)
        return 0
    status = tdx_mem_page_demote(kernel, cpu, tdr, gpa, pfn, sept, pages)
    if status:
        free_pamt_pages(kernel, pages[0], pages[1])
        kernel.tdx_pamt_put(kernel, cpu, sept)
    return 0


class OwnPages:
    """A machine with one TD, and a pool of pages for each thread."""

    def __init__(
        self,
        design: Design,
        choices: Choices,
        cpus: int = 2,
        behaviour: KernelBehaviour | None = None,
    ) -> None:
        self.ground = Ground(design, choices, behaviour, cpus)
        self.world = self.ground.world
        self.design = design
        self.choices = choices

    def begin(self) -> None:
        """From here on pages come from the threads' pools."""
        self._allocator = self.world.use_pools()

    def start(self, number: int, pool: tuple[int, ...], run: Callable[[Cpu], int]) -> Start:
        """A thread that runs ``run`` on that CPU, with pages from this pool."""
        allocator, world = self._allocator, self.world
        allocator.own(pool)

        def start() -> Callable[[], object]:
            allocator.use(pool)
            cpu = world.cpu(number)

            def body() -> object:
                result = run(cpu)
                return world.ended(result)

            return body

        return start

    def problem(
        self, name: str, classes: tuple[ThreadClass, ...], bounds: dict[str, str]
    ) -> Problem:
        """The threads on this machine."""
        world, allocator = self.world, self._allocator
        problem = Problem(
            name,
            world.shared,
            world.recorder,
            world.places,
            classes,
            lambda: at_rest(world, allocator),
            bounds={
                "design": self.design.source,
                "CPUs": f"{len(classes)}, on {PACKAGES} packages",
                **bounds,
                **self.choices.told(),
                "memory model": "sequentially consistent",
            },
            world=world,
        )
        return with_worker(problem)


def own_pages(design: Design, cpus: int = 2, choices: Choices | None = None) -> Problem:
    """Threads in one region, each on a CPU of its own: get, use, put, with pages of their own.

    The pages of each thread's pairs lie in two regions by turns.
    """
    machine = OwnPages(design, choices or Choices(1, refused=PAIR_LEAVES), cpus)
    ground, world = machine.ground, machine.world
    machine.begin()
    apart = world.free_region(100), world.free_region(101)
    kinds = []
    for n in range(cpus):
        pool = tuple(apart[slot % 2] + n * _PAGES + slot for slot in range(_PAGES))
        pfn, gpa = ground.page(0, n, apart=True), n << PAGE_SHIFT
        run = _user(ground, pfn, gpa)
        kinds.append(ThreadClass(f"get, use, put of page {pfn:#x}", machine.start(n, pool, run)))
    return machine.problem(
        "get, use, put in one region, every page by its name",
        tuple(kinds),
        {
            "each CPU does": "get, AUG, REMOVE, put, once",
            "pages of a pair": "of each CPU its own, in two regions by turns",
        },
    )


def _user(ground: Ground, pfn: int, gpa: int) -> Callable[[Cpu], int]:
    return lambda cpu: get_use_put(ground.world, cpu, ground.tdr, pfn, gpa)


def demote_and_get(
    design: Design, behaviour: KernelBehaviour | None = None, choices: Choices | None = None
) -> Problem:
    """DEMOTE on one CPU; get and put on another where the second page of its pair lies.

    ``behaviour`` says whether DEMOTE takes ``pamt_lock``.
    """
    machine = OwnPages(design, choices or Choices(1, refused=SPLITTING_LEAVES), 2, behaviour)
    ground, world = machine.ground, machine.world
    large, gpa = ground.region(1), 1 << 21
    septs = world.alloc_backed(1)
    status = tdh_mem_page_aug(world.kernel.cpus[0], ground.tdr, gpa, LEVEL_2M, large)
    must(status == 0)
    machine.begin()
    apart, there = world.free_region(100), ground.region(0)
    splitter = ThreadClass(
        "DEMOTE with a pair of which one page is from region 0",
        machine.start(
            0,
            (apart, there + 400),
            lambda cpu: demote(world, cpu, ground.tdr, gpa, large, septs[0]),
        ),
    )
    getter = ThreadClass(
        "get, put in region 0",
        machine.start(1, (apart + 1, apart + 2), lambda cpu: get_and_put(world, cpu, there)),
    )
    unlocked = behaviour is not None and behaviour.demote_lock == "none"
    return machine.problem(
        "DEMOTE of one TD, get and put for another",
        (splitter, getter),
        {"DEMOTE and its count": "under no lock" if unlocked else "as the design does it"},
    )
