"""The kernel's worker, or RCU callbacks, for designs that remove pairs later.

One may run at any time, beside everybody else; another one begins when all others have ended, so
that what waits then is done before the end is judged.  Each takes all that waits when it begins.
RCU callbacks run in softirq context, on a CPU that no task of the program is interrupted on: that
one could wait for its own CPU is told by the order of locks.
"""

from dpamt.host.core.workqueue import run_work
from dpamt.verify.learn.automaton import Body
from dpamt.verify.programs.problem import Problem, ThreadClass
from dpamt.verify.programs.world import World


def with_worker(problem: Problem) -> Problem:
    """The problem, with workers if its design has one."""
    world = problem.world
    if world is None or world.design.removal == "at-once":
        return problem
    rcu = world.design.removal == "rcu"
    name = "RCU callbacks" if rcu else "worker"
    problem.classes = (
        *problem.classes,
        ThreadClass(f"{name}, at any time", lambda: _body(world), softirq=rcu),
        ThreadClass(
            f"{name}, when all others have ended", lambda: _body(world), last=True, softirq=rcu
        ),
    )
    problem.bounds[name] = "once at any time, on CPU 0, and once when all have ended"
    return problem


def _body(world: World) -> Body:
    cpu = world.cpu(0)

    def body() -> object:
        run_work(world.kernel, cpu)
        return 0

    return body
