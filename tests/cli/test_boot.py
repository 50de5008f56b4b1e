"""`dpamt boot` as a user meets it: what it refuses, and a run on a guest of a few instructions.

Real kernels are in tests/boot/kernel.
"""

import json
import re
import shutil
from pathlib import Path

import pytest

from dpamt.abi.leaves import TDH_PHYMEM_PAGE_RDMD, TDH_SYS_INIT
from dpamt.boot.call import Call
from dpamt.boot.exerciser import _NUMBERS, BUGS, DESIGNS, MODES
from dpamt.cli.boot import _parser
from dpamt.cli.main import main
from dpamt.own_files import STAMP
from tests.boot.hostile_guest import entry, hostile_kernel
from tests.boot.small_kernel import SmallKernel
from tests.boot.test_hostile_guest import CONFIGURATION, INITIALISE, LOG

from .command import Ended, dpamt, refused

DOCUMENT = (Path(__file__).parents[2] / "docs" / "boot.md").read_text("utf-8")
WITH_KVM = (Path(__file__).parents[2] / "docs" / "boot-kvm.md").read_text("utf-8")
needs_qemu = pytest.mark.skipif(
    shutil.which("qemu-system-x86_64") is None, reason="no QEMU on this machine"
)


@pytest.fixture
def vmlinux(tmp_path: Path) -> str:
    return str(SmallKernel().write(tmp_path / "vmlinux"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--smp", "0"), "count (1 to 64)"),
        (("--smp", "65"), "count (1 to 64)"),
        (("--memory", "12"), "12"),
        (("--memory", "100MiB"), "256 MiB a node at least"),
        (("--memory", "1GiB", "--numa", "8"), "256 MiB a node at least"),
        (("--release", "9.9"), "'9.9'"),
        (("--pamt", "maybe"), "invalid choice: 'maybe'"),
        (("--transport", "pigeon"), "invalid choice: 'pigeon'"),
        (("--timeout", "0"), "time (1 to 86400 seconds)"),
        (("--timeout", "nan"), "time (1 to 86400 seconds)"),
        (("--inject", "TDH.SYS.INIT:busy=RCX"), "TDH.SYS.INIT can meet"),
        (("--inject", "TDH.SYS.INIT:answer=TDX_SYS_BUZY"), "did you mean TDX_SYS_BUSY?"),
        (("--hold", "0@TDH.SYS.INIT"), "expected CPU@LEAF:until=CPU:CALLS"),
        (("--hold", "0@TDH.SYS.INIT:until=7:1"), "CPU 7; expected 0 to 1"),
        (("--hold", "0@TDH.SYS.INIT:until=0:1"), "would wait for itself"),
        (("--hold", "0@tdx_init/nothing:until=1:1"), "no symbol 'nothing'"),
        (("--initrd", "/no/such/file"), "/no/such/file: No such file"),
        (("--kernel", "/no/such/bzImage"), "--transport gdb"),
        (("--exercise", "dance"), "'dance'; expected one of life, hammer, hostile"),
        (("--record", "/no/such/folder/file"), "/no/such/folder/file"),
        (("--replay", "/no/such/file"), "/no/such/file: No such file"),
        (("--replay", "x", "--exercise", "life"), "--exercise: expected none with --replay"),
        (("--replay", "x", "--hold", "0@TDH.SYS.INIT:until=1:1"), "--hold: expected none"),
        (("--replay", "x", "--transport", "gdb"), "expected mailbox with --replay"),
        (("--tds", "x.toml"), "--kvm"),
        (("--tour",), "--kvm"),
        (("--kvm", "--tds", "/no/such.toml"), "/no/such.toml"),
        (("--kvm", "--tour", "--sweep", "TDX_OPERAND_BUSY"), "--sweep"),
        (("--kvm", "--sweep", "TDX_OPERAND_BUZY"), "did you mean TDX_OPERAND_BUSY?"),
        (("--fail-allocations", "1"), "--kvm"),
        (("--kvm", "--fail-allocations", "0"), "number of allocations (1 to 1000)"),
        (("--kvm", "--fail-allocations", "1", "--tds", "x.toml"), "--fail-allocations"),
        (("--kvm", "--fail-allocations", "1", "--sweep", "busy"), "--sweep"),
        (("--kvm", "--sweep", "busy:row=0"), "expected [LEAF:]WHAT[:row=N]"),
        (("--kvm", "--sweep", "busy", "--sweep", "TDH.MNG.RD:no-key"), "no such leaf can meet"),
        (("--kvm", "--checks", "--sweep", "busy"), "--checks"),
        (("--kvm", "--checks", "--tds", "x.toml"), "--checks"),
        (("--checks",), "--kvm"),
        (("--kvm", "--checks", "--smp", "1"), "expected --smp 2"),
        (("--kvm", "--exercise", "life"), "--exercise"),
        (("--kvm", "--transport", "gdb"), "expected no gdb"),
        (("--kvm", "--modules", "/", "--build", "/"), "--build"),
        (("--kvm", "--modules", "/no/such"), "/no/such"),
        (("--kvm", "--build", "/no/such"), "/no/such"),
    ],
)
def test_what_it_refuses_in_one_line(arguments: tuple[str, ...], told: str, vmlinux: str) -> None:
    assert told in refused("boot", "--vmlinux", vmlinux, *arguments)


