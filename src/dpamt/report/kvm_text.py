"""A run of KVM's TDs as text: what was changed, the phases, the comparison with `dpamt run`."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from dpamt.abi.leaves import leaf_name
from dpamt.abi.status import status_name
from dpamt.boot.kvm.allocations import Allocations
from dpamt.boot.kvm.compare import Compared
from dpamt.boot.kvm.coverage import Coverage
from dpamt.boot.kvm.judge import guests_met
from dpamt.boot.kvm.told import exit_name
from dpamt.boot.outcome import Booted, BootOptions
from dpamt.host.kvm.differences import Difference
from dpamt.report.kvm_sweep_text import sweep_json, sweep_text
from dpamt.report.run_text import paragraph
from dpamt.run.scenario import Scenario

_HEAD: Final = ("phase", "SEAMCALLs", "pairs", "TDs", "guest", "S-EPT", "control")
_NAME_WIDTH: Final = 20


def kvm_text(booted: Booted, compared: Compared | None, not_compared: str) -> str:
    """The sections of the report that only a run with KVM has."""
    lines = [
        *_changes(booted),
        *_lives(booted),
        *_checked(booted),
        *_left(booted),
        *_held(compared, not_compared),
        *coverage_text(booted.coverage),
    ]
    return "\n".join(lines) + "\n"


def kvm_head(scenario: Scenario | None, options: BootOptions) -> str:
    """What of a scenario has no effect here, for the report's first lines."""
    if scenario is None or options.kvm is None:
        return ""
    told = [f"{len(options.kvm.script.tds)} TDs of {scenario.title!r}"]
    told.append("of its [host], only inject has an effect: the machine is QEMU's")
    if any(group.share_2m for group in scenario.tds):
        told.append(
            "KVM maps 4K pages only, so share_2m says what guests ask for, not what they get"
        )
    return "; ".join(told)


def _title(text: str) -> list[str]:
    return [text, "-" * len(text)]


def _changes(booted: Booted) -> Iterator[str]:
    prepared = booted.prepared
    assert prepared is not None
    yield from _title("What dpamt changed in KVM")
    changed = sum(len(change.new) for change in prepared.module_changes)
    yield from paragraph(
        f"{changed} bytes of a copy of kvm-intel.ko; the rest is proven identical, and "
        "irqbypass.ko and kvm.ko are as they were built:",
        "  ",
    )
    for change in prepared.module_changes:
        where = change.where.removeprefix("kvm-intel.ko: ")
        yield f"  {change.offset:#8x} {len(change.new):4} bytes  {where}"
        yield from paragraph(change.why, "      ")
    yield ""


def _phases(booted: Booted) -> Iterator[str]:
    yield from _title("TDs, phase by phase: SEAMCALLs in it; pages and pairs at its end")
    yield "  " + _HEAD[0].ljust(_NAME_WIDTH) + "".join(f"{head:>9}" for head in _HEAD[1:])
    for phase in booted.phases:
        values = (
            sum(phase.seamcalls.values()),
            phase.pairs,
            phase.tds,
            phase.guest_pages,
            phase.sept_pages,
            phase.control_pages,
        )
        numbers = "".join(f"{value:9,}" for value in values)
        yield f"  {phase.name[:_NAME_WIDTH]:{_NAME_WIDTH}}{numbers}"
    yield ""


def _lives(booted: Booted) -> Iterator[str]:
    """The run by its phases; where each phase is a life in which something fails, by those."""
    if booted.sweep is not None:
        return sweep_text(booted.sweep)
    if booted.allocations is not None:
        return _failed_allocations(booted.allocations)
    return _phases(booted)


def _failed_allocations(allocations: Allocations) -> Iterator[str]:
    every = allocations.every
    which = "Each allocation" if every == 1 else f"One of {every} allocations"
    yield from _title(f"{which} of a TD's life failed in turn")
    groups: Counter[tuple[str, str, str]] = Counter()
    for life in allocations.lives:
        what = "; ".join(dict.fromkeys(filter(None, (life.call, *life.reactions))))
        groups[life.where, life.kind, what] += 1
    for (where, kind, what), count in groups.items():
        place = f"in {where} ({kind})" if where else "that the kernel does not report"
        yield from paragraph(f"{count:4} {place}: {what}", "  ")
    yield ""
    lossy = sum(1 for life in allocations.lives if life.tds or life.pages or life.pairs)
    yield from paragraph(
        f"{len(allocations.lives):,} of about {allocations.counted:,} allocations failed, one in "
        f"a life; after {lossy} of them something was not given back."
        + ("  Free memory is not judged: KASAN keeps it." if allocations.keeps_freed else ""),
        "  ",
    )
    yield ""


def _checked(booted: Booted) -> Iterator[str]:
    if booted.checks is None:
        return
    yield from _title("Checks")
    for name, wrong in booted.checks.items():
        yield from paragraph(f"{name}: {'; '.join(wrong) if wrong else 'ok'}", "  ")
    yield ""


