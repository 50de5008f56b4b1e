"""The first screen of a plan in words: headline, what to do, today beside tomorrow, what limits.

Everything here is said from one :class:`dpamt.plan.answer.Answer`, so that no two lines disagree.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from dpamt.plan.answer import Answer, Kind, Outlook
from dpamt.plan.host_size import HostSize
from dpamt.plan.mix_size import MixSize
from dpamt.plan.plan import HostPlan
from dpamt.plan.vintages import DYNAMIC_VINTAGES, STATIC_VINTAGES
from dpamt.platform.tdx_log import HostLog
from dpamt.report.units import amount, percent, some

PATCH: Final = (
    "the patch of 2024 that looks for holes between CMRs (\"x86/virt/tdx: Reduce TDMR's reserved "
    'areas by using CMRs to find memory holes")'
)

NOT_UP: Final[frozenset[Kind]] = frozenset(
    {"failed-in-its-log", "does-not-come-up", "needs-a-patch"}
)
"""Answers to hosts on which TDX is not up: sizes are for when it is."""

MODULES: Final = "1.5.25, 2.0.08 or later"


@dataclass(frozen=True, slots=True)
class Headline:
    """``sentence`` is the answer, ``todo`` what to do about it, each without its full stop."""

    sentence: str
    todo: str


def headline(plan: HostPlan) -> Headline:
    """The answer in words."""
    return Headline(_sentence(plan), _todo(plan))


def _sentence(plan: HostPlan) -> str:
    told, host = plan.answer, plan.host
    now = told.today
    if told.kind == "failed-in-its-log":
        assert told.failure is not None
        return (
            f"TDX did not come up on this host: {told.failure.cause.why} "
            f"(line {told.failure.line} of its log)"
        )
    if told.kind == "does-not-come-up":
        return f"TDX does not come up on this host: {host.verdict(DYNAMIC_VINTAGES[0]).reason}"
    if told.kind == "needs-a-patch":
        return (
            "TDX does not come up here on Linux 7.3.4 or the merged kernel: "
            f"{host.verdict(DYNAMIC_VINTAGES[0]).reason}"
        )
    up = up_sentence(host)
    if told.kind == "does-not-fit":
        return f"{up}, but these TDs do not fit: {', and '.join(_lacks(plan))}"
    if told.kind == "no-dynamic-pamt":
        return (
            f"{up}; {_its_module(host)} has no Dynamic PAMT, so that PAMT is static and takes "
            f"{amount(host.static.total)} ({percent(host.static.total, host.memory_bytes)} of RAM)"
        )
    if not plan.mix and told.kind == "saves":
        return (
            f"{up}; while no TD runs, Dynamic PAMT saves {amount(now.saved)}, "
            f"{_of_ram(now.saved, host)}; each 2M of TD memory at 4K takes 8 KiB of it back"
        )
    what = "with these TDs" if plan.mix else "without TDs"
    ram = _of_ram(now.saved, host)
    if told.kind == "marginal":
        if not now.saved:
            return f"{up}; today Dynamic PAMT makes no difference {what}"
        verb = "saves" if now.saved > 0 else "costs"
        size = amount(abs(now.saved))
        return f"{up}; today Dynamic PAMT {verb} next to nothing {what}: {size}, {ram}"
    if told.kind == "costs":
        return f"{up}; today Dynamic PAMT costs {amount(-now.saved)} {what}, {ram}"
    return f"{up}; today Dynamic PAMT saves {amount(now.saved)} {what}, {ram}"


def up_sentence(host: HostSize) -> str:
    """Whether TDX comes up, as the beginning of a sentence."""
    if host.log is not None and host.log.came_up:
        return "TDX came up on this host, by its own log"
    unsure = host.log is not None and bool(host.log.failures)
    if unsure:
        return "TDX should come up here, though the log does not show that it did"
    if host.log is not None and host.log.says_nothing:
        return "TDX can come up here, by the memory map; the log does not say that it did"
    if not host.verdict(DYNAMIC_VINTAGES[0]).initialises:
        return "TDX comes up here on kernels with static PAMT"
    if not host.verdict(STATIC_VINTAGES[0]).initialises:
        return "TDX comes up here on the merged kernel, not on Linux 7.3.4"
    return "TDX comes up here"


def _its_module(host: HostSize) -> str:
    version = host.log.module_version if host.log else None
    return f"its TDX module {version}" if version else f"TDX module {host.module}"


def log_sentence(log: HostLog) -> str:
    """The beginning of the answer to a log that says why TDX is not up."""
    if log.why is not None:
        return "TDX did not come up on this host"
    return "The log does not show that TDX came up on this host"


def _lacks(plan: HostPlan) -> Iterator[str]:
    mix = plan.today
    assert mix is not None
    for what in mix.short_of:
        if what == "KeyIDs":
            yield f"{some(mix.pages.tds, 'TD')} on {some(mix.keyids, 'guest KeyID')}"
        elif what == "memory":
            lack = -max(mix.left_static, mix.left_dynamic)
            yield f"they lack {amount(lack)} of memory in either mode"
        elif what == "whole 2M regions":
            yield "there are too few whole 2M regions"


def _todo(plan: HostPlan) -> str:
    told = plan.answer
    if told.kind == "failed-in-its-log":
        assert told.failure is not None
        return _first_upper(told.failure.cause.next_step)
    if told.kind == "does-not-fit":
        return _make_fit(plan)
    if told.kind == "marginal":
        return _marginal(told)
    if told.kind == "saves":
        return _use_it(plan)
    return TODO[told.kind]


TODO: Final[dict[Kind, str]] = {
    "does-not-come-up": "Take the lines below to the maker of the firmware; no kernel known here "
    "copes with this memory map",
    "needs-a-patch": f"Take a kernel with {PATCH}",
    "no-dynamic-pamt": f"Nothing; to save memory, update the TDX module to {MODULES}, and Linux to "
    "the kernel that has Dynamic PAMT merged",
    "costs": "Stay on a kernel or a TDX module without Dynamic PAMT: where both have it, Linux "
    "uses it; there is no switch",
}


def _make_fit(plan: HostPlan) -> str:
    mix = plan.today
    assert mix is not None
    keys = "raise the TME-MT/TDX key split in the BIOS"
    if "memory" not in mix.short_of:
        return f"Run at most {some(mix.keyids, 'TD')} at once, or {keys}"
    most = min(mix.most_dynamic, mix.most_static, mix.keyids)
    if len(mix.parts) > 1:
        text = "Run fewer or smaller TDs, or add memory"
    elif most:
        text = f"Run at most {most:,} of these TDs, smaller ones, or add memory"
    else:
        text = "Take smaller TDs, or add memory"
    if "KeyIDs" in mix.short_of:
        text += f"; for more than {some(mix.keyids, 'TD')} at once also {keys}"
    return text


def _marginal(told: Answer) -> str:
    if told.tomorrow.saved_of_ram > 3 * abs(told.today.saved_of_ram):
        return (
            "Marginal: do not change a kernel for it today; with 2M guest memory (a series not "
            f"merged) it saves {amount(told.tomorrow.saved)}"
        )
    return "Marginal: memory is no reason to choose a kernel here"


def use_it(plan: HostPlan) -> str:
    """The advice to a host that wins."""
    if _is_on(plan):
        return f"Nothing; {_ON}"
    return f"Use Dynamic PAMT{_with_module(plan)}"


_ON: Final = "this host has Dynamic PAMT on, by its own log"


def _is_on(plan: HostPlan) -> bool:
    """Whether the host's own log shows Dynamic PAMT at work."""
    log = plan.host.log
    return log is not None and log.dynamic_pamt and log.came_up is True


