"""Injection: every entry of the table is met by a real call, and nothing else changes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpamt.abi import leaves as leaf
from dpamt.abi.contention import BUSY_OPERANDS, CONFIGURES_KEYS, DRAWS_ENTROPY
from dpamt.abi.operands import OPERAND_NAMES
from dpamt.abi.pages import SIZE_2M
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.status import (
    STATUS_MASK,
    TDX_KEY_GENERATION_FAILED,
    TDX_OPERAND_BUSY,
    TDX_RND_NO_ENTROPY,
    TDX_SUCCESS,
    status_name,
)
from dpamt.errors import InputError
from dpamt.module.injection import Injector, parse_rule
from dpamt.module.view import ModuleView
from tests.module.recipes import RECIPES, START, Recipe
from tests.module.rig import Rig

APART = {leaf.TDH_PHYMEM_PAMT_ADD: ("r8",), leaf.TDH_MEM_PAGE_DEMOTE: ("r13",)}
OPERANDS = {name: number for number, name in OPERAND_NAMES.items()}


def recipe_of(number: int) -> tuple[Recipe, bool]:
    """(recipe of the leaf at version 0, whether the module is started)."""
    for (found, version, _), recipe in RECIPES.items():
        if found == number and version == 0:
            return recipe, True
    for (found, _, _), recipe in START.items():
        if found == number:
            return recipe, False
    raise KeyError(number)


def inject(number: int, *rules: str) -> tuple[Rig, int, Injector, TdxModuleArgs]:
    recipe, started = recipe_of(number)
    rig = Rig(started=started)
    call = recipe(rig)
    for register in APART.get(number, ()):
        call[register] += SIZE_2M  # the pages of the pair in two regions: each has its own lock
    injector = Injector(rig.module, tuple(map(parse_rule, rules)))
    args = TdxModuleArgs.of(**call)
    status = injector.wrap(rig.module.processor(0))(number, args)
    return rig, status, injector, args


@pytest.mark.parametrize(
    ("number", "operand"),
    [(number, operand) for number, operands in BUSY_OPERANDS.items() for operand in operands],
    ids=lambda value: leaf.LEAF_NAMES[value] if isinstance(value, int) else value,
)
def test_busy_is_the_modules_own_answer(number: int, operand: str) -> None:
    if number == leaf.TDH_SYS_TDMR_INIT:
        rig = Rig(started=False)
        call = START[number, 0, "first"](rig)
        injector = Injector(rig.module, (parse_rule(f"{leaf.LEAF_NAMES[number]}:busy={operand}"),))
        status = injector.wrap(rig.module.processor(0))(number, TdxModuleArgs.of(**call))
    else:
        rig, status, injector, _ = inject(number, f"{leaf.LEAF_NAMES[number]}:busy={operand}")
    assert status == TDX_OPERAND_BUSY | OPERANDS[operand], status_name(status)
    assert injector.results[0].statuses == {status: 1}
    assert ModuleView(rig.module).held_locks() == []


@pytest.mark.parametrize("number", sorted(DRAWS_ENTROPY))
def test_no_entropy(number: int) -> None:
    recipe, _ = recipe_of(number)
    rig = Rig()
    call = recipe(rig)
    if number == leaf.TDH_MNG_ADDCX:  # the last of the TDCS pages draws
        from tests.module.recipes import near

        for n in range(1, rig.module.release.min_tdcs_pages):
            rig.must(number, rcx=near(n), rdx=call["rdx"])
    rule = parse_rule(f"{leaf.LEAF_NAMES[number]}:no-entropy:times=1")
    wall = Injector(rig.module, (rule,)).wrap(rig.module.processor(0))
    assert wall(number, TdxModuleArgs.of(**call)) & STATUS_MASK == TDX_RND_NO_ENTROPY
    assert wall(number, TdxModuleArgs.of(**call)) == TDX_SUCCESS


@pytest.mark.parametrize("number", sorted(CONFIGURES_KEYS))
def test_no_key(number: int) -> None:
    _, status, _, _ = inject(number, f"{leaf.LEAF_NAMES[number]}:no-key")
    assert status & STATUS_MASK == TDX_KEY_GENERATION_FAILED


@pytest.mark.parametrize(
    "number", [leaf.TDH_PHYMEM_CACHE_WB, leaf.TDH_MEM_PAGE_DEMOTE, leaf.TDH_MEM_PAGE_PROMOTE]
)
def test_an_interrupt(number: int) -> None:
    rig, status, _, _ = inject(number, f"{leaf.LEAF_NAMES[number]}:interrupt")
    assert status_name(status).startswith("TDX_INTERRUPTED")
    assert not rig.module.interrupt_pending


@given(
    every=st.integers(1, 5),
    times=st.integers(1, 4),
    calls=st.integers(0, 20),
)
@settings(max_examples=60, deadline=None)
def test_counting(every: int, times: int, calls: int) -> None:
    rig = Rig()
    rule = parse_rule(f"TDH.PHYMEM.PAGE.WBINVD:busy=RCX:every={every}:times={times}")
    injector = Injector(rig.module, (rule,))
    wall = injector.wrap(rig.module.processor(0))
    number = leaf.TDH_PHYMEM_PAGE_WBINVD
    call = RECIPES[number, 0, ""](rig)
    busy = [wall(number, TdxModuleArgs.of(**call)) != 0 for _ in range(calls)]
    expected = [(n + 1) % every == 0 and (n + 1) // every <= times for n in range(calls)]
    assert busy == expected
    assert injector.results[0].seen == calls
    assert injector.results[0].hits == sum(expected)


@given(share=st.floats(0, 1), seed=st.integers(0, 1 << 32))
@settings(max_examples=30, deadline=None)
def test_the_same_seed_hits_the_same_calls(share: float, seed: int) -> None:
    def statuses() -> list[int]:
        rig = Rig()
        rule = parse_rule(f"TDH.PHYMEM.PAGE.WBINVD:busy=RCX:share={share}:seed={seed}")
        wall = Injector(rig.module, (rule,)).wrap(rig.module.processor(0))
        number = leaf.TDH_PHYMEM_PAGE_WBINVD
        call = RECIPES[number, 0, ""](rig)
        return [wall(number, TdxModuleArgs.of(**call)) for _ in range(30)]

    assert statuses() == statuses()


def test_nth_and_region() -> None:
    rig = Rig()
    rule = parse_rule("TDH.PHYMEM.PAMT.ADD:busy=RCX:nth=2:region=0x100000000")
    injector = Injector(rig.module, (rule,))
    wall = injector.wrap(rig.module.processor(0))
    number = leaf.TDH_PHYMEM_PAMT_ADD
    call = RECIPES[number, 0, ""](rig)
    elsewhere = call | {
        "rcx": call["rcx"] + (1 << 21),
        "rdx": call["rdx"] + 0x100000,
        "r8": call["r8"] + 0x100000,
    }
    assert wall(number, TdxModuleArgs.of(**elsewhere)) == 0
    assert wall(number, TdxModuleArgs.of(**call)) == 0
    assert injector.results[0].seen == 1
    assert wall(number, TdxModuleArgs.of(**call)) & STATUS_MASK == TDX_OPERAND_BUSY


def test_no_rules_no_wrapper() -> None:
    rig = Rig()
    lp = rig.module.processor(0)
    assert Injector(rig.module, ()).wrap(lp) == lp.seamcall


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("TDH.MEM.PAGE.AUK:busy=RCX", "expected a name such as"),
        ("TDH.MEM.PAGE.AUG", "no condition; expected busy=RDX"),
        ("TDH.MEM.PAGE.AUG:no-entropy", "can meet busy=RDX"),
        ("TDH.MNG.KEY.FREEID:busy=R8", "can meet busy=RCX, busy=KOT"),
        ("TDH.PHYMEM.PAMT.ADD:interrupt", "can meet busy=RCX"),
        ("TDH.MNG.KEY.RECLAIMID:busy=RCX", "can meet nothing"),
        ("TDH.MEM.PAGE.AUG:busy=R8:nth=0", "expected a whole number from 1"),
        ("TDH.MEM.PAGE.AUG:busy=R8:share=2", "expected a share from 0 to 1"),
        ("TDH.MEM.PAGE.AUG:busy=R8:share=nan", "expected a share from 0 to 1"),
        ("TDH.MEM.PAGE.AUG:busy=R8:nth=1:every=2", "expected one of nth, every, share"),
        ("TDH.MEM.PAGE.AUG:busy=R8:nth=1:nth=2", "nth is said twice"),
        ("TDH.MEM.PAGE.AUG:busy=R8:seed=2", "seed without share"),
        ("TDH.MEM.PAGE.AUG:busy=R8:when=2", "expected one of nth, every"),
        ("TDH.MEM.PAGE.AUG:busy=R8:region=here", "expected an address"),
        ("", "expected a name such as"),
    ],
)
def test_a_line_that_is_no_rule(text: str, told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        parse_rule(text)
    assert "\n" not in str(caught.value)
