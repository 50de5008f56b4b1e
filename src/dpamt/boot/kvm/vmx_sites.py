"""The few instructions of kvm-intel that need VMX, in a copy of the module: found, never assumed.

A TD's vCPU has no VMCS of the host: KVM enters it by one SEAMCALL, which is answered here.  What
stands in the way of loading KVM and running TDs is

- RDMSR of the VMX capability MSRs: TCG reads 0 there.  The instruction and those around it, seven
  bytes at least, become a call through a pointer in the unused end of the kernel's text; the code
  there gives fixed values for these MSRs, executes RDMSR for any other, then what was displaced.
  An absolute indirect call (ff 14 25) needs no relocation, wherever the module is loaded.
- CPUID in ``__kvm_is_vmx_supported``: its one use is bit 5 of ECX, VMX.  It becomes a move of it.
- INVEPT, from the flush of a TD's shared EPT: it becomes a test that sets the flags of success.

Displaced instructions are only such that work on registers, or push one, carry no relocation, and
that nobody jumps into the middle of; else the site is refused.  Those behind the RDMSR are enough
in most kernels; KASAN has relocated ones there, and some before it are taken too.
"""

import struct
from dataclasses import dataclass
from typing import Any, Final

from dpamt.boot.kvm.module_file import FileChange, Function, ModuleFile
from dpamt.errors import InputError

VMX_MSRS: Final = {
    0x480: 0x00DA040000000004,  # BASIC
    0x481: 0x000000FF00000016,  # pin-based controls
    0x482: 0xFFFBFFFE0401E172,  # processor-based controls
    0x483: 0xFFFFFFFF00036DFF,  # exit controls
    0x484: 0x00FFFFFF000011FF,  # entry controls
    0x485: 0x000000002004C1E7,  # MISC
    0x48B: 0x1FFFFFFF00000000,  # secondary processor-based controls
    0x48C: 0x00000F0106734141,  # EPT and VPID capabilities
    0x48D: 0x000000FF00000016,  # the true ones of 0x481 to 0x484
    0x48E: 0xFFFBFFFE0401E172,
    0x48F: 0xFFFFFFFF00036DFF,
    0x490: 0x00FFFFFF000011FF,
    0x492: 0,  # tertiary processor-based controls
}
"""What KVM finds in the VMX capability MSRs (Intel SDM, volume 3, appendix A): the features that
it asks of a CPU for TDX (EPT with A/D bits, APICv, posted interrupts), as Linux 7.3.4 took them."""
_FIRST: Final = min(VMX_MSRS)
_COUNT: Final = max(VMX_MSRS) - _FIRST + 1

_CALL_POINTER: Final = b"\xff\x14\x25"
"""call *disp32, absolute."""
_CALL_BYTES: Final = 7
_NEAR_CALL_BYTES: Final = 5
_NOP: Final = b"\x90"
_ENDBR64: Final = bytes.fromhex("f30f1efa")
_RET: Final = b"\xc3"
_PUSHFQ: Final = b"\x9c"
_POPFQ: Final = b"\x9d"
_MOV_CL_VMX: Final = bytes.fromhex("b120")
"""mov $0x20, %cl: CPUID.1:ECX bit 5."""
_CPUID: Final = bytes.fromhex("0fa2")
_SUCCESS: Final = bytes.fromhex("4885e4")
"""test %rsp, %rsp: CF and ZF clear, as after a VMX instruction that succeeded."""
_IS_VMX_SUPPORTED: Final = "__kvm_is_vmx_supported"
_INVEPT: Final = bytes.fromhex("660f3880")
_LOOK_BACK: Final = 6
"""Instructions before an RDMSR among which the constant in ECX is looked for."""


@dataclass(frozen=True, slots=True)
class VmxSites:
    """The changes of kvm-intel.ko, and the bytes that they need in the kernel at ``address``."""

    changes: list[FileChange]
    code: bytes


def vmx_sites(module: ModuleFile, address: int) -> VmxSites:
    """Every intervention in kvm-intel.ko, with its code at the kernel's ``address``.

    Raises InputError for a site that cannot be replaced, naming function and bytes.
    """
    changes = [_cpuid(module), *_invept(module)]
    table = b"".join(
        VMX_MSRS.get(msr, 0).to_bytes(8, "little") for msr in range(_FIRST, _FIRST + _COUNT)
    )
    code = bytearray(table)
    lookup = address + len(code)
    code += _lookup(address)
    for function in module.functions:
        for site in _capability_reads(module, function):
            changes.append(_displace(module, function, site, address, lookup, code))
    return VmxSites(changes, bytes(code))


