"""The plan of a host: its sizes, what its TDs add, where it stops paying, and what to do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dpamt.abi.pages import PAGE_SHIFT
from dpamt.errors import InputError
from dpamt.module.releases import Release, release_named
from dpamt.plan.address_map import Cell, address_map
from dpamt.plan.advice import Choice, choose
from dpamt.plan.break_even import BreakEven, break_even
from dpamt.plan.host_size import HostSize, size_host
from dpamt.plan.mix import TdMix
from dpamt.plan.mix_size import MixSize, size_mix
from dpamt.plan.ran import Ran, run_mix
from dpamt.plan.vintages import DYNAMIC_VINTAGES
from dpamt.platform.machine import Machine
from dpamt.platform.read_machine import PACKAGED_HOSTS, packaged_host, read_machine
from dpamt.run.story import Watch

DEFAULT_MODULE: Final = "2.0.18"

MAX_RUN_PAGES: Final = 1 << 22
"""4K pages of guests that are run: some minutes."""


@dataclass(frozen=True, slots=True)
class HostPlan:
    """Everything about one host; ``mix`` is None without TDs, ``ran`` unless they were run."""

    host: HostSize
    mix: MixSize | None
    break_even: BreakEven
    choice: Choice
    ran: Ran | None = None

    @property
    def found(self) -> bool:
        """Whether something is wrong with the host: no kernel comes up, or the TDs do not fit."""
        return self.choice == "neither" or (self.mix is not None and not self.mix.fits)


def machine_named(argument: str) -> Machine:
    """The machine of a HOST argument: a packaged host's name, a file or a size.

    Raises InputError for anything else.
    """
    return packaged_host(argument) if argument in PACKAGED_HOSTS else read_machine(argument)


def plan_host(
    host: str | Machine,
    mixes: Sequence[TdMix] = (),
    module: str | Release = DEFAULT_MODULE,
    run: bool = False,
    watch: Watch | None = None,
) -> HostPlan:
    """Size a host and the TDs it is to carry; with ``run``, run them on the model as well.

    Raises InputError for a host or a TD that cannot be, and what :func:`run_mix` raises.
    """
    machine = machine_named(host) if isinstance(host, str) else host
    release = release_named(module) if isinstance(module, str) else module
    size, kernel = size_host(machine, release)
    most_vcpus = kernel.sysinfo.max_vcpus_per_td if kernel.sysinfo else 0
    for mix in mixes:
        if mix.memory > size.tdx_bytes:
            raise InputError(
                f"--td {mix}: a TD larger than {machine.source}; expected at most the "
                f"{size.tdx_bytes >> 20} MiB that TDs can get there"
            )
        if mix.vcpus > most_vcpus:
            raise InputError(
                f"--td {mix}: {mix.vcpus} VCPUs; expected at most the {most_vcpus} "
                f"that TDX module {release.name} gives a TD"
            )
    if run and sum(mix.count * mix.memory for mix in mixes) >> PAGE_SHIFT > MAX_RUN_PAGES:
        raise InputError(
            f"--run: {sum(mix.count * mix.memory for mix in mixes) >> 30} GiB of TDs; expected at "
            f"most {MAX_RUN_PAGES << PAGE_SHIFT >> 30} GiB, which takes minutes"
        )
    sized = size_mix(size, mixes, kernel) if mixes else None
    point = break_even(size)
    ran = run_mix(machine, mixes, release.name, _holes(size), watch) if run else None
    return HostPlan(size, sized, point, choose(size, sized), ran)


def map_host(
    host: str | Machine,
    plan: HostPlan,
    module: str | Release = DEFAULT_MODULE,
    watch: Watch | None = None,
) -> tuple[Cell, ...]:
    """The host's memory by 2M region with the plan's TDs on it, as on a fresh host."""
    machine = machine_named(host) if isinstance(host, str) else host
    release = release_named(module) if isinstance(module, str) else module
    kernel = size_host(machine, release)[1]

    def progress(what: str, done: int, total: int) -> None:
        if watch is not None:
            watch(machine.source, "dynamic", what, done, total)

    return address_map(kernel, plan.mix.pages if plan.mix else None, progress if watch else None)


def _holes(host: HostSize) -> str:
    """Where the kernel has to look for holes to come up: as Linux 7.3.4, or as patched."""
    plain, patched = (host.verdict(name).initialises for name in DYNAMIC_VINTAGES)
    return "cmrs" if patched and not plain else "memory-blocks"
