"""The trials of `dpamt verify`: which are asked, and how they are searched, on all CPUs.

One search uses several CPUs in compiled code (``--jobs``).  The trials of a suite are small and
many, so they are dealt out to processes: as many as ``--jobs`` says, or one for each CPU.  Each
begins with the designs as they are loaded here, so no file of the user's is executed twice.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from concurrent.futures import Future

    from dpamt.host.designs.base import Design
    from dpamt.report.progress import Watch
    from dpamt.verify.asked import Asked
    from dpamt.verify.evidence.certificate import Tried
    from dpamt.verify.evidence.checkpoint import Kept
    from dpamt.verify.verdict import Verdict

Outcome = tuple["Verdict", tuple[str, ...]]
"""What comes of a trial: its verdict, and how its counterexamples went on threads."""
_DEALT: Final[dict[str, tuple["Design", argparse.Namespace]]] = {}
"""For processes that are forked: the designs by name, with the options."""


@contextmanager
def prints_apart() -> "Iterator[None]":
    """What code of the user's prints goes to standard error: standard output is for the answer."""
    with redirect_stdout(sys.stderr):
        yield


@contextmanager
def trials_of_all(
    designs: "Mapping[str, Design]", options: argparse.Namespace
) -> "Iterator[Callable[[str], Iterator[Tried]]]":
    """By name of a design, its trials as they end, in their order."""
    from dpamt.worker_pool import usable_cpus, worker_pool

    suite = options.trial is None and not options.regions and not options.ray
    workers = options.jobs or (1 if options.max_memory else usable_cpus())
    asked = (
        {name: _suite(name, design, options) for name, design in designs.items()} if suite else {}
    )
    if workers == 1 or sum(map(len, asked.values())) < 2:
        yield lambda name: _one_by_one(name, designs[name], options)
        return
    _DEALT.clear()
    _DEALT.update({name: (design, options) for name, design in designs.items()})
    with worker_pool(workers, forked=True) as pool:
        dealt = {
            name: [(one, pool.submit(_outcome, name, one)) for one in each]
            for name, each in asked.items()
        }
        yield lambda name: _as_they_end(dealt[name], designs[name])


def _as_they_end(
    dealt: "list[tuple[Asked, Future[Outcome]]]", design: "Design"
) -> "Iterator[Tried]":
    from dpamt.report.progress import watching
    from dpamt.verify.asked import prepare
    from dpamt.verify.evidence.certificate import Tried

    for n, (asked, future) in enumerate(dealt):
        trial, _ = prepare(asked, design)
        with watching() as watch:
            if watch is not None:
                watch(design.name, trial.name, f"trial {n + 1} of {len(dealt)}", n, len(dealt))
            verdict, replayed = future.result()
        yield Tried(asked, trial, verdict, replayed)


def _outcome(name: str, asked: "Asked") -> Outcome:
    """One trial, in a process of its own."""
    design, options = _DEALT[name]
    options = argparse.Namespace(**{**vars(options), "jobs": 0})
    tried = search(asked, design, None, options)
    return tried.verdict, tried.replayed


def _suite(name: str, design: "Design", options: argparse.Namespace) -> "list[Asked]":
    from dpamt.verify.programs.suite import trials_of

    return [
        _asked(name, trial.name, (), options.granularity or trial.granularity, options)
        for trial in trials_of(design, False)
    ]


def _asked(
    name: str, trial: str, cpus: tuple[int, ...], granularity: str, options: argparse.Namespace
) -> "Asked":
    from dpamt.verify.asked import Asked

    return Asked(
        name,
        trial,
        cpus,
        options.pairs,
        options.failures,
        granularity,
        options.max_states,
        options.property or "",
        image_of(options),
        options.reductions,
        tuple(options.module),
    )


def _one_by_one(name: str, design: "Design", options: argparse.Namespace) -> "Iterator[Tried]":
    """The trials of one design, in this process."""
    from dpamt.report.progress import watching
    from dpamt.verify.programs.ground import CROSSED
    from dpamt.verify.programs.problem import SEAMCALL, WORDS
    from dpamt.verify.programs.suite import trials_of

    def searched(asked: "Asked") -> "Tried":
        with watching() as watch:
            return search(asked, design, watch, options)

    if options.regions:
        granularity = options.granularity or SEAMCALL
        first = searched(_asked(name, "", options.regions, granularity, options))
        yield first
        if options.granularity is None and first.verdict.verdict == "holds":
            two = (1, 1) if options.pairs == CROSSED else (2,)
            yield searched(_asked(name, "", two, WORDS, options))
        return
    if options.trial is None:
        yield from map(searched, _suite(name, design, options))
        return
    named = [trial for trial in trials_of(design, True) if trial.name == options.trial]
    if not named:
        raise _unknown_trial(options.trial, design)
    for trial in named:
        granularity = options.granularity or trial.granularity
        yield searched(_asked(name, trial.name, (), granularity, options))


def image_of(options: argparse.Namespace) -> str:
    """How the image is read; empty: there is none."""
    if not options.vmlinux:
        return ""

    from dpamt.verify.machine_code.design import how

    tolerated, values = frozenset(options.tolerate), dict(options.set)
    return how(options.memory_model, options.functions, tolerated, values)


def _unknown_trial(name: str, design: "Design") -> Exception:
    from dpamt.errors import InputError
    from dpamt.verify.programs.suite import trials_of

    known = ", ".join(f'"{trial.name}"' for trial in trials_of(design, True))
    return InputError(f"--trial {name!r}: expected one of {known}")


def search(
    asked: "Asked",
    design: "Design",
    watch: "Watch | None",
    options: argparse.Namespace,
    kept: "Kept | None" = None,
) -> "Tried":
    """Search one question, and run its counterexamples again on threads."""
    from dpamt.cli.lasting import lasting, team_of
    from dpamt.verify.asked import prepare
    from dpamt.verify.evidence.certificate import Tried, confirm
    from dpamt.verify.explore.search import Progress
    from dpamt.verify.verdict import verify

    with prints_apart():
        trial, judges = prepare(asked, design)

    def told(now: Progress) -> None:
        if watch is not None:
            what = f"{now.states:,} states, depth {now.depth}"
            watch(design.name, trial.name, what, now.states, asked.most_states)

    most = asked.most_states
    with prints_apart():
        problem = trial.make(design)
    with prints_apart(), lasting(options, asked, kept) as ready, team_of(options) as team:
        verdict = verify(problem, judges, asked.granularity, most, told, ready, team)
    with prints_apart():
        return Tried(asked, trial, verdict, confirm(design, trial, verdict, judges))
