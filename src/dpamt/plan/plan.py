"""The plan of a host: its sizes, what its TDs add, where it stops paying, and what to do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dpamt.abi.pages import PAGE_SHIFT
from dpamt.errors import InputError
from dpamt.module.releases import Release, release_named
from dpamt.plan.address_map import Cell, address_map
from dpamt.plan.answer import Answer, answer
from dpamt.plan.break_even import BreakEven, break_even
from dpamt.plan.host_size import HostSize, size_host
from dpamt.plan.mix import TdMix, at_2m, at_4k
from dpamt.plan.mix_size import MixSize, size_mix
from dpamt.plan.ran import Ran, run_mix
from dpamt.plan.vintages import DYNAMIC_VINTAGES
from dpamt.platform.machine import Machine
from dpamt.platform.read_machine import PACKAGED_HOSTS, packaged_host, read_machine
from dpamt.run.story import Watch

DEFAULT_MODULE: Final = "2.0.18"

MAX_RUN_PAGES: Final = 1 << 22
"""4K pages of guests that are run: some minutes."""


DEFAULT_SHARE_2M: Final = 0.9
"""Share of a TD's memory at 2M, of TDs that do not say, with the series that is not merged."""


@dataclass(frozen=True, slots=True)
class HostPlan:
    """Everything about one host.  The three mixes are None without TDs, ``ran`` unless they were
    run.
    """

    host: HostSize
    mix: MixSize | None
    """The TDs as they were asked for."""
    today: MixSize | None
    """All of their memory at 4K, as merged kernels map it."""
    tomorrow: MixSize | None
    """With 2M pages, as a series that is not merged maps it."""
    break_even: BreakEven
    answer: Answer
    ran: Ran | None = None

    @property
    def found(self) -> bool:
        """Whether something is wrong: see :data:`dpamt.plan.answer.EXIT_CODES`."""
        return self.answer.exit_code != 0


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
    share_2m: float = DEFAULT_SHARE_2M,
) -> HostPlan:
    """Size a host and the TDs it is to carry; with ``run``, run them on the model as well.

    ``share_2m`` is what TDs have at 2M with the series that is not merged, where they do not say.
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
        if mix.share_said and mix.share_2m and not size.whole_regions:
            raise InputError(
                f"--td {mix}: 2M pages, and {machine.source} has no 2M region that is memory from "
                "end to end; expected @2M=0%"
            )
    if run and sum(mix.count * mix.memory for mix in mixes) >> PAGE_SHIFT > MAX_RUN_PAGES:
        raise InputError(
            f"--run: {sum(mix.count * mix.memory for mix in mixes) >> 30} GiB of TDs; expected at "
            f"most {MAX_RUN_PAGES << PAGE_SHIFT >> 30} GiB, which takes minutes"
        )
    sized: dict[tuple[TdMix, ...], MixSize] = {}
    ways = (tuple(mixes), at_4k(mixes), at_2m(mixes, share_2m))
    for way in ways if mixes else ():
        if way not in sized:
            # The kernel's memory is used up by what is placed in it.
            sized[way] = size_mix(
                size, way, kernel if not sized else size_host(machine, release)[1]
            )
    point = break_even(size)
    ran = run_mix(machine, mixes, release.name, _holes(size), watch) if run else None
    given, today, tomorrow = (sized.get(way) for way in ways)
    assumed = not any(mix.share_said for mix in mixes)
    told = answer(size, today, tomorrow, assumed)
    return HostPlan(size, given, today, tomorrow, point, told, ran)


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

    return address_map(
        kernel, plan.today.pages if plan.today else None, progress if watch else None
    )


def _holes(host: HostSize) -> str:
    """Where the kernel has to look for holes to come up: as Linux 7.3.4, or as patched."""
    plain, patched = (host.verdict(name).initialises for name in DYNAMIC_VINTAGES)
    return "cmrs" if patched and not plain else "memory-blocks"