def _with_module(plan: HostPlan) -> str:
    if plan.answer.module_offers is not None:
        return ""
    version = plan.host.log.module_version if plan.host.log is not None else None
    doubt = f'; "{version}" in the log does not say which it has' if version else ""
    return f", with a TDX module that offers it ({MODULES}{doubt})"


def _use_it(plan: HostPlan) -> str:
    told, text = plan.answer, use_it(plan)
    if plan.mix is None:
        few = _ON if _is_on(plan) else f"for few TDs use Dynamic PAMT{_with_module(plan)}"
        text = f"Say which TDs the host will run (--td): they decide; {few}"
    if told.today.saved_worst < 0:
        text += (
            "; watch it on hosts with TDs that come and go: at worst it costs "
            f"{amount(-told.today.saved_worst)}"
        )
    return text


def sizes_of(plan: HostPlan) -> str:
    """What the sizes of a host are those of, where they are not its own; else empty."""
    told = plan.answer
    if told.kind == "no-dynamic-pamt":
        return "Sizes for when it has Dynamic PAMT:"
    if told.kind not in NOT_UP:
        return ""
    if is_for_ever(plan):
        return "Sizes of another machine, with TDX and with this memory map:"
    return "Sizes for when it comes up:"


def is_for_ever(plan: HostPlan) -> bool:
    """Whether nothing makes TDX come up on this machine."""
    told = plan.answer
    if told.kind != "failed-in-its-log" or told.failure is None:
        return False
    return told.failure.cause.for_ever


def _of_ram(size: int, host: HostSize) -> str:
    return f"{percent(abs(size), host.memory_bytes)} of RAM"


