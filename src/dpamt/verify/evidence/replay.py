"""A counterexample run again on threads of the operating system and on the words themselves.

No automaton, no block, no state of the search has a part in it: each CPU is a thread that runs the
host's and the module's functions once, from start to end, stops before every step until the
schedule says that it is its turn, and then does the step on the real word.  So a failure that shows
here does not depend on how the search merges places, leaves out switches or renames threads.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from dpamt.errors import InputError
from dpamt.verify.evidence.counterexample import FORMAT, StepTold
from dpamt.verify.evidence.replay_threads import MOST_STEPS, Run
from dpamt.verify.programs.problem import Problem
from dpamt.verify.properties.named import LIVELOCK, LOCK_ORDER, Property

_EXPECTED: Final = ("broken", "text", "cpus", "steps", "start", "turns", "choices")


@dataclass(frozen=True, slots=True)
class Replayed:
    """What happened when the schedule was followed."""

    steps: tuple[StepTold, ...]
    """Those that the counterexample tells of, or that are on a word it names."""
    done: int
    """Steps in all."""
    departure: str
    """Where the code did something else than the counterexample says; empty: nowhere."""
    broken: dict[str, str]
    """The properties that failed, and how."""
    shared: tuple[tuple[str, str, str], ...]
    """Words that differ from the start at the end: name, value at the start, value at the end."""


def replay(
    problem: Problem, properties: tuple[Property, ...], found: Mapping[str, Any]
) -> Replayed:
    """Follow the schedule of a counterexample (its JSON form) on a machine just made.

    Where the code no longer fits the schedule it is followed as far as it goes, and then every
    thread runs to its end in turn.  Raises InputError for a counterexample of another form or of
    another number of CPUs.
    """
    _check(problem, found)
    run = Run(problem, found)
    try:
        run.follow()
    finally:
        run.end()
    broken: dict[str, str] = {}
    for judge in properties:
        text = _judged(judge, run, problem)
        if text:
            broken[judge.name] = text
    if not run.departure and found["broken"] == LIVELOCK:
        broken[LIVELOCK] = "the state is reached; that no way leads on from it is for the search"
    if not run.departure and found["broken"] == LOCK_ORDER:
        broken[LOCK_ORDER] = "the place is reached; that the other order exists is for the search"
    return Replayed(tuple(run.told), run.done, run.departure, broken, run.changed())


def _check(problem: Problem, found: Mapping[str, Any]) -> None:
    if found.get("format") != FORMAT:
        raise InputError(
            f"counterexample: format is {found.get('format')!r}; expected {FORMAT}, "
            "as this dpamt writes it"
        )
    for name in _EXPECTED:
        if name not in found:
            raise InputError(f"counterexample: {name} is missing; expected the form of --json")
    names = [kind.name for kind in problem.classes for _ in range(kind.count)]
    cpus = len(names)
    try:
        fits = list(found["cpus"]) == names
        fits = fits and all(
            type(cpu) is type(count) is int and 0 <= cpu < cpus and 0 <= count <= MOST_STEPS
            for cpu, count in found["turns"]
        )
        fits = fits and sum(count for _, count in found["turns"]) <= MOST_STEPS
        fits = fits and all(type(step["at"]) is int for step in found["steps"])
        fits = fits and all(type(chosen) is int for chosen in found["choices"])
        fits = fits and all(isinstance(name, str) for name, _ in found["start"])
        fits = fits and isinstance(found["broken"], str) and isinstance(found["text"], str)
    except (TypeError, ValueError, KeyError):
        fits = False
    if not fits:
        raise InputError(
            f"counterexample: expected the {cpus} CPUs of its trial, turns of (CPU, steps) with "
            f"CPUs from 0 to {cpus - 1}, steps and start as --json writes them"
        )


def _judged(judge: Property, run: Run, problem: Problem) -> str:
    if judge.of_event is not None:
        for event in run.events:
            text = judge.of_event(event)
            if text:
                return text
    if judge.of_state is not None:
        text = "; ".join(line for line in problem.always() if judge.of_state(line))
        if text:
            return text
    waiting = run.waiting()
    if judge.of_rest is not None and not waiting:
        return "; ".join(line for line in problem.at_rest() if judge.of_rest(line))
    if judge.of_deadlock is not None and waiting and run.stuck:
        return judge.of_deadlock(waiting)
    return ""
