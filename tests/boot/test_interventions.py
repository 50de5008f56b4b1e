"""Finding and changing: each intervention by symbol and bytes, everything else as it was."""

import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpamt.boot import stub as stub_module
from dpamt.boot.interventions import (
    DIRECT_MAP,
    RDMSR,
    RENDEZVOUS,
    RETURN_0,
    SEAMCALL,
    SEAMCALL_SITES,
    changed_image,
    changes_for_mailbox,
    find_places,
    find_rendezvous,
)
from dpamt.boot.stub import SLOTS_PHYSICAL, STUB_BYTES, call, jump, stub
from dpamt.errors import InputError
from dpamt.kernel_image.vmlinux import KernelImage
from tests.boot.small_kernel import BASE, DETECT, WRAPPER, SmallKernel

SOURCE = Path(stub_module.__file__).parent / "guest" / "stub.S"


def image_of(kernel: SmallKernel, folder: Path) -> KernelImage:
    return KernelImage(kernel.write(folder / "vmlinux"))


def test_every_place_is_found(tmp_path: Path) -> None:
    kernel = SmallKernel()
    at = kernel.addresses()
    found = [(place.kind, place.address) for place in find_places(image_of(kernel, tmp_path))]
    assert found == [
        (SEAMCALL, at["__seamcall"] + 3),
        (SEAMCALL, at["__seamcall_ret"] + 3),
        (SEAMCALL, at["__seamcall_saved_ret"] + 3),
        (RDMSR, at["tdx_init"] + 7),
        (RETURN_0, at["x86_vmx_enable_virtualization_cpu"]),
        (RETURN_0, at["x86_vmx_disable_virtualization_cpu"]),
    ]


def test_the_copy_differs_where_it_is_said_and_nowhere_else(tmp_path: Path) -> None:
    kernel = SmallKernel()
    image = image_of(kernel, tmp_path)
    changes = changes_for_mailbox(image, find_places(image))
    new = changed_image(image, changes)
    named = set()
    for change in changes:
        offset = image.offset_of(change.address)
        assert image.data[offset : offset + len(change.old)] == change.old
        assert new[offset : offset + len(change.new)] == change.new
        named |= set(range(offset, offset + len(change.new)))
    assert {n for n, (a, b) in enumerate(zip(image.data[:], new, strict=True)) if a != b} <= named
    assert len(changes) == 3 * 2 + 1 + 2
    assert all(str(change) for change in changes)


def test_what_the_changed_code_does(tmp_path: Path) -> None:
    """By hand from the instruction set: where the jumps go, what is pushed and popped."""
    kernel = SmallKernel()
    at = kernel.addresses()
    image = image_of(kernel, tmp_path)
    by_where = {change.where: change for change in changes_for_mailbox(image, find_places(image))}
    site = by_where["__seamcall"]
    free, _ = image.slack_after_text()
    assert free == at["_etext"]
    assert site.new == jump(site.address, free) + b"\xcc"
    detect = by_where["tdx_init"]
    assert detect.address == at["tdx_init"]
    assert detect.new == bytes.fromhex("55536a305a6a0f5890")
    assert len(detect.new) == len(DETECT[:9])
    enable = by_where["x86_vmx_enable_virtualization_cpu"]
    assert enable.address == at["x86_vmx_enable_virtualization_cpu"] + 4  # behind endbr64
    assert enable.new == bytes.fromhex("31c0c3")


def test_each_wrapper_asks_by_its_own_number(tmp_path: Path) -> None:
    """The numbers are the order of the names that a report gives them; stubs do not overlap."""
    image = image_of(SmallKernel(), tmp_path)
    places = [place for place in find_places(image) if place.kind == SEAMCALL]
    changes = changes_for_mailbox(image, places)
    stubs = [change for change in changes if change.why.startswith("stub of ")]
    assert [change.why.removeprefix("stub of ") for change in stubs] == list(SEAMCALL_SITES)
    slots = DIRECT_MAP + SLOTS_PHYSICAL
    for number, (change, place) in enumerate(zip(stubs, places, strict=True)):
        jumps = [int.from_bytes(change.new[at : at + 4], "little", signed=True) + at + 4
                 for at in (0xE0, 0xE5)]  # fmt: skip
        taken, go_on = (change.address + distance for distance in jumps)
        assert change.new == stub(change.address, slots, number, taken, go_on)
        assert go_on == place.address + place.size + 2
    for before, after in pairwise(stubs):
        assert after.address >= before.address + len(before.new)
        assert after.address % 16 == stubs[0].address % 16


def test_the_function_tracers_call_stays(tmp_path: Path) -> None:
    name = "x86_vmx_enable_virtualization_cpu"
    kernel = SmallKernel()
    traced = kernel.functions[name] + bytes(5)
    kernel.functions |= {name: traced, "__fentry__": b"\xc3"}
    at = kernel.addresses()
    jumps = call(at[name] + 4, at["__fentry__"])
    kernel.functions[name] = traced[:4] + jumps + traced[4:-5]
    image = image_of(kernel, tmp_path)
    by_where = {change.where: change for change in changes_for_mailbox(image, find_places(image))}
    assert by_where[name].address == at[name] + 4 + 5
    assert by_where["x86_vmx_disable_virtualization_cpu"].address == (
        at["x86_vmx_disable_virtualization_cpu"] + 4
    )


