"""Who tells a missing pair, of which operand and before what; who gives the removal hint, where.

Every call is held to the laws of :mod:`tests.module.answer_laws` too: no leaf outside the tables
tells a missing pair or gives a hint.
"""

from itertools import product

import pytest

from dpamt.abi import leaves as leaf
from dpamt.abi import status as s
from dpamt.abi.pages import LEVEL_2M, LEVEL_4K, PAGE_SHIFT, PAGE_SIZE, REMOVAL_HINT, SIZE_2M
from dpamt.abi.registers import REGISTER_NAMES
from dpamt.module.leaves.table import HANDLERS
from dpamt.module.releases import RELEASES
from dpamt.sync import EXCLUSIVE, SHARED, LockSet
from tests.module.answer_laws import HINT_REGISTERS, MISSING_OPERANDS, OPERAND_OF, broken_laws
from tests.module.recipes import (
    FAR,
    GPA,
    LARGE,
    LONE,
    RECIPES,
    START,
    Call,
    Recipe,
    far_regions,
    page_promote,
    page_relocate,
    page_remove,
    sept_remove,
    torn_down,
)
from tests.module.rig import FIRST, PAIRS, RESERVED, SIZE, Rig

Key = tuple[int, int, str]
DYNAMIC_ONLY = {leaf.TDH_PHYMEM_PAMT_ADD, leaf.TDH_PHYMEM_PAMT_REMOVE}
DRIVEN: list[tuple[Key, bool]] = [
    (key, dynamic)
    for key in (*RECIPES, *START)
    for dynamic in (False, True)
    if dynamic or key[0] not in DYNAMIC_ONLY
]
NEEDS_PAIR: list[tuple[Key, str]] = [
    (key, name)
    for key in RECIPES
    if key[2] != "2M"
    for name in MISSING_OPERANDS.get(key[0], ())
    if key[:2] != (leaf.TDH_MEM_SEPT_ADD, 0) or name == "r8"
]


def prepared(
    key: Key, dynamic: bool = True, release: str = "2.0.18", recipe: Recipe | None = None
) -> tuple[Rig, Call]:
    """A rig in which the call succeeds, and the call's registers."""
    rig = Rig(dynamic, release, started=key not in START)
    make = recipe or RECIPES.get(key) or START[key]
    return rig, make(rig)


def call(rig: Rig, key: Key, registers: Call) -> tuple[int, Call]:
    """Status and registers of the call, which obeys all laws."""
    before = tuple(registers.get(name, 0) for name in REGISTER_NAMES)
    status, args = rig.call(key[0], key[1], **registers)
    assert broken_laws(key[0], key[1], before, status, args.as_tuple(), rig.dynamic) == []
    return status, dict(zip(REGISTER_NAMES, args.as_tuple(), strict=True))


def test_every_leaf_is_driven() -> None:
    assert {key[0] for key in (*RECIPES, *START)} == set(HANDLERS)
    assert set(MISSING_OPERANDS) == {key[0] for key, _ in NEEDS_PAIR}
    assert len(MISSING_OPERANDS) == 9
    assert len(HINT_REGISTERS) == 5


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(("key", "dynamic"), DRIVEN, ids=str)
def test_a_missing_pair_is_told_of_exactly_the_operands_of_the_table(
    key: Key, dynamic: bool, release: str
) -> None:
    rig, registers = prepared(key, dynamic, release)
    before = rig.module.shared.snapshot()
    status, _ = call(rig, key, registers)
    assert not status & s.ERROR_BIT
    told = set()
    for name in REGISTER_NAMES:
        given = registers.get(name, 0)
        for page in (LONE, LONE + PAGE_SIZE, LONE | given & PAGE_SIZE - 1):
            rig.module.shared.restore(before)
            status, _ = call(rig, key, registers | {name: page})
            if status & s.STATUS_MASK == s.TDX_MISSING_PAMT_PAGE_PAIR:
                assert status & ~s.STATUS_MASK == OPERAND_OF[name]
                told.add((key, name))
    assert told == ({pair for pair in NEEDS_PAIR if pair[0] == key} if dynamic else set())


