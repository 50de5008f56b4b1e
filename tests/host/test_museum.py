"""Every design through whole lives of TDs, with its audit; known faults of a posting set apart."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings

from dpamt.abi.pages import LEVEL_2M, LEVEL_4K, SIZE_2M
from dpamt.host.core.page_cache import SITE_PAIR
from dpamt.host.core.tdx_errno import EIO, ENOMEM
from dpamt.host.designs.load import SHIPPED
from dpamt.host.kvm.teardown import kvm_destroy_vm
from tests.host.rig import ALL_DESIGNS, Host, booted, fault, make_td
from tests.host.test_life import live_a_life
from tests.host.test_many_vms import ManyVms

BOTH_SIZES = pytest.mark.parametrize("huge", [False, True], ids=["4K", "2M"])

MUSEUM = tuple(name for name in SHIPPED if name not in ALL_DESIGNS)
"""What the other tests of lives do not run."""
EVERY_MUSEUM_DESIGN = pytest.mark.parametrize("design", MUSEUM)

MISCOUNTS = "v3-simple"
"""Its counts are 0 or 1, whatever is in use."""
SPLITS_BADLY = "v5"
LEAKS_HALF_A_PAIR = ("v3-simple", "v3")


@EVERY_MUSEUM_DESIGN
@BOTH_SIZES
@pytest.mark.parametrize("fragmentation", [0.0, 0.6, 1.0])
def test_a_life_leaves_nothing(design: str, huge: bool, fragmentation: float) -> None:
    if design == SPLITS_BADLY and huge and fragmentation < 1.0:
        pytest.skip("its splits are in test_hazards.py")
    host = booted(design, seed=7, fragmentation=fragmentation)
    assert live_a_life(host, huge, design != MISCOUNTS) == 0
    assert host.audit() == []
    assert host.allocator.snapshot() == host.after_boot
    assert host.kernel.log.warnings == []
    assert not any("bugged" in line for line in host.log)


def some_allocations(host: Host, action: Callable[[], int]) -> list[tuple[str, int]]:
    """(site, how manieth allocation of the action) for the first, second and last of each site."""
    ordinals: dict[str, list[int]] = {}
    start = host.allocator.allocations

    def note(site: str, ordinal: int) -> bool:
        ordinals.setdefault(site, []).append(ordinal - start)
        return False

    host.allocator.fail_when = note
    assert action() == 0
    host.allocator.fail_when = None
    return [
        (site, at) for site, found in ordinals.items() for at in sorted({*found[:2], found[-1]})
    ]


@EVERY_MUSEUM_DESIGN
@BOTH_SIZES
def test_each_allocation_site_may_fail(design: str, huge: bool) -> None:
    if design == SPLITS_BADLY and huge:
        pytest.skip("its splits are in test_hazards.py")
    host = booted(design, seed=7, fragmentation=0.3)
    tried = some_allocations(host, lambda: live_a_life(host, huge))
    assert len({site for site, _ in tried}) >= 7
    for site, at in tried:
        failing = host.allocator.allocations + at
        host.allocator.fail_when = lambda _site, ordinal, failing=failing: ordinal == failing
        free = host.allocator.free_count
        result = live_a_life(host, huge)
        host.allocator.fail_when = None
        assert result in (0, -ENOMEM), site
        lost = free - host.allocator.free_count
        assert lost == (site == SITE_PAIR[1] and design in LEAKS_HALF_A_PAIR), site
        if lost:
            host.after_boot = host.allocator.snapshot()
        assert host.audit() == []
        assert not any("bugged" in line for line in host.log)


@EVERY_MUSEUM_DESIGN
def test_a_full_machine(design: str) -> None:
    host = booted(design, 24)
    vm = make_td(host, mib=64)
    mapped = 0
    while fault(host, vm, mapped << 12) == 0:
        mapped += 1
    assert mapped > 1000
    assert fault(host, vm, mapped << 12) == -ENOMEM
    if design != MISCOUNTS:
        assert host.audit(idle=False) == []
    kvm_destroy_vm(vm, host.cpu)
    assert host.audit() == []


def test_the_lazy_design_counts_nothing_and_asks_first() -> None:
    host = booted("lazy")
    assert host.kernel.refcount_pages == {}
    vm = make_td(host, huge=True)
    assert fault(host, vm, 0, LEVEL_4K) == 0
    assert fault(host, vm, SIZE_2M, LEVEL_2M) == 0
    assert list(host.kernel.pamt_refcounts.non_zero()) == []
    assert host.kernel.pamt_pairs.load() > 0
    assert host.audit(idle=False) == []
    kvm_destroy_vm(vm, host.cpu)
    assert host.kernel.pamt_pairs.load() == 0
    assert host.audit() == []


def test_the_lazy_designs_audit_sees_a_pair_without_pages() -> None:
    host = booted("lazy")
    kvm_destroy_vm(make_td(host), host.cpu)
    assert host.kernel.design.tdx_pamt_missing is not None
    assert host.kernel.design.tdx_pamt_missing(host.kernel, host.cpu, 0x6200, None) == 0
    assert "region 0x31: no page in TDX use, but its pair is installed" in host.audit(idle=False)
    assert host.kernel.design.tdx_pamt_hint is not None
    host.kernel.design.tdx_pamt_hint(host.kernel, host.cpu, 0x6200)
    assert host.audit() == []


def test_a_user_of_a_design_without_hooks_never_repeats() -> None:
    """A missing pair is an error where nobody takes care of it."""
    host = booted("merged")
    vm = make_td(host)
    host.kernel.tdx_pamt_get = lambda _kernel, _cpu, _pfn, _cache: 0
    host.kernel.tdx_pamt_put = lambda _kernel, _cpu, _pfn: None
    results = [fault(host, vm, page << 12) for page in range(3000)]
    assert -EIO in results
    assert vm.bugged.load() == 1


class MuseumVms(ManyVms):
    """Only TDs with 4K pages where the design splits badly."""

    allow_huge = True

    def create_td(self, huge: bool, build: int) -> None:
        super().create_td(huge and self.allow_huge, build)


SETTINGS = settings(max_examples=4, stateful_step_count=12, deadline=None)


def machine_of(design: str) -> type:
    """The state machine as a test case."""
    name = f"VmsOf_{design.replace('-', '_')}"
    made: Any = type(name, (MuseumVms,), {"design": design, "allow_huge": design != SPLITS_BADLY})
    case: type = made.TestCase
    case.settings = SETTINGS  # type: ignore[attr-defined]
    return case


TestLazy = machine_of("lazy")
TestV1 = machine_of("v1")
TestV3 = machine_of("v3")
TestV4 = machine_of("v4")
TestV5 = machine_of("v5")
TestV6 = machine_of("v6")
TestPer2mLock = machine_of("per-2m-lock")
TestPer2mRwlock = machine_of("per-2m-rwlock")
TestGlobalRwlock = machine_of("global-rwlock")
