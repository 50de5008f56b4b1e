"""A mix run on the model: what `dpamt run` arrives at with the same TDs on the same host."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dpamt.plan.mix import IMAGE_BYTES, TdMix
from dpamt.platform.machine import Machine
from dpamt.run.facts import RunFacts
from dpamt.run.scenario import scenario_from_text
from dpamt.run.story import Watch, run_on

PEAK: Final = "peak"


@dataclass(frozen=True, slots=True)
class Ran:
    """A freshly booted host with all the TDs built and all their memory in use."""

    pairs: int
    dynamic: int
    """Bytes of Dynamic PAMT."""
    static: int
    control: int
    sept: int
    guest_4k: int
    guest_2m: int
    clean: bool
    """Whether every audit was."""


def scenario_text(mixes: Sequence[TdMix], module: str, tdmr_holes: str) -> str:
    """The mix as a scenario of `dpamt run` (its host is whatever is run on)."""
    lines = ['title = "plan"', "[host]", f'module = "{module}"', f'tdmr_holes = "{tdmr_holes}"']
    for number, mix in enumerate(mixes, 1):
        lines += [
            "[[td]]",
            f'name = "td{number}"',
            f"count = {mix.count}",
            f"memory = {mix.memory}",
            f"vcpus = {mix.vcpus}",
            f"share_2m = {mix.share_2m!r}",
            f"image = {IMAGE_BYTES}",
        ]
    lines += ["[[phase]]", f'name = "{PEAK}"']
    lines += ['steps = [{ do = "build" }, { do = "fault" }]' if mixes else "steps = []"]
    return "\n".join(lines) + "\n"


def run_mix(
    machine: Machine,
    mixes: Sequence[TdMix],
    module: str,
    tdmr_holes: str,
    watch: Watch | None = None,
) -> Ran:
    """Run it, with TDMR holes where ``KernelBehaviour`` says.

    Raises what :func:`dpamt.run.story.run` raises.
    """
    scenario = scenario_from_text(scenario_text(mixes, module, tdmr_holes), "--td")
    return ran_of(run_on(scenario, machine, watch))


def ran_of(facts: RunFacts) -> Ran:
    """What the run says at its peak."""
    index = [phase.name for phase in facts.phases].index(PEAK)
    static, dynamic = (
        next(side.snapshots[index] for side in facts.sides if side.pamt == mode)
        for mode in ("static", "dynamic")
    )
    tds = dynamic.tds
    return Ran(
        pairs=dynamic.pairs,
        dynamic=dynamic.pamt.total,
        static=static.pamt.total,
        control=tds.control,
        sept=tds.sept,
        guest_4k=tds.guest_4k,
        guest_2m=tds.guest_2m,
        clean=facts.clean,
    )
