"""Injection: every entry of the table is met by a real call, and nothing else is in the way."""

from types import FunctionType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpamt.abi import leaves as leaf
from dpamt.abi.contention import (
    BUSY_OPERANDS,
    CONFIGURES_KEYS,
    DRAWS_ENTROPY,
    INTERRUPTED,
    INTERRUPTIBLE,
)
from dpamt.abi.exits import EXIT_REASON_EXTERNAL_INTERRUPT
from dpamt.abi.leaf_table import LEAF_OPERANDS, SYS
from dpamt.abi.operands import OPERAND_NAMES
from dpamt.abi.pages import NULL_PA, PAGE_SIZE, SIZE_2M
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.status import (
    STATUS_MASK,
    TDX_KEY_GENERATION_FAILED,
    TDX_OPERAND_BUSY,
    TDX_RND_NO_ENTROPY,
    TDX_SUCCESS,
    TDX_SYS_BUSY,
    status_name,
)
from dpamt.module.injection import Hit, Injector
from dpamt.module.injection_rules import parse_rule
from dpamt.module.leaves.table import HANDLERS
from dpamt.module.view import ModuleView
from dpamt.report.leaf_source.steps import leaf_steps
from dpamt.trace.vector_locks import OtherCpu
from tests.module.recipes import RECIPES, START, Call, Recipe, near
from tests.module.rig import FIRST, Rig

OPERANDS = {name: number for number, name in OPERAND_NAMES.items()}
ENTRIES = [(number, name) for number, names in BUSY_OPERANDS.items() for name in names]
WBINVD = leaf.TDH_PHYMEM_PAGE_WBINVD
SECOND_OF_PAIR = {leaf.TDH_PHYMEM_PAMT_ADD: "r8", leaf.TDH_MEM_PAGE_DEMOTE: "r13"}
"""Moved to another region than the first, for there each has its own lock."""


def prepared(number: int, dynamic: bool = True) -> tuple[Rig, int, Call]:
    """A module, and a call of the leaf that would succeed: RAX and its registers."""
    recipe: Recipe | None = None
    rax, started = number, True
    for (found, version, _), candidate in RECIPES.items():
        # Version 1 where a leaf has it: that takes all the locks there are.
        if found == number and (recipe is None or version):
            recipe, rax = candidate, number | version << leaf.RAX_VERSION_SHIFT
    for (found, _, _), candidate in START.items():
        if found == number:
            recipe, started = candidate, False
    assert recipe is not None
    rig = Rig(dynamic=dynamic, started=started)
    call = dict(recipe(rig))
    if number in SECOND_OF_PAIR:
        call[SECOND_OF_PAIR[number]] += SIZE_2M
    return rig, rax, call


def injected(rig: Rig, rax: int, call: Call, *rules: str) -> tuple[int, TdxModuleArgs, Injector]:
    injector = Injector(rig.module, tuple(map(parse_rule, rules)))
    args = TdxModuleArgs.of(**call)
    status = injector.wrap(rig.module.processor(0))(rax, args)
    return status, args, injector


# The table against the code.


def told_by_the_source(number: int) -> tuple[list[str], set[str]]:
    """Operands that TDX_OPERAND_BUSY names in the source of a handler, in order; statuses."""
    handler = HANDLERS[number]
    assert isinstance(handler, FunctionType)
    checks = leaf_steps(handler).checks
    busy = dict.fromkeys(check.details for check in checks if check.status == "TDX_OPERAND_BUSY")
    operands: list[str] = []
    for name in busy:
        operands += ["R9", "R10", "R11"] if name == "R9 to R11" else [name]
    return operands, {check.status for check in checks}


@pytest.mark.parametrize("number", sorted(HANDLERS))
def test_the_table_says_what_the_source_of_the_leaf_says(number: int) -> None:
    operands, statuses = told_by_the_source(number)
    if "TDX_SYS_BUSY" in statuses:
        operands = [SYS, *operands]
    assert tuple(operands) == BUSY_OPERANDS.get(number, ())
    assert (number in DRAWS_ENTROPY) == ("TDX_RND_NO_ENTROPY" in statuses)
    assert (number in CONFIGURES_KEYS) == ("TDX_KEY_GENERATION_FAILED" in statuses)


@pytest.mark.parametrize("number", sorted(HANDLERS))
@pytest.mark.parametrize("release", ["1.5.25", "2.0.18"])
def test_only_what_is_in_the_table_minds_an_interrupt(number: int, release: str) -> None:
    for (found, version, _), recipe in RECIPES.items():
        if found != number:
            continue
        rig = Rig(release=release, dynamic=release != "1.5.25")
        try:
            call = recipe(rig)
        except AssertionError:
            continue  # this release cannot be brought there
        rig.module.interrupt_pending = True
        status, _ = rig.call(number, version, **call)
        interrupted = status_name(status).startswith("TDX_INTERRUPTED")
        assert not interrupted or number in INTERRUPTED


