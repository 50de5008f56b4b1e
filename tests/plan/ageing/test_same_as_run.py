"""The ageing simulation against `dpamt run`'s own host, page for page."""

from dataclasses import replace
from random import Random

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from dpamt.abi.pages import LEVEL_2M, LEVEL_4K, PAGE_SHIFT, PAGES_PER_2M
from dpamt.host.kvm.attributes import kvm_convert
from dpamt.host.kvm.teardown import kvm_destroy_vm
from dpamt.host.kvm.vm import Vm
from dpamt.host.kvm.zap import kvm_gmem_punch_hole
from dpamt.module.view import ModuleView
from dpamt.plan.ageing.boot import boot_ageing
from dpamt.plan.ageing.host import AgeingHost
from dpamt.plan.ageing.tds import Td
from dpamt.platform.machine import Machine
from tests.host.rig import MIB, Host, fault, make_td, small_machine

Event = tuple[str, int, int, int, bool]
"""(what, number of the TD, first page, pages, at 2M)."""


class Both:
    """The same events on both hosts."""

    def __init__(self, machine: Machine, fragmentation: float, seed: int, td_mib: int) -> None:
        self.real = Host(machine)
        assert self.real.boot() == 0
        if fragmentation:
            self.real.allocator.fragment(fragmentation, seed)
        self.ageing = AgeingHost(boot_ageing(machine, seed, fragmentation))
        self.vms: list[Vm] = []
        self.tds: list[Td] = []
        self.td_mib = td_mib

    def play(self, event: Event) -> None:
        what, number, first, count, at_2m = event
        if what == "create":
            if len(self.tds) < 4:
                vcpus = 1 + number % 3
                self.vms.append(make_td(self.real, self.td_mib, vcpus, at_2m, count % 700))
                self.tds.append(self.ageing.create(self.td_mib * MIB, vcpus, at_2m, count % 700))
            return
        if not self.tds:
            return
        at = number % len(self.tds)
        vm, td = self.vms[at], self.tds[at]
        pages = self.td_mib * 256
        first %= pages
        count = min(1 + count, pages - first)
        if what == "destroy":
            kvm_destroy_vm(self.vms.pop(at), self.real.cpu)
            self.ageing.destroy(self.tds.pop(at))
        elif what == "fault":
            accept(self.real, vm, first, count, at_2m)
            self.ageing.fault(td, 0, first, count, at_2m)
        elif what == "punch":
            self.ageing.punch(td, first, count)
            assert not kvm_gmem_punch_hole(
                vm, self.real.cpu, first << PAGE_SHIFT, count << PAGE_SHIFT
            )
        else:
            gpa, size = first << PAGE_SHIFT, count << PAGE_SHIFT
            assert not kvm_convert(vm, self.real.cpu, gpa, size, False)
            assert not kvm_convert(vm, self.real.cpu, gpa, size, True)
            accept(self.real, vm, first, count, False)
            self.ageing.punch(td, first, count)
            self.ageing.fault(td, 0, first, count)

    def compare(self) -> None:
        view = ModuleView(self.real.module)
        counts: dict[int, int] = {}
        for page in view.used_pages():
            counts[page // PAGES_PER_2M] = counts.get(page // PAGES_PER_2M, 0) + 1
        ageing = self.ageing
        assert {at: n for at, n in enumerate(ageing.counts) if n} == counts
        assert ageing.pairs == len(counts)
        assert ageing.allocator.snapshot() == self.real.allocator.snapshot()


def accept(host: Host, vm: Vm, first: int, count: int, at_2m: bool) -> None:
    """What a guest does: each page that it does not have is a fault."""
    page, end = first, first + count
    while page < end:
        if at_2m and page % PAGES_PER_2M == 0 and page + PAGES_PER_2M <= end:
            table = vm.mirror[LEVEL_2M].at(page // PAGES_PER_2M).load()
            if not table:
                assert fault(host, vm, page << PAGE_SHIFT, LEVEL_2M) == 0
        large = vm.mirror[LEVEL_2M].at(page // PAGES_PER_2M).load() & 2
        if not large and not vm.mirror[LEVEL_4K].at(page).load():
            assert fault(host, vm, page << PAGE_SHIFT, LEVEL_4K) == 0
        page += 1


TD_MIB = 16
first_pages = st.one_of(
    st.integers(0, TD_MIB * 256 - 1), st.integers(0, TD_MIB // 2 - 1).map(lambda n: n * 512)
)
sizes = st.one_of(st.integers(0, 30), st.sampled_from((511, 1023, 2047)), st.integers(0, 1500))
events = st.tuples(
    st.sampled_from(("create", "create", "fault", "fault", "fault", "punch", "convert", "destroy")),
    st.integers(0, 9),
    first_pages,
    sizes,
    st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(events, min_size=1, max_size=14),
    st.sampled_from((0.0, 0.3, 1.0)),
    st.integers(0, 3),
)
def test_any_events(history: list[Event], fragmentation: float, seed: int) -> None:
    machine = replace(small_machine(), private_keyids=(32, 40))
    both = Both(machine, fragmentation, seed, TD_MIB)
    for event in [("create", 1, 0, 5, True), ("create", 0, 0, 0, False), *history]:
        both.play(event)
        both.compare()
    while both.tds:
        both.play(("destroy", 0, 0, 0, False))
    both.compare()
    assert both.ageing.pairs == 0


@pytest.mark.parametrize("fragmentation", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("huge", [False, True])
def test_large_tds_that_come_and_go(fragmentation: float, huge: bool) -> None:
    """Long runs: what is taken, and freed, by hundreds of pages at once."""
    random = Random(5)
    both = Both(small_machine(), fragmentation, 7, 192)
    for _step in range(14):
        what = random.choice(("create", "fault", "fault", "convert", "punch", "destroy"))
        if len(both.tds) >= 3 and what == "create":
            what = "destroy"
        at_2m = huge and random.random() < 0.6
        size = random.choice((3, 600, 5000, 30000))
        number = random.randrange(9)
        if what == "create":
            at_2m = huge
        elif what == "convert":
            size = random.choice((0, 15, 511))
        both.play((what, number, random.randrange(192) * 256, size, at_2m))
        both.compare()
