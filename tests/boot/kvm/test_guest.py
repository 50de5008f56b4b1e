"""The guest that executes words: what it asks of the module and of KVM, and in which order."""

from collections.abc import Callable

import pytest

from dpamt.abi.exits import (
    EXIT_REASON_EPT_VIOLATION,
    EXIT_REASON_EXTERNAL_INTERRUPT,
    EXIT_REASON_HLT,
    EXIT_REASON_TDCALL,
    EXIT_REASON_TRIPLE_FAULT,
    TDVMCALL_MAP_GPA,
)
from dpamt.abi.pages import LEVEL_2M
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.status import TDX_OPERAND_BUSY, TDX_PAGE_SIZE_MISMATCH, TDX_SUCCESS
from dpamt.boot.kvm import guest as words
from dpamt.boot.kvm.guest import NEXT_WORD, SHARED, WordGuest, word
from dpamt.module.guest import TdExit


class Host:
    """A KVM and a module of a few lines: hands out words, maps pages that are asked for."""

    def __init__(self, *listed: int) -> None:
        self.guest = WordGuest()
        self.words = list(listed)
        self.mapped: set[int] = set()
        self.accepted: list[int] = []
        self.exits: list[tuple[int, ...]] = []
        self.status: Callable[[int], int] = lambda _: TDX_SUCCESS

    def tdcall(self, _leaf: int, args: TdxModuleArgs) -> int:
        status = self.status(args.rcx)
        if status:
            return status
        if args.rcx not in self.mapped:
            raise TdExit(2, 1, args.rcx)
        self.accepted.append(args.rcx)
        return TDX_SUCCESS

    def access(self, gpa: int) -> None:
        if gpa not in self.accepted:
            raise TdExit(2, 0, gpa)

    def run(self, most: int = 100) -> None:
        """Enter until the guest asks for a word and there is none."""
        args = TdxModuleArgs()
        for _ in range(most):
            try:
                reason = self.guest.run(self.tdcall, self.access, args)
            except TdExit as left:
                self.exits.append((left.reason, left.gpa))
                self.mapped.add(left.gpa)
                if not left.gpa & SHARED:
                    self.accepted += [left.gpa] if left.extended == 0 else []
                continue
            if reason != EXIT_REASON_TDCALL:
                self.exits.append((reason,))
                if reason == EXIT_REASON_TRIPLE_FAULT:
                    return
                continue
            asked = args.r10, args.r11, args.r12, args.r13, *self.guest.more.values()
            if args.r11 == EXIT_REASON_EPT_VIOLATION and self.guest.more["r14"] == (
                NEXT_WORD | SHARED
            ):
                if not self.words:
                    return
                args.r10, args.r11 = 0, self.words.pop(0)
            else:
                self.exits.append(asked)
                args.r10 = 0
        raise AssertionError("the guest does not come to an end")


def test_each_page_is_asked_for_and_then_accepted() -> None:
    host = Host(word(words.ACCEPT, 16, 3))
    host.run()
    assert host.exits == [(48, 0x10000), (48, 0x11000), (48, 0x12000)]
    assert host.accepted == [0x10000, 0x11000, 0x12000]


def test_at_2m_and_then_page_by_page_where_the_host_has_small_pages() -> None:
    host = Host(word(words.ACCEPT_2M, 512, 512))
    host.status = lambda info: TDX_PAGE_SIZE_MISMATCH if info & 7 == LEVEL_2M else TDX_SUCCESS
    host.mapped = {0x200000 + 4096 * page for page in range(512)}
    host.run()
    assert host.accepted == sorted(host.mapped)


def test_conversions_ask_for_what_is_left_when_they_are_to_try_again() -> None:
    host = Host(word(words.SHARE, 512, 600))
    args = TdxModuleArgs()
    guest = host.guest
    guest.run(host.tdcall, host.access, args)
    args.r10, args.r11 = 0, host.words[0]
    guest.run(host.tdcall, host.access, args)
    assert (args.r11, args.r12, args.r13) == (TDVMCALL_MAP_GPA, 0x200000 | SHARED, 600 << 12)
    args.r10, args.r11 = words.TDVMCALL_RETRY, 0x400000 | SHARED
    guest.run(host.tdcall, host.access, args)
    assert (args.r12, args.r13) == (0x400000 | SHARED, 88 << 12)
    assert not guest.refused


def test_what_kvm_refuses_is_kept_unless_it_is_due() -> None:
    host = Host(
        word(words.REGISTER, 3, 12),
        word(words.CALL, 30),
        word(words.EXPECT, 0, 1),
        word(words.CALL, 31),
    )
    guest, args = host.guest, TdxModuleArgs()
    for _ in range(2):  # each call is answered with an error
        while True:
            guest.run(host.tdcall, host.access, args)
            if args.r11 != EXIT_REASON_EPT_VIOLATION:
                break
            args.r10, args.r11 = 0, host.words.pop(0)
        args.r10 = 1 << 63
    guest.run(host.tdcall, host.access, args)
    assert guest.refused == {("TDVMCALL 0x1e", "0x8000000000000000"): 1}


def test_a_halt_after_an_interrupt_that_came_is_none() -> None:
    host = Host(word(words.HALT), word(words.HALT))
    host.guest.interrupts = 1
    host.run()
    assert [one[1] for one in host.exits] == [EXIT_REASON_HLT]


def test_busy_is_an_interrupt_of_the_host_and_then_the_same_page() -> None:
    host = Host(word(words.ACCEPT, 1, 1))
    host.mapped = {0x1000}
    answers = iter([TDX_OPERAND_BUSY, TDX_SUCCESS])
    host.status = lambda _: next(answers)
    host.run()
    assert host.exits == [(EXIT_REASON_EXTERNAL_INTERRUPT,)]
    assert host.accepted == [0x1000]


def test_churn_is_the_same_for_the_same_seed() -> None:
    def exits(seed: int) -> list[tuple[int, ...]]:
        host = Host(seed_word(seed, 20), word(words.CHURN, 100, 8))
        host.mapped = {page << 12 for page in range(100, 108)}
        host.run(200)
        return host.exits

    assert exits(1) == exits(1)
    assert exits(1) != exits(2)
    assert len(exits(1)) == 40


def seed_word(seed: int, times: int) -> int:
    return words.SEED << 56 | seed << 24 | times


def test_shared_memory_is_touched_once_a_page() -> None:
    host = Host(word(words.TOUCH_SHARED, 5, 2))
    host.run()
    assert host.exits == [(48, 0x5000 | SHARED), (48, 0x6000 | SHARED)]


def test_raw_exits_and_the_end() -> None:
    host = Host(word(words.EXIT, 6), word(words.TRIPLE_FAULT))
    host.run()
    assert host.exits == [(6,), (EXIT_REASON_TRIPLE_FAULT,)]


def test_an_unknown_word_is_told() -> None:
    host = Host(word(99))
    host.run()
    assert host.guest.refused == {("operation 99", "unknown"): 1}


@pytest.mark.parametrize(("operand", "pages"), [(1 << 36, 0), (-1, 0), (0, 1 << 20)])
def test_a_word_has_room_for_so_much(operand: int, pages: int) -> None:
    with pytest.raises(ValueError, match="pages"):
        word(words.ACCEPT, operand, pages)