def signed(size: int) -> str:
    """Bytes with a minus where they are below 0."""
    return amount(size) if size >= 0 else f"-{amount(-size)}"


def saving(size: int, whole: int) -> str:
    """A saving and its share of ``whole``, both with their sign."""
    return f"{signed(size)} ({'-' if size < 0 else ''}{percent(abs(size), whole)})"


def outlook_rows(plan: HostPlan) -> list[tuple[str, str, str, str]]:
    """Label, static, today, tomorrow: the table of the first screen."""
    host, told = plan.host, plan.answer
    static = host.static.total
    both = (told.today, told.tomorrow)

    def row(label: str, of_static: str, cells: tuple[str, str]) -> tuple[str, str, str, str]:
        return label, of_static, *cells

    def of(cell: "list[str]") -> tuple[str, str]:
        return cell[0], cell[1]

    rows = [
        row("PAMT", amount(static), of([amount(one.dynamic) for one in both])),
        row("Dynamic PAMT saves", "", of([saving(one.saved, static) for one in both])),
        row("  of RAM", "", of([_share(one, host) for one in both])),
    ]
    if plan.mix is not None:
        rows.append(row("  at worst", "", of([saving(one.saved_worst, static) for one in both])))
        rows.append(row("  more TDs fit", "", of([f"{one.more_tds:+,}" for one in both])))
        fits = [_fits(mix) for mix in (plan.today, plan.tomorrow)]
        for at, label in enumerate(("TDs fit", *["  also short of"] * (max(map(len, fits)) - 1))):
            rows.append(row(label, "", of([part[at] if at < len(part) else "" for part in fits])))
    return rows


def _share(one: Outlook, host: HostSize) -> str:
    return ("-" if one.saved < 0 else "") + percent(abs(one.saved), host.memory_bytes)


def _fits(mix: MixSize | None) -> list[str]:
    """Whether, and the first of what is lacking; then the others: a cell of the table for each."""
    if mix is None:
        return ["-"]
    if mix.fits:
        return [_FITS_IN.get(mix.short_of[0], "yes") if mix.short_of else "yes"]
    first, *others = (_LACKS.get(what, what) for what in mix.short_of)
    return [f"no: {first}", *others]


_FITS_IN: Final = {
    "memory under static PAMT": "Dynamic only",
    "memory under Dynamic PAMT": "static only",
}
"""Where one of the two modes alone has the memory."""
_LACKS: Final = {
    "memory under static PAMT": "memory, if static",
    "memory under Dynamic PAMT": "memory, if Dynamic",
    "whole 2M regions": "2M regions",
}
"""What a host is short of, in few letters."""


def columns(plan: HostPlan) -> tuple[str, str, str]:
    """Heads of the three columns."""
    assumed = plan.answer.tomorrow.share_assumed and plan.tomorrow is not None
    share = plan.tomorrow.parts[0].mix.share_2m if plan.tomorrow else 0.0
    tomorrow = f"{100 * share:g}% 2M (assumed)" if assumed else "2M (not merged)"
    return "static", "today: 4K", tomorrow


def by_the_map(plan: HostPlan) -> str:
    """What has to be said before what the memory map allows, where the host's own log says that
    TDX did not come up; else empty.
    """
    if plan.answer.kind != "failed-in-its-log":
        return ""
    return (
        "The host's own log says that TDX did not come up.  This is what the memory map in the log "
        "would allow; it does not show what failed."
    )


def limit_line(plan: HostPlan) -> str:
    """What ends first."""
    told, host, mix = plan.answer, plan.host, plan.today
    if told.kind in NOT_UP:
        if told.limit != "reserved areas":
            return ""
        verdict = host.verdict(DYNAMIC_VINTAGES[0])
        return (
            f"What limits first: reserved areas; {verdict.reserved_used} are needed, and the "
            f"module takes {verdict.reserved_max}"
        )
    known = host.log is not None and host.log.private_keyids is not None
    assumed = "" if known else " (assumed)"
    keyids = some(host.guest_keyids, "guest KeyID")
    if mix is None:
        return (
            f"What limits first: {keyids}{assumed}, one for each TD; --td says whether memory does"
        )
    most = mix.most_dynamic
    if told.limit == "KeyIDs":
        return (
            f"What limits first: KeyIDs, {some(mix.keyids, 'TD')} at once{assumed}; memory would "
            f"hold {most:,} today"
        )
    holds = (
        f"memory, {some(most, 'TD')} today" if most else "memory, too little for these TDs today"
    )
    there = "there is" if host.guest_keyids == 1 else "there are"
    return f"What limits first: {holds}; {there} {keyids}{assumed}"


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]