# Each entry, provoked.


@pytest.mark.parametrize(("number", "operand"), ENTRIES)
def test_busy_is_the_modules_own_answer(number: int, operand: str) -> None:
    rig, rax, call = prepared(number)
    status, _, injector = injected(rig, rax, call, f"{leaf.LEAF_NAMES[number]}:busy={operand}")
    expected = TDX_SYS_BUSY if operand == SYS else TDX_OPERAND_BUSY | OPERANDS[operand]
    assert status == expected, status_name(status)
    assert injector.results[0].statuses == {(number, status): 1}
    assert injector.hits == [Hit(0, number, 1, status)]
    assert ModuleView(rig.module).held_locks() == []


ONLY_DYNAMIC = {
    *((leaf.TDH_PHYMEM_PAMT_ADD, name) for name in ("RCX", "RDX", "R8")),
    (leaf.TDH_PHYMEM_PAMT_REMOVE, "RCX"),
    *((leaf.TDH_MEM_PAGE_DEMOTE, name) for name in ("R12", "R13")),
}


@pytest.mark.parametrize(("number", "operand"), [e for e in ENTRIES if e not in ONLY_DYNAMIC])
def test_busy_in_static_mode(number: int, operand: str) -> None:
    rig, rax, call = prepared(number, dynamic=False)
    status, _, _ = injected(rig, rax, call, f"{leaf.LEAF_NAMES[number]}:busy={operand}")
    expected = TDX_SYS_BUSY if operand == SYS else TDX_OPERAND_BUSY | OPERANDS[operand]
    assert status == expected, status_name(status)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("operand", BUSY_OPERANDS[leaf.TDH_MEM_PAGE_AUG])
def test_busy_of_a_2m_page(dynamic: bool, operand: str) -> None:
    rig = Rig(dynamic=dynamic)
    number = leaf.TDH_MEM_PAGE_AUG
    call = RECIPES[number, 0, "2M"](rig)
    status, _, _ = injected(rig, number, call, f"TDH.MEM.PAGE.AUG:busy={operand}")
    assert status == TDX_OPERAND_BUSY | OPERANDS[operand]


@pytest.mark.parametrize(("number", "operand"), ENTRIES)
def test_after_a_busy_call_the_same_call_succeeds(number: int, operand: str) -> None:
    """Nothing but host priority is left behind, and a host may try again."""
    rig, rax, call = prepared(number)
    rule = parse_rule(f"{leaf.LEAF_NAMES[number]}:busy={operand}:nth=1")
    wall = Injector(rig.module, (rule,)).wrap(rig.module.processor(0))
    assert wall(rax, TdxModuleArgs.of(**call)) & STATUS_MASK
    twin, _, same = prepared(number)
    assert same == call
    status, _ = twin.call(number, rax >> leaf.RAX_VERSION_SHIFT, **call)
    assert wall(rax, TdxModuleArgs.of(**call)) == status
    assert not status & STATUS_MASK


def locks_by_name(number: int, operand: str, call: Call) -> list[dict[str, object]]:
    """The lock that the reference's section (d.2) has behind an operand, as a vector file has it.

    Independent of what injection does to find it; none where a vector file has no name for it.
    """
    tdr = {"tdr": hex(FIRST)}
    if operand in ("OP_STATE", "SEPT_TREE", "TD_EPOCH"):
        return [{"lock": operand, **tdr}]
    if operand == "KOT":
        return [{"lock": "KOT"}]
    if operand == "TDR":
        return [{"hpa": hex(FIRST), "level": "4K"}]
    if number == leaf.TDH_SYS_TDMR_INIT:
        return [{"lock": "TDMR", "index": 0}]
    kind = LEAF_OPERANDS[number].get(operand.lower())
    if kind is None:
        return []
    value = call[operand.lower()]
    if kind == "GPA and level":
        return [
            {"lock": "SEPT_ENTRY", "gpa": hex(value & -PAGE_SIZE), "septlevel": value & 7} | tdr
        ]
    if number in (leaf.TDH_PHYMEM_PAMT_ADD, leaf.TDH_PHYMEM_PAMT_REMOVE):
        return [{"hpa": hex(value & -PAGE_SIZE), "level": "2M"}]
    pairless = operand in ("R12", "R13") or number == WBINVD
    return [{"hpa": hex(value & -PAGE_SIZE), "level": "2M" if pairless else "4K"}]


