"""Problems as the judge wants them: every thread its own CPU, package, pages and guest page."""

from collections.abc import Callable
from dataclasses import replace

from dpamt.host.core.kernel import Cpu
from dpamt.host.designs.base import Design
from dpamt.verify.programs.get_put import get_use_put
from dpamt.verify.programs.ground import APART, Choices, Ground
from dpamt.verify.programs.problem import Problem, ThreadClass
from dpamt.verify.programs.worker import with_worker


def one_by_one(
    design: Design,
    cpus: tuple[int, ...],
    placement: str = APART,
    choices: Choices | None = None,
    own_pairs: bool = True,
) -> Problem:
    """As programs.regions, and each thread has all that it can have of its own.

    Without ``own_pairs`` the threads of a region take the same two pages for its pair, as those of
    programs.regions do, so that the machines at the end can be compared.
    """
    ground = Ground(design, choices, cpus=sum(cpus))
    ground.begin()
    users = [
        (number, ground.page(number, instance), 2 * instance if own_pairs else 0)
        for number, instances in enumerate(cpus)
        for instance in range(instances)
    ]
    kinds = []
    for thread, (number, pfn, offset) in enumerate(users):
        first, second = ground.donors(number, len(cpus), placement)
        pair = first + len(cpus) * offset, second + len(cpus) * offset
        start = ground.start(pair, _user(ground, pfn, thread), thread)
        kinds.append(ThreadClass(f"CPU {thread}", start))
    problem = Problem(
        "one by one",
        ground.world.shared,
        ground.world.recorder,
        ground.world.places,
        tuple(kinds),
        lambda: ground.at_rest(len(cpus)),
        world=ground.world,
    )
    return with_worker(problem)


def _user(ground: Ground, pfn: int, gfn: int) -> Callable[[Cpu], int]:
    return lambda cpu: get_use_put(ground.world, cpu, ground.tdr, pfn, gfn << 12)


def plain(problem: Problem) -> Problem:
    """Any problem with each instance of a class as a class of its own, run for itself."""
    kinds: list[ThreadClass] = []
    position = {}
    for number, kind in enumerate(problem.classes):
        position[number] = len(kinds)
        starts = kind.starts or (kind.start,)
        assert len(starts) == kind.count, f"{kind.name}: its instances have no starts of their own"
        kinds += [
            ThreadClass(
                f"{kind.name} {n}",
                start,
                interrupts=kind.interrupts,
                phase=kind.phase,
                softirq=kind.softirq,
            )
            for n, start in enumerate(starts)
        ]
    moved = tuple(
        replace(kind, interrupts=position[kind.interrupts]) if kind.interrupts >= 0 else kind
        for kind in kinds
    )
    return replace(problem, classes=moved)
