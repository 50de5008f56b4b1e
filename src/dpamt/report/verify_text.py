"""What `dpamt verify` says: verdicts, counterexamples side by side, the museum of designs."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from textwrap import wrap
from typing import TYPE_CHECKING, Final

from dpamt.report.width import width
from dpamt.verify.asked import NONE
from dpamt.verify.evidence.certificate import SAME, Tried, lock_order_of
from dpamt.verify.evidence.counterexample import GHOSTS, Counterexample, StepTold
from dpamt.verify.evidence.refine import FOUND
from dpamt.verify.learn.automaton import CHOICE, LOCK_ORDER, MARK

if TYPE_CHECKING:
    from dpamt.host.designs.base import OtherCode
    from dpamt.verify.evidence.replay import Replayed

_COLUMN_GAP: Final = 2
_IMAGE: Final = "image."
"""Begins the names of words of a kernel image."""


class SuiteText:
    """One design, printed as its trials end: a line for each, and the first failure at once.

    The parts, one after the other, are the whole: :meth:`trial` of each trial, then :meth:`end`.
    """

    def __init__(self, design: str, whole: bool = False, code: "OtherCode | None" = None) -> None:
        self._design = design
        self._code = code
        self._whole = whole
        self._begun = False
        self._table_above = False
        self._shown: list[Counterexample] = []

    def trial(self, one: Tried) -> str:
        """A trial that has ended; the shortest counterexample of the first one that fails."""
        return "".join(f"{line}\n" for line in self._trial(one))

    def end(self, tried: Sequence[Tried]) -> str:
        """What all trials together say: every other property that fails, the verdict."""
        return "".join(f"{line}\n" for line in self._end(tried))

    def _trial(self, one: Tried) -> Iterator[str]:
        if not self._begun:
            yield from _head(self._design, self._code, one.asked.reductions)
        self._begun = True
        if self._table_above:
            yield ""
        self._table_above = False
        yield from _row(one)
        if one.verdict.counterexamples and not self._shown:
            ((_, found, again), *_) = nearest([one])
            self._shown.append(found)
            yield from _counterexample(one, found, again, self._whole)
            self._table_above = True

    def _end(self, tried: Sequence[Tried]) -> Iterator[str]:
        found = nearest(tried)
        others = [item for item in found if item[1] not in self._shown]
        if others and not self._whole:
            yield ""
            yield "Also found, without their steps (--whole shows them):"
        for one, shortest, again in others:
            if self._whole:
                yield from _counterexample(one, shortest, again, self._whole)
            else:
                yield from _in_short(one, shortest, again, shortest is found[0][1])
        over = lock_order_of(tried)
        for text in over:
            yield from wrapped(f"{LOCK_ORDER}, over the trials together: {text}", "")
        yield ""
        broken = {shortest.broken for _, shortest, _ in found} | ({LOCK_ORDER} if over else set())
        yield from _verdict(tried, sorted(broken))


def suite_text(design: str, tried: Sequence[Tried], whole: bool = False) -> str:
    """The whole of one design: see :class:`SuiteText`."""
    text = SuiteText(design, whole)
    return "".join(map(text.trial, tried)) + text.end(tried)


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


def _head(design: str, code: "OtherCode | None", reductions: str) -> Iterator[str]:
    yield f"{design}: every interleaving of the code that runs"
    if reductions == NONE:
        yield "reductions: none, each step on a word that somebody changes is a step of its own"
    for name, bound in code.bounds().items() if code is not None else ():
        yield from wrapped(f"{name}: {bound}", "")
    yield ""
    yield f"{'trial':16} {'granularity':11} {'verdict':13} {'states':>10} {'seconds':>8}"


def _row(one: Tried) -> Iterator[str]:
    said = one.verdict
    yield (
        f"{one.trial.name:16} {said.granularity:11} {said.verdict:13} {said.states:10,} "
        f"{said.seconds:8.2f}"
    )
    yield from wrapped(one.trial.meaning, "                 ")


def _verdict(tried: Sequence[Tried], broken: Sequence[str]) -> Iterator[str]:
    for one in tried:
        if one.verdict.stopped:
            yield from wrapped(f"NOT FINISHED, {one.trial.name}: {one.verdict.stopped}.", "")
    if broken:
        yield from wrapped("FAILS: " + ", ".join(broken) + ".", "")
    elif all(one.verdict.verdict == "holds" for one in tried):
        held = tried[0].verdict.properties
        yield from wrapped(f"HOLDS: {', '.join(held)}; {_within(tried)}.", "")
        yield from _bounds(tried)
    yield from rests_on(tried)


def _bounds(tried: Sequence[Tried]) -> Iterator[str]:
    """What the verdict holds for: all bounds of one question; of a suite those of every trial."""
    first, *others = (one.verdict.bounds for one in tried)
    every = {
        name: bound
        for name, bound in first.items()
        if len(tried) <= 2 or all(other.get(name) == bound for other in others)
    }
    for name, bound in every.items():
        yield from wrapped(f"{name}: {bound}", "  ")
    if len(tried) > 2:
        yield from wrapped("CPUs and what they do: each trial's line; --json has all bounds", "  ")


def _within(tried: Sequence[Tried]) -> str:
    """What a headline has to say besides the verdict."""
    said = "within the bounds below"
    rests, lines = len(assumptions_of(tried)), len(not_reached_of(tried))
    if rests:
        said += f", resting on {rests} assumption{'s' * (rests > 1)} below"
    if lines:
        said += f"; {lines} line{'s' * (lines > 1)} of the design not reached"
    return said


def assumptions_of(tried: Sequence[Tried]) -> tuple[str, ...]:
    """What the verdicts of a design rest on, each sentence once."""
    lines = [line for one in tried for line in one.verdict.assumptions]
    lines += [
        f"{one.verdict.taken_up} has kept this search, and its states are taken as they stand there"
        for one in tried
        if one.verdict.taken_up
    ]
    return tuple(dict.fromkeys(lines))


def not_reached_of(tried: Sequence[Tried]) -> tuple[str, ...]:
    """The lines of the design that none of its trials reached."""
    if not tried:
        return ()
    first, *others = (one.verdict.not_reached for one in tried)
    return tuple(line for line in first if all(line in other for other in others))


def rests_on(tried: Sequence[Tried], indent: str = "") -> Iterator[str]:
    """What a reader has to know before the verdict is believed."""
    not_reached = "Lines of the design that no trial here reached:"
    if all(one.verdict.bounds.get("allocations that fail") == "none" for one in tried):
        not_reached = (
            "Lines of the design that were not reached (no allocation or SEAMCALL is refused here; "
            "the suite, without --cpus and --trial, has trials that refuse them):"
        )
    for title, lines in (
        ("The verdict rests on:", assumptions_of(tried)),
        (not_reached, not_reached_of(tried)),
    ):
        if lines:
            yield from wrapped(title, indent)
        for line in lines:
            yield from wrapped(line, f"{indent}  ")


def _counterexample(one: Tried, found: Counterexample, again: str, whole: bool) -> Iterator[str]:
    yield ""
    text = _said(found.broken, found.text)
    yield from wrapped(f"{found.broken}, in {one.trial.name}: {text}", "")
    if found.steps:
        yield from wrapped(f"{_size(found)}, CPUs switched at: {found.granularity}", "")
        left_out = sum(not lines for lines in lines_of(found.steps, whole))
        if left_out:
            more = "" if whole else "; --whole shows them"
            yield from wrapped(f"Left out below: {left_out} steps inside the module{more}.", "")
        idle = [f"CPU{n}" for n in range(len(found.cpus)) if n not in found.schedule]
        if idle:
            yield from wrapped(f"{', '.join(idle)}: no step here.", "")
        if len(set(found.cpus)) > 1:
            yield ""
            for number, name in enumerate(found.cpus):
                yield from wrapped(f"CPU{number}: {name}", "")
        yield ""
        yield from side_by_side(found.steps, whole)
    else:
        yield "It fails in the initial state, before any step."
    yield from _words(found.shared)
    fine = one.fine.get(found.broken)
    if fine == FOUND:
        yield "With CPUs switched at every shared word, along the same schedule: it fails too."
    elif fine:
        yield from wrapped(f"NOT SEEN with CPUs switched at every shared word: {fine}.", "")
    if again == SAME:
        yield from wrapped(
            "Run again with each CPU as a thread, every step on the real word: the same.", ""
        )
    else:
        yield from wrapped(f"NOT CONFIRMED when run again on threads: {again}", "")


def _in_short(one: Tried, found: Counterexample, again: str, nearest: bool) -> Iterator[str]:
    """A counterexample without its table; the nearest of all is the one that is drawn."""
    text = f"{found.broken}, in {one.trial.name}: {_said(found.broken, found.text)}"
    size = f"{_size(found)}, CPUs switched at: {found.granularity}"
    if nearest:
        size += "; the shortest of all: --html and --perfetto show this one"
    yield from wrapped(f"{text} ({size})", "  ")
    if again != SAME:
        yield from wrapped(f"NOT CONFIRMED when run again on threads: {again}", "    ")


def _size(found: Counterexample) -> str:
    """How long it is; steps are those that another CPU could notice."""
    return f"{len(found.cpus)} CPUs, {found.size}"


def _words(changed: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    """The shared words at the end."""
    kept = sorted((item for item in changed if _is_shown(item[0])), key=_rank)
    yield ""
    if kept:
        yield "Shared words that have changed at the end:"
        longest = max(len(short_word(word)) for word, _, _ in kept)
        for word, before, after in kept:
            yield f"  {short_word(word):{longest}}  {before} -> {after}"[: width()]
        yield ""


def _rank(item: tuple[str, str, str]) -> int:
    """What a reader looks for first: counts, then locks, then other words, the module's last."""
    word = item[0]
    if word.startswith("module."):
        return 3
    return 0 if "refcount" in word else 1 if "lock" in word else 2