@pytest.mark.parametrize(("key", "name"), NEEDS_PAIR, ids=str)
def test_what_a_page_may_be_instead_of_free(key: Key, name: str) -> None:
    """Busy, then missing, then the bitmap and everything else that is wrong with the page."""
    rig, registers = prepared(key)
    operand = OPERAND_OF[name]

    def status_of(page: int) -> int:
        return call(rig, key, registers | {name: page})[0]

    other = LockSet()
    for how, target in product((SHARED, EXCLUSIVE), (LEVEL_4K, LEVEL_2M)):
        assert rig.module.pamt.walk(LONE >> PAGE_SHIFT, how, target, other) <= 0
        assert status_of(LONE) == s.TDX_OPERAND_BUSY | operand
        other.release_all()
    for page in (LONE, RESERVED, PAIRS):
        assert status_of(page) == s.TDX_MISSING_PAMT_PAGE_PAIR | operand
    rig.add_pair(RESERVED)
    rig.add_pair(PAIRS)
    rig.add_pair(FAR[0])
    occupy(rig, FAR[0], 5)
    for page in (RESERVED, PAIRS, FAR[0] + SIZE_2M - PAGE_SIZE):
        assert status_of(page) == s.TDX_PAGE_METADATA_INCORRECT | operand
    for page in (FIRST - SIZE_2M, FIRST + SIZE):
        assert status_of(page) == s.TDX_OPERAND_ADDR_RANGE_ERROR | operand
    for page in (LONE + 8, LONE | rig.module.hkid_mask, LONE | 1 << 52):
        assert status_of(page) == s.TDX_OPERAND_INVALID | operand
    rig.add_pair(LONE)
    assert call(rig, key, registers | {name: LONE})[0] == s.TDX_SUCCESS


def test_a_2m_page_is_no_free_4k_page() -> None:
    """The region of a 2M leaf has no pair, and yet none is missing."""
    rig, registers = prepared((leaf.TDH_MEM_PAGE_DEMOTE, 0, ""))
    page = LARGE + PAGE_SIZE
    for number, name in ((leaf.TDH_MEM_PAGE_DEMOTE, "r8"), (leaf.TDH_MEM_PAGE_AUG, "r8")):
        info = GPA | 1 if number == leaf.TDH_MEM_PAGE_DEMOTE else 0
        status, _ = call(rig, (number, 0, ""), registers | {"rcx": info, name: page})
        assert status == s.TDX_PAGE_METADATA_INCORRECT | OPERAND_OF[name]


# The removal hint.


def occupy(rig: Rig, region: int, keyid: int) -> None:
    """Put another page into a region: its count stays above 0."""
    rig.must(leaf.TDH_MNG_CREATE, rcx=region + SIZE_2M - PAGE_SIZE, rdx=rig.hkid + keyid)


HINTED: dict[int, Recipe] = {
    leaf.TDH_MEM_PAGE_REMOVE: lambda rig: page_remove(rig, far_regions(rig)[0]),
    leaf.TDH_MEM_PAGE_RELOCATE: lambda rig: page_relocate(rig, far_regions(rig)[0]),
    leaf.TDH_MEM_PAGE_PROMOTE: lambda rig: page_promote(rig, far_regions(rig)),
    leaf.TDH_MEM_SEPT_REMOVE: lambda rig: sept_remove(rig, far_regions(rig)),
    leaf.TDH_PHYMEM_PAGE_RECLAIM: lambda rig: torn_down(rig, far_regions(rig)[0]),
}
"""Each frees a page in a region of its own, for each register of the table."""


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize(
    ("number", "version"),
    [(number, 0) for number in HINTED]
    + [(leaf.TDH_MEM_PAGE_PROMOTE, 1), (leaf.TDH_MEM_SEPT_REMOVE, 1)],
)
def test_the_hint_is_in_exactly_the_registers_of_the_table(
    number: int, version: int, dynamic: bool, release: str
) -> None:
    key = (number, version, "")
    rig, registers = prepared(key, dynamic, release, HINTED[number])
    before = rig.module.shared.snapshot()
    names = HINT_REGISTERS[number] if version else HINT_REGISTERS[number][:1]
    for occupied in product((False, True), repeat=len(names)):
        rig.module.shared.restore(before)
        for index, full in enumerate(occupied):
            if full:
                occupy(rig, FAR[index], 2 + index)
        status, outputs = call(rig, key, registers)
        assert status == s.TDX_SUCCESS
        for index, full in enumerate(occupied):
            page = 0 if number == leaf.TDH_PHYMEM_PAGE_RECLAIM else FAR[index]
            hint = REMOVAL_HINT if dynamic and not full else 0
            assert outputs[names[index]] == page | hint
    others = set(REGISTER_NAMES) - set(names)
    assert not any(outputs[name] & REMOVAL_HINT for name in others)


def test_a_page_that_moves_within_its_region_gives_no_hint() -> None:
    key = (leaf.TDH_MEM_PAGE_RELOCATE, 0, "")
    rig, registers = prepared(
        key, recipe=lambda rig: page_relocate(rig, far_regions(rig)[0], FAR[0] + PAGE_SIZE)
    )
    status, outputs = call(rig, key, registers)
    assert (status, outputs["rcx"]) == (s.TDX_SUCCESS, FAR[0])


def test_a_2m_page_that_goes_gives_no_hint() -> None:
    key = (leaf.TDH_MEM_PAGE_REMOVE, 0, "")
    rig, registers = prepared(key, recipe=RECIPES[leaf.TDH_MEM_PAGE_DEMOTE, 0, ""])
    status, outputs = call(rig, key, {name: registers[name] for name in ("rcx", "rdx")})
    assert (status, outputs["rcx"]) == (s.TDX_SUCCESS, LARGE)