def _lookup(table: int) -> bytes:
    """ECX = MSR: EDX:EAX as the table has it, by RDMSR for any other."""
    return (
        _ENDBR64
        + struct.pack("<BBi", 0x8D, 0x81, -_FIRST)  # lea -FIRST(%rcx), %eax
        + bytes((0x83, 0xF8, _COUNT))  # cmp $COUNT, %eax
        + bytes((0x73, 15))  # jae to the rdmsr
        + b"\x8b\x14\xc5"
        + _absolute(table + 4)  # mov table+4(,%rax,8), %edx
        + b"\x8b\x04\xc5"
        + _absolute(table)  # mov table(,%rax,8), %eax
        + _RET
        + b"\x0f\x32"  # rdmsr
        + _RET
    )


def _absolute(address: int) -> bytes:
    """An address of the kernel's text as a sign-extended displacement."""
    return struct.pack("<i", address - (1 << 64))


def _displace(
    module: ModuleFile, function: Function, site: Any, address: int, lookup: int, code: bytearray
) -> FileChange:
    """The change at an RDMSR; its code and pointer are put behind ``code``."""
    before, behind = _around(module, function, site)
    first = before[0].address if before else site.address
    size = sum(one.size for one in (*before, site, *behind))
    code += bytes(-len(code) % 8)
    pointer = address + len(code)
    start = pointer + 8
    body = _ENDBR64 + b"".join(map(_elsewhere, before)) + _PUSHFQ
    body += b"\xe8" + struct.pack("<i", lookup - (start + len(body) + _NEAR_CALL_BYTES))
    body += _POPFQ + b"".join(map(_elsewhere, behind)) + _RET
    code += start.to_bytes(8, "little") + body
    offset = function.offset + first
    new = (_CALL_POINTER + _absolute(pointer)).ljust(size, _NOP)
    return FileChange(
        offset,
        module.data[offset : offset + size],
        new,
        f"{module.path.name}: {function.name}",
        "RDMSR: VMX capabilities have fixed values here",
    )


def _around(module: ModuleFile, function: Function, site: Any) -> tuple[list[Any], list[Any]]:
    """The instructions before and behind an RDMSR that make room for the call, no more than needed:
    behind it where that is enough."""
    listed = _instructions(module, function)
    targets = {one.operands[0].imm for one in listed if _is_branch(one)}
    place = next(index for index, one in enumerate(listed) if one.address == site.address)

    def moves(one: Any) -> bool:
        stays = _only_registers(one) or _is_push(one)
        return stays and not module.is_relocated(function.offset + one.address, one.size)

    before: list[Any] = []
    behind: list[Any] = []
    size = site.size
    for one in listed[place + 1 :]:
        if size >= _CALL_BYTES or one.address in targets or not moves(one):
            break
        behind.append(one)
        size += one.size
    for one in reversed(listed[:place]):
        # What follows it is inside the call from now on: nobody may jump there.
        inside = before[0] if before else site
        if size >= _CALL_BYTES or inside.address in targets or not moves(one):
            break
        before.insert(0, one)
        size += one.size
    if size < _CALL_BYTES:
        offset = function.offset + site.address + site.size
        found = module.data[offset : offset + 8].hex()
        raise InputError(
            f"{module.path}: {found} behind the RDMSR in {function.name}+{site.address:#x}; "
            "expected instructions on registers, there or before it, that a call can stand for"
        )
    return before, behind


def _elsewhere(one: Any) -> bytes:
    """What does the same as an instruction, in a function that is called in its place."""
    return _push_below(one) if _is_push(one) else bytes(one.bytes)


def _is_push(one: Any) -> bool:
    """Whether an instruction pushes a 64-bit register other than RSP."""
    from capstone.x86 import X86_OP_REG

    if one.mnemonic != "push" or one.op_str == "rsp":
        return False
    return bool(one.operands[0].type == X86_OP_REG and one.operands[0].size == 8)