def _replayed(
    title: str, found: Counterexample, said: "Replayed", whole: bool, table: bool
) -> Iterator[str]:
    yield from wrapped(f"{title}: {found.broken}: {_said(found.broken, found.text)}", "")
    yield from wrapped(
        f"{_size(found)}; run again with each CPU as a thread, on the real words",
        "  ",
    )
    if table:
        yield ""
        yield from side_by_side(said.steps, whole)
        yield from _words(said.shared)
    if said.departure:
        yield from wrapped(f"the code departs from the schedule at {said.departure}", "  ")
    if found.broken in said.broken:
        now = said.broken[found.broken]
        same = (
            ": the same" if now == found.text else f", in other words: {_said(found.broken, now)}"
        )
        yield from wrapped(f"FAILS AGAIN{same}", "  ")
    for name, text in said.broken.items():
        if name != found.broken:
            yield from wrapped(f"fails too: {name}: {_said(name, text)}", "  ")
    if not said.broken:
        yield "  NO LONGER FAILS on this schedule; dpamt verify says whether on another."


def _said(broken: str, text: str) -> str:
    """What is wrong, without the name of the property before each of its lines."""
    return text.replace(f"{broken}: ", "")


def side_by_side(steps: Sequence[StepTold], whole: bool) -> Iterator[str]:
    """A column for each CPU that does something, where the width is enough; else a label before
    each line."""
    told = list(_lines(steps, whole))
    acting = sorted({cpu for cpu, _ in told})
    if not acting:
        return
    column = (width() - _COLUMN_GAP * (len(acting) - 1)) // len(acting)
    widest = max((len(word) for _, line in told for word in line.split()), default=0)
    if widest + 2 > column:
        for cpu, line in told:
            yield from wrap(f"CPU{cpu}: {line}", width(), subsequent_indent="      ")
        return
    yield (" " * _COLUMN_GAP).join(f"CPU{n}".ljust(column) for n in acting).rstrip()
    at = {cpu: n * (column + _COLUMN_GAP) for n, cpu in enumerate(acting)}
    for cpu, line in told:
        for piece in wrap(line, column, subsequent_indent="  ") or [""]:
            yield " " * at[cpu] + piece


