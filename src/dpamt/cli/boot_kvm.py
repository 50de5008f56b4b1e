"""The part of `dpamt boot` that runs TDs with the kernel's own KVM."""

import argparse
from typing import TYPE_CHECKING, Final

from dpamt.cli.parser import Parser

if TYPE_CHECKING:
    from dpamt.boot.kvm.compare import Compared
    from dpamt.boot.kvm.prepare import KvmOptions
    from dpamt.boot.outcome import Booted, BootOptions
    from dpamt.run.scenario import Scenario

_LEAST_CPUS: Final = 2


def add_options(parser: Parser) -> None:
    """What belongs to --kvm alone."""
    parser.add_argument(
        "--kvm",
        action="store_true",
        default=None,
        help="load the kernel's KVM, and make, run and end TDs with it (docs/boot-kvm.md)",
    )
    parser.add_input(
        "--modules",
        metavar="FOLDER",
        help="irqbypass.ko, kvm.ko and kvm-intel.ko of this kernel, for --kvm (built from its "
        "build tree)",
    )
    parser.add_input(
        "--tds",
        metavar="SCENARIO",
        help="what the TDs of --kvm do: a scenario of dpamt run (one small TD)",
    )
    parser.add_argument(
        "--coverage",
        action="store_true",
        default=None,
        help="with --kvm: show which lines of the kernel's arch/x86/kvm/vmx/tdx.c ran",
    )
    parser.add_argument(
        "--tour",
        action="store_true",
        default=None,
        help="instead of --tds: each exit, TDVMCALL and ioctl that KVM handles, with valid and "
        "with wrong arguments",
    )
    parser.add_argument(
        "--sweep",
        action="append",
        metavar="WHAT",
        help="instead of --tds: each SEAMCALL of a small TD's life fails in turn: with a status, "
        "busy, no-entropy or no-key, such as busy:row=2 or TDH.MEM.*:TDX_OPERAND_INVALID; "
        "several are done one after the other (docs/boot-kvm.md)",
    )
    parser.add_argument(
        "--fail-allocations",
        type=_every,
        metavar="N",
        help="instead of --tds: each Nth memory allocation of a small TD's life fails in turn (1: "
        "each), where the kernel has fault injection",
    )
    parser.add_argument(
        "--checks",
        action="store_true",
        default=None,
        help="instead of --tds: what KVM's posted TDX selftests check, as scenarios of dpamt's own",
    )
    scripts = ("--tds", "--tour", "--sweep", "--checks", "--fail-allocations")
    parser.only_with(f"--modules --coverage {' '.join(scripts)}", "--kvm")
    for index, name in enumerate(scripts[:-1], 1):
        parser.not_with(name, " ".join(scripts[index:]))
    parser.not_with("--sweep", "--inject --hold", "it dictates the answers itself")
    others = "--exercise --replay --initrd --kernel"
    parser.not_with("--kvm", others, "expected none of them with --kvm")
    parser.not_with("--modules", "--build")


def _every(text: str) -> int:
    every = int(text)
    if not 1 <= every <= 1000:
        raise ValueError(text)
    return every


_every.__name__ = "number of allocations (1 to 1000)"


def scenario_of(options: argparse.Namespace) -> "Scenario | None":
    """The scenario of --tds; None with --tour, --sweep, --checks and --fail-allocations, which
    have a script of their own.

    Raises InputError for one that cannot be, and for --transport gdb.
    """
    from importlib.resources import as_file, files

    from dpamt.errors import InputError
    from dpamt.run.scenario import load_scenario

    if options.transport != "mailbox":
        raise InputError("--transport gdb: KVM's module calls the mailbox's code; expected no gdb")
    if options.tour or options.sweep or options.checks or options.fail_allocations:
        return None
    if options.tds:
        return load_scenario(options.tds)
    with as_file(files("dpamt.boot.kvm") / "scenarios" / "small.toml") as path:
        return load_scenario(str(path))


def kvm_options(
    options: argparse.Namespace, scenario: "Scenario | None", cpus: int, memory: int
) -> "KvmOptions":
    """What KVM is to be run with.  Raises InputError for a scenario that it cannot run."""
    from pathlib import Path

    from dpamt.boot.kvm.allocations import allocations_script
    from dpamt.boot.kvm.prepare import KvmOptions
    from dpamt.boot.kvm.selftests import load_checks
    from dpamt.boot.kvm.sweep import sweep_script
    from dpamt.boot.kvm.sweep_words import parse_swept
    from dpamt.boot.kvm.tour import tour
    from dpamt.boot.kvm.translate import translate
    from dpamt.cli.extras import require
    from dpamt.errors import InputError

    require("boot --kvm", "capstone")
    checks = None
    if scenario is not None:
        script = translate(scenario, cpus, memory)
    elif options.fail_allocations:
        script = allocations_script(options.fail_allocations)
    elif options.checks and cpus < _LEAST_CPUS:
        raise InputError(f"--checks: TDs of {_LEAST_CPUS} vCPUs; expected --smp {_LEAST_CPUS}")
    elif options.checks:
        checks = load_checks()
        script = checks.script
    elif options.sweep:
        for text in options.sweep:
            parse_swept(text)  # refused before anything is built
        script = sweep_script()
    else:
        script = tour()
    return KvmOptions(
        script,
        Path(options.modules) if options.modules else None,
        Path(options.build) if options.build else None,
        tuple(options.sweep or ()),
        options.fail_allocations or 0,
        checks,
        bool(options.coverage),
    )


def cpus_of(scenario: "Scenario | None", asked: int | None) -> int:
    """How many CPUs the machine gets: as many as the largest TD has vCPUs, unless --smp says."""
    if asked is not None:
        return asked
    groups = scenario.tds if scenario is not None else ()
    return max((_LEAST_CPUS, *(group.vcpus for group in groups)))


def compare_with_run(
    scenario: "Scenario | None", chosen: "BootOptions", booted: "Booted"
) -> "tuple[Compared | None, str]":
    """The model's run of the scenario beside the kernel's; or why they are not compared."""
    from dpamt.boot.kvm.compare import compare

    if scenario is None:
        return None, "it is no scenario of dpamt run"
    if chosen.inject or chosen.forced:
        return None, "calls were injected"
    assert chosen.kvm is not None
    if booted.ended != "reboot" or len(booted.phases) != len(chosen.kvm.script.phases):
        return None, "the run did not come to its end"
    if booted.machine is None or booted.module is None:
        return None, "the kernel never called the module"
    dynamic = booted.module.pamt.dynamic
    return compare(scenario, booted.machine, chosen.release, dynamic, booted.phases), ""
