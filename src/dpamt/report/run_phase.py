"""One phase of a run: what there is, what PAMT takes, what was called, what the audit says."""

from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import Final

from dpamt.report.side_table import Row, side_table
from dpamt.report.units import amount, count, percent
from dpamt.report.width import width
from dpamt.run.facts import SideFacts, Snapshot

_DONE: Final = "TDX_SUCCESS"


def phase_lines(sides: Sequence[SideFacts], index: int) -> Iterator[str]:
    """The lines of phase ``index`` on all sides."""
    names = [side.name for side in sides]
    snapshots = [side.snapshots[index] for side in sides]
    yield from side_table(names, _state_rows(snapshots))
    yield ""
    yield from side_table(names, _seamcall_rows(snapshots))
    yield from _meminfo(sides, snapshots)
    for side, snapshot in zip(sides, snapshots, strict=True):
        for line in snapshot.log if index else ():
            yield from _wrapped(f"kernel log, {side.name}: {line}")
        for finding in snapshot.findings:
            yield from _wrapped(f"FINDING {side.name}: {finding}")


def _state_rows(snapshots: Sequence[Snapshot]) -> list[Row]:
    rows: list[Row] = [
        ("TDs alive", [count(s.tds.alive) for s in snapshots]),
    ]
    if any(s.tds.alive for s in snapshots):
        rows += [
            ("TD memory in use", [amount(s.tds.guest_bytes) for s in snapshots]),
            ("  as 2M pages", [_or_blank(s.tds.guest_2m) for s in snapshots]),
            ("  as 4K pages", [_or_blank(s.tds.guest_4k) for s in snapshots]),
            ("S-EPT pages", [_or_blank(s.tds.sept) for s in snapshots]),
            ("control pages (TDR, TDCX, TDVPR)", [_or_blank(s.tds.control) for s in snapshots]),
        ]
    rows += [
        ("page pairs installed", [_or_blank(s.pairs) for s in snapshots]),
        ("PAMT", [amount(s.pamt.total) for s in snapshots]),
        ("  1G level", [_size(s.pamt.level_1g) for s in snapshots]),
        ("  2M level", [_size(s.pamt.level_2m) for s in snapshots]),
        ("  4K level", [_size(s.pamt.level_4k) for s in snapshots]),
        ("  page bitmap", [_size(s.pamt.bitmap) for s in snapshots]),
        ("  page pairs", [_size(s.pamt.pairs) for s in snapshots]),
        ("  refcounts", [_size(s.pamt.refcounts) for s in snapshots]),
        ("PAMT in the other mode (computed)", [amount(s.other_pamt.total) for s in snapshots]),
        ("  this mode against it", [_against_other(s) for s in snapshots]),
        ("audit", [_audit(s) for s in snapshots]),
    ]
    return rows


def _against_other(snapshot: Snapshot) -> str:
    mine, other = snapshot.pamt.total, snapshot.other_pamt.total
    if mine >= 2 * other:
        return f"{round(mine / other)} times"
    return percent(mine, other)


def _audit(snapshot: Snapshot) -> str:
    if not snapshot.findings:
        return "clean"
    number = len(snapshot.findings)
    return f"{number} finding" + ("" if number == 1 else "s")


def _seamcall_rows(snapshots: Sequence[Snapshot]) -> list[Row]:
    """A row for each leaf and status, those that did not simply succeed under their leaf."""
    counts = [{(row.leaf, row.status): row.count for row in s.seamcalls} for s in snapshots]
    keys = sorted(
        {key for side in counts for key in side}, key=lambda key: (key[0], key[1] != _DONE, key[1])
    )
    rows: list[Row] = [
        ("SEAMCALLs in this phase", [count(sum(side.values())) for side in counts]),
    ]
    last = ""
    for leaf, status in keys:
        cells = [_or_blank(side.get((leaf, status), 0)) for side in counts]
        if status == _DONE:
            rows.append((f"  {leaf}", cells))
        else:
            if leaf != last and (leaf, _DONE) not in keys:
                totals = [sum(n for key, n in side.items() if key[0] == leaf) for side in counts]
                rows.append((f"  {leaf}", [_or_blank(total) for total in totals]))
            name = status.replace(f"{_DONE}, ", "exit ").removeprefix("TDX_")
            rows.append((f"    {name}", cells))
        last = leaf
    return rows


def _meminfo(sides: Sequence[SideFacts], snapshots: Sequence[Snapshot]) -> Iterator[str]:
    for side, snapshot in zip(sides, snapshots, strict=True):
        if side.pamt == "static":
            continue
        if snapshot.meminfo is not None:
            yield f"  /proc/meminfo, {side.name}:  {snapshot.meminfo.expandtabs()}"
        else:
            yield from _wrapped(
                f"/proc/meminfo, {side.name}: this kernel has no TDX: line; it would say "
                f"{snapshot.tdx_kib} kB"
            )


def _wrapped(text: str) -> list[str]:
    return wrap(
        text, width(), initial_indent="  ", subsequent_indent="    ", break_long_words=False
    )


def _or_blank(number: int) -> str:
    return count(number) if number else ""


def _size(size: int) -> str:
    return amount(size) if size else ""
