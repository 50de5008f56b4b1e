"""Whether a scenario can fit its host at all, by arithmetic, before hours are spent on trying."""

from dpamt.abi.pages import PAGE_SHIFT, SIZE_2M
from dpamt.errors import InputError
from dpamt.platform.machine import LOW_MEMORY_PFN, Machine
from dpamt.run.check import size_text
from dpamt.run.failures import HostTooSmall
from dpamt.run.scenario import ENDING_STEPS, Scenario, Step, TdGroup


def tdx_bytes(machine: Machine) -> int:
    """RAM from 1 MiB up: all that TDs can ever get."""
    pages = sum(
        max(0, block.end_pfn - max(block.start_pfn, LOW_MEMORY_PFN)) for block in machine.memory
    )
    return pages << PAGE_SHIFT


def check_fits(scenario: Scenario, machine: Machine) -> None:
    """Raise InputError for a TD that is larger than the host, HostTooSmall for too many TDs."""
    limit = tdx_bytes(machine)
    for index, td in enumerate(scenario.tds):
        if td.memory > limit:
            raise InputError(
                f"{scenario.place(f'td[{index}].memory')}: {size_text(td.memory)} is larger than "
                f"the host; expected at most the {limit >> 20} MiB that TDs can get on "
                f"{machine.source}"
            )
    alive: dict[str, list[int]] = {td.name: [] for td in scenario.tds}
    keyids = len(range(*machine.private_keyids)) - 1
    for number, phase in enumerate(scenario.phases):
        for index, step in enumerate(phase.steps):
            for td in scenario.tds:
                if step.td in ("all", td.name):
                    _apply(td, step, alive[td.name])
            where = f"phase[{number}].steps[{index}]"
            asked = sum(sum(memory) for memory in alive.values())
            if asked > limit:
                raise HostTooSmall(
                    f"{scenario.place(where)}: {step.do}: the TDs then use {asked >> 20} MiB; "
                    f"expected at most the {limit >> 20} MiB that TDs can get on {machine.source}"
                )
            tds = sum(len(memory) for memory in alive.values())
            if tds > keyids:
                raise HostTooSmall(
                    f"{scenario.place(where)}: {step.do}: {tds} TDs are alive then; expected at "
                    f"most {keyids}, one for each guest KeyID of {machine.source} (host.keyid_bits)"
                )


def _apply(td: TdGroup, step: Step, alive: list[int]) -> None:
    """Bytes in use by each TD of the group, oldest first, after one step."""
    count = len(alive) if step.count is None else step.count
    if step.do == "build":
        more = td.count - len(alive) if step.count is None else step.count
        alive.extend([td.image] * more)
    elif step.do in ENDING_STEPS:
        del alive[:count]
    elif step.do == "fault":
        share = td.faulted if step.share is None else step.share
        wanted = round(share * (td.memory // SIZE_2M)) * SIZE_2M
        alive[:count] = [max(used, wanted) for used in alive[:count]]
