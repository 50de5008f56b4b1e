"""What `dpamt verify` says, in 80 columns: verdicts, counterexamples side by side, the museum."""

from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import Final

from dpamt.verify.automaton import MARK
from dpamt.verify.counterexample import Counterexample, StepTold
from dpamt.verify.suite import Trial
from dpamt.verify.verdict import Verdict

_WIDTH: Final = 80
_COLUMN_GAP: Final = 2
_NARROWEST: Final = 24

Tried = list[tuple[Trial, Verdict]]


def suite_text(design: str, tried: Tried, whole: bool = False) -> str:
    """One design: a line for each trial, then the nearest counterexample of each property."""
    return "\n".join(_suite(design, tried, whole)) + "\n"


def designs_text(results: dict[str, Tried]) -> str:
    """Several designs: a table of properties, and what each design fails."""
    return "\n".join(_designs(results)) + "\n"


def _suite(design: str, tried: Tried, whole: bool) -> Iterator[str]:
    yield f"{design}: every interleaving of the code that runs"
    yield ""
    yield f"{'trial':14} {'granularity':11} {'verdict':13} {'states':>10} {'seconds':>8}  what"
    for trial, said in tried:
        yield (
            f"{trial.name:14} {said.granularity:11} {said.verdict:13} {said.states:10,} "
            f"{said.seconds:8.2f}"
        )
        yield from _wrapped(trial.meaning, "               ")
    found = [
        (len(shortest.steps), trial, shortest)
        for trial, said in tried
        for shortest in said.counterexamples
    ]
    shown: set[str] = set()
    for steps, trial, shortest in sorted(found, key=lambda item: item[0]):
        if shortest.broken in shown:
            continue
        if not shown or whole:
            yield from _counterexample(trial, shortest, whole)
        else:
            if len(shown) == 1:
                yield ""
            yield from _wrapped(
                f"{shortest.broken}, in {trial.name}, {steps} steps: {shortest.text}", ""
            )
        shown.add(shortest.broken)
    yield ""
    if any(said.verdict == "not finished" for _, said in tried):
        yield "NOT FINISHED: a search was stopped at its bound (--max-states)."
    if shown:
        yield from _wrapped("FAILS: " + ", ".join(sorted(shown)) + ".", "")
    elif all(said.verdict == "holds" for _, said in tried):
        held = tried[0][1].properties
        yield from _wrapped("HOLDS: " + ", ".join(held) + "; within the bounds above.", "")
        for name, bound in tried[0][1].bounds.items() if len(tried) == 1 else ():
            yield from _wrapped(f"{name}: {bound}", "  ")


def _counterexample(trial: Trial, found: Counterexample, whole: bool) -> Iterator[str]:
    yield ""
    title = f"{found.broken}, in {trial.name}: {found.text}"
    yield from _wrapped(title, "")
    yield from _wrapped(
        f"{len(found.cpus)} CPUs, {found.switches - 1} switches, "
        f"CPUs switched at: {found.granularity}",
        "",
    )
    yield ""
    yield from _side_by_side(found, whole)


def _side_by_side(found: Counterexample, whole: bool) -> Iterator[str]:
    """A column for each CPU, as wide as 80 columns allow; else a label before each line."""
    cpus = len(found.cpus)
    column = (_WIDTH - _COLUMN_GAP * (cpus - 1)) // cpus
    columns = column >= _NARROWEST
    if columns:
        yield (" " * _COLUMN_GAP).join(f"CPU{n}".ljust(column) for n in range(cpus)).rstrip()
    last = ""
    for step in found.steps:
        lines = _told(step, whole)
        if not lines:
            continue
        place = f"{step.function.rpartition('.')[2]} {step.file}:{step.line}"
        if place != last and not step.seamcall and not step.file.startswith("verify/"):
            lines = [f"[{place}]", *lines]
            last = place
        for line in lines:
            if columns:
                pieces = wrap(line, column, subsequent_indent="  ") or [""]
                for piece in pieces:
                    yield " " * (step.cpu * (column + _COLUMN_GAP)) + piece
            else:
                yield from wrap(f"CPU{step.cpu}: {line}", _WIDTH, subsequent_indent="      ")


def _told(step: StepTold, whole: bool) -> list[str]:
    """The lines of one step; the module's own steps only if ``whole``, its answers always."""
    lines = []
    inside = bool(step.seamcall)
    plain = step.word.startswith(("verify.", "kvm.")) and not whole
    if step.method != MARK and not plain and (whole or not inside):
        arguments = ", ".join(_number(value) for value in step.arguments)
        result = "" if step.result is None else f" = {_number(step.result)}"
        lines.append(f"{_short(step.word)}.{step.method}({arguments}){result}")
    lines += [f"-> {event}" if inside else event for event in step.events]
    return lines


def _short(word: str) -> str:
    """A word without its room."""
    name, bracket, index = word.partition("[")
    name = name.rpartition(".")[2] if not name.startswith("module.") else name[len("module.") :]
    return f"{name}{bracket}{index}".removesuffix("[0x0]")


def _number(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int):
        return str(value)
    return str(value) if -10 < value < 10 else hex(value)


def _designs(results: dict[str, Tried]) -> Iterator[str]:
    names = list(
        dict.fromkeys(n for tried in results.values() for _, s in tried for n in s.properties)
    )
    yield "Every design through every trial: the trial that fails a property, steps of the"
    yield "shortest counterexample in brackets."
    for name, tried in results.items():
        yield ""
        states = sum(said.states for _, said in tried)
        seconds = sum(said.seconds for _, said in tried)
        verdict = _worst([said.verdict for _, said in tried])
        yield f"{name}: {verdict.upper()}, {states:,} states, {seconds:.1f} s"
        for broken in names:
            failing = [
                (len(found.steps), trial.name)
                for trial, said in tried
                for found in said.counterexamples
                if found.broken == broken
            ]
            if failing:
                steps, trial_name = min(failing)
                others = len(failing) - 1
                more = f", and {others} more" if others else ""
                yield f"  {broken:14} fails in {trial_name} ({steps}){more}"
        held = [n for n in names if all(said.properties[n] == "holds" for _, said in tried)]
        if held:
            yield from _wrapped("holds: " + ", ".join(held), "  ")


def _worst(verdicts: Sequence[str]) -> str:
    return next((v for v in ("fails", "not finished") if v in verdicts), "holds")


def _wrapped(text: str, indent: str) -> list[str]:
    return wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=indent + "  ")