@pytest.mark.parametrize(("number", "operand"), ENTRIES)
def test_as_with_a_lock_that_another_cpu_really_holds(number: int, operand: str) -> None:
    """Status, registers and every word of the module, host priority included."""
    rig, rax, call = prepared(number)
    names = locks_by_name(number, operand, call)
    if not names:
        assert operand in (SYS, "KET", "WBCACHE"), "locks that a vector file cannot name"
        return
    status, args, _ = injected(rig, rax, call, f"{leaf.LEAF_NAMES[number]}:busy={operand}")

    twin, _, same = prepared(number)
    assert same == call
    other = OtherCpu(twin.module)
    for name in names:
        other.hold({"leaf": "@HOLD", "mode": "exclusive", **name}, "test")
    really = TdxModuleArgs.of(**call)
    assert twin.module.processor(0).seamcall(rax, really) == status
    other.release_all()
    assert really == args
    assert twin.module.shared.snapshot() == rig.module.shared.snapshot()


@pytest.mark.parametrize("number", sorted(DRAWS_ENTROPY))
def test_no_entropy(number: int) -> None:
    rig, rax, call = prepared(number)
    if number == leaf.TDH_MNG_ADDCX:  # the last of the TDCS pages draws
        for page in range(1, rig.module.release.min_tdcs_pages):
            rig.must(number, rcx=near(page), rdx=call["rdx"])
    rule = parse_rule(f"{leaf.LEAF_NAMES[number]}:no-entropy:times=1")
    wall = Injector(rig.module, (rule,)).wrap(rig.module.processor(0))
    assert wall(rax, TdxModuleArgs.of(**call)) & STATUS_MASK == TDX_RND_NO_ENTROPY
    assert wall(rax, TdxModuleArgs.of(**call)) == TDX_SUCCESS
    assert rig.module.entropy_available


@pytest.mark.parametrize("number", sorted(CONFIGURES_KEYS))
def test_no_key(number: int) -> None:
    rig, rax, call = prepared(number)
    status, _, _ = injected(rig, rax, call, f"{leaf.LEAF_NAMES[number]}:no-key")
    assert status & STATUS_MASK == TDX_KEY_GENERATION_FAILED
    assert rig.module.key_engine_works


@pytest.mark.parametrize("number", sorted(INTERRUPTIBLE))
def test_an_interrupt(number: int) -> None:
    rig, rax, call = prepared(number)
    status, args, _ = injected(rig, rax, call, f"{leaf.LEAF_NAMES[number]}:interrupt")
    assert not rig.module.interrupt_pending
    if number == leaf.TDH_VP_ENTER:
        assert (status, args.r9) == (EXIT_REASON_EXTERNAL_INTERRUPT, 1 << 31 | 0x20)
        return
    assert status_name(status).startswith("TDX_INTERRUPTED")
    if number == leaf.TDH_MEM_SEPT_ADD:
        assert args.r8 == NULL_PA != args.r9  # one page is in, the rest waits


def test_two_rules_on_one_lock_leave_what_one_leaves() -> None:
    number = leaf.TDH_MEM_PAGE_AUG
    one, rax, call = prepared(number)
    injected(one, rax, call, "TDH.MEM.PAGE.AUG:busy=R8")
    two, _, _ = prepared(number)
    _, _, injector = injected(two, rax, call, "TDH.MEM.PAGE.AUG:busy=R8", "*:busy=R8")
    assert [result.hits for result in injector.results] == [1, 1]
    assert one.module.shared.snapshot() == two.module.shared.snapshot()


def test_of_two_conditions_the_call_meets_the_first_in_its_own_order() -> None:
    rig, rax, call = prepared(leaf.TDH_MNG_CREATE)
    rules = "TDH.MNG.CREATE:no-entropy", "TDH.MNG.CREATE:busy=RCX"
    status, _, _ = injected(rig, rax, call, *rules)
    assert status == TDX_OPERAND_BUSY | OPERANDS["RCX"]


@given(
    st.sampled_from(ENTRIES),
    st.dictionaries(
        st.sampled_from(["rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13"]),
        st.one_of(
            st.integers(0, (1 << 64) - 1),
            st.builds(lambda page, low: FIRST + page * PAGE_SIZE + low, *2 * [st.integers(0, 600)]),
        ),
    ),
)
@settings(max_examples=150, deadline=None)
def test_any_registers_are_answered_and_no_lock_stays(
    entry: tuple[int, str], registers: dict[str, int]
) -> None:
    """A call of nonsense has no lock behind it: it is answered as ever."""
    number, operand = entry
    rig, rax, call = prepared(number)
    call |= registers
    status, _, injector = injected(rig, rax, call, f"{leaf.LEAF_NAMES[number]}:busy={operand}")
    assert injector.hits == [Hit(0, number, 1, status)]
    assert ModuleView(rig.module).held_locks() == []


