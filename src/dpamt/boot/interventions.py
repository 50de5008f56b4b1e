"""What has to be done to a kernel so that it runs its TDX code without TDX: found, never assumed.

Every intervention is found by a symbol and the bytes of an instruction.  They are places for a
debugger to stop at (:mod:`dpamt.boot.gdb`), or bytes to change in a copy of the image before it
starts (:func:`changes_for_mailbox`), which then differs from the original in these bytes alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from dpamt.boot.stub import SLOTS_PHYSICAL, STUB_BYTES, call, jump, stub
from dpamt.errors import InputError, ModelError
from dpamt.kernel_image.elf import Symbol
from dpamt.kernel_image.vmlinux import KernelImage

SEAMCALL_SITES: Final = ("__seamcall", "__seamcall_ret", "__seamcall_saved_ret")
"""Functions with a SEAMCALL in them (Linux arch/x86/virt/vmx/tdx/seamcall.S); by site number."""
_SEAMCALL: Final = bytes.fromhex("660f01cf")
_JC_SHORT: Final = 0x72
_JC_NEAR: Final = bytes.fromhex("0f82")

KEYID_MSR: Final = 0x87
"""MSR_IA32_MKTME_KEYID_PARTITIONING: EAX = number of MKTME KeyIDs, EDX = of private ones."""
MKTME_KEYIDS: Final = 15
PRIVATE_KEYIDS: Final = 48
"""What the guest's MSR says: private KeyIDs 16 to 63, as on a machine with 6 KeyID bits."""
_MOV_ECX_MSR: Final = b"\xb9" + KEYID_MSR.to_bytes(4, "little")
_RDMSR: Final = bytes.fromhex("0f32")
_READ_KEYIDS: Final = bytes((0x6A, PRIVATE_KEYIDS, 0x5A, 0x6A, MKTME_KEYIDS, 0x58, 0x90))
"""push $48; pop %rdx; push $15; pop %rax; nop"""
_LONGEST_GAP: Final = 16
_PUSHES: Final = frozenset(range(0x50, 0x58))
_REX_B: Final = 0x41

VMX_FUNCTIONS: Final = (
    "x86_vmx_enable_virtualization_cpu",
    "x86_vmx_disable_virtualization_cpu",
)
"""They execute VMXON and VMXOFF (Linux arch/x86/virt/hw.c); here they return 0 at once.  Kernels
that leave VMXON to KVM have none of them."""
_ENDBR64: Final = bytes.fromhex("f30f1efa")
_RETURN_0: Final = bytes.fromhex("31c0c3")
"""xor %eax,%eax; ret"""

DIRECT_MAP: Final = 0xFFFF_8880_0000_0000
"""page_offset_base with 4-level paging and no KASLR (Documentation/arch/x86/x86_64/mm.rst)."""
_CALL: Final = 0xE8
RENDEZVOUS_SITE: Final = 0x100
"""Site number of the first rendezvous; the next ones follow."""


@dataclass(frozen=True, slots=True)
class Place:
    """An instruction to stand in for: ``kind`` is SEAMCALL, RDMSR, RETURN_0 or RENDEZVOUS."""

    kind: str
    function: str
    address: int
    size: int
    why: str


@dataclass(frozen=True, slots=True)
class Change:
    """Bytes of the image that are replaced before it starts."""

    address: int
    old: bytes
    new: bytes
    where: str
    why: str

    def __str__(self) -> str:
        return f"{self.address:#x} {self.where}: {self.old.hex()} -> {self.new.hex()} ({self.why})"


SEAMCALL: Final = "SEAMCALL"
RDMSR: Final = "RDMSR"
RETURN_0: Final = "RETURN_0"
RENDEZVOUS: Final = "RENDEZVOUS"


