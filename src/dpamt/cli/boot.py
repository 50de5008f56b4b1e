"""`dpamt boot`: a real kernel in QEMU, its SEAMCALLs answered by the module."""

import argparse
from typing import TYPE_CHECKING, Final

from dpamt.cli.boot_kvm import add_options, compare_with_run, cpus_of, kvm_options, scenario_of
from dpamt.cli.extras import require
from dpamt.cli.parser import Parser

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from dpamt.boot.exerciser import Exercise
    from dpamt.verify.asked import Asked

_LEAST_BYTES: Final = 256 << 20
"""Less than this a kernel with its PAMT does not boot on."""


def main(arguments: list[str]) -> int:
    """Boot and print; 0 when TDX was initialised and nobody complained, else 1."""
    options = _parser().options(arguments)
    require("boot", "elftools")
    return _boot(options)


def _boot(options: argparse.Namespace) -> int:
    import json
    import signal
    from contextlib import ExitStack
    from pathlib import Path

    from dpamt.boot.boot_files import initrd
    from dpamt.boot.call import Recording
    from dpamt.boot.compare import told_by_host, told_by_kernel
    from dpamt.boot.exerciser import parse_exercise
    from dpamt.boot.forced import split_rules
    from dpamt.boot.hold import parse_hold
    from dpamt.boot.outcome import DYNAMIC, BootOptions
    from dpamt.boot.session import boot
    from dpamt.cli.output import whole_file, write_document, write_file, write_text
    from dpamt.errors import InputError
    from dpamt.files import replaced
    from dpamt.module.injection_rules import parse_rule
    from dpamt.module.releases import release_named
    from dpamt.platform.size import parse_size
    from dpamt.report.boot_perfetto import calls_trace
    from dpamt.report.boot_text import boot_json, boot_text
    from dpamt.report.kvm_text import kvm_head, kvm_json, kvm_text
    from dpamt.report.progress import counting

    release_named(options.release)
    rules, forced, delays = split_rules(options.inject)
    memory = parse_size(options.memory)
    if memory < options.numa * _LEAST_BYTES:
        raise InputError(
            f"boot: --memory {options.memory} for {options.numa} NUMA nodes; expected "
            f"{_LEAST_BYTES >> 20} MiB a node at least"
        )
    if options.property and not options.replay:
        raise InputError(
            f"--property {options.property}: it picks a failure of --replay; expected that with it"
        )
    exercise = parse_exercise(options.exercise) if options.exercise else None
    scenario = scenario_of(options) if options.kvm else None
    cpus, pamt, replay = cpus_of(scenario, options.smp), options.pamt, None
    kvm = kvm_options(options, scenario, cpus, memory) if options.kvm else None
    if scenario is not None:
        rules += tuple(parse_rule(rule) for rule in scenario.host.inject)
    if options.replay:
        replay, exercise, cpus = _replay(options)
        pamt = pamt or (DYNAMIC if exercise.parameters["design"] != "kernel" else None)
    chosen = BootOptions(
        vmlinux=Path(options.vmlinux),
        kernel=_kernel(options),
        initrd=None if options.initrd is None else initrd(options.initrd),
        transport=options.transport,
        cpus=cpus,
        memory=memory,
        nodes=options.numa,
        pamt=pamt,
        release=options.release,
        build=Path(options.build) if options.build else None,
        exercise=exercise,
        replay=replay,
        inject=rules,
        forced=forced,
        delays=delays,
        kvm=kvm,
        hold=tuple(parse_hold(rule, cpus) for rule in options.hold),
        core_at=options.core_at,
        append=options.append,
        timeout=options.timeout,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that QEMU and files are gone
    with ExitStack() as stack:
        file = stack.enter_context(whole_file(options.record))
        core = stack.enter_context(replaced(options.core, "wb")) if options.core else None
        progress = stack.enter_context(counting())
        recording = Recording(file, vmlinux=options.vmlinux) if file is not None else None
        booted = boot(chosen, recording, progress, core)
    if options.perfetto:
        write_file(options.perfetto, calls_trace(booted.calls, chosen.cpus))
    told = host = None
    if booted.machine is not None and booted.tdmr_infos:
        told = told_by_kernel(booted.tdmr_infos, booted.console)
        dynamic = booted.module is not None and booted.module.pamt.dynamic
        knows = dynamic and pamt != DYNAMIC
        host = told_by_host(booted.machine, knows, told)
    compared, why_not = None, ""
    if kvm is not None:
        compared, why_not = compare_with_run(scenario, chosen, booted)
        booted.findings += compared.findings() if compared is not None else []
    if options.json:
        document = boot_json(chosen, booted, told, host)
        if kvm is not None:
            document["kvm"] = kvm_json(booted, compared, why_not)
        write_document(json.dumps(document, indent=2) + "\n")
    else:
        head = kvm_head(scenario, chosen)
        sections = kvm_text(booted, compared, why_not) if kvm is not None else ""
        write_text(boot_text(chosen, booted, told, host, options.console, head, sections))
    return 0 if booted.clean else 1


def _replay(options: argparse.Namespace) -> "tuple[Mapping[str, Any], Exercise, int]":
    """The counterexample of a file, the threads that follow it, and the CPUs that they need."""
    from pathlib import Path

    from dpamt.boot.exerciser import design_to_replay
    from dpamt.boot.schedule import exercise_of
    from dpamt.errors import InputError
    from dpamt.verify.evidence.certificate import read, trials

    for name in ("exercise", "hold", "initrd", "kernel"):
        if getattr(options, name):
            raise InputError(f"--{name}: expected none with --replay")
    if options.transport != "mailbox":
        raise InputError("--transport gdb stops all CPUs at once; expected mailbox with --replay")
    refused = ""
    for asked, trial in trials(read(options.replay)):
        for found in trial["counterexamples"]:
            if options.property not in (None, found["broken"]):
                continue
            vmlinux = Path(options.vmlinux)
            build = Path(options.build) if options.build else vmlinux.parent
            try:
                if asked.modules:
                    raise InputError(
                        "counterexample: of a kernel with --module; expected one of a vmlinux "
                        "alone, for the exerciser calls the kernel's own functions"
                    )
                exercise = exercise_of(found, design_to_replay(asked.design, build))
                if asked.image:
                    _check_image(vmlinux, asked, trial, found)
            except InputError as error:
                refused = refused or str(error)
                continue
            return found, exercise, max(options.smp or 2, len(found["cpus"]))
    what = f"counterexample of {options.property}" if options.property else "counterexample"
    raise InputError(f"{options.replay}: {refused or f'no {what} in it; expected one'}")


def _check_image(
    vmlinux: "Path", asked: "Asked", trial: "Mapping[str, Any]", found: "Mapping[str, Any]"
) -> None:
    """A counterexample in machine code is of that kernel's own get and put.

    Raises InputError for one of another image, and for functions that nobody calls there.
    """
    from dpamt.boot.instruction_schedule import has_instructions
    from dpamt.errors import InputError
    from dpamt.verify.evidence.code_hash import design_hash
    from dpamt.verify.machine_code.design import GET, PUT, machine_design, read_how

    functions, *_ = read_how(asked.image)
    names = functions.get("get", GET), functions.get("put", PUT)
    if names != (GET, PUT):
        raise InputError(
            f"counterexample: of {' and '.join(names)}; the exerciser calls {GET} and {PUT}"
        )
    if not has_instructions(found):
        raise InputError("counterexample: no addresses of instructions; expected a new --save")
    design = machine_design(vmlinux, *read_how(asked.image))
    assert design.code is not None
    now, kept = design.code.bounds()["image"], trial["bounds"].get("image", "")
    same = now.partition(", ")[2] == kept.partition(", ")[2]
    if not same or design_hash(design) != trial["code"]["design"]:
        raise InputError(
            f"{vmlinux}: {now}; expected the image of the counterexample: {kept}, the same code"
        )


def _parser() -> Parser:
    parser = Parser(
        prog="dpamt boot",
        description="Boot a Linux kernel that was built with CONFIG_INTEL_TDX_HOST in plain QEMU,"
        " and answer its SEAMCALLs with the model of the TDX module. docs/boot.md "
        "shows how to build one.",
    )
    parser.add_input(
        "--vmlinux", required=True, metavar="FILE", help="the kernel, with its symbols"
    )
    parser.add_input(
        "--kernel",
        metavar="BZIMAGE",
        help="boot this image of the same kernel instead (--transport gdb)",
    )
    parser.add_argument(
        "--transport",
        choices=("mailbox", "gdb"),
        default="mailbox",
        help="mailbox (the default): a few bytes in a copy of the kernel are changed, and the "
        "other CPUs run during a SEAMCALL; gdb: nothing is changed, and all CPUs stop",
    )
    parser.add_argument(
        "--smp",
        type=_count,
        metavar="N",
        help="number of CPUs (2; with --kvm as many as a TD has vCPUs)",
    )
    parser.add_argument(
        "--memory", default="4GiB", metavar="M", help="memory of the guest, such as 4GiB (4GiB)"
    )
    parser.add_argument(
        "--numa", type=_count, default=1, metavar="N", help="number of NUMA nodes (1)"
    )
    parser.add_argument(
        "--pamt",
        choices=("static", "dynamic"),
        help="static: the module does not offer Dynamic PAMT; dynamic: SYS.CONFIG counts as if "
        "the kernel had asked for it, for kernels that do not know it. Default: the kernel "
        "decides",
    )
    parser.add_argument(
        "--release",
        "--module",
        default="2.0.18+sys-disable",
        metavar="NAME",
        help="release of the TDX module (2.0.18+sys-disable: with TDH.SYS.DISABLE, which Linux "
        "calls at the end and which no open release has; dpamt list releases)",
    )
    parser.add_input(
        "--initrd",
        metavar="FILE",
        help="user space of your own (default: an init that reboots at once)",
    )
    parser.add_argument(
        "--append", default="", metavar="WORDS", help="additional words of the kernel command line"
    )
    parser.add_argument(
        "--exercise",
        metavar="WHAT",
        help="run TDs from kernel threads: life, hammer or hostile, with options such as "
        "hammer:design=v6:rounds=1000 (docs/boot.md)",
    )
    parser.add_input(
        "--build",
        metavar="FOLDER",
        help="the kernel's build tree, for --exercise and --kvm (default: the folder of vmlinux)",
    )
    parser.add_argument(
        "--inject",
        action="append",
        default=[],
        metavar="RULE",
        help="SEAMCALLs that meet a held lock, an interrupt, an answer of your choice or a delay, "
        "such as TDH.SYS.INIT:answer=TDX_SYS_BUSY (docs/boot.md)",
    )
    parser.add_argument(
        "--hold",
        action="append",
        default=[],
        metavar="RULE",
        help="keep a CPU at a SEAMCALL or a call, such as 0@TDH.SYS.LP.INIT:until=1:1 "
        "(docs/boot.md)",
    )
    parser.add_input(
        "--replay",
        metavar="COUNTEREXAMPLE",
        help="a document of dpamt verify --save: make its first failure that the exerciser can "
        "follow happen in C, step by step (docs/boot.md)",
    )
    parser.add_argument(
        "--property", metavar="NAME", help="with --replay: the first failure of this property"
    )
    parser.add_output("--record", kind="recording", help="write every SEAMCALL as JSON lines")
    parser.add_output(
        "--perfetto", kind="trace", help="write the SEAMCALLs as a trace for ui.perfetto.dev"
    )
    parser.add_output(
        "--core",
        kind="core",
        help="write the guest's memory at its end as a vmcore, for drgn (docs/trace.md)",
    )
    parser.add_argument(
        "--core-at",
        type=_number,
        metavar="N",
        help="with --core: write the memory as it is before SEAMCALL N, with all CPUs stopped",
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=120.0,
        metavar="S",
        help="stop the machine after this many seconds (120)",
    )
    parser.add_argument(
        "--console", action="store_true", help="print everything that the kernel printed"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document (docs/boot.md)")
    parser.only_with("--property", "--replay")
    parser.only_with("--core-at", "--core")
    add_options(parser)
    parser.only_with("--build", "--exercise --replay --kvm")
    parser.not_with("--console", "--json", "the document has all the kernel said")
    return parser


def _kernel(options: argparse.Namespace) -> "Path | None":
    from pathlib import Path

    from dpamt.boot.boot_files import bzimage

    if options.kernel is None or options.transport != "gdb":  # which is refused later
        return None if options.kernel is None else Path(options.kernel)
    return bzimage(options.kernel)


def _count(text: str) -> int:
    count = int(text)
    if not 1 <= count <= 64:
        raise ValueError(text)
    return count


_count.__name__ = "count (1 to 64)"


def _number(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


_number.__name__ = "number of a SEAMCALL (1 or more)"


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds <= 86400:
        raise ValueError(text)
    return seconds


_seconds.__name__ = "time (1 to 86400 seconds)"
