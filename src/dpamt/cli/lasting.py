"""`dpamt verify` for long searches: kept in a file, stopped, bounded, on many CPUs."""

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import FrameType

    from dpamt.verify.asked import Asked
    from dpamt.verify.cluster.team import Team
    from dpamt.verify.evidence.checkpoint import Kept
    from dpamt.verify.explore.judging import Found
    from dpamt.verify.explore.search import Search

EVERY_SECONDS: Final = 60.0


@contextmanager
def lasting(
    options: argparse.Namespace, asked: "Asked", kept: "Kept | None"
) -> "Iterator[Callable[[Search], Found | None]]":
    """What is done with a search before it begins; see :func:`dpamt.verify.verdict.verify`."""
    from dpamt.verify.asked import NONE
    from dpamt.verify.explore.state import Knowledge

    before = signal.getsignal(signal.SIGINT)

    def ready(search: "Search") -> "Found | None":
        search.most_memory = options.max_memory
        if asked.reductions == NONE:
            search.problem.bounds["reductions"] = "none: each step on a shared word is its own"
            search.begin(Knowledge(reduced=False))
        _choose_engine(options, search)
        if options.checkpoint:
            _keep(options.checkpoint, search, asked)
        if kept is None:
            return None
        from dpamt.verify.evidence.checkpoint import take_up

        return take_up(kept, search)

    try:
        yield ready
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def team_of(options: argparse.Namespace) -> "Iterator[Team | None]":
    """The shards of --ray; None where it is not given."""
    if not options.ray:
        yield None
        return
    from dpamt.cli.extras import require

    require("verify --ray", "ray")
    from dpamt.verify.cluster.ray_team import RayTeam

    with RayTeam(options.ray, options.jobs) as cluster:
        yield cluster


def _choose_engine(options: argparse.Namespace, search: "Search") -> None:
    """Which code searches; raises InputError where it cannot."""
    from dpamt.errors import InputError
    from dpamt.verify.explore.compiled.library import why_not

    search.spill_to = options.spill or ""
    if options.ray:
        return
    search.jobs = max(1, options.jobs)
    if options.engine == "python":
        search.compiled_from = sys.maxsize
        return
    asks = next((name for name in ("engine", "jobs", "spill") if getattr(options, name)), None)
    if asks and why_not():
        raise InputError(f"--{asks}: {why_not()}; expected a C compiler (docs/verify.md)")
    if options.engine == "compiled":
        search.compiled_from = 1


def _keep(path: str, search: "Search", asked: "Asked") -> None:
    """Write the file every so often and when the search is stopped; the first Ctrl-C stops it."""
    from dataclasses import asdict

    from dpamt.verify.evidence.checkpoint import keep

    question = asdict(asked)
    last = monotonic()
    before = signal.getsignal(signal.SIGINT)

    def interrupt(number: int, frame: "FrameType | None") -> None:
        search.interrupted = True
        signal.signal(signal.SIGINT, before)  # the second one is as always

    def write(search: "Search", found: "Found") -> None:
        nonlocal last
        if not found.stopped and monotonic() - last < EVERY_SECONDS:
            return
        keep(path, question, search, found)
        last = monotonic()
        if found.stopped:
            sys.stderr.write(
                f"dpamt: {found.stopped}; dpamt verify --resume {path} goes on from there\n"
            )

    search.keep = write
    signal.signal(signal.SIGINT, interrupt)
