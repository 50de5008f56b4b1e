"""The ranges of a case: pages of its TDs and page pairs at each checkpoint.

Bounds of the pairs at a checkpoint:

- least: the least pages of the TDs alive, as densely packed as can be;
- most: the most pages, each single page in a 2M region of its own, as long as the host has regions.

A correct kernel shows a number in that range, whatever its page allocator and the guests did.  With
no TD alive both are 0.  ``fresh`` is what a host shows that has just booted when all the memory of
the TDs is in use; it exists at the first ``launched`` only, and only where a host is given.
"""

from dataclasses import dataclass
from typing import Final

from dpamt.abi.pages import PAGES_PER_2M
from dpamt.errors import InputError
from dpamt.host.core.kernel import Kernel, KernelBehaviour
from dpamt.host.core.metadata import TdxSysInfo
from dpamt.host.designs.base import Design
from dpamt.host.designs.load import load_design
from dpamt.module.releases import Release, release_named
from dpamt.plan.boot import boot
from dpamt.plan.expect.cases import LAUNCHED, Case, Checkpoint
from dpamt.plan.expect.layout import LAYOUTS, Layout
from dpamt.plan.expect.td_range import InUse, td_range, whole_memory_bytes
from dpamt.plan.fresh import fresh_pairs
from dpamt.plan.host_size import HostSize, size_host
from dpamt.plan.mix import TdMix
from dpamt.plan.td_size import TdPages, all_pages, pairs_of
from dpamt.platform.machine import Machine
from dpamt.platform.size import machine_from_size

NO_PAGES: Final = TdPages(0, 0, 0, 0, 0, 0, 0)
ANY_USE: Final = InUse(0.0, 1.0)
"""Nobody knows what a guest has touched."""
_PROBE_HOST: Final = "4GiB"
"""A host to ask the module on, where the user gives none."""


@dataclass(frozen=True, slots=True)
class Expected:
    """A checkpoint and its bounds; pairs are counts, a pair is 8 KiB."""

    checkpoint: Checkpoint
    pages_least: TdPages
    pages_most: TdPages
    pairs_least: int
    pairs_most: int
    fresh: int | None


@dataclass(frozen=True, slots=True)
class Expectation:
    """A whole case, and what was taken for granted."""

    case: Case
    checkpoints: tuple[Expected, ...]
    """Of one repetition."""
    design: str
    module: str
    layout: Layout
    in_use: InUse
    host: HostSize | None
    static: bool
    """The kernel never asks for Dynamic PAMT: no page pairs at all."""


def expect(
    case: Case,
    *,
    host: Machine | None = None,
    design: str = "merged",
    module: str = "2.0.18",
    layout: str = "contiguous",
    in_use: InUse = ANY_USE,
) -> Expectation:
    """The ranges of a case.

    Raises InputError for an unknown design, module or layout, a module without Dynamic PAMT, and
    TDs that the host or the module cannot carry.
    """
    kernel_design, release = load_design(design), release_named(module)
    if not release.knows_dynamic_pamt:
        raise InputError(f"--module {module}: has no Dynamic PAMT; expected a release that does")
    where = LAYOUTS.get(layout)
    if where is None:
        raise InputError(f"--layout {layout}: expected one of {', '.join(LAYOUTS)}")
    size, kernel = (None, None) if host is None else size_host(host, release)
    sysinfo = kernel.sysinfo if kernel is not None else _sysinfo(release)
    assert sysinfo is not None
    _check_fits(case, sysinfo, size, where, in_use)
    found = []
    for point in case.checkpoints():
        ranges = [
            td_range(mix, sysinfo, kernel_design, where, in_use) for mix in _alive(case, point)
        ]
        least = all_pages([NO_PAGES, *(one.least for one in ranges)])
        most = all_pages([NO_PAGES, *(one.most for one in ranges)])
        lowest, highest, fresh = 0, 0, None
        if kernel_design.dynamic_pamt:
            lowest = least.folio_ranges + -(-least.single // PAGES_PER_2M)
            highest = _highest(most, size)
            if kernel is not None and size is not None and point.name == LAUNCHED:
                fresh = _fresh(kernel, size, most, in_use)
        found.append(Expected(point, least, most, lowest, highest, fresh))
    return Expectation(
        case=case,
        checkpoints=tuple(found),
        design=kernel_design.name,
        module=release.name,
        layout=where,
        in_use=in_use,
        host=size,
        static=not kernel_design.dynamic_pamt,
    )


def _alive(case: Case, point: Checkpoint) -> list[TdMix]:
    return [mix for mix in (case.tds[index] for index in point.alive) if mix is not None]


def _fresh(kernel: Kernel, size: HostSize, pages: TdPages, in_use: InUse) -> int | None:
    """Pairs of these pages on the host as it is after boot; uses the kernel's memory up."""
    if in_use.most < 1:
        return None
    return pairs_of(pages, size.capacities, fresh_pairs(kernel.allocator, pages)).fresh


def _highest(pages: TdPages, size: HostSize | None) -> int:
    """Each single page in a region of its own, as far as the host has regions."""
    if size is None:
        return pages.folio_ranges + pages.single
    return pairs_of(pages, size.capacities, 0).worst


def _sysinfo(release: Release) -> TdxSysInfo:
    """What the module says of itself, asked on a small host."""
    machine = machine_from_size(_PROBE_HOST)
    design: Design = load_design("merged")
    sysinfo = boot(machine, design, KernelBehaviour(), release).kernel.sysinfo
    assert sysinfo is not None
    return sysinfo


def _check_fits(
    case: Case, sysinfo: TdxSysInfo, size: HostSize | None, layout: Layout, in_use: InUse
) -> None:
    tds = [mix for mix in case.tds if mix is not None]
    for mix in tds:
        if mix.vcpus > sysinfo.max_vcpus_per_td:
            raise InputError(
                f"--td {mix}: {mix.vcpus} VCPUs; expected at most the {sysinfo.max_vcpus_per_td} "
                "that this TDX module gives a TD"
            )
    if size is None:
        return
    asked = int(sum(whole_memory_bytes(mix, layout) for mix in tds) * in_use.least)
    if asked > size.tdx_bytes:
        raise InputError(
            f"case {case.name}: its TDs use at least {asked >> 20} MiB at once; expected at most "
            f"the {size.tdx_bytes >> 20} MiB that TDs can get on {size.source}"
        )
    if len(tds) > size.guest_keyids:
        raise InputError(
            f"case {case.name}: {len(tds)} TDs at once; expected at most {size.guest_keyids}, one "
            f"for each guest KeyID of {size.source}"
        )
