"""The kernel's worker beside a program's threads, for designs that remove pairs later.

One worker may run at any time, beside everybody else; another one begins when all others have
ended, so that what waits then is done before the end is judged.  Each takes all that waits when it
begins.
"""

from dpamt.host.core.workqueue import run_work
from dpamt.verify.learn.automaton import Body
from dpamt.verify.programs.problem import Problem, ThreadClass
from dpamt.verify.programs.world import World


def with_worker(problem: Problem) -> Problem:
    """The problem, with workers if its design has one."""
    world = problem.world
    if world is None or world.design.removal != "worker":
        return problem
    problem.classes = (
        *problem.classes,
        ThreadClass("worker, at any time", lambda: _body(world)),
        ThreadClass("worker, when all others have ended", lambda: _body(world), last=True),
    )
    problem.bounds["worker"] = "runs once at any time, on CPU 0, and once when all have ended"
    return problem


def _body(world: World) -> Body:
    cpu = world.cpu(0)

    def body() -> object:
        run_work(world.kernel, cpu)
        return 0

    return body