def _lines(steps: Sequence[StepTold], whole: bool) -> Iterator[tuple[int, str]]:
    """(CPU, line): what is done, after the place in brackets where that is another one."""
    last = ""
    for step, lines in zip(steps, lines_of(steps, whole), strict=True):
        place = place_text(step)
        if lines and has_place(step) and place != last:
            yield step.cpu, f"[{place}]"
            last = place
        for line in lines:
            yield step.cpu, line


def lines_of(steps: Sequence[StepTold], whole: bool) -> list[list[str]]:
    """The lines of each step; none of a step that is not for the reader.

    Each turn of a CPU has a line, so that its switches can be counted: where nothing of a turn is
    for the reader, its first step stands for it.  The last step, which fails, has one too.
    """
    found: list[list[str]] = []
    for _, turn in groupby(steps, key=lambda step: step.cpu):
        every = list(turn)
        told = [told_lines(step, whole) for step in every]
        if not any(told):
            told[0] = [_inside(every[0])]
        found += told
    if found and not found[-1]:
        found[-1] = [_inside(steps[-1])]
    return found


def has_place(step: StepTold) -> bool:
    """Whether a reader looks up where a step is: not inside the module, nor in the verifier."""
    return not step.seamcall and not step.file.startswith("verify/")


def place_text(step: StepTold) -> str:
    """Where a step is: function, file and line; an instruction where there is no line."""
    if not step.line:
        return f"{step.function} {step.file}"
    return f"{step.function.rpartition('.')[2]} {step.file}:{step.line}"


