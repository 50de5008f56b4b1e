"""What `dpamt verify` says, in 80 columns: verdicts, counterexamples side by side, the museum."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from textwrap import wrap
from typing import TYPE_CHECKING, Final

from dpamt.verify.evidence.certificate import SAME, Tried
from dpamt.verify.evidence.counterexample import Counterexample, StepTold
from dpamt.verify.evidence.refine import FOUND
from dpamt.verify.learn.automaton import CHOICE, MARK
from dpamt.verify.properties.named import PROPERTY_NAMES

if TYPE_CHECKING:
    from dpamt.verify.evidence.replay import Replayed

_WIDTH: Final = 80
_COLUMN_GAP: Final = 2

_SHORT: Final = {
    "missing-pair": "mis",
    "double-add": "dbl",
    "bad-remove": "rem",
    "fatal": "fat",
    "two-owners": "own",
    "at-rest": "rst",
    "leak": "lea",
    "busy": "bsy",
    "kernel": "ker",
    "deadlock": "dea",
    "livelock": "liv",
}
"""Columns of the museum's table."""


def suite_text(design: str, tried: Sequence[Tried], whole: bool = False) -> str:
    """One design: a line for each trial, then the nearest counterexample of each property."""
    return "\n".join(_suite(design, tried, whole)) + "\n"


def designs_text(results: Mapping[str, Sequence[Tried]], locks: Mapping[str, int]) -> str:
    """Several designs: a table of properties, and where each design fails.

    ``locks``: by design, the locks that a get takes in a region that has its pair.
    """
    return "\n".join([*_table(results, locks), *_where(results)]) + "\n"


def replay_text(
    title: str, found: Counterexample, said: "Replayed", whole: bool, table: bool
) -> str:
    """What happened when a counterexample was run again on threads."""
    return "\n".join(_replayed(title, found, said, whole, table)) + "\n"


def nearest(tried: Sequence[Tried]) -> list[tuple[Tried, Counterexample, str]]:
    """The shortest counterexample of each property, shortest first, and how its replay went."""
    found = [
        (one, shortest, said)
        for one in tried
        for shortest, said in zip(one.verdict.counterexamples, one.replayed, strict=True)
    ]
    first: dict[str, tuple[Tried, Counterexample, str]] = {}
    for item in sorted(found, key=lambda item: len(item[1].steps)):
        first.setdefault(item[1].broken, item)
    return list(first.values())


def _suite(design: str, tried: Sequence[Tried], whole: bool) -> Iterator[str]:
    yield f"{design}: every interleaving of the code that runs"
    yield ""
    yield f"{'trial':14} {'granularity':11} {'verdict':13} {'states':>10} {'seconds':>8}  what"
    for one in tried:
        said = one.verdict
        yield (
            f"{one.trial.name:14} {said.granularity:11} {said.verdict:13} {said.states:10,} "
            f"{said.seconds:8.2f}"
        )
        yield from _wrapped(one.trial.meaning, "               ")
    shown = nearest(tried)
    for n, (one, shortest, again) in enumerate(shown):
        if not n or whole:
            yield from _counterexample(one, shortest, again, whole)
            continue
        if n == 1:
            yield ""
        steps = len(shortest.steps)
        yield from _wrapped(
            f"{shortest.broken}, in {one.trial.name}, {steps} steps: "
            f"{_said(shortest.broken, shortest.text)}",
            "",
        )
    yield ""
    for one in tried:
        if one.verdict.stopped:
            yield from _wrapped(f"NOT FINISHED, {one.trial.name}: {one.verdict.stopped}.", "")
    if shown:
        broken = sorted(found.broken for _, found, _ in shown)
        yield from _wrapped("FAILS: " + ", ".join(broken) + ".", "")
    elif all(one.verdict.verdict == "holds" for one in tried):
        held = tried[0].verdict.properties
        yield from _wrapped(f"HOLDS: {', '.join(held)}; {_within(tried)}.", "")
        for name, bound in tried[0].verdict.bounds.items() if len(tried) <= 2 else ():
            yield from _wrapped(f"{name}: {bound}", "  ")
    yield from _rests_on(tried)


def _within(tried: Sequence[Tried]) -> str:
    """What a headline has to say besides the verdict."""
    said = "within the bounds above"
    rests, lines = len(assumptions_of(tried)), len(not_reached_of(tried))
    if rests:
        said += f", resting on {rests} assumption{'s' * (rests > 1)} below"
    if lines:
        said += f"; {lines} line{'s' * (lines > 1)} of the design not reached"
    return said