def test_counterexamples_that_no_c_code_can_follow(tmp_path: Path, vmlinux: str) -> None:
    """Of another trial, of a design that is not in C here, of no such property, of none at all."""
    file = str(tmp_path / "kept.json")
    assert main(["verify", "v2", "--trial", "faults", "--save", file]) == 1
    line = refused("boot", "--vmlinux", vmlinux, "--replay", file)
    assert f"{file}: counterexample: a CPU runs 'VCPU 0 of VM 1: fault, zap'" in line
    line = refused("boot", "--vmlinux", vmlinux, "--replay", file, "--property", "deadlock")
    assert line.endswith("no counterexample of deadlock in it; expected one")
    assert main(["verify", "v1", "--trial", "words", "--save", file]) == 1
    assert "design v1 is not in C here" in refused("boot", "--vmlinux", vmlinux, "--replay", file)
    assert main(["verify", "merged", "--trial", "words", "--save", file]) == 0
    line = refused("boot", "--vmlinux", vmlinux, "--replay", file)
    assert line.endswith("no counterexample in it; expected one")


def test_kernels_that_cannot_be_driven(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    assert "vmlinux" in refused("boot", "--vmlinux", str(path))
    path.write_text("no ELF")
    assert str(path) in refused("boot", "--vmlinux", str(path))
    small = SmallKernel()
    del small.functions["__seamcall_ret"]
    line = refused("boot", "--vmlinux", str(small.write(path)))
    assert "CONFIG_INTEL_TDX_HOST is not set" in line
    line = refused("boot", "--vmlinux", str(SmallKernel(pvh=False).write(path)))
    assert "CONFIG_PVH is not set" in line
    line = refused("boot", "--vmlinux", str(SmallKernel(stripped=True).write(path)))
    assert str(path) in line


def test_without_qemu(vmlinux: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no qemu-system-x86_64" in refused("boot", "--vmlinux", vmlinux)


def run(tmp_path: Path, *arguments: str, extra: tuple[bytes, ...] = ()) -> Ended:
    entries = [*INITIALISE, *extra]
    kernel = hostile_kernel(tmp_path / "vmlinux", LOG, entries, blobs=CONFIGURATION)
    machine = ("--smp", "1", "--memory", "256MiB", "--timeout", "60")
    return dpamt("boot", "--vmlinux", str(kernel), *machine, *arguments)


@needs_qemu
def test_a_report_of_80_columns(tmp_path: Path) -> None:
    ended = run(tmp_path, "--console", "--inject", "TDH.SYS.KEY.CONFIG:answer=TDX_SYS_BUSY:nth=1")
    assert ended.code == 1
    assert ended.err == ""
    report = ended.out[: ended.out.index("\nConsole\n")]
    assert max(map(len, report.splitlines())) <= 80
    assert "FINDING: the guest was reset without asking for it" in " ".join(report.split())
    assert "injected TDH.SYS.KEY.CONFIG:answer=TDX_SYS_BUSY:nth=1: 1 of 1 calls" in " ".join(
        report.split()
    )
    assert "TDX module NOT initialized" in report
    assert "BIOS-e820" in ended.out


@needs_qemu
def test_the_json_document_is_the_documented_one(tmp_path: Path) -> None:
    ended = run(tmp_path, "--json")
    document = json.loads(ended.out)
    section = DOCUMENT.partition("## The JSON document")[2]
    documented = {
        name
        for line in section.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    assert documented == set(document)
    assert document["ended"] == "reset"
    assert document["clean"] is False
    assert [call["count"] for call in document["seamcalls"]] == [1] * len(INITIALISE)
    assert document["dynamic_pamt"] is True


@needs_qemu
def test_the_recording_is_the_documented_one(tmp_path: Path) -> None:
    record, trace = tmp_path / "calls.jsonl", tmp_path / "trace.json"
    question = entry(TDH_PHYMEM_PAGE_RDMD, (0x2000000,))
    run(tmp_path, "--record", str(record), "--perfetto", str(trace), extra=(question,))
    first, *calls = map(json.loads, record.read_text().splitlines())
    assert first == {"format": 1, **STAMP, "vmlinux": str(tmp_path / "vmlinux")}
    section = DOCUMENT.partition("## The recording")[2].partition("## ")[0]
    documented = {
        name
        for line in section.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    assert [set(call) for call in calls] == [documented] * (len(INITIALISE) + 1)
    assert [call["number"] for call in calls] == list(range(1, len(calls) + 1))
    assert calls[-1]["before"] == {"rcx": "0x2000000"}
    assert calls[0]["rax"] == f"{TDH_SYS_INIT:#x}"
    times = [time for call in calls for time in (call["asked"], call["answered"])]
    assert times == sorted(times)
    slices = [event for event in json.loads(trace.read_text())["traceEvents"] if event["ph"] == "X"]
    assert [event["name"] for event in slices] == [call["leaf"] for call in calls]


def test_every_option_is_documented() -> None:
    for action in _parser()._actions:
        for option in action.option_strings:
            if option.startswith("--") and option != "--help":
                assert f"{option}" in DOCUMENT + WITH_KVM, option


@pytest.mark.parametrize("word", [*MODES, *DESIGNS, *BUGS, *_NUMBERS])
def test_every_word_of_the_exerciser_is_documented(word: str) -> None:
    section = DOCUMENT.partition("## The exerciser")[2].partition("\n## ")[0]
    assert re.search(rf"\b{word.replace('_', '[-_]')}\b", section)


def test_same_as_looks_at_all_but_the_time() -> None:
    call = Call(1, 0, 0.1, 0.2, "__seamcall", "f", 33, (0,) * 8, 0, (0,) * 8)
    later = Call(7, 0, 5.1, 5.2, "__seamcall", "f", 33, (0,) * 8, 0, (0,) * 8)
    other = Call(1, 0, 0.1, 0.2, "__seamcall", "f", 33, (0,) * 8, 1, (0,) * 8)
    assert call.same_as(later)
    assert not call.same_as(other)