def _left(booted: Booted) -> Iterator[str]:
    told = booted.vmm
    if told is None:
        return
    totals: Counter[int] = Counter()
    for (_, reason), count in told.exits.items():
        totals[reason] += count
    if totals:
        exits = ", ".join(f"{count:,} {exit_name(kind)}" for kind, count in sorted(totals.items()))
        yield from paragraph(f"KVM_RUN returned with {exits}.", "")
    by_lives = booted.sweep is not None or booted.allocations is not None
    for trouble in () if by_lives else told.troubles:
        yield from paragraph(f"The VMM: {trouble}.", "")
    for text in guests_met(booted.guests_refused):
        yield from paragraph(f"A guest: {text}.", "")
    if told.passed_over and not by_lives:
        yield from paragraph(
            f"{told.passed_over} commands were skipped, because their TDs did not exist.", ""
        )
    yield ""


def _held(compared: Compared | None, not_compared: str) -> Iterator[str]:
    yield from _title("Compared with dpamt run on the same machine")
    if compared is None:
        yield from paragraph(f"Not compared: {not_compared}.", "  ")
        return
    equal = compared.counts - len(compared.different)
    told = f"{equal} of {compared.counts} counts are equal (design {compared.design})"
    yield from paragraph(f"{told}; these are not:" if compared.different else f"{told}.", "  ")
    reasons: dict[str, list[Difference]] = {}
    for one in compared.different:
        reasons.setdefault(one.because or "NOT EXPLAINED", []).append(one)
    for because, listed in reasons.items():
        yield from paragraph(f"{because}:", "  ")
        for one in listed:
            what = one.what.removesuffix(" TDX_SUCCESS")
            yield from paragraph(
                f"{one.phase}: {what}: {one.model:,} there, {one.kernel:,} here", "    "
            )


def coverage_text(coverage: Coverage | None) -> Iterator[str]:
    """Which functions of KVM's TDX code ran, which did not, and which in part."""
    if coverage is None:
        return
    yield ""
    yield from _title("Which lines of KVM's TDX code ran")
    share = 100 * coverage.ran / max(coverage.lines, 1)
    yield from paragraph(
        f"{coverage.ran:,} of {coverage.lines:,} lines with code in {coverage.source} ({share:.0f} "
        "%).  Lines that did not run, by function:",
        "  ",
    )
    for one in coverage.functions:
        missed = sorted(one.lines - one.ran)
        if missed:
            whole = "not called" if not one.ran else f"{len(missed)} of {len(one.lines)}"
            yield from paragraph(f"{one.name}: {whole}: {_ranges(missed)}", "    ")


def _ranges(numbers: list[int]) -> str:
    """``12, 15-18`` for 12, 15, 16, 17, 18."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(f"{a}-{b}" if a != b else f"{a}" for a, b in parts)


def kvm_json(booted: Booted, compared: Compared | None, not_compared: str) -> dict[str, Any]:
    """The same as plain values."""
    prepared, told = booted.prepared, booted.vmm
    assert prepared is not None
    return {
        "module_changes": [
            {
                "offset": change.offset,
                "where": change.where,
                "why": change.why,
                "old": change.old.hex(),
                "new": change.new.hex(),
            }
            for change in prepared.module_changes
        ],
        "phases": [
            {
                "name": phase.name,
                "seamcalls": [
                    {
                        "leaf": leaf_name(leaf),
                        "status": f"{status:#x}",
                        "status_name": status_name(status),
                        "count": count,
                    }
                    for (leaf, status), count in sorted(phase.seamcalls.items())
                ],
                "pairs": phase.pairs,
                "tds": phase.tds,
                "guest_pages": phase.guest_pages,
                "sept_pages": phase.sept_pages,
                "control_pages": phase.control_pages,
                "freed_pages": phase.freed_pages,
            }
            for phase in booted.phases
        ],
        "exits": [
            {"td": td, "exit": exit_name(reason), "count": count}
            for (td, reason), count in sorted(told.exits.items() if told else ())
        ],
        "vmm_troubles": told.troubles if told else [],
        "guests": guests_met(booted.guests_refused),
        "allocations": _allocations(booted.allocations),
        "sweep": None if booted.sweep is None else sweep_json(booted.sweep),
        "checks": None
        if booted.checks is None
        else [{"name": name, "wrong": wrong} for name, wrong in booted.checks.items()],
        "coverage": _coverage(booted.coverage),
        "not_compared": not_compared or None,
        "counts_compared": None if compared is None else compared.counts,
        "different": None if compared is None else [_row(one) for one in compared.different],
    }


def _allocations(allocations: Allocations | None) -> dict[str, Any] | None:
    if allocations is None:
        return None
    return {
        "every": allocations.every,
        "counted": allocations.counted,
        "all_done": allocations.done,
        "lives": [
            {
                "life": life.number,
                "allocation": life.nth,
                "kind": life.kind,
                "function": life.where,
                "call": life.call,
                "reactions": life.reactions,
                "tds_left": life.tds,
                "pages_left": life.pages,
                "pairs_left": life.pairs,
                "pages_freed": life.freed,
            }
            for life in allocations.lives
        ],
    }


def _coverage(coverage: Coverage | None) -> dict[str, Any] | None:
    if coverage is None:
        return None
    return {
        "source": coverage.source,
        "lines": coverage.lines,
        "ran": coverage.ran,
        "functions": [
            {"name": one.name, "lines": len(one.lines), "missed": sorted(one.lines - one.ran)}
            for one in coverage.functions
        ],
    }


def _row(one: Difference) -> dict[str, Any]:
    return {
        "phase": one.phase,
        "what": one.what,
        "model": one.model,
        "kernel": one.kernel,
        "because": one.because or None,
    }
