"""SEAMCALLs that the module refuses: tried again, given back, or lost on purpose; never reused."""

from collections.abc import Callable

import pytest

from dpamt.abi.leaves import (
    LEAF_NAMES,
    RAX_LEAF_MASK,
    TDH_MEM_PAGE_ADD,
    TDH_MEM_PAGE_AUG,
    TDH_MEM_PAGE_DEMOTE,
    TDH_MEM_PAGE_REMOVE,
    TDH_MEM_RANGE_BLOCK,
    TDH_MEM_SEPT_ADD,
    TDH_MEM_TRACK,
    TDH_MNG_ADDCX,
    TDH_MNG_CREATE,
    TDH_MNG_INIT,
    TDH_MNG_KEY_CONFIG,
    TDH_MNG_VPFLUSHDONE,
    TDH_MR_EXTEND,
    TDH_MR_FINALIZE,
    TDH_PHYMEM_CACHE_WB,
    TDH_PHYMEM_PAGE_WBINVD,
    TDH_PHYMEM_PAMT_ADD,
    TDH_PHYMEM_PAMT_REMOVE,
    TDH_SYS_TDMR_INIT,
    TDH_VP_FLUSH,
)
from dpamt.abi.pages import LEVEL_2M, LEVEL_4K, PAGES_PER_2M, SIZE_2M
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.status import TDX_OPERAND_BUSY, TDX_OPERAND_INVALID, TDX_RND_NO_ENTROPY
from dpamt.host.core.tdx_errno import EAGAIN, EBUSY, EINTR, EINVAL, EIO, ENOMEM
from dpamt.host.kvm.attributes import kvm_convert
from dpamt.host.kvm.build import tdx_init_mem_region, tdx_td_finalize
from dpamt.host.kvm.split import kvm_split_huge_leaf
from dpamt.host.kvm.td import tdx_td_init
from dpamt.host.kvm.teardown import kvm_destroy_vm
from dpamt.host.kvm.vcpu import tdx_vcpu_create, tdx_vcpu_init
from dpamt.host.kvm.vm import Vcpu, Vm
from tests.host.rig import ALL_DESIGNS, DYNAMIC_DESIGNS, Host, booted, fault, make_td
from tests.host.test_life import live_a_life

EVERY_DESIGN = pytest.mark.parametrize("design", ALL_DESIGNS)
EVERY_DYNAMIC_DESIGN = pytest.mark.parametrize("design", DYNAMIC_DESIGNS)

Refuse = Callable[[int, int], bool]


class Wall:
    """The real wall of every CPU, which refuses chosen calls: (leaf, how manieth of the leaf)."""

    def __init__(self, host: Host, refuse: Refuse, status: int) -> None:
        self.made: list[int] = []
        self.counts: dict[int, int] = {}
        self.refuse = refuse
        for cpu in host.kernel.cpus:
            cpu.seamcall = self._around(cpu.seamcall, status)

    def _around(
        self, call: Callable[[int, TdxModuleArgs], int], status: int
    ) -> Callable[[int, TdxModuleArgs], int]:
        def seamcall(rax: int, args: TdxModuleArgs) -> int:
            leaf = rax & RAX_LEAF_MASK
            nth = self.counts.get(leaf, 0)
            self.counts[leaf] = nth + 1
            self.made.append(leaf)
            return status if self.refuse(leaf, nth) else call(rax, args)

        return seamcall


def refuse(
    host: Host, leaf: int, times: int = 1, status: int = TDX_OPERAND_BUSY, first: int = 0
) -> Wall:
    """Refuse ``times`` calls of a leaf, from the ``first`` on."""
    return Wall(host, lambda made, nth: made == leaf and first <= nth < first + times, status)


@EVERY_DESIGN
@pytest.mark.parametrize("leaf", [TDH_MEM_PAGE_AUG, TDH_MEM_SEPT_ADD])
@pytest.mark.parametrize("times", [1, 5])
def test_a_busy_map_is_tried_again_with_a_new_get(design: str, leaf: int, times: int) -> None:
    host = booted(design)
    vm = make_td(host)
    wall = refuse(host, leaf, times)
    assert fault(host, vm, 0) == 0
    assert wall.counts[leaf] == times + (3 if leaf == TDH_MEM_SEPT_ADD else 1)
    assert wall.counts[TDH_MEM_SEPT_ADD] == (3 + times if leaf == TDH_MEM_SEPT_ADD else 3)
    assert host.audit() == []
    kvm_destroy_vm(vm, host.cpu)
    assert host.audit() == []


