"""The sites of kvm-intel that need VMX: found in an object, replaced, and run on an emulator."""

import shutil
import subprocess
from pathlib import Path

import pytest

from dpamt.boot.kvm.module_file import FileChange, ModuleFile
from dpamt.boot.kvm.vmx_sites import VMX_MSRS, vmx_sites
from dpamt.errors import InputError, ModelError

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc here")

KERNEL = 0xFFFF_FFFF_813F_0000
MODULE = 0xFFFF_FFFF_A000_0000
READ = """
native_read_msr:
    push %rbx
    mov %edi, %ecx
    rdmsr
    shl $0x20, %rdx
    mov %rdx, %rbx
    or %rax, %rbx
    mov %rbx, %rax
    pop %rbx
    ret
.size native_read_msr, .-native_read_msr
"""
SETUP = """
setup_vmcs_config:
    mov $0x48c, %ecx
    rdmsr
    xor %ecx, %ecx
    mov %rax, %r13
    ret
.size setup_vmcs_config, .-setup_vmcs_config
"""
ASKED_BACK = """
native_read_msr:
    push %rbp
    mov %edi, %ecx
    push {pushed}
    rdmsr
    shl $0x20, %rdx
    mov $somewhere, %rdi
    or %rdx, %rax
    pop {pushed}
    cmp %rbp, 0(%rsp)
    je 1f
    xor %eax, %eax
1:  pop %rbp
    ret
.size native_read_msr, .-native_read_msr
"""
"""With KASAN: a relocated instruction behind the RDMSR, a push before it."""
AFTER_A_CALL = """
native_read_msr:
    push %rbp
    mov %edi, %ebp
    call somewhere
2:  mov %ebp, %ecx
    rdmsr
    shl $0x20, %rdx
    mov $somewhere, %rdi
    or %rdx, %rax
    pop %rbp
    ret
.size native_read_msr, .-native_read_msr
.type somewhere, @function
"""
"""With KCSAN: relocated instructions on both sides, and room between them."""
FLAGS = """
setup_vmcs_config:
    xor %eax, %eax
    mov $0x48c, %ecx
    rdmsr
    jne 2f
    ret
2:  xor %eax, %eax
    ret
.size setup_vmcs_config, .-setup_vmcs_config
"""
SUPPORTED = """
__kvm_is_vmx_supported:
    mov $1, %eax
    xor %ecx, %ecx
    cpuid
    and $0x20, %cl
    movzbl %cl, %eax
    ret
.size __kvm_is_vmx_supported, .-__kvm_is_vmx_supported
"""
FLUSH = """
__invept.constprop.0:
    mov $1, %eax
    stc
    invept (%rsp), %rdi
    ja 1f
    xor %eax, %eax
1:  ret
.size __invept.constprop.0, .-__invept.constprop.0
"""
OTHER_MSR = """
spec_ctrl:
    mov $0x48, %ecx
    testl $2, %eax
    je 1f
    rdmsr
1:  ret
.size spec_ctrl, .-spec_ctrl
"""


def built(folder: Path, *functions: str) -> ModuleFile:
    """An object with these functions."""
    text = "\n".join(functions)
    names = [
        line[:-1] for line in text.splitlines() if line.endswith(":") and not line[0].isdigit()
    ]
    types = "\n".join(f".type {name}, @function" for name in names)
    source, target = folder / "m.s", folder / "kvm-intel.ko"
    source.write_text(f".text\n{types}\n{text}\n")
    subprocess.run(["gcc", "-c", "-o", target, source], check=True)
    return ModuleFile(target)


def run(module: ModuleFile, name: str, edi: int = 0) -> int:
    """RAX of a function of the changed module, its code in the kernel beside it."""
    unicorn = pytest.importorskip("unicorn")
    from unicorn.x86_const import UC_X86_REG_RAX, UC_X86_REG_RDI, UC_X86_REG_RSP

    sites = vmx_sites(module, KERNEL)
    data = module.with_changes(sites.changes)
    function = next(one for one in module.functions if one.name == name)
    engine = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    engine.ctl_set_tlb_mode(1)  # addresses as they are, above 52 bits too
    for address, content in ((KERNEL, sites.code), (MODULE, data)):
        engine.mem_map(address, 0x4000)
        engine.mem_write(address, content)
    stack = 0x10000
    engine.mem_map(stack, 0x1000)
    end = MODULE + 0x3FF0
    engine.mem_write(stack + 0x800, end.to_bytes(8, "little"))
    engine.reg_write(UC_X86_REG_RSP, stack + 0x800)
    engine.reg_write(UC_X86_REG_RDI, edi)
    engine.emu_start(MODULE + function.offset, end, count=1000)
    return int(engine.reg_read(UC_X86_REG_RAX))


ALL = (READ, SETUP, SUPPORTED, FLUSH, OTHER_MSR)


