"""What a boot came to, as wide as the terminal and as one JSON document."""

from collections import Counter
from collections.abc import Iterator
from textwrap import wrap
from typing import Any, Final

from dpamt.abi.leaves import leaf_name
from dpamt.abi.status import TDX_SUCCESS, status_name
from dpamt.boot.compare import Told, differences
from dpamt.boot.outcome import Booted, BootOptions
from dpamt.boot.schedule import Followed, Point, SeenWord
from dpamt.module.view import ModuleView
from dpamt.report.run_text import paragraph
from dpamt.report.width import width

JSON_FORMAT: Final = 1
_SHOWN_FRAMES: Final = 6
_MODULE_LINES: Final = "virt/tdx: "


def boot_text(
    options: BootOptions,
    booted: Booted,
    told: Told | None,
    host: Told | None,
    console: bool,
    head: str = "",
    sections: str = "",
) -> str:
    """The report; ``console``: with all that the kernel printed; ``head`` in its first
    lines, ``sections`` before its end."""
    lines = list(_lines(options, booted, told, host, head, sections))
    if console:
        lines += ["", "Console", "-------", *booted.console]
    return "\n".join(lines) + "\n"


def _lines(
    options: BootOptions,
    booted: Booted,
    told: Told | None,
    host: Told | None,
    head: str,
    sections: str,
) -> Iterator[str]:
    yield from _heading("Kernel")
    what = options.kernel or options.vmlinux
    yield from paragraph(f"{what}", "  ")
    yield (
        f"  {options.cpus} CPUs, {options.memory >> 20:,} MiB, {options.nodes} NUMA "
        f"node{'s' if options.nodes > 1 else ''}; transport {options.transport}"
    )
    yield from paragraph(head, "  ")
    yield from _refcounts(booted)
    yield ""
    yield from _heading("What dpamt changed in the kernel")
    if booted.changes:
        changed = sum(len(change.new) for change in booted.changes)
        yield from paragraph(
            f"{changed} bytes of a copy of vmlinux; the rest is proven identical:", "  "
        )
        for change in booted.changes:
            yield f"  {change.address:#x} {len(change.new):4} bytes  {change.where}"
            yield from paragraph(change.why, "      ")
    else:
        yield "  Nothing is changed; all CPUs stop where a SEAMCALL stands:"
        for place in booted.places:
            yield f"  {place.address:#x}  {place.function}"
            yield from paragraph(place.why, "      ")
    yield ""
    yield from _heading("What the kernel said of TDX")
    said = [line for line in booted.console if line.startswith(_MODULE_LINES)]
    for line in said or ["nothing"]:
        yield from paragraph(line, "  ")
    yield ""
    yield from _heading("SEAMCALLs")
    yield from _counted(booted)
    yield ""
    if told is not None and host is not None:
        yield from _heading("Compared with dpamt's own host on the same memory map")
        yield from _compared(told, host)
        yield ""
    yield from _pamt(booted)
    for text, seen, hits in booted.injected:
        yield from paragraph(f"injected {text}: {hits} of {seen} calls", "")
    for rule, times in zip(options.hold, booted.held, strict=True):
        yield from paragraph(f"held {rule.text}: {times} times", "")
    if booted.core is not None:
        size, calls = booted.core
        yield from paragraph(
            f"core: {size >> 20:,} MiB of the guest's memory, after {calls:,} SEAMCALLs", ""
        )
        yield ""
    if booted.followed is not None:
        where = "at the kernel's own instructions" if booted.followed.by_instruction else "in C"
        yield from _heading(f"The counterexample {where}")
        yield from _replayed(booted.followed)
        yield ""
    if sections:
        yield sections
    yield from _heading("Bottom line")
    yield from _bottom(booted)


def _refcounts(booted: Booted) -> Iterator[str]:
    """What came of the audit of the kernel's own counters, where it has them in use."""
    audit = booted.audit
    if booted.module is None or not booted.module.pamt.dynamic:
        return
    if audit.not_found:
        yield from paragraph(f"refcounts NOT audited: {audit.not_found}", "  ")
    elif audit.name:
        found = f"{audit.wrong} contradictions, see below" if audit.wrong else "clean"
        points = f"{audit.points:,} quiet point{'' if audit.points == 1 else 's'}"
        yield from paragraph(f"refcounts audited at {points}: {found} ({audit.name})", "  ")
    else:
        yield from paragraph(
            "refcounts not audited: this kernel has no Dynamic PAMT of its own", "  "
        )


