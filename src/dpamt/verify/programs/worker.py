"""The kernel's worker, or RCU callbacks, for designs that remove pairs later.

One may run at any time, beside everybody else, and takes all that waits when it begins; another one
begins when all others have ended, and goes on until nothing waits, so that all is done before the
end is judged.  What is queued again in each of :data:`MOST_ROUNDS` rounds then, with nobody else
there, goes round for ever: a livelock.
RCU callbacks run in softirq context, on a CPU that no task of the program is interrupted on: that
one could wait for its own CPU is seen in the order of locks.
"""

from typing import Final

from dpamt.host.core.workqueue import run_work
from dpamt.verify.learn.automaton import Body, Event
from dpamt.verify.programs.problem import Problem, ThreadClass
from dpamt.verify.programs.world import World

MOST_ROUNDS: Final = 3
"""Rounds of the last worker: after one failure by choice the second leaves nothing that waits."""
_ENDLESS: Final = (
    f"work waits when all others have ended, and is queued again in each of {MOST_ROUNDS} rounds "
    "of the worker: nothing ends that"
)


def with_worker(problem: Problem) -> Problem:
    """The problem, with workers if its design has one."""
    world = problem.world
    if world is None or world.design.removal == "at-once":
        return problem
    rcu = world.design.removal == "rcu"
    name = "RCU callbacks" if rcu else "worker"
    phase = 1 + max(kind.phase for kind in problem.classes)
    problem.classes = (
        *problem.classes,
        ThreadClass(f"{name}, at any time", lambda: _once(world), softirq=rcu),
        ThreadClass(
            f"{name}, when all others have ended",
            lambda: _until_nothing_waits(world),
            phase=phase,
            softirq=rcu,
        ),
    )
    problem.bounds[name] = (
        "once at any time, on CPU 0; when all have ended, as long as something waits, at most "
        f"{MOST_ROUNDS} times"
    )
    return problem


def _once(world: World) -> Body:
    cpu = world.cpu(0)

    def body() -> object:
        run_work(world.kernel, cpu)
        return 0

    return body


def _until_nothing_waits(world: World) -> Body:
    cpu = world.cpu(0)

    def body() -> object:
        left = MOST_ROUNDS
        waits = 1
        while waits and left:
            run_work(world.kernel, cpu)
            waits = world.kernel.work_head.load()
            left -= 1
        if waits:
            world.recorder.tell(Event("repeats", _ENDLESS))
        return 0

    return body
