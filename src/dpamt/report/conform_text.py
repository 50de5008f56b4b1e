"""What `dpamt conform` found, as text and as one JSON document."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dpamt.report.race_text import race_json, races_lines, races_total
from dpamt.report.run_text import paragraph
from dpamt.trace.decode import decode_status
from dpamt.trace.vector_file import VectorFile
from dpamt.trace.vectors import Answer, CallDifference, Replay
from dpamt.verify.races.explored import RaceReplay

JSON_FORMAT: Final = 2

_SHOWN_FINAL: Final = 8
_REGISTERS_INDENT: Final = " " * 4


@dataclass(frozen=True, slots=True)
class FileResult:
    """A vector file and what came of each of its scenarios, and of its races."""

    file: VectorFile
    replays: Sequence[Replay]
    races: Sequence[RaceReplay]

    @property
    def agreeing(self) -> int:
        """How many scenarios agree."""
        return sum(replay.agrees for replay in self.replays)

    @property
    def clean(self) -> bool:
        """Whether everything agrees."""
        return self.agreeing == len(self.replays) and all(race.agrees for race in self.races)


def conform_text(results: Sequence[FileResult], release: str) -> str:
    """The report: each file, its disagreements first, then the total, ending with a line break."""
    lines: list[str] = []
    for result in results:
        lines += _file_lines(result, release)
    if len(results) > 1:
        agreeing = sum(result.agreeing for result in results)
        total = sum(len(result.replays) for result in results)
        races = [race for result in results for race in result.races]
        parts = [f"{agreeing} of {total}"] if total else []
        parts += [races_total(races)] if races else []
        lines.append(f"total: {' and '.join(parts)} agree with module {release}")
    return "\n".join(lines) + "\n"


def _file_lines(result: FileResult, release: str) -> Iterator[str]:
    for scenario, replay in zip(result.file.scenarios, result.replays, strict=True):
        if not replay.agrees:
            yield from _difference_lines(replay, len(scenario.calls))
            yield ""
    for race, found in zip(result.file.races, result.races, strict=True):
        if not found.before.agrees:
            yield from _difference_lines(found.before, len(race.before.calls))
            yield ""
    if result.replays:
        yield (
            f"{result.file.path}: {result.agreeing} of {len(result.replays)} agree with module "
            f"{release}"
        )
    if result.races:
        yield from races_lines(str(result.file.path), result.races, release)


def _difference_lines(replay: Replay, calls: int) -> Iterator[str]:
    yield from paragraph(f"{replay.id} differs: {replay.title}")
    if replay.setup:
        yield from paragraph(f"{replay.setup}", "  ")
    if replay.difference:
        yield from _call_lines(replay.difference, calls)
    if replay.final:
        yield "  every call agrees; what they leave behind does not:"
        for found in replay.final[:_SHOWN_FINAL]:
            yield from paragraph(found, "  ")
        if len(replay.final) > _SHOWN_FINAL:
            yield f"  and {len(replay.final) - _SHOWN_FINAL} differences more"


def _call_lines(difference: CallDifference, calls: int) -> Iterator[str]:
    again = f", repetition {difference.repetition}" if difference.repetition else ""
    yield f"  calls[{difference.index}] of {calls}{again}:"
    yield from paragraph(difference.call, _REGISTERS_INDENT)
    yield from paragraph(f"recorded: {answer_text(difference.recorded)}", "  ")
    yield from paragraph(f"model:    {answer_text(difference.given)}", "  ")
    for name, recorded in difference.recorded.registers.items():
        given = difference.given.registers[name]
        yield f"  {name + ':':9} recorded {recorded:#x}, model {given:#x}"
    yield from paragraph(f"why:      {why_text(difference)}", "  ")
    if difference.story:
        yield "  how it came to that:"
        for told in difference.story:
            yield from paragraph(told, _REGISTERS_INDENT)


def answer_text(answer: Answer) -> str:
    """RAX and its name, or what happened instead of an answer."""
    if answer.status is None:
        return answer.event
    return f"{answer.status:#x} {decode_status(answer.status).text.partition(':')[0]}"


def why_text(difference: CallDifference) -> str:
    """The reason that the model had for its answer."""
    if difference.shutdown:
        return difference.shutdown
    if difference.why:
        return str(difference.why)
    if difference.given.status is None:
        return "the guest left in the middle of its call"
    return "none of the model's checks refused the call"


def conform_json(results: Sequence[FileResult], release: str) -> dict[str, Any]:
    """The same as one document; addresses, registers and statuses are hexadecimal texts."""
    return {
        "format": JSON_FORMAT,
        "release": release,
        "clean": all(result.clean for result in results),
        "files": [
            {
                "file": str(result.file.path),
                "replayed": len(result.replays),
                "agree": result.agreeing,
                "differences": [_json(replay) for replay in _sequences(result)],
                "races": [race_json(race) for race in result.races],
            }
            for result in results
        ],
    }


def _sequences(result: FileResult) -> Iterator[Replay]:
    """Replays that differ: of scenarios, and of the calls that lead to a race."""
    replays = [*result.replays, *(race.before for race in result.races)]
    return (replay for replay in replays if not replay.agrees)


def _json(replay: Replay) -> dict[str, Any]:
    found = replay.difference
    call = found and {
        "index": found.index,
        "repetition": found.repetition,
        "call": found.call,
        "recorded": _json_answer(found.recorded),
        "model": _json_answer(found.given),
        "why": why_text(found),
        "story": list(found.story),
    }
    return {
        "id": replay.id,
        "title": replay.title,
        "setup": replay.setup or None,
        "call": call,
        "final": list(replay.final),
    }


def _json_answer(answer: Answer) -> dict[str, Any]:
    return {
        "status": None if answer.status is None else f"{answer.status:#x}",
        "text": answer_text(answer),
        "registers": {name: f"{value:#x}" for name, value in answer.registers.items()},
    }
