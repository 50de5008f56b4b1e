"""The audit sees what it is there to see: each kind of contradiction, made by hand."""

from collections.abc import Callable

import pytest

from dpamt.abi.pages import LEVEL_2M, LEVEL_4K, SIZE_2M
from dpamt.host.core.audit import audit
from dpamt.host.core.seamcall import tdh_phymem_pamt_add, tdh_phymem_pamt_remove
from dpamt.host.kvm.teardown import kvm_destroy_vm
from dpamt.host.kvm.vm import Vm
from dpamt.module.view import ModuleView
from tests.host.rig import Host, booted, fault, make_td


def findings(host: Host) -> list[str]:
    return audit(host.kernel, ModuleView(host.module), host.after_boot)


def used_page(host: Host) -> int:
    return next(iter(ModuleView(host.module).used_pages()))


def raise_a_count(host: Host, _vm: Vm) -> None:
    host.kernel.pamt_refcounts.at(used_page(host) >> 9).add(1)


def lose_a_count(host: Host, _vm: Vm) -> None:
    host.kernel.pamt_refcounts.at(used_page(host) >> 9).store(0)


def miscount_the_pairs(host: Host, _vm: Vm) -> None:
    host.kernel.pamt_pairs.add(1)


def add_a_pair_nobody_needs(host: Host, _vm: Vm) -> None:
    first, second = host.allocator.alloc_page("a"), host.allocator.alloc_page("b")
    assert first is not None
    assert second is not None
    assert tdh_phymem_pamt_add(host.cpu, 0x6200, first, second) == 0


def free_a_page_in_use(host: Host, vm: Vm) -> None:
    host.allocator.free_page(vm.tdcs[0])


def free_a_page_of_a_pair(host: Host, _vm: Vm) -> None:
    host.allocator.free_page(ModuleView(host.module).pairs()[used_page(host) >> 9][1])


def free_a_folio_in_use(host: Host, vm: Vm) -> None:
    host.allocator.free_pages(vm.mirror[LEVEL_2M].at(1).load() >> 4, 9)


@pytest.mark.parametrize(
    ("corrupt", "expected"),
    [
        (raise_a_count, "4K pages in TDX use"),
        (lose_a_count, "refcount 0, but its pair is installed"),
        (miscount_the_pairs, "the host counts"),
        (add_a_pair_nobody_needs, "region 0x31: refcount 0, but its pair is installed"),
        (free_a_page_in_use, "and free in the page allocator"),
        (free_a_page_of_a_pair, "of the pair of region"),
        (free_a_folio_in_use, "of a 2M page of TD"),
    ],
)
def test_a_contradiction_is_found(corrupt: Callable[[Host, Vm], None], expected: str) -> None:
    host = booted("merged")
    vm = make_td(host, huge=True)
    assert fault(host, vm, SIZE_2M, LEVEL_2M) == 0
    assert fault(host, vm, 2 * SIZE_2M, LEVEL_4K) == 0
    assert findings(host) == []
    corrupt(host, vm)
    assert any(expected in finding for finding in findings(host))


def test_without_a_td_everything_is_as_after_boot() -> None:
    host = booted("merged")
    kvm_destroy_vm(make_td(host), host.cpu)
    assert findings(host) == []
    page = host.allocator.alloc_page("lost")
    assert page is not None
    assert findings(host) == [
        "no TD exists, but the free pages are not those after boot: "
        f"{host.allocator.free_count} free now, {host.allocator.free_count + 1} then"
    ]
    other = host.allocator.alloc_page("lost")
    assert other is not None
    assert tdh_phymem_pamt_add(host.cpu, 0x200, page, other) == 0
    assert any("no TD exists, but region 0x1 has the pair" in text for text in findings(host))
    assert tdh_phymem_pamt_remove(host.cpu, 0x200)[0] == 0
    host.kernel.pamt_refcounts.at(3).add(1)
    assert "no TD exists, but region 0x3 has refcount 1" in findings(host)
