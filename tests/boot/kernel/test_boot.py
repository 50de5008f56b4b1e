"""A real kernel initialises TDX: on any machine, through both transports, again and again."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from dpamt.abi.leaves import (
    TDH_SYS_CONFIG,
    TDH_SYS_INIT,
    TDH_SYS_KEY_CONFIG,
    TDH_SYS_LP_INIT,
    TDH_SYS_RD,
    TDH_SYS_TDMR_INIT,
)
from dpamt.abi.tdmr import TdmrInfo
from dpamt.boot import session
from dpamt.boot.compare import differences, told_by_host, told_by_kernel
from dpamt.boot.delays import parse_delay
from dpamt.boot.forced import parse_forced
from dpamt.boot.hold import parse_hold
from dpamt.boot.outcome import DYNAMIC, GDB, INITIALIZED, MAILBOX, Booted
from dpamt.boot.page_state import Kept, pamt_areas
from dpamt.module.injection_rules import parse_rule

MIB = 1 << 20
Boot = Callable[..., Booted]

MACHINES = [
    # MiB, CPUs, NUMA nodes, transport, PAMT
    (1024, 1, 1, MAILBOX, None),
    (4096, 2, 1, MAILBOX, None),
    (3000, 4, 2, MAILBOX, None),
    (12000, 2, 2, MAILBOX, None),
    (600, 1, 1, MAILBOX, None),
    (4096, 2, 1, MAILBOX, DYNAMIC),
    (4096, 1, 1, GDB, None),
    (2048, 4, 2, GDB, None),
]


@pytest.mark.parametrize(("mib", "cpus", "nodes", "transport", "pamt"), MACHINES)
def test_it_initialises_tdx(
    mib: int, cpus: int, nodes: int, transport: str, pamt: str | None, booted: Boot
) -> None:
    found = booted(memory=mib * MIB, cpus=cpus, nodes=nodes, transport=transport, pamt=pamt)
    assert found.clean, (found.findings, found.complaints)
    assert found.ended == "reboot"
    counts = Counter(call.leaf for call in found.calls)
    assert counts[TDH_SYS_INIT] == counts[TDH_SYS_CONFIG] == counts[TDH_SYS_KEY_CONFIG] == 1
    assert counts[TDH_SYS_LP_INIT] == cpus
    assert counts[TDH_SYS_RD] >= 18
    assert counts[TDH_SYS_TDMR_INIT] >= len(found.tdmr_infos)
    assert found.module is not None
    assert found.module.pamt.dynamic is (pamt == DYNAMIC)
    assert bool(found.changes) is (transport == MAILBOX)


@pytest.mark.parametrize(("mib", "cpus", "nodes"), [(1024, 1, 1), (4096, 2, 1), (12000, 2, 2)])
def test_its_tdmrs_are_those_of_our_host(mib: int, cpus: int, nodes: int, booted: Boot) -> None:
    """Byte for byte, PAMT put where the kernel's allocator put it; and the KB of its log."""
    found = booted(memory=mib * MIB, cpus=cpus, nodes=nodes)
    assert found.machine is not None
    told = told_by_kernel(found.tdmr_infos, found.console)
    host = told_by_host(found.machine, False, told)
    assert differences(told, host) == []
    assert [TdmrInfo.pack(tdmr) for tdmr in host.tdmrs] == found.tdmr_infos
    assert told.pamt_kib == host.pamt_kib == told_by_host(found.machine, False).pamt_kib


def test_both_transports_see_the_same_seamcalls(booted: Boot) -> None:
    """Where the kernel's allocator puts things depends on timing; what it asks for does not."""
    first = booted(cpus=1, transport=MAILBOX)
    second = booted(cpus=1, transport=GDB)
    assert [(c.cpu, c.site, c.caller, c.rax, c.status) for c in first.calls] == [
        (c.cpu, c.site, c.caller, c.rax, c.status) for c in second.calls
    ]
    assert first.tdmr_infos == second.tdmr_infos
    settled = {TDH_SYS_INIT, TDH_SYS_LP_INIT, TDH_SYS_RD, TDH_SYS_TDMR_INIT}
    for one, other in zip(first.calls, second.calls, strict=True):
        if one.leaf in settled:
            assert one.before[0] == other.before[0]
            assert one.after[:2] == other.after[:2]


def test_twenty_boots_in_a_row(booted: Boot) -> None:
    for _ in range(20):
        found = booted(memory=1024 * MIB, cpus=2)
        assert found.clean, (found.findings, found.complaints)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("TDH.SYS.INIT:busy=SYS", "SEAMCALL"),
        ("TDH.SYS.LP.INIT:busy=SYS:nth=2", "SEAMCALL"),
        ("TDH.SYS.CONFIG:busy=SYS", "initialization failed"),
        ("TDH.SYS.KEY.CONFIG:no-key", "initialization failed"),
        ("TDH.SYS.TDMR.INIT:busy=RCX:nth=3", "initialization failed"),
    ],
)
def test_an_initialisation_that_fails(rule: str, said: str, booted: Boot) -> None:
    """The kernel takes its error path and boots on."""
    found = booted(inject=(parse_rule(rule),))
    assert found.ended == "reboot"
    assert not any(INITIALIZED in line for line in found.console)
    assert found.initialized is None
    assert not found.findings
    assert any(said in line for line in found.console), found.console[-40:]


