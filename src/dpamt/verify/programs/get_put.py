"""What the threads of a verification do: the host's own functions, on a machine set up for them."""

from collections.abc import Callable
from typing import Final

from dpamt.abi.pages import LEVEL_4K, PAGE_SHIFT, PAGES_PER_2M
from dpamt.host.core.kernel import Cpu
from dpamt.host.core.missing_pair import REPEAT, tdx_pamt_removed, tdx_pamt_repeat
from dpamt.host.core.seamcall import tdh_mem_page_aug, tdh_mem_page_remove
from dpamt.host.core.tdx_errno import EAGAIN, EBUSY, ENOMEM
from dpamt.host.designs.base import Design
from dpamt.verify.learn.automaton import NO_LEAF, Event
from dpamt.verify.programs.ground import (
    APART,
    CROSSED,
    OWN,
    STRADDLING,
    Choices,
    Ground,
    must,
    offsets,
)
from dpamt.verify.programs.problem import OwnWord, Problem, ThreadClass
from dpamt.verify.programs.worker import with_worker
from dpamt.verify.programs.world import PACKAGES, World

_REPEATED: Final = (
    "the AUG of page {0:#x} met no pair {1} times: each time its own ADD had succeeded, another "
    "CPU took the pair out again, and nothing ends that"
)
_MOST_REPEATS: Final = 2
"""A SEAMCALL that is to be repeated once more after that goes round."""


def get_use_put(
    world: World, cpu: Cpu, tdr: int, pfn: int, gpa: int, most_repeats: int = -1
) -> int:
    """Back a page, give it to the TD, take it back, drop the backing; as KVM's hooks do it.

    A SEAMCALL that is repeated more than ``most_repeats`` times, unless that is -1, is an event.
    """
    error = get_and_use(world, cpu, tdr, pfn, gpa, most_repeats)
    if error:
        return 0 if error == -EAGAIN else error
    return remove_and_put(world, cpu, tdr, pfn, gpa)


def get_and_use(
    world: World, cpu: Cpu, tdr: int, pfn: int, gpa: int, most_repeats: int = -1
) -> int:
    """Back a page and give it to the TD: 0; -EAGAIN where the fault is retried later, or an error.

    Then nothing is left of it.
    """
    kernel = world.kernel
    error = kernel.tdx_pamt_get(kernel, cpu, pfn, None)
    if error:
        return -EAGAIN if error == -ENOMEM else error
    left = most_repeats
    again = REPEAT
    while again == REPEAT:
        status = tdh_mem_page_aug(cpu, tdr, gpa, LEVEL_4K, pfn)
        again = tdx_pamt_repeat(kernel, cpu, pfn, None, status)
        if again == REPEAT and not left:
            world.recorder.tell(Event("repeats", _REPEATED.format(pfn, most_repeats + 1)))
            return -EAGAIN
        if left > 0:
            left -= 1
    if status:
        kernel.tdx_pamt_put(kernel, cpu, pfn)
        return -EAGAIN if again in (0, -EBUSY, -ENOMEM) else again
    return 0


def remove_and_put(world: World, cpu: Cpu, tdr: int, pfn: int, gpa: int) -> int:
    """Take a page back from the TD and drop its backing."""
    status, hint = tdh_mem_page_remove(cpu, tdr, gpa, LEVEL_4K)
    if status:
        return 0
    tdx_pamt_removed(world.kernel, cpu, pfn, hint)
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


def regions(
    design: Design,
    cpus: tuple[int, ...],
    placement: str = APART,
    choices: Choices | None = None,
    interchangeable: bool = True,
) -> Problem:
    """Threads in several 2M regions, a number in each: get, use, put.

    Each thread has a page of its own.  The pages that get takes for a pair are the same two for all
    threads of a region, and others for another region: at most one pair can be installed for a
    region, so no thread can tell, and threads stay interchangeable; unless they are to be kept
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
        f"each CPU does get, AUG, REMOVE, put; CPUs by region: {'+'.join(map(str, cpus))}",
        world.shared,
        world.recorder,
        world.places,
        tuple(kinds),
        lambda: ground.at_rest(len(cpus)),
        bounds=_bounds(design, cpus, placement, choices),
        world=world,
    )
    return with_worker(problem)


def handed_over(design: Design) -> Problem:
    """A page that CPU 0 gets and gives to a TD, and CPU 1 takes back and puts.

    Beside both, and after both, each does the whole with a page of its own: a fault on one CPU and
    a zap on another leave counts by CPU uneven.
    """
    ground = Ground(design)
    ground.begin()
    world, tdr = ground.world, ground.tdr
    handed, *own = (ground.page(0, n) for n in range(3))

    def whole(cpu: Cpu) -> int:
        number = 1 + cpu.index
        return get_use_put(world, cpu, tdr, own[cpu.index], number << PAGE_SHIFT)

    def put_and_whole(cpu: Cpu) -> int:
        remove_and_put(world, cpu, tdr, handed, 0)
        return whole(cpu)

    kinds: list[ThreadClass] = []
    for phase, name, cpu, run in (
        (0, "get, use", 0, lambda cpu: get_and_use(world, cpu, tdr, handed, 0)),
        (0, "get, use, put", 1, whole),
        (1, "get, use, put", 0, whole),
        (1, "take back what CPU 0 got, put it; get, use, put", 1, put_and_whole),
    ):
        pair = ground.donors(0, 1, APART, len(kinds))
        kinds.append(
            ThreadClass(f"{name}, on CPU {cpu}", ground.start(pair, run, cpu), phase=phase)
        )
    problem = Problem(
        "pages got on one CPU, put on another",
        world.shared,
        world.recorder,
        world.places,
        tuple(kinds),
        lambda: ground.at_rest(1),
        bounds={
            "design": design.source,
            "CPUs": f"2, on {PACKAGES} packages",
            "CPU 0 does": "get, AUG of a page; after that, get, AUG, REMOVE, put of another",
            "CPU 1 does": "get, AUG, REMOVE, put of a page; after that, REMOVE and put of CPU 0's, "
            "then get, AUG, REMOVE, put",
            "pages of a pair": "in a region of their own",
            "memory model": "sequentially consistent",
        },
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
        "pages of a region that are used": ", ".join(map(hex, offsets(max(cpus)))),
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