def _inside(step: StepTold) -> str:
    """A step that is not for the reader, in one line."""
    if step.method == MARK:
        return f"{step.seamcall} begins"
    what = operation(step) if not step.word.startswith(GHOSTS) else "a step of its own"
    return f"{step.seamcall}: {what}" if step.seamcall else what


def told_lines(step: StepTold, whole: bool) -> list[str]:
    """The lines of one step; the module's own steps only if ``whole``, its answers always."""
    lines = []
    inside = bool(step.seamcall)
    if step.method == CHOICE:
        lines.append(f"{step.arguments[0]}: {'yes' if step.result else 'no'}")
    elif step.method == MARK:
        lines += [f"{step.seamcall} begins"] * bool(whole and step.seamcall)
    elif (whole and not step.word.startswith(GHOSTS)) or (_is_shown(step.word) and not inside):
        lines.append(operation(step))
    lines += [f"-> {event}" if inside else event for event in step.events]
    return lines


def operation(step: StepTold) -> str:
    """What a step does to its word, and its result."""
    arguments = ", ".join(_number(value) for value in step.arguments)
    result = "" if step.result is None else f" = {_number(step.result)}"
    return f"{short_word(step.word)}.{step.method}({arguments}){result}"


def _is_shown(word: str) -> bool:
    """Whether the word is one of the design's or the module's, not of what is around them."""
    return not word.startswith((GHOSTS, "kvm."))


def short_word(word: str) -> str:
    """A word without its room."""
    if word.startswith(_IMAGE):  # by its name in C, which has dots of its own
        return word.removeprefix(_IMAGE).removesuffix("[0x0]")
    name, bracket, index = word.partition("[")
    name = name.rpartition(".")[2] if not name.startswith("module.") else name[len("module.") :]
    return f"{name}{bracket}{index}".removesuffix("[0x0]")


def _number(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int):
        return str(value)
    return str(value) if -10 < value < 10 else hex(value)


def wrapped(text: str, indent: str) -> list[str]:
    """A text in lines that fit."""
    return wrap(
        text,
        width(),
        initial_indent=indent,
        subsequent_indent=indent + "  ",
        break_on_hyphens=False,  # names of properties have them
    )