def find_places(image: KernelImage) -> list[Place]:
    """Every intervention of a kernel.

    Raises InputError, naming the symbol or the option that is missing, for a kernel that cannot be
    driven.
    """
    missing = [name for name in SEAMCALL_SITES if image.symbol(name) is None]
    if missing:
        raise InputError(
            f"{image.path}: no symbol {missing[0]!r}: CONFIG_INTEL_TDX_HOST is not set; expected a "
            "kernel built with it (docs/boot.md)"
        )
    places = [_seamcall_in(image, name) for name in SEAMCALL_SITES]
    places.append(_keyid_rdmsr(image))
    for name in VMX_FUNCTIONS:
        symbol = image.symbol(name)
        if symbol is not None:
            why = "VMXON and VMXOFF do not exist here"
            places.append(Place(RETURN_0, name, symbol.address, len(_RETURN_0), why))
    return places


def _seamcall_in(image: KernelImage, name: str) -> Place:
    symbol = _needed(image, name)
    code = image.code_of(symbol)
    if code.count(_SEAMCALL) != 1:
        raise InputError(
            f"{image.path}: {name} has {code.count(_SEAMCALL)} SEAMCALL instructions (66 0f 01 cf);"
            " expected one"
        )
    address = symbol.address + code.index(_SEAMCALL)
    return Place(SEAMCALL, name, address, len(_SEAMCALL), "answered by the module")


def _keyid_rdmsr(image: KernelImage) -> Place:
    """The RDMSR of the KeyID partitioning, in the function that detects TDX at boot."""
    for name in ("tdx_init", "record_keyid_partitioning", "record_keyid_partitioning.constprop.0"):
        symbol = image.symbol(name)
        if symbol is None:
            continue
        code = image.code_of(symbol)
        start = code.find(_MOV_ECX_MSR)
        if start < 0:
            continue
        read = code.find(_RDMSR, start, start + len(_MOV_ECX_MSR) + _LONGEST_GAP + len(_RDMSR))
        if read >= 0:
            why = "no private KeyIDs here; the guest shall have some"
            return Place(RDMSR, name, symbol.address + read, len(_RDMSR), why)
    raise InputError(
        f"{image.path}: no RDMSR of {KEYID_MSR:#x} in tdx_init; expected Linux 6.16 or later with "
        "CONFIG_INTEL_TDX_HOST"
    )


def _needed(image: KernelImage, name: str) -> Symbol:
    symbol = image.symbol(name)
    if symbol is None:
        raise InputError(f"{image.path}: no symbol {name!r}; expected a Linux kernel")
    return symbol


def find_rendezvous(image: KernelImage, function: str, callee: str) -> Place:
    """The direct call of ``callee`` in ``function``, where a CPU can be held.

    Raises InputError when there is none, or more than one.
    """
    symbol, target = _needed(image, function), _needed(image, callee)
    code = image.code_of(symbol)
    found = []
    for at, byte in enumerate(code[:-4]):
        distance = int.from_bytes(code[at + 1 : at + 5], "little", signed=True)
        if byte == _CALL and symbol.address + at + 5 + distance == target.address:
            found.append(symbol.address + at)
    if len(found) != 1:
        raise InputError(
            f"{image.path}: {function} calls {callee} directly at {len(found)} places; expected "
            "one (it may be inlined)"
        )
    return Place(RENDEZVOUS, f"{function}:{callee}", found[0], 5, "CPUs can be held here")


def changes_for_mailbox(image: KernelImage, places: Iterable[Place]) -> list[Change]:
    """The bytes to replace so that the kernel asks through the mailbox.

    Raises InputError for a kernel whose code has no room for that, naming the place.
    """
    free, room = image.slack_after_text()
    changes = []
    sites = rendezvous = 0
    for place in places:
        if place.kind in (SEAMCALL, RENDEZVOUS):
            if room < STUB_BYTES:
                raise InputError(
                    f"{image.path}: no room behind _etext for the stub of {place.function}; "
                    "expected a few hundred bytes (--transport gdb needs none)"
                )
            if place.kind == SEAMCALL:
                changes += _mailbox_seamcall(image, place, free, sites)
                sites += 1
            else:
                changes += _mailbox_rendezvous(image, place, free, RENDEZVOUS_SITE + rendezvous)
                rendezvous += 1
            step = STUB_BYTES + (-STUB_BYTES) % 16
            free, room = free + step, room - step
        elif place.kind == RDMSR:
            changes.append(_mailbox_rdmsr(image, place))
        else:
            changes.append(_mailbox_return(image, place))
    return changes