def _push_below(one: Any) -> bytes:
    """A push below the return address: xchg REG, (%rsp); push REG; mov 8(%rsp), REG."""
    number = one.bytes[-1] & 7
    rex = 0x4C if one.size > 1 else 0x48  # REX.W, and REX.R for R8 to R15
    modrm = number << 3 | 4  # a register, and an address by a SIB byte: RSP
    exchange = bytes((rex, 0x87, modrm, 0x24))
    return exchange + bytes(one.bytes) + bytes((rex, 0x8B, 0x40 | modrm, 0x24, 8))


def _capability_reads(module: ModuleFile, function: Function) -> list[Any]:
    """The RDMSRs of a function that may read a VMX capability: by constant, or by a register."""
    if b"\x0f\x32" not in module.code_of(function):
        return []
    listed = _instructions(module, function)
    found = []
    for index, one in enumerate(listed):
        if one.mnemonic != "rdmsr":
            continue
        msr = _constant_in_ecx(listed[max(0, index - _LOOK_BACK) : index])
        if msr is None or _FIRST <= msr < _FIRST + _COUNT:
            found.append(one)
    return found


def _constant_in_ecx(before: list[Any]) -> int | None:
    """What the last of these instructions that writes ECX puts there; None: no constant."""
    from capstone.x86 import X86_OP_IMM, X86_REG_ECX, X86_REG_RCX

    for one in reversed(before):
        _, written = one.regs_access()
        if X86_REG_ECX in written or X86_REG_RCX in written:
            if one.mnemonic == "mov" and one.operands[1].type == X86_OP_IMM:
                return int(one.operands[1].imm) & 0xFFFF_FFFF
            return None
    return None


def _instructions(module: ModuleFile, function: Function) -> list[Any]:
    """A function's instructions, by their offsets in it."""
    from capstone import CS_ARCH_X86, CS_MODE_64, Cs

    reader = Cs(CS_ARCH_X86, CS_MODE_64)
    reader.detail = True
    return list(reader.disasm(module.code_of(function), 0))


def _is_branch(one: Any) -> bool:
    from capstone import CS_GRP_JUMP
    from capstone.x86 import X86_OP_IMM

    return CS_GRP_JUMP in one.groups and one.operands[0].type == X86_OP_IMM


def _only_registers(one: Any) -> bool:
    """Whether an instruction does the same wherever it stands: no memory, no stack, no branch."""
    from capstone import CS_GRP_CALL, CS_GRP_JUMP, CS_GRP_RET
    from capstone.x86 import X86_OP_MEM, X86_REG_RSP

    read, written = one.regs_access()
    return not (
        {CS_GRP_CALL, CS_GRP_JUMP, CS_GRP_RET} & set(one.groups)
        or any(operand.type == X86_OP_MEM for operand in one.operands)
        or X86_REG_RSP in read
        or X86_REG_RSP in written
    )


def _cpuid(module: ModuleFile) -> FileChange:
    found = module.named(_IS_VMX_SUPPORTED)
    code = module.code_of(found[0]) if len(found) == 1 else b""
    if code.count(_CPUID) != 1:
        raise InputError(
            f"{module.path}: {code.count(_CPUID)} CPUID in {_IS_VMX_SUPPORTED}; expected one, as "
            "in kvm-intel.ko of Linux 6.16 or later"
        )
    offset = found[0].offset + code.index(_CPUID)
    where = f"{module.path.name}: {_IS_VMX_SUPPORTED}"
    return FileChange(offset, _CPUID, _MOV_CL_VMX, where, "CPUID: there is VMX")


def _invept(module: ModuleFile) -> list[FileChange]:
    """Every INVEPT: in ``__invept``, or where the compiler put it (-O2)."""
    changes = []
    for function in module.functions:
        if _INVEPT not in module.code_of(function):
            continue
        for one in _instructions(module, function):
            if one.mnemonic != "invept":
                continue
            offset = function.offset + one.address
            if module.is_relocated(offset, one.size):
                raise InputError(
                    f"{module.path}: an INVEPT of {function.name} has a relocation; expected none"
                )
            changes.append(
                FileChange(
                    offset,
                    bytes(one.bytes),
                    _SUCCESS.ljust(one.size, _NOP),
                    f"{module.path.name}: {function.name}",
                    "INVEPT: no EPT of a CPU's own here",
                )
            )
    if not changes:
        raise InputError(f"{module.path}: no INVEPT; expected one, as in a kvm-intel.ko with EPT")
    return changes