def _heading(text: str) -> Iterator[str]:
    yield text
    yield "-" * len(text)


def _counted(booted: Booted) -> Iterator[str]:
    total = booted.counts.total()
    if not total and booted.ended == "timeout":
        yield from paragraph("None: the time was over before the first one.", "  ")
        return
    if not total:
        yield from paragraph(
            "None. Such a kernel starts TDX only when KVM asks for it, or it found that it cannot "
            "have TDX; its messages are above.",
            "  ",
        )
        return
    for (leaf, status), count in sorted(booted.counts.items()):
        name = leaf_name(leaf)
        yield f"  {name:28} {count:8,}  {status_name(status) if status else 'done'}"
    yield f"  {'all':28} {total:8,}"


def _compared(told: Told, host: Told) -> Iterator[str]:
    found = differences(told, host)
    if not found:
        yield from paragraph(
            f"{len(told.tdmrs)} TDMR_INFO structures equal byte for byte, with their PAMT areas "
            f"where the kernel's page allocator put them; {told.pamt_kib} KB allocated for PAMT by "
            "both.",
            "  ",
        )
    for line in found:
        yield from paragraph(line, "  ")


def _pamt(booted: Booted) -> Iterator[str]:
    if booted.module is None:
        return
    view = ModuleView(booted.module)
    pairs, tds = view.pairs(), view.tds()
    mode = "Dynamic" if booted.module.pamt.dynamic else "static"
    yield from paragraph(
        f"The module at the end: {mode} PAMT, {len(pairs)} page pairs, {len(tds)} TDs.", ""
    )
    yield ""


def _replayed(followed: Followed) -> Iterator[str]:
    """Each SEAMCALL of the schedule by CPU, and how far the rest of it was followed."""
    yield from paragraph(
        f"{followed.broken}: {followed.text}; {followed.cpus} CPUs, {len(followed.points)} steps, "
        f"design {followed.design}.",
        "  ",
    )
    if followed.by_instruction:
        places = len({point.address for point in followed.points if point.address})
        yield from paragraph(
            f"{places} breakpoints on single vCPUs; each word is read in the guest's memory before "
            "and after its instruction.",
            "  ",
        )
    for point, came, word in zip(followed.points, followed.done, followed.words, strict=False):
        if point.address:
            where = f"{point.at:6}  CPU {point.cpu}  {point.address:x}  {point.site}"
            yield from wrap(where, width(), initial_indent="  ", subsequent_indent=" " * 17)
            yield from paragraph(_seen(point, word, came), " " * 17)
        elif point.leaf >= 0:
            yield f"  {point.at:6}  CPU {point.cpu}  {point.what:24} {came}"[: width()]
    done = len(followed.done)
    where = "on the vCPUs" if followed.by_instruction else "in C"
    if followed.is_same:
        yield from paragraph(f"All {done} steps happened {where} as in the counterexample.", "  ")
    elif followed.departure:
        yield from paragraph(
            f"After {done} steps something else happened: {followed.departure}.", "  "
        )
    else:
        yield from paragraph(f"It ended after {done} of its steps.", "  ")


def _seen(point: Point, word: SeenWord | None, came: int | str | None) -> str:
    """What an instruction did to its word, and whether the counterexample has the same."""
    if word is None:
        return f"{point.word}.{point.what}()" if point.word else ""
    changes = f"{word.before} -> {word.after}" if word.before != word.after else str(word.before)
    expected = [
        str(value)
        for value, now in ((point.expected, came), (point.after, word.after))
        if value is not None and value != now
    ]
    same = f"the counterexample has {' and '.join(expected)}" if expected else "the same"
    return f"{point.word}.{point.what}(): {changes}, {same}"


