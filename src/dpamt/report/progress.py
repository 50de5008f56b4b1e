"""A progress bar on standard error while a run goes on, where somebody can see it."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final

Watch = Callable[[str, str, str, int, int], None]

_REFRESH_SECONDS: Final = 0.1


@contextmanager
def watching() -> Iterator[Watch | None]:
    """A watch to hand to a run; None when standard error is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),  # honours NO_COLOR and TERM=dumb
        transient=True,
    )
    with progress:
        task = progress.add_task("starting")
        shown = 0.0

        def watch(phase: str, side: str, what: str, done: int, total: int) -> None:
            nonlocal shown
            now = monotonic()
            if now - shown < _REFRESH_SECONDS:
                return
            shown = now
            progress.update(
                task, description=f"{phase}: {side}: {what}", completed=done, total=total
            )

        yield watch


@contextmanager
def counting() -> Iterator[Callable[[str, int], None] | None]:
    """As :func:`watching`, for what has no end to measure by: a line of text and a count."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with progress:
        task = progress.add_task("starting", total=None)

        def count(what: str, done: int) -> None:
            progress.update(task, description=f"{done:,} SEAMCALLs  {what[:44]}")

        yield count
