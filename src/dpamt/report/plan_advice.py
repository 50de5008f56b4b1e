"""What to do with Dynamic PAMT on a host, and why, in sentences."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from dpamt.abi.pages import MAX_DYNAMIC_PAMT_HKID_START_BIT
from dpamt.plan.advice import Choice
from dpamt.plan.break_even import BreakEven
from dpamt.plan.host_size import PAIR_BYTES, HostSize
from dpamt.plan.mix_size import MixSize
from dpamt.plan.plan import HostPlan
from dpamt.plan.vintages import DYNAMIC_VINTAGES, STATIC_VINTAGES
from dpamt.report.units import amount

_SENTENCES: Final[dict[Choice, str]] = {
    "dynamic": "Use Dynamic PAMT.",
    "static": "Stay with static PAMT: take a kernel or a TDX module without Dynamic PAMT, for "
    "where both have it Linux uses it (there is no switch).",
    "either": "It makes no difference worth a decision.",
    "neither": "No kernel known here initialises TDX on this host.",
}


@dataclass(frozen=True, slots=True)
class Advice:
    """The choice, in one sentence, and the reasons, the weightiest first."""

    choice: Choice
    sentence: str
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    """What stands in the way on this host, whatever is chosen."""


def advice(plan: HostPlan) -> Advice:
    """The plan's choice in words."""
    return Advice(
        plan.choice,
        _SENTENCES[plan.choice],
        tuple(_reasons(plan.host, plan.mix, plan.break_even)),
        tuple(_warnings(plan.host, plan.mix)),
    )


def _reasons(host: HostSize, mix: MixSize | None, point: BreakEven) -> Iterator[str]:
    static, idle = host.static.total, host.dynamic.total
    yield (
        f"idle it takes {amount(idle)} where static PAMT takes {amount(static)}: "
        f"{_times(static, idle)}"
    )
    if mix is not None:
        yield (
            f"with these TDs it takes {amount(mix.dynamic.fresh)} on a fresh host, "
            f"{amount(mix.dynamic.minimum)} at least and {amount(mix.dynamic.worst)} at worst: "
            f"{_saved(static - mix.dynamic.fresh)} to begin with, "
            f"{_saved(static - mix.dynamic.worst)} at worst"
        )
        more = _more_tds(mix)
        if more > 0:
            yield f"the memory it frees is room for {more:,} more TDs of the smallest kind here"
    yield _break_even(point)
    counters = host.dynamic.refcounts
    if counters > host.static.total // 50:
        yield (
            f"its reference counters reach to the highest page frame, {host.max_pfn:#x}, and take "
            f"{amount(counters)}: the map is sparse, and v2 to v5 of the series, which had "
            "counters only where memory is, were not merged"
        )


def _break_even(point: BreakEven) -> str:
    if point.pairs <= 0:
        return "it costs more than static PAMT even with no TD"
    if point.packed is None:
        return (
            f"it never costs more: there are {point.regions:,} regions of 2M, and both modes "
            f"cost the same at {point.pairs:,} pairs"
        )
    scattered = 0.0 if point.scattered is None else point.scattered
    return (
        f"it stops paying when {100 * point.packed:.1f} % of the memory is in 4K-mapped TDs, "
        f"2M region by 2M region; with pages scattered at random, at {100 * scattered:.2g} %"
    )


def _warnings(host: HostSize, mix: MixSize | None) -> Iterator[str]:
    for name in (STATIC_VINTAGES[0], DYNAMIC_VINTAGES[0]):
        verdict = host.verdict(name)
        if not verdict.initialises:
            yield f"{verdict.about}: does not initialise TDX here: {verdict.reason}"
        elif name == DYNAMIC_VINTAGES[0] and verdict.pamt != "dynamic":
            yield f"TDX module {host.module} does not offer Dynamic PAMT"
    if host.keyid_start_bit > MAX_DYNAMIC_PAMT_HKID_START_BIT:
        yield (
            f"KeyIDs begin at address bit {host.keyid_start_bit}, and Dynamic PAMT covers "
            f"{MAX_DYNAMIC_PAMT_HKID_START_BIT} bits"
        )
    if host.recorded_module is not None:
        yield (
            f"the host's log has TDX module {host.recorded_module}; the sizes are those of "
            f"{host.module}: Dynamic PAMT needs a module that reports it (TDX_FEATURES0 bit 36)"
        )
    if mix is None:
        return
    if mix.pages.tds > mix.keyids:
        yield f"{mix.pages.tds:,} TDs, but {mix.keyids:,} guest KeyIDs: not all can live at once"
    for mode, left in (("static", mix.left_static), ("Dynamic", mix.left_dynamic)):
        if left < 0:
            yield f"under {mode} PAMT these TDs lack {amount(-left)} of memory"


def _more_tds(mix: MixSize) -> int:
    """TDs that the memory saved has room for, of the kind that takes least."""
    saved = mix.left_dynamic - mix.left_static
    least = min(
        (part.pages.bytes + part.pages.folio_ranges * PAIR_BYTES) // part.pages.tds
        for part in mix.parts
    )
    return max(saved, 0) // least


def _times(static: int, dynamic: int) -> str:
    if static >= dynamic:
        return f"{static / dynamic:.3g} times less"
    return f"{dynamic / static:.3g} times more"


def _saved(size: int) -> str:
    return f"{amount(abs(size))} {'less' if size >= 0 else 'more'} than static"
