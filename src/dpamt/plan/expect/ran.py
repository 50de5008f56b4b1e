"""A case run on the model: the host's own code builds the TDs, uses their memory, closes them."""

from collections.abc import Callable
from dataclasses import dataclass

from dpamt.errors import Finding
from dpamt.host.kvm.legacy import LegacyVm, legacy_vcpu_fault, legacy_vm_destroy
from dpamt.plan.expect.cases import IDLE, LAUNCHED, Case
from dpamt.plan.mix import IMAGE_BYTES, TdMix
from dpamt.platform.machine import Machine
from dpamt.run.facts import TdFacts
from dpamt.run.scenario import Side, TdGroup, scenario_from_text
from dpamt.run.td import StepFailed, Td
from dpamt.run.world import World

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class RanPoint:
    """What the model has at a checkpoint of one repetition (from 1)."""

    repetition: int
    checkpoint: str
    tds: TdFacts
    pairs: int
    findings: tuple[str, ...]


def run_case(
    case: Case,
    machine: Machine,
    *,
    design: str = "merged",
    module: str = "2.0.18",
    share: float = 1.0,
    repeat: int | None = None,
    progress: Progress | None = None,
) -> list[RanPoint]:
    """Run it, ``share`` of each TD's memory in use; ``repeat`` in the place of the case's own.

    Raises InputError and Finding as `dpamt run` does for a host that is too small.
    """
    text = f'title = "case {case.name}"\n[host]\nmachine = "x"\nmodule = "{module}"\n'
    scenario = scenario_from_text(text, f"case {case.name}")
    world = World(scenario, Side("dynamic", "auto", design), machine)
    world.boot()
    world.snapshot()
    points = []
    for repetition in range(1, (case.repeat if repeat is None else repeat) + 1):
        vms: list[Td | LegacyVm] = []
        for point in case.checkpoints():
            if point.name == LAUNCHED:
                for index, mix in enumerate(case.tds):
                    vms.append(_launched(world, mix, len(case.tds) * repetition + index, share))
                    if progress is not None:
                        progress(f"{repetition}: launched", index + 1, len(case.tds))
            elif point.name != IDLE:
                _close(vms[len(case.tds) - len(point.alive) - 1])
            world.tds_alive = sum(case.tds[index] is not None for index in point.alive)
            seen = world.snapshot()
            points.append(RanPoint(repetition, point.name, seen.tds, seen.pairs, seen.findings))
    return points


def _launched(world: World, mix: TdMix | None, number: int, share: float) -> Td | LegacyVm:
    if mix is None:
        legacy = LegacyVm(world.kernel, 1)
        if legacy_vcpu_fault(legacy, 0):
            raise Finding("a VM that is not a TD: its page pool could not be filled")
        return legacy
    group = TdGroup("vm", 1, mix.memory, mix.vcpus, mix.share_2m, share, IMAGE_BYTES)
    td = Td(world, group, number, str(number))
    try:
        td.build()
        if share:
            td.fault(share, _no_tick)
    except StepFailed as failed:
        raise Finding(f"a TD of {mix}: {failed.what} failed ({failed.error})") from None
    return td


def _close(vm: Td | LegacyVm) -> None:
    if isinstance(vm, Td):
        vm.destroy()
    else:
        legacy_vm_destroy(vm)


def _no_tick(_ranges: int) -> None:
    """Progress goes by TDs here."""