def _bottom(booted: Booted) -> Iterator[str]:
    if booted.initialized is not None:
        yield from paragraph(
            f"TDX module initialized {booted.initialized:.2f} s after the start; the run took "
            f"{booted.seconds:.2f} s and ended by {booted.ended}.",
            "",
        )
    elif not booted.counts and booted.ended == "timeout":
        yield from paragraph(
            f"The time was over, after {booted.seconds:.2f} s, before the kernel made its first "
            "SEAMCALL: whether it can have TDX is not known.",
            "",
        )
    else:
        yield from paragraph(
            f"TDX module NOT initialized; the run took {booted.seconds:.2f} s and ended by "
            f"{booted.ended}.",
            "",
        )
    for finding in booted.findings:
        yield from paragraph(f"FINDING: {finding}", "")
    for stack in booted.stacks:
        yield from paragraph(stack, "  ")
    if booted.initialized is None and booted.tdmr_infos:
        kept = sum(area.held for area in booted.pamt_kept)
        told = f"{kept:,} of its PAMT pages" if kept else "every PAMT page"
        verb = "did not give back" if kept else "gave back"
        yield from paragraph(f"The kernel {verb} {told} after that.", "")
    times = Counter((one.kind, one.text) for one in booted.complaints)
    for complaint in booted.complaints:
        count = times.pop((complaint.kind, complaint.text), 0)
        if not count:
            continue  # shown with the first of its kind
        often = f" ({count:,} times)" if count > 1 else ""
        yield from paragraph(f"KERNEL SAYS: {complaint.kind}: {complaint.text}{often}", "")
        for frame in complaint.stack[:_SHOWN_FRAMES]:
            yield f"    {frame}"[: width()]
    if booted.module is not None and booted.ended == "reboot":
        alive = len(ModuleView(booted.module).tds())
        if alive:
            yield f"{alive} TD{'s were' if alive > 1 else ' was'} alive when the machine restarted."
    if booted.clean:
        yield "Clean: no finding, no warning of the kernel, module tree right after every SEAMCALL."


def boot_json(
    options: BootOptions, booted: Booted, told: Told | None, host: Told | None
) -> dict[str, Any]:
    """The same as plain values; addresses, registers and statuses are hexadecimal texts."""
    module = booted.module
    return {
        "format": JSON_FORMAT,
        "clean": booted.clean,
        "vmlinux": str(options.vmlinux),
        "transport": options.transport,
        "cpus": options.cpus,
        "memory_bytes": options.memory,
        "nodes": options.nodes,
        "initialized_seconds": booted.initialized,
        "seconds": booted.seconds,
        "ended": booted.ended,
        "changes": [
            {
                "address": f"{change.address:#x}",
                "where": change.where,
                "why": change.why,
                "old": change.old.hex(),
                "new": change.new.hex(),
            }
            for change in booted.changes
        ],
        "seamcalls": [
            {
                "leaf": leaf_name(leaf),
                "status": f"{status:#x}",
                "status_name": status_name(status) if status != TDX_SUCCESS else "TDX_SUCCESS",
                "count": count,
            }
            for (leaf, status), count in sorted(booted.counts.items())
        ],
        "pamt_kib": told and told.pamt_kib,
        "differences_from_host": None if told is None or host is None else differences(told, host),
        "dynamic_pamt": module and module.pamt.dynamic,
        "refcount_audit": {
            "counters": booted.audit.name or None,
            "not_found": booted.audit.not_found or None,
            "quiet_points": booted.audit.points,
            "contradictions": booted.audit.wrong,
        },
        "pairs": None if module is None else len(ModuleView(module).pairs()),
        "tds": None if module is None else len(ModuleView(module).tds()),
        "injected": [
            {"rule": text, "seen": seen, "hits": hits} for text, seen, hits in booted.injected
        ],
        "held": [
            {"rule": rule.text, "times": times}
            for rule, times in zip(options.hold, booted.held, strict=True)
        ],
        "replay": booted.followed
        and {
            "design": booted.followed.design,
            "broken": booted.followed.broken,
            "text": booted.followed.text,
            "same": booted.followed.is_same,
            "departure": booted.followed.departure,
            "steps": [
                _step_json(point, came, word)
                for point, came, word in zip(
                    booted.followed.points,
                    booted.followed.done,
                    booted.followed.words,
                    strict=False,
                )
            ],
        },
        "pamt_pages_kept": [area._asdict() for area in booted.pamt_kept],
        "findings": booted.findings,
        "stacks": booted.stacks,
        "complaints": [
            {"kind": one.kind, "text": one.text, "stack": list(one.stack)}
            for one in booted.complaints
        ],
        "console": booted.console,
        "kvm": None,
    }


def _step_json(point: Point, came: int | str | None, word: SeenWord | None) -> dict[str, Any]:
    """A step of a schedule; null is what is not known of it: most, where it is no instruction."""
    return {
        "cpu": point.cpu,
        "at": point.at,
        "what": point.what,
        "result": came,
        "expected": point.expected,
        "address": f"{point.address:#x}" if point.address else None,
        "site": point.site or None,
        "word": point.word or None,
        "word_address": None if word is None else f"{word.address:#x}",
        "before": None if word is None else word.before,
        "after": None if word is None else word.after,
        "expected_after": point.after,
    }
