"""The tour on the guest that runs it: a KVM of a page of rules answers, and nothing is amiss.

The rules are written from Intel's GHCI 1.5 and Linux 7.3.4 arch/x86/kvm/vmx/tdx.c, not from the
tour.  What the tour expects to be refused has to break one of them, and nothing else may.
"""

from collections import Counter, defaultdict

from dpamt.abi.registers import TdxModuleArgs
from dpamt.boot.kvm.guest import WordGuest
from dpamt.boot.kvm.tour import PAGES, tour
from dpamt.module.guest import TdExit

ERROR = 1 << 63
INVALID_OPERAND, RETRY, ALIGN_ERROR, UNSUPPORTED = ERROR, 1, ERROR | 2, ERROR | 3
SHARED = 1 << 47
PAGE = 4096
MSRS_READ = {0x1B, 0x3A}
MSRS_WRITTEN = {0x80F, 0x832}
MOST_AT_ONCE = 2 << 20
"""TDX_MAP_GPA_MAX_LEN."""


def due(leaf: int, r12: int, r13: int, r14: int, r15: int) -> int:
    """How KVM answers a TDVMCALL of this leaf."""
    if leaf in (10, 12, 0x10003):  # CPUID, HLT, ReportFatalError
        return 0
    if leaf == 30:  # I/O: size, direction, port, value
        return 0 if r12 in (1, 2, 4) and r13 in (0, 1) else INVALID_OPERAND
    if leaf == 31:
        return 0 if r12 in MSRS_READ else INVALID_OPERAND
    if leaf == 32:
        return 0 if r12 in MSRS_WRITTEN else INVALID_OPERAND
    if leaf == 48:  # MMIO: size, direction, address, value
        right = r12 in (1, 2, 4, 8) and r13 in (0, 1) and r14 & SHARED
        return 0 if right else INVALID_OPERAND
    if leaf == 0x10000:  # GetTdVmCallInfo: 0, or 1 for what is beyond the basic calls
        return 0 if r12 in (0, 1) else INVALID_OPERAND
    if leaf == 0x10001:  # MapGPA
        if r12 % PAGE or r13 % PAGE:
            return ALIGN_ERROR
        return 0 if r13 else INVALID_OPERAND
    if leaf == 0x10002:  # GetQuote: a shared buffer of whole pages
        return 0 if r12 & SHARED and not r12 % PAGE and r13 and not r13 % PAGE else INVALID_OPERAND
    if leaf == 0x10004:  # SetupEventNotifyInterrupt: the first 32 vectors are exceptions
        return 0 if 32 <= r12 <= 255 else INVALID_OPERAND
    return UNSUPPORTED


class Machine:
    """KVM and module: hands out words, answers by :func:`due`, has every page."""

    def __init__(self, words: list[int]) -> None:
        self.guest = WordGuest()
        self.words = words
        self.calls: list[tuple[int, int]] = []
        """(Leaf, answer)."""
        self.accepted: Counter[int] = Counter()
        self.exits: list[int] = []
        self.faults: list[int] = []

    def tdcall(self, _leaf: int, args: TdxModuleArgs) -> int:
        pages = 512 if args.rcx & 7 else 1
        first = args.rcx // PAGE
        self.accepted.update(range(first, first + pages))
        return 0

    def access(self, gpa: int) -> None:
        assert self.accepted[gpa // PAGE]

    def run(self) -> None:
        args = TdxModuleArgs()
        for _ in range(10_000):
            try:
                reason = self.guest.run(self.tdcall, self.access, args)
            except TdExit as fault:
                self.faults.append(fault.gpa)
                continue
            if reason != 77:
                self.exits.append(reason)
                if reason == 2:
                    return
                continue
            more = self.guest.more
            leaf, registers = args.r11, (args.r12, args.r13, more["r14"], more["r15"])
            if args.r10:  # KVM_HC_MAP_GPA_RANGE
                self.calls.append((args.r10, 0))
                args.r10 = 0
            elif leaf == 48 and registers[2] == (1 << 40) | SHARED:
                if not self.words:
                    return
                args.r10, args.r11 = 0, self.words.pop(0)
            elif leaf == 0x10001 and not due(leaf, *registers) and registers[1] > MOST_AT_ONCE:
                args.r10, args.r11 = RETRY, registers[0] + MOST_AT_ONCE
                self.calls.append((leaf, RETRY))
            else:
                args.r10 = due(leaf, *registers)
                self.calls.append((leaf, args.r10))
        raise AssertionError("the guest never asks for another word")


def script() -> tuple[dict[tuple[int, int], list[int]], list[list[str]]]:
    """The words by (TD, vCPU), and all lines."""
    lines = [line.split() for line in tour().text.splitlines()]
    words: dict[tuple[int, int], list[int]] = defaultdict(list)
    for verb, *rest in lines:
        if verb == "words":
            words[int(rest[0]), int(rest[1])] += map(int, rest[2:])
    return words, lines


def test_every_answer_is_the_one_that_is_due() -> None:
    words, _ = script()
    machines = {}
    for vcpu, listed in words.items():
        machines[vcpu] = Machine(listed)
        machines[vcpu].run()
        assert not machines[vcpu].guest.refused, vcpu
        assert not machines[vcpu].words
    first = machines[0, 0]
    calls = Counter(first.calls)
    # Everything that KVM handles, right and wrong.
    for leaf in (30, 31, 32, 48, 0x10000, 0x10002, 0x10004):
        assert calls[leaf, 0]
        assert calls[leaf, INVALID_OPERAND], hex(leaf)
    assert {answer for leaf, answer in calls if leaf == 0x10001} == {
        *(0, RETRY, ALIGN_ERROR, INVALID_OPERAND),
    }
    assert calls[10, 0]
    assert calls[12, 0]
    assert calls[0x10003, 0]
    assert [leaf for leaf, answer in calls if answer == UNSUPPORTED]
    assert first.exits == [6, 1]  # SMI, external interrupt
    assert machines[0, 1].exits == [2]  # triple fault
    assert first.faults
    assert all(gpa & SHARED for gpa in first.faults)


def test_pages_and_orders_are_inside_of_the_td() -> None:
    """Each page that a guest or an order names is one of the TD's; each TD is built and ended."""
    words, lines = script()
    tds = {}
    alive = set()
    for verb, *rest in lines:
        if verb == "td":
            number, vcpus, pages, image = map(int, rest[:4])
            assert image < pages == PAGES
            tds[number] = vcpus
        elif verb == "build":
            alive.add(int(rest[0]))
        elif verb in ("close", "kill"):
            alive.remove(int(rest[0]))
        elif verb == "words":
            assert int(rest[0]) in alive
            assert int(rest[1]) < tds[int(rest[0])]
        elif verb == "order":
            td, order, *operands = map(int, rest)
            assert td in alive
            assert len(operands) == 3
            if order in (2, 3, 6):  # a hole, attributes, pages to forget
                assert operands[0] + operands[1] <= PAGES
            if order == 1:  # pre-fault: vCPU, page, pages
                assert operands[0] < tds[td]
                assert operands[1] + operands[2] <= PAGES
            if order == 7:
                assert operands[1] >= 32
    assert not alive
    assert set(tds) == {0, 1}
    for listed in words.values():
        for one in listed:
            if one >> 56 in (1, 2, 3, 4, 11, 12):  # accept, touch, share, unshare ...
                assert (one & (1 << 36) - 1) + (one >> 36 & 0xFFFFF) <= PAGES
    phases = [int(rest[0]) for verb, *rest in lines if verb == "phase"]
    assert phases == list(range(1, len(tour().phases) + 1))
    assert len(tour().tds) == 2