def assumptions_of(tried: Sequence[Tried]) -> tuple[str, ...]:
    """What the verdicts of a design rest on, each sentence once."""
    return tuple(dict.fromkeys(line for one in tried for line in one.verdict.assumptions))


def not_reached_of(tried: Sequence[Tried]) -> tuple[str, ...]:
    """The lines of the design that none of its trials reached."""
    if not tried:
        return ()
    first, *others = (one.verdict.not_reached for one in tried)
    return tuple(line for line in first if all(line in other for other in others))


def _rests_on(tried: Sequence[Tried], indent: str = "") -> Iterator[str]:
    """What a reader has to know before the verdict is believed."""
    for title, lines in (
        ("It rests on:", assumptions_of(tried)),
        ("Lines of the design that no trial reached:", not_reached_of(tried)),
    ):
        if lines:
            yield f"{indent}{title}"
        for line in lines:
            yield from _wrapped(line, f"{indent}  ")


def _counterexample(one: Tried, found: Counterexample, again: str, whole: bool) -> Iterator[str]:
    yield ""
    text = _said(found.broken, found.text)
    yield from _wrapped(f"{found.broken}, in {one.trial.name}: {text}", "")
    if found.steps:
        yield from _wrapped(
            f"{len(found.cpus)} CPUs, {_switches(found.steps, whole)} switches, "
            f"CPUs switched at: {found.granularity}",
            "",
        )
        yield ""
        yield from side_by_side(len(found.cpus), found.steps, whole)
    else:
        yield "It is so before anybody has done a step."
    yield from _words(found.shared)
    fine = one.fine.get(found.broken)
    if fine == FOUND:
        yield "With CPUs switched at every shared word, along the same schedule: it fails too."
    elif fine:
        yield from _wrapped(f"NOT SEEN with CPUs switched at every shared word: {fine}.", "")
    if again == SAME:
        yield from _wrapped(
            "Run again with each CPU a thread, every step on the word itself: the same.", ""
        )
    else:
        yield from _wrapped(f"NOT CONFIRMED when run again on threads: {again}", "")