def _mailbox_seamcall(image: KernelImage, place: Place, free: int, site: int) -> list[Change]:
    after = place.address + place.size
    following = image.file_bytes(after, 6)
    if following[0] == _JC_SHORT:
        length = 2
        distance = int.from_bytes(following[1:2], "little", signed=True)
    elif following[:2] == _JC_NEAR:
        length = 6
        distance = int.from_bytes(following[2:6], "little", signed=True)
    else:
        raise InputError(
            f"{image.path}: no jc behind the SEAMCALL of {place.function}; expected one "
            "(--transport gdb does not need it)"
        )
    go_on = after + length
    code = stub(free, DIRECT_MAP + SLOTS_PHYSICAL, site, go_on + distance, go_on)
    new = jump(place.address, free).ljust(place.size + length, b"\xcc")
    return [
        _change(image, place.address, new, place.function, place.why),
        _change(image, free, code, "behind _etext", f"stub of {place.function}"),
    ]


def _mailbox_rendezvous(image: KernelImage, place: Place, free: int, site: int) -> list[Change]:
    distance = int.from_bytes(image.file_bytes(place.address + 1, 4), "little", signed=True)
    callee = place.address + place.size + distance
    code = stub(free, DIRECT_MAP + SLOTS_PHYSICAL, site, callee, callee)
    return [
        _change(image, place.address, call(place.address, free), place.function, place.why),
        _change(image, free, code, "behind _etext", f"stub of {place.function}"),
    ]


def _mailbox_rdmsr(image: KernelImage, place: Place) -> Change:
    """mov $0x87,%ecx; PUSHES; rdmsr becomes PUSHES and two constants, in the same bytes."""
    symbol = _needed(image, place.function)
    start = symbol.address + image.code_of(symbol).index(_MOV_ECX_MSR)
    between = image.file_bytes(start + len(_MOV_ECX_MSR), place.address - start - len(_MOV_ECX_MSR))
    if any(byte not in _PUSHES and byte != _REX_B for byte in between):
        raise InputError(
            f"{image.path}: {between.hex()} before the RDMSR in {place.function}; expected nothing "
            "but pushes (--transport gdb takes any)"
        )
    return _change(image, start, between + _READ_KEYIDS, place.function, place.why)


def _mailbox_return(image: KernelImage, place: Place) -> Change:
    start = place.address
    if image.file_bytes(start, len(_ENDBR64)) == _ENDBR64:
        start += len(_ENDBR64)
    # The function tracer's call stays: at boot Linux wants to find it here, and makes it a nop.
    fentry = image.symbol("__fentry__")
    if fentry is not None and image.file_bytes(start, 5) == call(start, fentry.address):
        start += 5
    return _change(image, start, _RETURN_0, place.function, place.why)


def _change(image: KernelImage, address: int, new: bytes, where: str, why: str) -> Change:
    return Change(address, image.file_bytes(address, len(new)), new, where, why)


def changed_image(image: KernelImage, changes: Iterable[Change]) -> bytes:
    """The file with the changes, proven to differ from the original in nothing else."""
    listed = list(changes)
    new = image.with_changes({change.address: change.new for change in listed})
    restored = bytearray(new)
    for change in listed:
        offset = image.offset_of(change.address)
        restored[offset : offset + len(change.old)] = change.old
    if len(new) != len(image.data) or restored != image.data[:]:
        raise ModelError(f"{image.path}: the copy differs in bytes that no intervention names")
    return new