@EVERY_DESIGN
def test_a_busy_map_gives_way_to_a_signal(design: str) -> None:
    host = booted(design)
    vm = make_td(host)
    refuse(host, TDH_MEM_PAGE_AUG, 1000)
    vm.vcpus[0].signal_pending.store(1)
    assert fault(host, vm, 0) == -EINTR
    assert host.audit() == []
    kvm_destroy_vm(vm, host.cpu)
    assert host.audit() == []


@EVERY_DESIGN
@pytest.mark.parametrize(
    "leaf", [TDH_MEM_RANGE_BLOCK, TDH_MEM_TRACK, TDH_MEM_PAGE_REMOVE, TDH_MEM_PAGE_DEMOTE]
)
@pytest.mark.parametrize("times", [1, 2])
def test_a_zap_or_split_is_tried_once_more(design: str, leaf: int, times: int) -> None:
    host = booted(design)
    vm = make_td(host, huge=True)
    assert fault(host, vm, SIZE_2M, LEVEL_2M) == 0
    refuse(host, leaf, times)
    split = kvm_split_huge_leaf(vm, host.cpu, PAGES_PER_2M)
    if times == 1:
        assert split == 0
        assert kvm_convert(vm, host.cpu, SIZE_2M, 0x2000, False) == 0
        assert vm.bugged.load() == 0
    else:
        if leaf == TDH_MEM_PAGE_REMOVE:
            assert split == 0
            assert kvm_convert(vm, host.cpu, SIZE_2M, 0x2000, False) == 0
        else:
            assert split == -EIO
        assert vm.bugged.load() == 1
        assert any("bugged" in line for line in host.log)
    assert vm.wait_for_sept_zap.load() == 0
    assert host.audit(idle=False) == []
    kvm_destroy_vm(vm, host.cpu)
    assert host.audit(idle=False) == []
    # A page that stays blocked cannot be blocked again: Linux loses it, and the TD's TDR with it.
    lost = host.allocator.snapshot() != host.after_boot
    assert lost == (times == 2 and leaf != TDH_MEM_RANGE_BLOCK)


@EVERY_DESIGN
@pytest.mark.parametrize("nth", [0, -1])
def test_every_leaf_of_a_life_may_be_refused(design: str, nth: int) -> None:
    """Its first call, then its last: errors, leaks, but no page is two things at once."""
    host = booted(design)
    calm = Wall(host, lambda _leaf, _nth: False, 0)
    assert live_a_life(host, True) == 0
    leaves = [leaf for leaf in calm.counts if leaf != TDH_SYS_TDMR_INIT]
    assert len(leaves) >= 20 + 2 * (design != "static")
    for leaf in leaves:
        host = booted(design)
        which = nth % calm.counts[leaf]
        refuse(host, leaf, 1, TDX_OPERAND_INVALID, which)
        result = live_a_life(host, True)
        if leaf == TDH_PHYMEM_PAMT_ADD and nth == 0:
            assert result == -ENOMEM  # a control page without its pair is as good as no page
        else:
            assert result in (0, -EIO, -EINVAL), LEAF_NAMES[leaf]
        findings = host.audit(idle=False)
        # A count that stays up with nobody using the region is what Linux leaks on purpose.
        kept = [finding for finding in findings if "4K pages in TDX use" in finding]
        if leaf not in (TDH_PHYMEM_PAMT_REMOVE, TDH_PHYMEM_PAGE_WBINVD):
            assert findings == [], LEAF_NAMES[leaf]
        elif not host.kernel.dynamic_pamt:
            assert findings == []
        else:
            others = [f for f in findings if f not in kept and not f.startswith("no TD exists")]
            assert others == []


