"""Several TDs that share 2M regions, in any order of events, audited after each."""

from dataclasses import replace

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dpamt.abi.pages import LEVEL_2M, LEVEL_4K, PAGE_SHIFT, PAGES_PER_2M
from dpamt.host.core.meminfo import pamt_account
from dpamt.host.core.tdx_errno import EFAULT, EIO, ENOMEM
from dpamt.host.kvm.attributes import kvm_convert
from dpamt.host.kvm.split import kvm_split_huge_leaf
from dpamt.host.kvm.td import tdx_td_init
from dpamt.host.kvm.teardown import kvm_destroy_vm
from dpamt.host.kvm.vm import Vm
from dpamt.host.kvm.zap import kvm_gmem_punch_hole
from tests.host.rig import Host, fault, make_td, small_machine

VM_MIB = 8
PAGES = VM_MIB * 256
MOST_VMS = 3

pages = st.one_of(st.integers(0, 20), st.integers(505, 520), st.integers(0, PAGES - 1))
lengths = st.one_of(st.integers(1, 12), st.just(PAGES_PER_2M), st.integers(1, 1100))


class ManyVms(RuleBasedStateMachine):
    """The design is the subclass's."""

    design = "merged"

    def __init__(self) -> None:
        super().__init__()
        machine = replace(small_machine(), private_keyids=(32, 32 + 1 + MOST_VMS))
        self.host = Host(machine, self.design, seed=3, fragmentation=0.3)
        assert self.host.boot() == 0
        self.vms: list[Vm] = []

    def pick(self, number: int) -> Vm:
        return self.vms[number % len(self.vms)]

    @precondition(lambda self: len(self.vms) < MOST_VMS)
    @rule(huge=st.booleans(), build=st.integers(0, 5))
    def create(self, huge: bool, build: int) -> None:
        self.create_td(huge, build)

    def create_td(self, huge: bool, build: int) -> None:
        self.vms.append(make_td(self.host, VM_MIB, 1, huge, build))

    @precondition(lambda self: len(self.vms) == MOST_VMS)
    @rule()
    def create_one_too_many(self) -> None:
        vm = Vm(self.host.kernel)
        assert tdx_td_init(vm, self.host.cpu) == -28
        kvm_destroy_vm(vm, self.host.cpu)

    @precondition(lambda self: self.vms)
    @rule(number=st.integers(0, 9), page=pages, run=st.integers(1, 30), level=st.integers(0, 1))
    def touch(self, number: int, page: int, run: int, level: int) -> None:
        vm = self.pick(number)
        for at in range(page, min(page + run, PAGES)):
            shared = vm.shared_pages.at(at).load()
            result = fault(self.host, vm, at << PAGE_SHIFT, level)
            assert result == -EFAULT if shared else result in (0, 2)
            if not shared:
                table = vm.mirror[LEVEL_2M].at(at // PAGES_PER_2M).load()
                assert table & 2 or vm.mirror[LEVEL_4K].at(at).load() & 2

    @precondition(lambda self: self.vms)
    @rule(number=st.integers(0, 9), page=pages, length=lengths, private=st.booleans())
    def convert(self, number: int, page: int, length: int, private: bool) -> None:
        size = min(length, PAGES - page) << PAGE_SHIFT
        vm = self.pick(number)
        assert kvm_convert(vm, self.host.cpu, page << PAGE_SHIFT, size, private) == 0
        if not private:
            for at in range(page, min(page + length, PAGES)):
                assert vm.mirror[LEVEL_4K].at(at).load() == 0

    @precondition(lambda self: self.vms)
    @rule(number=st.integers(0, 9), page=pages, length=lengths)
    def punch(self, number: int, page: int, length: int) -> None:
        size = min(length, PAGES - page) << PAGE_SHIFT
        vm = self.pick(number)
        assert kvm_gmem_punch_hole(vm, self.host.cpu, page << PAGE_SHIFT, size) == 0

    @precondition(lambda self: self.vms)
    @rule(number=st.integers(0, 9), page=pages)
    def split(self, number: int, page: int) -> None:
        assert kvm_split_huge_leaf(self.pick(number), self.host.cpu, page) == 0

    @precondition(lambda self: self.vms)
    @rule(number=st.integers(0, 9), page=pages, length=lengths, fail=st.integers(0, 12))
    def anything_without_memory(self, number: int, page: int, length: int, fail: int) -> None:
        """Every allocation from one on fails; the next rules find the host as good as before."""
        allocator, vm = self.host.allocator, self.pick(number)
        first = allocator.allocations + fail
        allocator.fail_when = lambda _site, ordinal: ordinal >= first
        results = [
            fault(self.host, vm, page << PAGE_SHIFT, LEVEL_2M),
            kvm_convert(
                vm,
                self.host.cpu,
                page << PAGE_SHIFT,
                min(length, PAGES - page) << PAGE_SHIFT,
                False,
            ),
        ]
        allocator.fail_when = None
        assert not {-EIO} & set(results)
        assert set(results) <= {0, 2, -ENOMEM, -EFAULT}

    @precondition(lambda self: self.vms)
    @rule(number=st.integers(0, 9))
    def destroy(self, number: int) -> None:
        vm = self.vms.pop(number % len(self.vms))
        kvm_destroy_vm(vm, self.host.cpu)

    @invariant()
    def nothing_contradicts(self) -> None:
        assert self.host.audit(idle=not self.vms) == []
        assert self.host.kernel.log.warnings == []
        assert not any(vm.bugged.load() for vm in self.vms)
        if not self.vms:
            assert pamt_account(self.host.kernel).pairs == 0

    def teardown(self) -> None:
        while self.vms:
            self.destroy(0)
        assert self.host.audit() == []


class StaticVms(ManyVms):
    design = "static"


class V2Vms(ManyVms):
    design = "v2"


SETTINGS = settings(max_examples=12, stateful_step_count=14, deadline=None)

TestStatic = StaticVms.TestCase
TestV2 = V2Vms.TestCase
TestMerged = ManyVms.TestCase
TestStatic.settings = TestV2.settings = TestMerged.settings = SETTINGS
