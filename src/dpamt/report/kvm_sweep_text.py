"""A sweep as text and as plain values: what KVM did about each SEAMCALL that failed."""

from collections.abc import Iterator
from typing import Any, Final

from dpamt.abi.leaves import leaf_name
from dpamt.abi.status import status_name
from dpamt.boot.kvm.judge import KINDS
from dpamt.boot.kvm.sweep import Life, Sweep
from dpamt.report.run_text import paragraph

_NAMED: Final = 6


def sweep_text(sweep: Sweep) -> Iterator[str]:
    """One paragraph for each kind of failure and what came of it; neighbours that are alike are
    one."""
    title = "SEAMCALLs of a TD's life that failed in turn, and what KVM did"
    yield from (title, "-" * len(title))
    wanted = ", ".join(one.text for one in sweep.wanted)
    yield from paragraph(
        f"{wanted}.  Each is what KVM's source says, unless NOT stands before it.", "  "
    )
    alike: dict[tuple[str, str], list[Life]] = {}
    for life in sweep.lives:
        alike.setdefault((_what(life), _outcome(life)), []).append(life)
    for (what, outcome), lives in alike.items():
        calls = _ranges([life.nth for life in lives])
        plural = "s" if len(lives) > 1 else ""
        kind = f"{what}, call{plural} {calls}"
        yield from paragraph(f"{kind}: {outcome}", "  ")
    yield ""
    yield from paragraph(_sum(sweep), "  ")
    yield ""


def _sum(sweep: Sweep) -> str:
    came = [life for life in sweep.lives if life.came]
    known = [life for life in came if life.expected is not None]
    wrong = [life for life in known if life.contradicts]
    lossy = [life for life in sweep.lives if life.kept or life.pairs or life.counts]
    parts = [
        f"{len(sweep.lives)} lives; in {len(came)} the call came; KVM did as its source says in "
        f"{len(known) - len(wrong)} of {len(known)}",
        f"after {len(lossy)} of them something was not given back",
    ]
    if not sweep.done:
        parts.append("NOT ALL: the script had no more lives, or the run ended")
    return "; ".join(parts) + "."


def _what(life: Life) -> str:
    return ":".join(part for part in life.line.split(":") if not part.startswith("nth="))


def _outcome(life: Life) -> str:
    if not life.came:
        return "not made in this life" + _kept(life)
    parts = []
    if life.met:
        parts.append(f"not judged: it met page {life.met:#x}, which an earlier life had lost")
    elif life.expected is not None:
        as_said = "NOT: " if life.contradicts else ""
        parts.append(f"{as_said}{life.expected.does.value} ({life.expected.function})")
        if life.contradicts:
            parts.append(life.contradicts)
    else:
        parts.append(f"answered {status_name(life.status)}; not judged")
    if life.where.startswith("tdx_sept") and "PAMT" in life.line:
        parts.append(f"called by {life.where}")
    own = f"SEAMCALL {leaf_name(life.leaf).replace('.', '_')} failed"
    parts += [said for said in life.reactions if said != own]
    return "; ".join(parts) + _kept(life)


def _kept(life: Life) -> str:
    named = [f"{KINDS.get(kind, f'type {kind}')} {page:#x}" for page, kind in life.kept[:_NAMED]]
    if len(life.kept) > _NAMED:
        named.append(f"{len(life.kept) - _NAMED} more pages")
    named += [f"the page pair of {region:#x}" for region in life.pairs[:_NAMED]]
    if len(life.pairs) > _NAMED:
        named.append(f"{len(life.pairs) - _NAMED} more page pairs")
    counts = [f"that of {at:#x} by {count}" for at, count in life.counts.items()]
    if len(counts) > _NAMED:
        counts[_NAMED:] = [f"{len(counts) - _NAMED} more"]
    freed = ", ".join(f"{page:#x}" for page in life.freed[:_NAMED])
    if freed:
        named.append(f"FREED while the module has it: {freed}")
    too_high = f"; COUNTS TOO HIGH: {', '.join(counts)}" if counts else ""
    return (f"; NOT GIVEN BACK: {', '.join(named)}" if named else "") + too_high


def _ranges(numbers: list[int]) -> str:
    if len(numbers) > 1 and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        return f"{numbers[0]}-{numbers[-1]}"
    return ", ".join(map(str, numbers))


def sweep_json(sweep: Sweep) -> list[dict[str, Any]]:
    """The lives."""
    return [
        {
            "life": life.number,
            "inject": life.line,
            "leaf": leaf_name(life.leaf),
            "call_of_leaf": life.nth,
            "made": life.came,
            "status": f"{life.status:#x}" if life.came else None,
            "tries": life.tries,
            "called_by": life.where,
            "reactions": life.reactions,
            "source_does": None if life.expected is None else life.expected.does.value,
            "source_function": None if life.expected is None else life.expected.function,
            "contradiction": life.contradicts or None,
            "tds_left": life.tds,
            "pages_left": [
                {"address": f"{page:#x}", "kind": KINDS.get(kind, f"type {kind}")}
                for page, kind in life.kept
            ],
            "pairs_left": [f"{region:#x}" for region in life.pairs],
            "pages_freed": [f"{page:#x}" for page in life.freed],
            "counts_left": [
                {"region": f"{region:#x}", "count": count} for region, count in life.counts.items()
            ],
        }
        for life in sweep.lives
    ]
