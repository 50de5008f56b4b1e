"""The model's KVM makes the calls that the kernel's KVM was seen to make, in the same order."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dpamt.abi.exits import (
    EXIT_REASON_TDCALL,
    TDG_MEM_PAGE_ACCEPT,
    TDVMCALL_REPORT_FATAL_ERROR,
)
from dpamt.abi.leaves import LEAF_NAMES, RAX_LEAF_MASK, TDH_VP_ENTER
from dpamt.abi.pages import PAGE_SHIFT, PAGE_SIZE, SIZE_2M
from dpamt.abi.registers import SeamCall, TdxModuleArgs
from dpamt.host.core.tdx_errno import EINVAL, EOPNOTSUPP
from dpamt.host.kvm.build import kvm_pre_fault_memory, tdx_init_mem_region, tdx_td_finalize
from dpamt.host.kvm.run import tdx_vcpu_run
from dpamt.host.kvm.td import tdx_td_init
from dpamt.host.kvm.teardown import kvm_destroy_vm
from dpamt.host.kvm.vcpu import tdx_vcpu_create, tdx_vcpu_init
from dpamt.host.kvm.vm import Vcpu, Vm
from dpamt.platform.guest import TdCall
from tests.host.rig import MIB, Host, booted

RECORDED = Path(__file__).parent.parent / "data" / "kvm-calls-7.3.4.txt"
IMAGE, PRE_FAULTED, ACCEPTED, OUT = 16, 8, 32, 3
PREFIXES = ("TDH.MEM.", "TDH.PHYMEM.", "TDH.MNG.KEY.", "TDH.")


def short_name(name: str) -> str:
    """As the recording names a leaf: without what all leaves of its kind begin with."""
    for prefix in PREFIXES:
        if name.startswith(prefix):
            name = name.removeprefix(prefix)
            break
    shortened = {
        "SEPT.ADD": "SEPT.ADD",
        "MNG.VPFLUSHDONE": "VPFLUSHDONE",
        "PAGE.RECLAIM": "RECLAIM",
        "CONFIG": "MNG.KEY.CONFIG",
        "FREEID": "KEY.FREEID",
    }
    return shortened.get(name, name)


def recorded() -> list[str]:
    """The recording, written out."""
    lines = [line for line in RECORDED.read_text().splitlines() if line[:1] != "#"]

    def block(indent: int) -> Iterator[str]:
        while lines:
            line = lines[0]
            if len(line) - len(line.lstrip()) < indent:
                return
            lines.pop(0)
            words = line.split()
            if words[1:] == ["times"]:
                inner = list(block(indent + 4))
                yield from inner * int(words[0])
            else:
                yield line.strip()

    return list(block(0))


class Guest:
    """Accepts pages, one after another, then reports a fatal error each time it is entered."""

    def __init__(self, gpa: int, pages: int) -> None:
        self.pages = [gpa + index * PAGE_SIZE for index in range(pages)]

    def run(self, tdcall: TdCall, access: Callable[[int], None], exits: TdxModuleArgs) -> int:
        while self.pages:
            args = TdxModuleArgs()
            args.rcx = self.pages[0]
            assert tdcall(TDG_MEM_PAGE_ACCEPT, args) == 0
            self.pages.pop(0)
        exits.r10, exits.r11 = 0, TDVMCALL_REPORT_FATAL_ERROR
        return EXIT_REASON_TDCALL


def watched(host: Host) -> list[str]:
    """Every SEAMCALL from here on, as the recording writes them."""
    made: list[str] = []

    def wrap(call: SeamCall) -> SeamCall:
        def seamcall(rax: int, args: TdxModuleArgs) -> int:
            status = call(rax, args)
            name = short_name(LEAF_NAMES[rax & RAX_LEAF_MASK])
            made.append(f"{name} {status:#x}" if rax == TDH_VP_ENTER else name)
            return status

        return seamcall

    for cpu in host.kernel.cpus:
        cpu.seamcall = wrap(cpu.seamcall)
    return made


def life(host: Host) -> None:
    """What the recorded VMM did."""
    vm = Vm(host.kernel, 16 * MIB)
    cpu = host.cpu
    assert tdx_td_init(vm, cpu) == 0
    vcpu = tdx_vcpu_create(vm)
    assert isinstance(vcpu, Vcpu)
    assert tdx_vcpu_init(vm, vcpu, cpu) == 0
    host.module.attach_guest(vcpu.tdvpr << PAGE_SHIFT, Guest(SIZE_2M + PRE_FAULTED * PAGE_SIZE, 32))
    assert kvm_pre_fault_memory(vm, vcpu, cpu, SIZE_2M, 1) == -EOPNOTSUPP
    assert tdx_init_mem_region(vm, vcpu, cpu, 0, IMAGE, measure=True) == 0
    assert tdx_td_finalize(vm, cpu) == 0
    assert kvm_pre_fault_memory(vm, vcpu, cpu, SIZE_2M, 0) == -EINVAL
    assert kvm_pre_fault_memory(vm, vcpu, cpu, SIZE_2M, PRE_FAULTED) == 0
    for _ in range(OUT):
        assert tdx_vcpu_run(vm, vcpu, cpu) == EXIT_REASON_TDCALL
    kvm_destroy_vm(vm, cpu)


@pytest.mark.parametrize("design", ["merged", "v6"])
def test_one_td_from_its_making_to_its_end(design: str) -> None:
    """All but PAMT.ADD and PAMT.REMOVE, whose places depend on the page allocator."""
    host = booted(design)
    made = watched(host)
    life(host)
    wanted = recorded()
    assert len(wanted) == 630
    pamt = ("PAMT.ADD", "PAMT.REMOVE")
    assert [call for call in made if call not in pamt] == [c for c in wanted if c not in pamt]
    pairs = Counter(call for call in made if call in pamt)
    assert pairs["PAMT.ADD"] == pairs["PAMT.REMOVE"] > 0
    assert host.audit() == []


def test_static_pamt_is_the_same_without_pairs() -> None:
    host = booted("static")
    made = watched(host)
    life(host)
    assert made == [call for call in recorded() if not call.startswith("PAMT.")]
    assert host.audit() == []
