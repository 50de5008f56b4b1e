"""Kernels of different age on one machine: does Linux initialise the TDX module there?"""

from dataclasses import dataclass
from typing import Final

from dpamt.abi.tdmr import MAX_RESERVED_PER_TDMR
from dpamt.host.core.kernel import LOG_PREFIX, KernelBehaviour
from dpamt.host.designs.load import load_design
from dpamt.module.releases import Release
from dpamt.plan.boot import Booted, ReservedAreas, boot, reserved_areas_needed
from dpamt.platform.machine import Machine


@dataclass(frozen=True, slots=True)
class Vintage:
    """A kernel: what it is called, its design and what else it does."""

    name: str
    about: str
    design: str
    behaviour: KernelBehaviour


_CMR_HOLES: Final = KernelBehaviour(tdmr_holes="cmrs")
_V6: Final = KernelBehaviour(dynamic_pamt_check="feature-bit-and-pa-width")

STATIC_VINTAGES: Final = ("linux-7.3.4", "linux-7.3.4+cmr-holes")
DYNAMIC_VINTAGES: Final = ("merged", "merged+cmr-holes")
"""Those that sizes are taken from: the first of each that gets so far."""

VINTAGES: Final = (
    Vintage(STATIC_VINTAGES[0], "Linux 7.3.4", "static", KernelBehaviour()),
    Vintage(
        STATIC_VINTAGES[1],
        "the same, holes of TDMRs between CMRs (patch of 2024)",
        "static",
        _CMR_HOLES,
    ),
    Vintage("v2", "Dynamic PAMT, series of June 2025", "v2", KernelBehaviour()),
    Vintage("v6", "Dynamic PAMT, series of May 2026", "v6", _V6),
    Vintage(
        DYNAMIC_VINTAGES[0], "Dynamic PAMT, merged in September 2026", "merged", KernelBehaviour()
    ),
    Vintage(
        DYNAMIC_VINTAGES[1],
        "the same, holes of TDMRs between CMRs (patch of 2024)",
        "merged",
        _CMR_HOLES,
    ),
)
"""Sources: :class:`KernelBehaviour`, and the design files."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a vintage on the machine."""

    vintage: str
    about: str
    initialises: bool
    pamt: str
    """The mode it comes up in, ``static`` or ``dynamic``; empty where it does not."""
    pamt_kib: int
    """KB that its log says are allocated for PAMT; 0 where it does not come so far."""
    refcount_bytes: int
    reserved_used: int | None
    """Reserved areas of the TDMR that needs most; None where that is not known."""
    reserved_max: int
    reserved: tuple[ReservedAreas, ...]
    """Of each TDMR; empty where that is not known."""
    reason: str
    """Why not: the last words of the kernel; empty where it initialises."""


def try_vintages(machine: Machine, release: Release) -> tuple[tuple[Verdict, Booted], ...]:
    """Boot each vintage on the machine and that module."""
    tried = []
    for vintage in VINTAGES:
        booted = boot(machine, load_design(vintage.design), vintage.behaviour, release)
        tried.append((_verdict(vintage, booted), booted))
    return tuple(tried)


def _verdict(vintage: Vintage, booted: Booted) -> Verdict:
    kernel = booted.kernel
    ready = booted.ready
    mode = ("dynamic" if kernel.dynamic_pamt else "static") if ready else ""
    needed = reserved_areas_needed(booted)
    # Of a kernel that failed, the areas are there again by now, not so its log line.
    areas = kernel.pamt_areas if ready else ()
    return Verdict(
        vintage=vintage.name,
        about=vintage.about,
        initialises=ready,
        pamt=mode,
        pamt_kib=sum(area.pages for area in areas) * 4,
        refcount_bytes=len(kernel.refcount_pages) * 4096 if ready else 0,
        reserved_used=max((areas.used for areas in needed), default=0) if needed else None,
        reserved_max=(
            kernel.sysinfo.max_reserved_per_tdmr if kernel.sysinfo else MAX_RESERVED_PER_TDMR
        ),
        reserved=needed or (),
        reason="" if ready else _reason(booted),
    )


def _reason(booted: Booted) -> str:
    if booted.crash:
        return f"crashes: {booted.crash}"
    lines = [line.removeprefix(LOG_PREFIX) for line in booted.kernel.log.lines[-2:]]
    return "; ".join(line.rstrip(".") for line in lines)
