"""What stands behind the answer of a plan, in sentences."""

from collections.abc import Iterator
from dataclasses import dataclass

from dpamt.abi.pages import MAX_DYNAMIC_PAMT_HKID_START_BIT
from dpamt.plan.break_even import BreakEven
from dpamt.plan.plan import HostPlan
from dpamt.plan.vintages import DYNAMIC_VINTAGES, STATIC_VINTAGES
from dpamt.report.units import amount


@dataclass(frozen=True, slots=True)
class Advice:
    """What stands behind the answer: reasons, the weightiest first."""

    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    """What stands in the way on this host, whatever is chosen."""


def advice(plan: HostPlan) -> Advice:
    """The plan's answer, why."""
    return Advice(tuple(_reasons(plan)), tuple(_warnings(plan)))


def _reasons(plan: HostPlan) -> Iterator[str]:
    host, told = plan.host, plan.answer
    static, idle = host.static.total, host.dynamic.total
    yield (
        f"without TDs, Dynamic PAMT takes {amount(idle)} and static PAMT {amount(static)}: "
        f"{_times(static, idle)}"
    )
    for one, mix in ((told.today, plan.today), (told.tomorrow, plan.tomorrow)):
        if mix is None:
            continue
        share = mix.parts[0].mix.share_2m
        assumed = f", {100 * share:g} % of it at 2M assumed" if one.share_assumed else ""
        yield (
            f"{one.name}, {one.about}{assumed}: {amount(mix.dynamic.fresh)} on a fresh host, "
            f"{amount(mix.dynamic.minimum)} at least, {amount(mix.dynamic.scattered)} with pages "
            f"scattered at random, {amount(mix.dynamic.worst)} at worst"
        )
    yield _break_even(plan.break_even)
    counters = host.dynamic.refcounts
    if counters > host.static.total // 50:
        yield (
            f"the reference counters reach to the highest page frame, {host.max_pfn:#x}, and take "
            f"{amount(counters)}: the map is sparse, and v2 to v5 of the series, which had "
            "counters only where memory is, were not merged"
        )


def _break_even(point: BreakEven) -> str:
    if point.pairs <= 0:
        return "Dynamic PAMT costs more than static PAMT even with no TD"
    if point.packed is None:
        return (
            f"Dynamic PAMT never costs more: there are {point.regions:,} regions of 2M, and both "
            f"modes cost the same at {point.pairs:,} pairs"
        )
    scattered = 0.0 if point.scattered is None else point.scattered
    return (
        f"both modes cost the same when TDs mapped at 4K have {100 * point.packed:.1f} % of the "
        f"memory, in whole 2M regions; with {100 * scattered:.2g} %, if their pages are scattered "
        "at random"
    )


def _warnings(plan: HostPlan) -> Iterator[str]:
    host, mix = plan.host, plan.today
    for name in (STATIC_VINTAGES[0], DYNAMIC_VINTAGES[0]):
        verdict = host.verdict(name)
        if not verdict.initialises:
            yield f"{verdict.about}: does not initialise TDX here: {verdict.reason}"
    if host.keyid_start_bit > MAX_DYNAMIC_PAMT_HKID_START_BIT:
        yield (
            f"KeyIDs begin at address bit {host.keyid_start_bit}, and Dynamic PAMT covers "
            f"{MAX_DYNAMIC_PAMT_HKID_START_BIT} bits"
        )
    doubt = host.log.doubt if host.log else None
    if doubt is not None:
        yield f"{doubt.cause.why}: {doubt.cause.next_step}"
    version = host.log.module_version if host.log else None
    if version is not None and version != host.module:
        offers = {
            True: "which offers Dynamic PAMT",
            False: "which has no Dynamic PAMT (TDX_FEATURES0 bit 36)",
            None: "and only a module that reports it (TDX_FEATURES0 bit 36) has Dynamic PAMT",
        }[plan.answer.module_offers]
        yield (
            f"the host's log has TDX module {version}, {offers}; the sizes are those of "
            f"{host.module}"
        )
    if host.recorded_is == "neither":
        yield (
            f"the host's log has {host.recorded_pamt_kib} KB for PAMT, which is neither mode's "
            "size here: module, kernel or memory map differ from what is assumed"
        )
    if mix is None:
        return
    if mix.pages.tds > mix.keyids:
        yield f"{mix.pages.tds:,} TDs, but {mix.keyids:,} guest KeyIDs: not all can live at once"
    for mode, left in (("static", mix.left_static), ("Dynamic", mix.left_dynamic)):
        if left < 0:
            yield f"today, under {mode} PAMT these TDs lack {amount(-left)} of memory"


def _times(static: int, dynamic: int) -> str:
    if static >= dynamic:
        return f"{static / dynamic:.3g} times less"
    return f"{dynamic / static:.3g} times more"
