"""Allocations that fail: the lives, what is read of each, and what is a finding."""

from pathlib import Path

import pytest

from dpamt.boot.kvm.allocations import (
    NONE_FAILS,
    Allocations,
    allocations_script,
    check_kernel,
)
from dpamt.boot.kvm.stock import PhaseStock
from dpamt.errors import InputError
from dpamt.kernel_image.vmlinux import KernelImage
from tests.boot.small_kernel import SmallKernel

STACK = [
    "FAULT_INJECTION: forcing a failure.",
    "name fail_page_alloc, interval 1, probability 0, space 0, times 0",
    "CPU: 0 UID: 0 PID: 43 Comm: init Not tainted 7.3.4",
    "Call Trace:",
    " <TASK>",
    " dump_stack_lvl+0x83/0x90",
    " should_fail_ex+0x117/0x129",
    " ? leftover+0x1/0x2 [kvm]",
    " alloc_pages_noprof+0xa/0x21",
    " tdx_alloc_control_page+0x12/0x40",
    " tdx_td_init+0x2d3/0xa00 [kvm_intel]",
    " </TASK>",
    "dpamt: td 0 allocation failed in call 16 result 12",
    "dpamt: at TDX_INIT_VM",
    "dpamt: td 0 error 12 hw 0x0",
    "dpamt: td 0 not built",
]


def stock(tds: int = 0, pages: int = 0, pairs: int = 0, freed: int = 0) -> PhaseStock:
    return PhaseStock("", {}, pairs, tds, pages, 0, 0, freed)


def lived(every: int, ends: list[tuple[PhaseStock, bool, int]]) -> tuple[Allocations, list[bool]]:
    """All phases, each with its stock, whether an allocation failed, and the free pages."""
    allocations = Allocations(every)
    stocks: list[PhaseStock] = []
    more = []
    for end, failed, free in ends:
        stocks.append(end)
        more.append(allocations.next_life(stocks, failed, free))
    return allocations, more


def test_lives_go_on_until_nothing_is_left_to_fail() -> None:
    ends = [(stock(), failed, 100) for failed in (False, False, True, True, False)]
    allocations, more = lived(3, ends)
    assert more == [True, True, True, True, False]
    console = ["dpamt: phase 1", "dpamt: td 0 allocations 7", "dpamt: phase 2", *STACK]
    console += ["dpamt: phase 3", "dpamt: td 0 allocation failed in call 285 result 0"]
    console += ["FAULT_INJECTION: forcing a failure.", "name failslab, interval 1,"]
    console += [" kvm_x+0x1/0x2 [kvm]", "dpamt: phase 4", "dpamt: phase 5"]
    allocations.finish(console, ("the TD",))
    assert allocations.counted == 7
    first, second = allocations.lives  # in the third nothing failed
    assert (first.nth, first.kind, first.where) == (3, "fail_page_alloc", "tdx_alloc_control_page")
    assert first.call == "ioctl: ENOMEM"
    assert first.reactions == ["the TD was not built: TDX_INIT_VM: ENOMEM"]
    assert (second.nth, second.kind, second.where) == (6, "failslab", "kvm_x")
    assert second.call == "fallocate: no error"
    assert allocations.findings() == []


def test_what_is_left_behind_is_a_finding() -> None:
    ends = [(stock(), False, 0), (stock(), False, 0), (stock(1, 5, 2, 4), True, 0)]
    allocations, _ = lived(1, ends)
    allocations.lives[0].where = "tdx_td_init"
    left, unfinished = allocations.findings()
    assert left == (
        "allocation 1 failed in tdx_td_init: NOT GIVEN BACK: 1 TD, 5 pages, 2 page pairs, 4 of "
        "them freed all the same"
    )
    assert unfinished == "allocations: 1 lives were lived, and there is more to fail"


@pytest.mark.parametrize(
    ("lost", "noise", "found"), [(10, 0, 10), (0, 60, 0), (1, 5, 0), (9, 5, 9)]
)
def test_a_kernel_that_loses_pages_in_each_life(lost: int, noise: int, found: int) -> None:
    ends = [(stock(), True, 10_000 - lost * n - noise * (n % 2)) for n in range(60)]
    allocations, _ = lived(1, ends)
    assert round(allocations.lost_in_a_life()) == found
    assert any("loses about" in text for text in allocations.findings()) is bool(found)


def test_with_kasan_free_memory_is_not_judged() -> None:
    allocations = Allocations(1, keeps_freed=True)
    for n in range(60):
        allocations.next_life([stock()] * (n + 1), True, 10_000 - 30 * n)
    assert allocations.lost_in_a_life() == 0


def test_a_few_lives_tell_nothing_of_losses() -> None:
    allocations, _ = lived(1, [(stock(), True, 10_000 - 50 * n) for n in range(12)])
    assert allocations.lost_in_a_life() == 0


def test_the_script_fails_one_allocation_in_a_life() -> None:
    script = allocations_script(4, lives=3)
    lines = script.text.splitlines()
    assert lines[:2] == [lines[0], "failing"]
    assert [line for line in lines if line.startswith("fail ")] == [
        f"fail 0 {NONE_FAILS}",
        "fail 0 4",
        "fail 0 8",
        "fail 0 12",
    ]
    assert [line for line in lines if line.startswith("phase")] == [
        f"phase {n}" for n in range(1, 6)
    ]
    assert len(script.phases) == 5


def test_a_kernel_without_fault_injection_is_refused(tmp_path: Path) -> None:
    image = KernelImage(SmallKernel().write(tmp_path / "vmlinux"))
    with pytest.raises(
        InputError, match=r"no proc_fail_nth_operations; expected .*FAIL_PAGE_ALLOC"
    ):
        check_kernel(image)
    kernel = SmallKernel()
    kernel.functions |= {"proc_fail_nth_operations": b"\xc3", "fault_create_debugfs_attr": b"\xc3"}
    with pytest.raises(InputError, match="no fail_page_alloc or failslab"):
        check_kernel(KernelImage(kernel.write(tmp_path / "vmlinux")))
    kernel.functions["failslab"] = b"\xc3"
    check_kernel(KernelImage(kernel.write(tmp_path / "vmlinux")))