@pytest.mark.parametrize(
    "leaf",
    [
        "TDH.SYS.INIT",
        "TDH.SYS.LP.INIT",
        "TDH.SYS.RD",
        "TDH.SYS.CONFIG",
        "TDH.SYS.KEY.CONFIG",
        "TDH.SYS.TDMR.INIT",
    ],
)
def test_each_initialisation_seamcall_answered_with_an_error(leaf: str, booted: Boot) -> None:
    """The kernel boots on without TDX, and has every page of PAMT again."""
    found = booted(forced=(parse_forced(f"{leaf}:answer=TDX_OPERAND_INVALID"),))
    assert (found.ended, found.initialized) == ("reboot", None)
    assert found.injected[0][2] >= 1
    assert not found.findings
    assert found.pamt_kept == []
    assert any("SEAMCALL" in line or "failed" in line for line in found.console)


def test_pages_in_use_are_seen_as_such(booted: Boot) -> None:
    """After an initialisation that succeeded, all of PAMT is held: the counts mean something."""
    seen: list[Kept] = []

    def look(*state: Any) -> list[Kept]:
        seen.extend(pamt_areas(*state))
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "pamt_areas", look)
        patch.setattr(session, "INITIALIZED", "a line that never comes")
        found = booted()
    assert found.tdmr_infos
    assert seen
    assert all(area.is_kept for area in seen)


def test_no_entropy_is_tried_again(booted: Boot) -> None:
    found = booted(forced=(parse_forced("TDH.SYS.KEY.CONFIG:answer=TDX_RND_NO_ENTROPY:times=3"),))
    assert found.initialized is not None
    assert Counter(call.leaf for call in found.calls)[TDH_SYS_KEY_CONFIG] == 4


@pytest.mark.parametrize("transport", [MAILBOX, GDB])
def test_an_answer_comes_late(transport: str, booted: Boot) -> None:
    rule = "TDH.SYS.C*:delay=300"
    found = booted(delays=(parse_delay(rule),), transport=transport)
    assert found.clean, (found.findings, found.complaints)
    (late,) = (call for call in found.calls if call.leaf == TDH_SYS_CONFIG)
    assert late.answered - late.asked >= 0.3
    assert found.injected == [(rule, 1, 1)]


def test_delays_by_chance_change_nothing_but_time(booted: Boot) -> None:
    rule = "TDH.SYS.*:delay=20:share=0.02:seed=5"
    found = booted(delays=(parse_delay(rule),))
    assert found.clean, (found.findings, found.complaints)
    ((_, seen, hits),) = found.injected
    late = [call for call in found.calls if call.answered - call.asked >= 0.02]
    assert 0 < hits <= len(late)
    assert hits < seen / 10


def test_a_cpu_is_held_until_the_other_has_called(booted: Boot) -> None:
    """Which CPU reads the metadata is Linux's choice, and so is whether the reading goes on there;
    where the other has nothing to do the rule says so instead of hanging."""
    rules = ("0@TDH.SYS.RD:until=1:1", "1@TDH.SYS.RD:until=0:1")
    found = booted(hold=tuple(parse_hold(rule, 2) for rule in rules))
    assert set(found.held) <= {0, 1}
    held = [rule for rule, times in zip(rules, found.held, strict=True) if times]
    assert any(line.startswith(f"hold {held[0]}: CPU") for line in found.findings) or held[1:]
    assert found.initialized is not None


def test_a_rendezvous_in_kernel_code(booted: Boot) -> None:
    """CPU 0 waits at a direct call of C code until CPU 1 has made its LP.INIT."""
    rule = parse_hold("0@tdx_cpu_enable/try_init_module_global:until=1:1", 2)
    found = booted(hold=(rule,))
    assert found.held == [1]
    assert found.ended == "reboot"


def test_where_each_cpu_stands_when_time_is_up(booted: Boot) -> None:
    """CPU 0 is held in a SEAMCALL; that, and the functions that led there, are told."""
    rule = parse_hold("0@TDH.SYS.LP.INIT:until=1:1000", 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "_HELD_SECONDS", 60.0)
        found = booted(hold=(rule,), timeout=15.0)
    assert found.ended == "timeout"
    assert len(found.stacks) == 2
    assert found.stacks[0].startswith("CPU 0: TDH.SYS.LP.INIT < ")
    assert "tdx_cpu_enable" in found.stacks[0]
    assert found.initialized is None
