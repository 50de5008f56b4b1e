"""The scripts that record: correct for their tools where these are installed, and read back."""

import io
import re
import shutil
import subprocess
from itertools import product
from pathlib import Path

import pytest

from dpamt.abi.registers import REGISTER_NAMES
from dpamt.errors import InputError
from dpamt.trace.how import TOOLS, Wanted, how, parse_kernel
from dpamt.trace.recording.model import Call, PamtOp
from dpamt.trace.recording.read import Recording

SHELL = [tool for tool in TOOLS if tool not in ("bpftrace", "drgn")]


@pytest.mark.parametrize("tool", SHELL)
@pytest.mark.parametrize("kernel", [(5, 4), (6, 8), (6, 9), (7, 4)])
def test_a_shell_can_read_it(tool: str, kernel: tuple[int, int]) -> None:
    for counts, stacks in product((True, False), repeat=2):
        locks = kernel >= (5, 19)
        if tool == "trace-cmd" and stacks:
            continue
        script = how(tool, Wanted(kernel, counts, stacks, locks and counts))
        done = subprocess.run(["sh", "-n"], input=script, encoding="utf-8", check=False)
        assert done.returncode == 0
        assert all(len(line) < 320 for line in script.splitlines())
        assert ("$arg2" in script) == (kernel >= (6, 9))
        assert ("pamt_get" in script) == counts


@pytest.mark.skipif(shutil.which("bpftrace") is None, reason="no bpftrace here")
@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("stacks", [True, False])
def test_bpftrace_compiles_it(tmp_path: Path, counts: bool, stacks: bool) -> None:
    """Parsed, checked and compiled; nothing is attached."""
    script = tmp_path / "dpamt.bt"
    script.write_text(how("bpftrace", Wanted(counts=counts, stacks=stacks)))
    done = subprocess.run(["bpftrace", "-d", script], capture_output=True, check=False)
    if b"root user" in done.stderr + done.stdout:
        pytest.skip("bpftrace wants root")
    assert done.returncode == 0, done.stderr


def test_what_bpftrace_prints_is_read() -> None:
    """Each printf() of the script, filled in as bpftrace fills it in."""
    lines = []
    for text, arguments in re.findall(
        r'printf\("(%s[^"]*)",\s*(.*?)\);\n', how("bpftrace"), re.DOTALL
    ):
        values: list[object] = []
        wanted = re.findall(r"%(\S*?)(s|d|llu|llx)", text)
        assert len(wanted) == len(re.findall(r",(?![^(]*\))", arguments)) + 1
        for place, (_width, kind) in enumerate(wanted):
            values.append({"s": "qemu" if not place else "kvm_x+0x5", "d": 7}.get(kind, place))
        python = re.sub(r"%(\d*)ll([ux])", lambda m: f"%{m[1]}{m[2].replace('u', 'd')}", text)
        lines.append((python % tuple(values)).replace("\\n", ""))
    assert len(lines) == 5
    lines.insert(2, lines[0])  # begin, done, begin, end, get, put
    data = "# dpamt trace: bpftrace\n" + "\n".join(lines) + "\n"
    recording = Recording(io.BytesIO(data.encode()), "x")
    items = list(recording)
    assert recording.form == "bpftrace"
    assert recording.health.damaged.first == []
    assert [type(item) for item in items] == [Call, Call, PamtOp, PamtOp]
    done, call = (item for item in items if isinstance(item, Call))
    assert len(set(call.before)) == len(REGISTER_NAMES)
    assert done.after is None
    assert call.after is not None
    assert len(set(call.after)) == len(REGISTER_NAMES)
    assert call.caller == b"kvm_x+0x5"


@pytest.mark.parametrize("tool", SHELL)
def test_its_events_are_those_that_are_read(tool: str) -> None:
    """Each definition, printed as the kernel prints such an event."""
    definitions = re.findall(r"echo '([pr])\d*:dpamt/(\w+) (\w+) (.*)' >>", how(tool))
    assert len(definitions) == 8
    begins = [one for one in definitions if one[0] == "p"]
    ends = [one for one in definitions if one[0] == "r"]
    lines = []
    for time, (kind, event, function, arguments) in enumerate(
        event for pair in zip(begins, ends, strict=True) for event in pair
    ):
        where = f"{function}+0x0/0x40" if kind == "p" else f"kvm_x+0x5/0x9 <- {function}"
        values = " ".join(
            f"{name}={0x10 if form == 'x64' else -5:{'#x' if form == 'x64' else 'd'}}"
            for name, form in re.findall(r"(\w+)=\S+?:(\w+)", arguments)
        )
        lines.append(
            f"            qemu-7       [001] d..2.  100.{time:06d}: {event}: ({where}) {values}"
        )
    recording = Recording(io.BytesIO("\n".join(["# tracer: nop", *lines]).encode()), "x")
    items = list(recording)
    assert recording.health.whole, recording.health
    assert sum(isinstance(item, Call) for item in items) == 2
    gets = [item for item in items if isinstance(item, PamtOp)]
    assert [(item.put, item.pfn, item.result) for item in gets] == [
        (False, 0x10, -5),
        (True, 0x10, -5),
    ]
    assert {item.caller for item in items if not isinstance(item, PamtOp)} == {b"kvm_x+0x5/0x9"}  # type: ignore[union-attr]


def test_kernels_are_read_as_uname_says_them() -> None:
    assert parse_kernel("6.12.5-amd64") == (6, 12)
    assert parse_kernel("7.4") == (7, 4)
    with pytest.raises(InputError, match="uname -r"):
        parse_kernel("seven")
    with pytest.raises(InputError, match=r"5\.4"):
        how("ftrace", Wanted((5, 3)))
    with pytest.raises(InputError, match=r"5\.19"):
        how("bpftrace", Wanted((5, 18), locks=True))
    with pytest.raises(InputError, match="eight frames"):
        how("trace-cmd", Wanted(stacks=True))
    with pytest.raises(InputError, match="waits are those of gets"):
        how("perf", Wanted(counts=False, locks=True))