def test_a_jc_far_away(tmp_path: Path) -> None:
    kernel = SmallKernel()
    kernel.functions["__seamcall"] = WRAPPER[:7] + bytes.fromhex("0f8201000000c3c3")
    image = image_of(kernel, tmp_path)
    change = changes_for_mailbox(image, find_places(image))[0]
    assert len(change.new) == 4 + 6


@pytest.mark.parametrize(
    ("name", "code", "told"),
    [
        ("__seamcall", None, "no symbol '__seamcall': CONFIG_INTEL_TDX_HOST is not set"),
        ("__seamcall_ret", b"\xc3", "__seamcall_ret has 0 SEAMCALL instructions"),
        ("__seamcall_ret", WRAPPER + WRAPPER, "__seamcall_ret has 2 SEAMCALL instructions"),
        ("__seamcall", WRAPPER[:7] + b"\x90\x90\x90\x90\xc3\xc3", "no jc behind the SEAMCALL"),
        ("tdx_init", b"\xc3", "no RDMSR of 0x87 in tdx_init"),
        ("tdx_init", DETECT[:5] + b"\x31\xed" + DETECT[7:], "31ed before the RDMSR"),
    ],
)
def test_a_kernel_that_cannot_be_driven(
    name: str, code: bytes | None, told: str, tmp_path: Path
) -> None:
    kernel = SmallKernel()
    if code is None:
        del kernel.functions[name]
    else:
        kernel.functions[name] = code
    image = image_of(kernel, tmp_path)
    with pytest.raises(InputError, match=told):
        changes_for_mailbox(image, find_places(image))


def test_no_room_for_the_stubs(tmp_path: Path) -> None:
    kernel = SmallKernel(slack=300)
    image = image_of(kernel, tmp_path)
    with pytest.raises(InputError, match="no room behind _etext for the stub of __seamcall_ret"):
        changes_for_mailbox(image, find_places(image))


def test_kernels_that_leave_vmxon_to_kvm(tmp_path: Path) -> None:
    kernel = SmallKernel()
    for name in ("x86_vmx_enable_virtualization_cpu", "x86_vmx_disable_virtualization_cpu"):
        del kernel.functions[name]
    assert len(find_places(image_of(kernel, tmp_path))) == 4


@settings(deadline=None)
@given(st.integers(0, 900), st.binary(min_size=1, max_size=40))
def test_a_damaged_vmlinux_is_refused_or_read(at: int, garbage: bytes) -> None:
    """Whatever stands in the file: one line, or an image."""
    import tempfile

    told: list[str] = []
    data = bytearray(SmallKernel().build())
    data[at : at + len(garbage)] = garbage
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        try:
            image = KernelImage(Path(file.name))
            changes_for_mailbox(image, find_places(image))
        except InputError as error:
            told.append(str(error))
    assert all("\n" not in line for line in told)


def test_a_rendezvous_is_a_direct_call(tmp_path: Path) -> None:
    kernel = SmallKernel()
    kernel.functions["lock"] = b"\xc3"
    kernel.functions["put"] = bytes(10)
    at = kernel.addresses()
    kernel.functions["put"] = b"\x90" + call(at["put"] + 1, at["lock"]) + b"\xc3" + bytes(3)
    image = image_of(kernel, tmp_path)
    place = find_rendezvous(image, "put", "lock")
    assert (place.kind, place.address) == (RENDEZVOUS, at["put"] + 1)
    site, code = changes_for_mailbox(image, [place])
    assert site.new == call(site.address, code.address)
    assert code.new == stub(code.address, 0xFFFF888000050000, 0x100, at["lock"], at["lock"])
    with pytest.raises(InputError, match="lock calls put directly at 0 places"):
        find_rendezvous(image, "lock", "put")
    with pytest.raises(InputError, match="no symbol 'nothing'"):
        find_rendezvous(image, "nothing", "put")


def test_the_stub_is_what_its_source_says(tmp_path: Path) -> None:
    """The assembler, as an independent judge; without one the bytes cannot be checked."""
    if shutil.which("as") is None or shutil.which("ld") is None:
        pytest.skip("no assembler (binutils): the bytes of the stub are not held against stub.S")
    address, slots, site, taken, go_on = BASE, 0x1122334455667788, 7, BASE + 0x2000, BASE - 0x300
    known = {"SLOTS": slots, "SITE": site}
    words = [f"--defsym={name}={value:#x}" for name, value in known.items()]
    subprocess.run(["as", *words, "-o", str(tmp_path / "o"), str(SOURCE)], check=True)
    links = [f"--defsym=TAKEN={taken:#x}", f"--defsym=GO_ON={go_on:#x}", f"-Ttext={address:#x}"]
    names = ["-o", str(tmp_path / "e"), str(tmp_path / "o")]
    subprocess.run(["ld", *links, "-e", "stub", *names], check=True)
    raw = ["objcopy", "-O", "binary", "-j", ".text", str(tmp_path / "e"), str(tmp_path / "b")]
    subprocess.run(raw, check=True)
    made = (tmp_path / "b").read_bytes()
    assert len(made) == STUB_BYTES
    assert made == stub(address, slots, site, taken, go_on)