@EVERY_DYNAMIC_DESIGN
def test_a_failed_add_is_an_error_and_nothing_is_counted(design: str) -> None:
    host = booted(design)
    refuse(host, TDH_PHYMEM_PAMT_ADD, 1, TDX_OPERAND_INVALID)
    vm = Vm(host.kernel)
    assert tdx_td_init(vm, host.cpu) == -ENOMEM
    assert host.audit() == []
    told = "tdx.c at tdx_pamt_get" if design == "merged" else "PAMT.ADD failed"
    assert any(told in line for line in host.log)
    host = booted(design)
    vm = make_td(host, mib=64)
    refuse(host, TDH_PHYMEM_PAMT_ADD, 10_000, TDX_OPERAND_INVALID)
    page = 0
    while fault(host, vm, page << 12) == 0:
        page += 1
    assert fault(host, vm, page << 12) == -EIO
    assert host.audit(idle=False) == []
    assert len(host.kernel.log.warnings) == (1 if design == "merged" else 0)
    kvm_destroy_vm(vm, host.cpu)
    assert host.audit() == []


@EVERY_DYNAMIC_DESIGN
def test_a_failed_remove_keeps_count_and_pair(design: str) -> None:
    host = booted(design)
    refuse(host, TDH_PHYMEM_PAMT_REMOVE, 1, TDX_OPERAND_INVALID)
    kvm_destroy_vm(make_td(host), host.cpu)
    findings = host.audit(idle=False)
    assert [finding for finding in findings if "refcount 1" in finding]
    assert dict(host.kernel.pamt_refcounts.non_zero()) == dict.fromkeys(
        (region for region, _ in host.kernel.pamt_refcounts.non_zero()), 1
    )
    # The next user of the region finds both, and its last put leaves one again.
    kvm_destroy_vm(make_td(host), host.cpu)
    assert host.audit(idle=False) == findings


def test_errors_of_td_creation() -> None:
    for leaf, status, error in (
        (TDH_MNG_CREATE, TDX_OPERAND_BUSY, -EIO),
        (TDH_MNG_KEY_CONFIG, TDX_OPERAND_BUSY, -EIO),
        (TDH_MNG_ADDCX, TDX_OPERAND_BUSY, -EIO),
        (TDH_MNG_INIT, TDX_OPERAND_INVALID, -EINVAL),
        (TDH_MNG_INIT, TDX_OPERAND_BUSY, -EIO),
    ):
        host = booted()
        refuse(host, leaf, 1, status)
        vm = Vm(host.kernel)
        assert tdx_td_init(vm, host.cpu) == error
        name = LEAF_NAMES[leaf].replace(".", "_")
        told = any(f"kvm_intel: SEAMCALL {name} failed: {status:#x}" in line for line in host.log)
        assert told == (error == -EIO)
        assert vm.bugged.load() == (error == -EIO)
        assert host.audit() == []
        kvm_destroy_vm(vm, host.cpu)
        assert host.audit() == []


@pytest.mark.parametrize(
    ("leaf", "lines"),
    [
        (
            TDH_VP_FLUSH,
            [
                "WARNING: KVM_BUG_ON, VM 1 bugged: TDH.VP.FLUSH",
                "kvm_intel: SEAMCALL TDH_VP_FLUSH failed: 0x8000020000000000",
            ],
        ),
        (
            TDH_MNG_VPFLUSHDONE,
            [
                "WARNING: KVM_BUG_ON, VM 1 bugged: TDH.MNG.VPFLUSHDONE",
                "kvm_intel: SEAMCALL TDH_MNG_VPFLUSHDONE failed: 0x8000020000000000",
                "kvm_intel: tdh_mng_vpflushdone() failed. HKID 33 is leaked.",
            ],
        ),
        (
            TDH_PHYMEM_CACHE_WB,
            [
                "WARNING: caches of a package are not written back",
                "kvm_intel: SEAMCALL TDH_PHYMEM_CACHE_WB failed: 0x8000020000000000",
                "WARNING: KVM_BUG_ON, VM 1 bugged: TDH.MNG.KEY.FREEID",
                "kvm_intel: SEAMCALL TDH_MNG_KEY_FREEID failed: 0x8000081700000000",
                "kvm_intel: tdh_mng_key_freeid() failed. HKID 33 is leaked.",
            ],
        ),
    ],
)
def test_a_keyid_that_stays_is_told_and_all_under_it_is_lost(leaf: int, lines: list[str]) -> None:
    host = booted()
    vm = make_td(host)
    assert fault(host, vm, 0x5000) == 0
    boot = len(host.log)
    refuse(host, leaf)
    kvm_destroy_vm(vm, host.cpu)
    assert host.log[boot:] == lines
    assert host.kernel.keyid_words.at(33).load() == 1
    assert host.audit(idle=False) == []
    assert host.allocator.snapshot() != host.after_boot