def test_capabilities_have_their_values_in_the_changed_module(tmp_path: Path) -> None:
    module = built(tmp_path, *ALL)
    for msr, value in VMX_MSRS.items():
        assert run(module, "native_read_msr", msr) == value
    assert run(module, "native_read_msr", 0x491) == 0  # between them, and not one that is read
    # A constant MSR, and what was displaced behind the RDMSR is done all the same.
    assert run(module, "setup_vmcs_config") == VMX_MSRS[0x48C] & 0xFFFF_FFFF


@pytest.mark.parametrize("pushed", ["%rbx", "%r13", "%rbp"])
def test_a_push_before_it_is_displaced_too(tmp_path: Path, pushed: str) -> None:
    module = built(tmp_path, ASKED_BACK.format(pushed=pushed), SUPPORTED, FLUSH)
    for msr, value in VMX_MSRS.items():
        assert run(module, "native_read_msr", msr) == value


def test_the_bytes_behind_a_relocation_are_free(tmp_path: Path) -> None:
    module = built(tmp_path, AFTER_A_CALL, SUPPORTED, FLUSH)
    (change,) = [one for one in vmx_sites(module, KERNEL).changes if "RDMSR" in one.why]
    assert change.old == bytes.fromhex("89e90f3248c1e220")  # from the mov before it to the shl


def test_the_flags_are_those_before_the_rdmsr(tmp_path: Path) -> None:
    module = built(tmp_path, FLAGS, SUPPORTED, FLUSH)
    assert run(module, "setup_vmcs_config") == VMX_MSRS[0x48C] & 0xFFFF_FFFF


def test_another_msr_is_read_by_rdmsr(tmp_path: Path) -> None:
    # TSC_AUX is 0 in the emulator, EFER is not: long mode is on.
    assert run(built(tmp_path, *ALL), "native_read_msr", 0xC000_0080) & 0x500


def test_vmx_is_there_and_a_flush_succeeds(tmp_path: Path) -> None:
    module = built(tmp_path, *ALL)
    assert run(module, "__kvm_is_vmx_supported") == 0x20
    assert run(module, "__invept.constprop.0") == 1  # ja: CF and ZF are clear


def test_an_invept_that_the_compiler_put_elsewhere_is_found(tmp_path: Path) -> None:
    inlined = FLUSH.replace("__invept.constprop.0", "tdx_flush_tlb_all")
    assert run(built(tmp_path, inlined, SUPPORTED), "tdx_flush_tlb_all") == 1


def test_nothing_but_the_listed_bytes_differs(tmp_path: Path) -> None:
    module = built(tmp_path, *ALL)
    changes = vmx_sites(module, KERNEL).changes
    new = module.with_changes(changes)
    listed = {at for one in changes for at in range(one.offset, one.offset + len(one.new))}
    differ = {at for at, (a, b) in enumerate(zip(module.data, new, strict=True)) if a != b}
    assert differ
    assert differ <= listed
    assert {one.where.split(": ")[1] for one in changes} == {
        "native_read_msr",
        "setup_vmcs_config",
        "__kvm_is_vmx_supported",
        "__invept.constprop.0",
    }


def test_a_change_whose_old_bytes_are_not_there_is_refused(tmp_path: Path) -> None:
    module = built(tmp_path, *ALL)
    wrong = FileChange(module.functions[0].offset, b"\xab", b"\xcd", "here", "for the test")
    with pytest.raises(ModelError, match="no intervention names"):
        module.with_changes([wrong])


REFUSED = SETUP.replace("rdmsr", "jmp 3f\n3: rdmsr")
"""The RDMSR is a target: nothing before it can be displaced."""
BRANCH_BEHIND = REFUSED.replace("xor %ecx, %ecx", "jmp 2f\n2:")
MEMORY_BEHIND = REFUSED.replace("xor %ecx, %ecx", "mov somewhere(%rip), %ecx")
TARGET_BEHIND = REFUSED.replace("mov $0x48c", "jmp 2f\n mov $0x48c").replace(
    "mov %rax, %r13", "2: mov %rax, %r13"
)


@pytest.mark.parametrize("setup", [BRANCH_BEHIND, MEMORY_BEHIND, TARGET_BEHIND])
def test_what_cannot_be_displaced_is_refused(tmp_path: Path, setup: str) -> None:
    module = built(tmp_path, setup, SUPPORTED, FLUSH)
    with pytest.raises(InputError, match=r"behind the RDMSR in setup_vmcs_config\+0x"):
        vmx_sites(module, KERNEL)


def test_a_module_without_the_sites_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0 CPUID in __kvm_is_vmx_supported"):
        vmx_sites(built(tmp_path, READ, FLUSH), KERNEL)
    with pytest.raises(InputError, match="no INVEPT; expected one"):
        vmx_sites(built(tmp_path, READ, SUPPORTED), KERNEL)


def test_files_that_are_no_modules_are_refused_in_one_line(tmp_path: Path) -> None:
    text = tmp_path / "text.ko"
    text.write_text("no ELF")
    for path in (text, tmp_path / "absent.ko", Path("/bin/true")):
        with pytest.raises(InputError, match="expected a kernel module") as refused:
            ModuleFile(path)
        assert "\n" not in str(refused.value)
