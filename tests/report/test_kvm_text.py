"""What a boot with KVM comes to, in words."""

from dpamt.boot.console import Complaint
from dpamt.boot.kvm.allocations import Allocations, FailedLife
from dpamt.boot.outcome import Booted
from dpamt.report.boot_text import _bottom
from dpamt.report.kvm_text import _failed_allocations


def test_a_complaint_that_comes_often_is_printed_once() -> None:
    booted = Booted([], [], initialized=1.0, ended="timeout")
    same = Complaint("WARNING", "x.c:1 at f", ("f+0x1/0x2",))
    booted.complaints = [same, Complaint("BUG", "y", ()), same, same]
    said = [line for line in _bottom(booted) if "KERNEL SAYS" in line]
    assert said == ["KERNEL SAYS: WARNING: x.c:1 at f (3 times)", "KERNEL SAYS: BUG: y"]


def test_allocations_are_grouped_by_what_asked_and_what_came() -> None:
    allocations = Allocations(1, keeps_freed=True)
    allocations.counted = 9
    fault = "failslab", "kvm_f", "ioctl: ENOMEM"
    allocations.lives = [
        FailedLife(1, 1, *fault),
        FailedLife(2, 2, *fault, pages=1),
        FailedLife(3, 3, call="ioctl: no error"),
    ]
    said = "\n".join(_failed_allocations(allocations))
    assert "   2 in kvm_f (failslab): ioctl: ENOMEM\n" in said
    assert "   1 that the kernel does not report: ioctl: no error\n" in said
    assert "3 of about 9 allocations failed" in said
    assert "after 1 of them something" in said
    assert "KASAN keeps it" in said