@pytest.mark.parametrize("leaf", [TDH_MNG_CREATE, TDH_MNG_ADDCX])
def test_no_entropy_is_tried_ten_times_then_user_space_may(leaf: int) -> None:
    host = booted()
    wall = refuse(host, leaf, 10, TDX_RND_NO_ENTROPY)
    vm = Vm(host.kernel)
    assert tdx_td_init(vm, host.cpu) == -EAGAIN
    assert wall.counts[leaf] == 10
    assert host.audit() == []
    assert tdx_td_init(vm, host.cpu) == 0
    kvm_destroy_vm(vm, host.cpu)
    assert host.audit() == []


def test_build_time_refusals() -> None:
    host = booted()
    vm = Vm(host.kernel, 16 << 20)
    assert tdx_td_init(vm, host.cpu) == 0
    vcpu = tdx_vcpu_create(vm)
    assert isinstance(vcpu, Vcpu)
    assert tdx_vcpu_init(vm, vcpu, host.cpu) == 0
    wall = refuse(host, TDH_MEM_PAGE_ADD, 3)
    assert tdx_init_mem_region(vm, vcpu, host.cpu, 0, 2) == 0
    assert wall.counts[TDH_MEM_PAGE_ADD] == 5
    refuse(host, TDH_MR_FINALIZE)
    assert tdx_td_finalize(vm, host.cpu) == -EBUSY
    assert tdx_td_finalize(vm, host.cpu) == 0
    assert host.audit(idle=False) == []
    refuse(host, TDH_MR_EXTEND, 1, TDX_OPERAND_INVALID)
    other = Vm(host.kernel, 16 << 20)
    assert tdx_td_init(other, host.cpu) == 0
    measured = tdx_vcpu_create(other)
    assert isinstance(measured, Vcpu)
    assert tdx_vcpu_init(other, measured, host.cpu) == 0
    assert tdx_init_mem_region(other, measured, host.cpu, 0, 2, True) == -EIO
    assert other.bugged.load() == 1
    assert other.mirror[LEVEL_4K].at(0).load()  # mapped and counted all the same
    assert host.audit(idle=False) == []
    kvm_destroy_vm(vm, host.cpu)
    kvm_destroy_vm(other, host.cpu)
    assert host.audit() == []


def test_a_pair_left_behind_blocks_a_2m_page() -> None:
    """Linux bugs the VM: the module refuses the 2M page while the pair is there."""
    host = booted("merged", fragmentation=0.0)
    vm = make_td(host, mib=16, huge=True)
    assert fault(host, vm, SIZE_2M, LEVEL_2M) == 0
    leaf = vm.mirror[LEVEL_2M].at(1).load()
    assert kvm_split_huge_leaf(vm, host.cpu, PAGES_PER_2M) == 0
    wall = refuse(host, TDH_PHYMEM_PAMT_REMOVE, 1, TDX_OPERAND_INVALID)
    assert kvm_convert(vm, host.cpu, SIZE_2M, SIZE_2M, False) == 0
    assert wall.counts[TDH_PHYMEM_PAMT_REMOVE] == 1
    assert host.kernel.pamt_refcounts.at(leaf >> 4 >> 9).load() == 1
    assert host.kernel.log.warnings
    # guest_memfd gets the same folio again; another TD maps it at 2M.
    other = make_td(host, huge=True)
    assert other.gmem.get_pfn(PAGES_PER_2M)[0] == leaf >> 4
    assert fault(host, other, SIZE_2M, LEVEL_2M) == -EIO
    assert other.bugged.load() == 1
    assert fault(host, other, SIZE_2M, LEVEL_4K) == 0
    kvm_destroy_vm(other, host.cpu)
    kvm_destroy_vm(vm, host.cpu)
    assert host.kernel.pamt_refcounts.at(leaf >> 4 >> 9).load() == 1