# Which calls.


def busy_calls(rule: str, calls: int) -> tuple[list[bool], Injector]:
    rig = Rig()
    injector = Injector(rig.module, (parse_rule(rule),))
    wall = injector.wrap(rig.module.processor(0))
    call = RECIPES[WBINVD, 0, ""](rig)
    return [wall(WBINVD, TdxModuleArgs.of(**call)) != 0 for _ in range(calls)], injector


@given(every=st.integers(1, 5), times=st.integers(1, 4), calls=st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_counting(every: int, times: int, calls: int) -> None:
    rule = f"TDH.PHYMEM.PAGE.WBINVD:busy=RCX:every={every}:times={times}"
    busy, injector = busy_calls(rule, calls)
    expected = [(n + 1) % every == 0 and (n + 1) // every <= times for n in range(calls)]
    assert busy == expected
    assert injector.results[0].seen == calls
    assert [hit.call for hit in injector.hits] == [n + 1 for n in range(calls) if expected[n]]


@given(share=st.floats(0, 1), seed=st.integers(0, 1 << 32))
@settings(max_examples=30, deadline=None)
def test_the_same_seed_hits_the_same_calls(share: float, seed: int) -> None:
    rule = f"TDH.PHYMEM.PAGE.WBINVD:busy=RCX:share={share:.9f}:seed={seed}"
    assert busy_calls(rule, 30)[0] == busy_calls(rule, 30)[0]


def test_a_share_is_about_that_share() -> None:
    for share in (0.0, 0.2, 0.9, 1.0):
        busy, _ = busy_calls(f"TDH.PHYMEM.PAGE.WBINVD:busy=RCX:share={share}:seed=4", 2000)
        assert abs(sum(busy) / 2000 - share) < 0.04


def test_nth_counts_the_calls_in_its_region() -> None:
    rig = Rig()
    rule = parse_rule("TDH.PHYMEM.PAMT.ADD:busy=RCX:nth=2:region=0x100000000")
    injector = Injector(rig.module, (rule,))
    wall = injector.wrap(rig.module.processor(0))
    number = leaf.TDH_PHYMEM_PAMT_ADD
    call = RECIPES[number, 0, ""](rig)
    elsewhere = call | {
        "rcx": call["rcx"] + SIZE_2M,
        "rdx": call["rdx"] + 0x100000,
        "r8": call["r8"] + 0x100000,
    }
    assert wall(number, TdxModuleArgs.of(**elsewhere)) == 0
    assert wall(number, TdxModuleArgs.of(**call)) == 0
    assert injector.results[0].seen == 1
    assert wall(number, TdxModuleArgs.of(**call)) & STATUS_MASK == TDX_OPERAND_BUSY


def test_a_keyid_in_the_address_does_not_hide_it() -> None:
    rig = Rig()
    page = FIRST + 48 * SIZE_2M
    rule = parse_rule(f"TDH.PHYMEM.PAGE.WBINVD:busy=RCX:region={page:#x}")
    injector = Injector(rig.module, (rule,))
    wall = injector.wrap(rig.module.processor(0))
    keyid = rig.hkid << rig.module.machine.hkid_start_bit
    assert wall(WBINVD, TdxModuleArgs.of(rcx=page | keyid)) & STATUS_MASK == TDX_OPERAND_BUSY
    assert wall(WBINVD, TdxModuleArgs.of(rcx=page + SIZE_2M | keyid)) == TDX_SUCCESS


def test_guest_addresses() -> None:
    rig, rax, call = prepared(leaf.TDH_MEM_RANGE_BLOCK)
    rule = "TDH.MEM.*:busy=RCX:gpa=0x1000-0x2000"
    status, _, injector = injected(rig, rax, call, rule)  # of GPA 0
    assert (status, injector.results[0].seen) == (TDX_SUCCESS, 0)
    status, _, injector = injected(rig, rax, call | {"rcx": 0x1000}, rule)
    assert status == TDX_OPERAND_BUSY | OPERANDS["RCX"]


def test_no_rules_no_wrapper() -> None:
    rig = Rig()
    lp = rig.module.processor(0)
    assert Injector(rig.module, ()).wrap(lp) == lp.seamcall