def _words(changed: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    """The shared words at the end."""
    kept = [item for item in changed if _is_shown(item[0])]
    yield ""
    if kept:
        yield "Shared words that end otherwise than they began:"
        width = max(len(_short(word)) for word, _, _ in kept)
        for word, before, after in kept:
            yield f"  {_short(word):{width}}  {before} -> {after}"[:_WIDTH]
        yield ""


def _replayed(
    title: str, found: Counterexample, said: "Replayed", whole: bool, table: bool
) -> Iterator[str]:
    yield from _wrapped(f"{title}: {found.broken}: {_said(found.broken, found.text)}", "")
    yield from _wrapped(
        f"run again: {said.done} steps of {len(found.cpus)} CPUs, each a thread, "
        "on the words themselves",
        "  ",
    )
    if table:
        yield ""
        yield from side_by_side(len(found.cpus), said.steps, whole)
        yield from _words(said.shared)
    if said.departure:
        yield from _wrapped(f"the code departs from the schedule at {said.departure}", "  ")
    if found.broken in said.broken:
        now = said.broken[found.broken]
        same = (
            ": the same" if now == found.text else f", in other words: {_said(found.broken, now)}"
        )
        yield from _wrapped(f"FAILS AGAIN{same}", "  ")
    for name, text in said.broken.items():
        if name != found.broken:
            yield from _wrapped(f"fails too: {name}: {_said(name, text)}", "  ")
    if not said.broken:
        yield "  NO LONGER FAILS on this schedule; dpamt verify says whether on another."


def _said(broken: str, text: str) -> str:
    """What is wrong, without the name of the property before each of its lines."""
    return text.replace(f"{broken}: ", "")


def side_by_side(cpus: int, steps: Sequence[StepTold], whole: bool) -> Iterator[str]:
    """A column for each CPU where 80 columns are enough; else a label before each line."""
    told = list(_lines(steps, whole))
    column = (_WIDTH - _COLUMN_GAP * (cpus - 1)) // cpus
    widest = max((len(word) for _, line in told for word in line.split()), default=0)
    if widest + 2 > column:
        for cpu, line in told:
            yield from wrap(f"CPU{cpu}: {line}", _WIDTH, subsequent_indent="      ")
        return
    yield (" " * _COLUMN_GAP).join(f"CPU{n}".ljust(column) for n in range(cpus)).rstrip()
    for cpu, line in told:
        for piece in wrap(line, column, subsequent_indent="  ") or [""]:
            yield " " * (cpu * (column + _COLUMN_GAP)) + piece


def _switches(steps: Sequence[StepTold], whole: bool) -> int:
    """How often the CPU changes from one line to the next."""
    cpus = [cpu for cpu, _ in _lines(steps, whole)]
    return sum(before != after for before, after in pairwise(cpus))


def _lines(steps: Sequence[StepTold], whole: bool) -> Iterator[tuple[int, str]]:
    """(CPU, line): what is done, after the place in brackets where that is another one."""
    last = ""
    for step in steps:
        lines = _told(step, whole)
        place = f"{step.function.rpartition('.')[2]} {step.file}:{step.line}"
        outside = not step.seamcall and not step.file.startswith("verify/")
        if lines and outside and place != last:
            yield step.cpu, f"[{place}]"
            last = place
        for line in lines:
            yield step.cpu, line


def _told(step: StepTold, whole: bool) -> list[str]:
    """The lines of one step; the module's own steps only if ``whole``, its answers always."""
    lines = []
    inside = bool(step.seamcall)
    if step.method == CHOICE:
        lines.append(f"{step.arguments[0]}: {'yes' if step.result else 'no'}")
    elif step.method != MARK and (whole or (_is_shown(step.word) and not inside)):
        lines.append(operation(step))
    lines += [f"-> {event}" if inside else event for event in step.events]
    return lines


def operation(step: StepTold) -> str:
    """What a step does to its word, and its result."""
    arguments = ", ".join(_number(value) for value in step.arguments)
    result = "" if step.result is None else f" = {_number(step.result)}"
    return f"{_short(step.word)}.{step.method}({arguments}){result}"


def _is_shown(word: str) -> bool:
    """Whether the word is one of the design's or the module's, not of what is around them."""
    return not word.startswith(("verify.", "kvm."))


def _short(word: str) -> str:
    """A word without its room."""
    name, bracket, index = word.partition("[")
    name = name.rpartition(".")[2] if not name.startswith("module.") else name[len("module.") :]
    return f"{name}{bracket}{index}".removesuffix("[0x0]")


def _number(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int):
        return str(value)
    return str(value) if -10 < value < 10 else hex(value)


def _table(results: Mapping[str, Sequence[Tried]], locks: Mapping[str, int]) -> Iterator[str]:
    yield from _wrapped(
        "Every design through every trial.  A number: the property fails, and its shortest "
        "counterexample has so many steps; . holds; ? not finished.  locks: taken by a get in a "
        "region that has its pair.",
        "",
    )
    yield ""
    names = [name for name in PROPERTY_NAMES if name in _SHORT]
    head = "".join(f"{_SHORT[name]:>4}" for name in names)
    yield f"{'design':13}{head} {'states':>9} {'sec':>6} {'locks':>5}"
    for design, tried in results.items():
        row = "".join(f"{_cell(tried, name):>4}" for name in names)
        states = sum(one.verdict.states for one in tried)
        seconds = sum(one.verdict.seconds for one in tried)
        yield f"{design[-13:]:13}{row} {states:9,} {seconds:6.1f} {locks[design]:5}"
    yield ""
    yield from _wrapped(", ".join(f"{_SHORT[name]} {name}" for name in names), "")


def _cell(tried: Sequence[Tried], name: str) -> str:
    lengths = [
        len(found.steps)
        for one in tried
        for found in one.verdict.counterexamples
        if found.broken == name
    ]
    if lengths:
        return str(min(lengths))
    finished = all(one.verdict.properties[name] == "holds" for one in tried)
    return "." if finished else "?"


def _where(results: Mapping[str, Sequence[Tried]]) -> Iterator[str]:
    for design, tried in results.items():
        yield ""
        verdict = _worst([one.verdict.verdict for one in tried])
        yield f"{design}: {verdict.upper()}"
        yield from _rests_on(tried, "  ")
        broken = list(dict.fromkeys(name for one in tried for name in one.verdict.properties))
        for name in broken:
            failing = [
                (len(found.steps), one.trial.name)
                for one in tried
                for found in one.verdict.counterexamples
                if found.broken == name
            ]
            if failing:
                steps, trial_name = min(failing)
                others = len(failing) - 1
                more = f", and {others} more" if others else ""
                yield f"  {name:14} fails in {trial_name} ({steps}){more}"
        for one in tried:
            for found, again in zip(one.verdict.counterexamples, one.replayed, strict=True):
                if again != SAME:
                    yield from _wrapped(
                        f"NOT CONFIRMED on threads: {found.broken}, in {one.trial.name}: {again}",
                        "  ",
                    )


def _worst(verdicts: Sequence[str]) -> str:
    return next((v for v in ("fails", "not finished") if v in verdicts), "holds")


def _wrapped(text: str, indent: str) -> list[str]:
    return wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=indent + "  ")
