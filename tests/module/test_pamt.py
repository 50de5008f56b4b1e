"""The PAMT alone: walks against the lock table, and of every change exactly what it changes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpamt.abi.pages import (
    LEVEL_1G,
    LEVEL_2M,
    LEVEL_4K,
    PT_PAMT,
    PT_REG,
    PT_RSVD,
    PT_TDCX,
    REMOVAL_HINT,
)
from dpamt.module.fatal import ModuleFatal
from dpamt.module.pamt import AT_1G, AT_2M, OUT_OF_RANGE, Pamt
from dpamt.sync import BUSY, EXCLUSIVE, SHARED, LockSet, Shared, StepLockSet

BLOCK = 5
REGION = BLOCK << 9 | 3
FIRST_PAGE = REGION << 9
OWNER = 0x1234
REG = OWNER << 8 | PT_REG
TDCX = OWNER << 8 | PT_TDCX
INDICES = (0, 1, 77, 255, 256, 511)


def make(dynamic: bool = True) -> tuple[Shared, Pamt]:
    """A PAMT with one block open."""
    shared = Shared()
    pamt = Pamt(shared)
    pamt.configure(dynamic)
    pamt.open_block(BLOCK)
    return shared, pamt


def with_pair(count: int = 0, entry: int = 0) -> tuple[Shared, Pamt]:
    shared, pamt = make()
    pamt.take_pair_page(FIRST_PAGE + 1024)
    pamt.take_pair_page(FIRST_PAGE + 1025)
    pamt.install_pair(REGION, (FIRST_PAGE + 1024, FIRST_PAGE + 1025), entry, count)
    return shared, pamt


Words = dict[tuple[Any, ...], int]


def flat(shared: Shared) -> Words:
    """Every word that is not 0: by array's last name, index and index in a page."""
    for name in ("2m.count", "2m.hpa0", "2m.hpa1", "2m.bepoch", "1g.bepoch", "bitmap"):
        array = shared._arrays[f"module.pamt.{name}"]
        assert all(type(word.load()) is int for word in array._words.values())  # type: ignore[attr-defined]
    found: Words = {}
    for name, captured in shared.snapshot():
        short = name.removeprefix("module.pamt.")
        for index, value in captured:  # type: ignore[attr-defined]
            if isinstance(value, tuple):
                found |= {(short, index, at): word >> 16 for at, word in enumerate(value) if word}
            else:
                found[short, index] = value >> 16 if short in ("1g", "2m") else value
    return found


def changes(shared: Shared, act: Callable[[], object]) -> Words:
    """What an action makes of the words that it changes."""
    before = flat(shared)
    act()
    after = flat(shared)
    keys = before.keys() | after.keys()
    return {key: after.get(key, 0) for key in keys if before.get(key, 0) != after.get(key, 0)}


# Walks.


@dataclass
class Lock:
    """A lock and its payload, after the table of :mod:`dpamt.sync.host_priority`."""

    payload: int
    word: int
    held: int = field(default=0)

    def take(self, how: int) -> int:
        if how == SHARED:
            if self.word & 1:
                self.word = self.word + 4 | 2
                return BUSY
            self.word = (self.word & ~2) + 4
        else:
            if self.word & ~2:
                self.word |= 2
                return BUSY
            self.word = 1
        self.held = how
        return self.payload

    def promote(self) -> bool:
        if self.word & ~2 != 4:
            self.word |= 2
            return False
        self.word, self.held = 1, EXCLUSIVE
        return True

    def let_go(self) -> None:
        if self.held == EXCLUSIVE:
            self.word &= 2
        elif self.held:
            self.word -= 4


def oracle(path: list[Lock], dynamic: bool, reserved: bool, how: int, target: int) -> int:
    """A walk down [1G, 2M, 4K], as the head of ``pamt.py`` has it in words."""
    for level, lock in zip((LEVEL_1G, LEVEL_2M, LEVEL_4K), path, strict=True):
        if level == LEVEL_4K:
            entry = lock.take(how)
            return PT_RSVD if reserved and not entry else entry
        entry = lock.take(SHARED)
        if entry == BUSY:
            return BUSY
        node = PT_PAMT if dynamic and level == LEVEL_2M else 0
        if level == target or entry != node:
            if how == EXCLUSIVE and not lock.promote():
                return BUSY
            if level == target:
                return entry
            return AT_1G if level == LEVEL_1G else AT_2M
    raise AssertionError("no end")


LOCK = st.sampled_from([0, 0, 0, 1, 2, 3, 4, 6, 8, 12])
ENTRY = st.sampled_from([0, 0, PT_PAMT, REG])


@given(
    dynamic=st.booleans(),
    payloads=st.tuples(st.sampled_from([0, 0, 0, REG]), ENTRY, st.sampled_from([0, 0, REG, TDCX])),
    words=st.tuples(LOCK, LOCK, LOCK),
    reserved=st.booleans(),
    how=st.sampled_from([SHARED, EXCLUSIVE]),
    target=st.sampled_from([LEVEL_4K, LEVEL_4K, LEVEL_2M, LEVEL_1G]),
    index=st.sampled_from(INDICES),
    steps=st.booleans(),
)
def test_a_walk_is_that_of_the_table(
    dynamic: bool,
    payloads: tuple[int, int, int],
    words: tuple[int, int, int],
    reserved: bool,
    how: int,
    target: int,
    index: int,
    steps: bool,
) -> None:
    shared, pamt = make(dynamic)
    reserved = reserved and not dynamic
    if reserved:
        pamt.reserve(FIRST_PAGE + index, 1)
    region = pamt.region(REGION)
    path = [Lock(payload, word) for payload, word in zip(payloads, words, strict=True)]
    pamt.block(BLOCK).first.restore(path[0].payload << 16 | path[0].word)
    region.first.restore(path[1].payload << 16 | path[1].word)
    region.entries.store(index, path[2].payload)
    region.entries.own_locks()[index] = path[2].word

    def words_now() -> list[int]:
        return [
            pamt.block(BLOCK).first.lock_word(),
            region.first.lock_word(),
            region.entries.lock_word(index),
        ]

    locks = StepLockSet() if steps else LockSet()
    walked = pamt.walk(FIRST_PAGE + index, how, target, locks)
    assert walked == oracle(path, dynamic, reserved, how, target)
    assert words_now() == [lock.word for lock in path]
    if walked not in (BUSY, OUT_OF_RANGE) and target == LEVEL_4K:
        level = {AT_1G: LEVEL_1G, AT_2M: LEVEL_2M}.get(walked, LEVEL_4K)
        entry = walked if level == LEVEL_4K else path[2 - level].payload
        assert pamt.reached(FIRST_PAGE + index, walked) == (level, entry)
    locks.release_all()
    for lock in path:
        lock.let_go()
    assert words_now() == [lock.word for lock in path]
    assert len([key for key in flat(shared) if len(key) == 3]) <= 1


@pytest.mark.parametrize("index", INDICES)
def test_a_reserved_page_shows_in_static_mode(index: int) -> None:
    _, pamt = make(dynamic=False)
    pamt.reserve(FIRST_PAGE + index, 1)
    for at in INDICES:
        for how in (SHARED, EXCLUSIVE):
            for locks in (LockSet(), StepLockSet()):
                walked = pamt.walk(FIRST_PAGE + at, how, LEVEL_4K, locks)
                assert walked == (PT_RSVD if at == index else 0)
                locks.release_all()


@pytest.mark.parametrize("level", [LEVEL_4K, LEVEL_2M, LEVEL_1G])
@pytest.mark.parametrize("block", [BLOCK - 1, BLOCK + 1, 0])
def test_nothing_is_found_outside_open_blocks(level: int, block: int) -> None:
    shared, pamt = make()
    for page in (block << 18, (block << 18) + (1 << 18) - 1):
        assert not pamt.in_range(page)
        assert pamt.find_region(page >> 9) is None
        assert pamt.walk(page, SHARED, level, LockSet()) == OUT_OF_RANGE
        with pytest.raises(KeyError) as caught:
            pamt.region(page >> 9)
        assert caught.value.args == (page >> 9,)
    assert pamt.in_range(BLOCK << 18)
    assert pamt.in_range((BLOCK + 1 << 18) - 1)
    assert flat(shared) == {}
    region = pamt.region(REGION)
    assert pamt.find_region(REGION) is region
    assert (region.base, region.entries) == (FIRST_PAGE, pamt.entries_4k.at(REGION))


@pytest.mark.parametrize("how", [SHARED, EXCLUSIVE])
@pytest.mark.parametrize("level", [LEVEL_4K, LEVEL_2M, LEVEL_1G])
def test_what_is_found_and_locked_is_the_entry_itself(level: int, how: int) -> None:
    _, pamt = make() if level else with_pair()
    page = FIRST_PAGE + 300
    if level:
        pamt.set_large(page, level, REG)
    else:
        pamt.use_4k(page, REG)
    region = pamt.region(REGION)
    assert pamt.find(page) == (level, REG)
    locks, others = LockSet(), LockSet()
    assert pamt.lock_found(page, level, how, locks) == REG
    words = [region.entries.lock_word(300), region.first.lock_word(), _top(pamt).lock_word()]
    assert words == [how if at == level else 0 for at in range(3)]
    busy = pamt.lock_found(page, level, EXCLUSIVE, others)
    assert busy == BUSY
    assert pamt.lock_found(page, level, SHARED, others) == (REG if how == SHARED else BUSY)
    locks.release_all()
    others.release_all()
    words = [region.entries.lock_word(300), region.first.lock_word(), _top(pamt).lock_word()]
    assert not any(word & ~2 for word in words)


def _top(pamt: Pamt) -> Any:
    return pamt.block(BLOCK).first


def test_what_is_not_there_is_fatal_and_named() -> None:
    _, pamt = make()
    page = FIRST_PAGE + 300
    with pytest.raises(ModuleFatal) as caught:
        pamt.find(page)
    assert caught.value.state == {"hpa": page << 12}
    assert caught.value.reason == "a page in use has no PAMT page pair"
    _, pamt = with_pair()
    with pytest.raises(ModuleFatal) as caught:
        pamt.find(page)
    assert caught.value.state == {"hpa": page << 12}
    assert caught.value.reason == "a page in use has a free PAMT entry"
    _, pamt = make(dynamic=False)
    with pytest.raises(ModuleFatal, match="has a free PAMT entry"):
        pamt.find(page)
    pamt.region(REGION).entries.store(300, PT_RSVD)
    with pytest.raises(ModuleFatal) as caught:
        pamt.find(page)
    assert caught.value.state == {"hpa": page << 12, "type": PT_RSVD}
    assert caught.value.reason == "a page in use has a PAMT entry of no page"


def test_without_a_mode_it_is_static() -> None:
    pamt = Pamt(Shared())
    pamt.open_block(BLOCK)
    assert (pamt.dynamic, pamt.node_type) == (False, 0)
    assert pamt.walk(FIRST_PAGE, SHARED, LEVEL_4K, LockSet()) == 0


# Changes: each is all that happens.


@pytest.mark.parametrize("tracked", [0, 1, 2])
@pytest.mark.parametrize("dynamic", [True, False])
def test_use_and_free_of_4k(dynamic: bool, tracked: int) -> None:
    shared, pamt = with_pair() if dynamic else make(dynamic=False)
    region = pamt.region(REGION)
    for index in INDICES:
        page = FIRST_PAGE + index
        pamt.set_bepoch(page, LEVEL_4K, 9)

        def use(page: int = page, index: int = index) -> None:
            if tracked == 2:
                pamt.use_tracked_entry(region, index, REG)
            elif tracked:
                pamt.use_tracked_4k(page, REG)
            else:
                pamt.use_4k(page, REG)

        count: Words = {("2m.count", REGION): 1} if dynamic else {}
        bepoch = {("4k.bepoch", REGION, index): 0} if tracked else {}
        assert changes(shared, use) == {("4k", REGION, index): REG} | count | bepoch
        assert pamt.find(page) == (LEVEL_4K, REG)
        hint: list[int] = []

        def free(page: int = page, hint: list[int] = hint) -> None:
            hint.append(pamt.free_4k(page))

        freed = changes(shared, free)
        assert freed == {("4k", REGION, index): 0} | ({("2m.count", REGION): 0} if dynamic else {})
        assert hint == [REMOVAL_HINT if dynamic else 0]
        assert pamt.bepoch(page, LEVEL_4K) == (0 if tracked else 9)


def test_the_removal_hint_comes_with_the_last_page_only() -> None:
    _, pamt = with_pair()
    pamt.use_4k(FIRST_PAGE, TDCX)
    pamt.use_4k(FIRST_PAGE + 511, REG)
    assert pamt.free_4k(FIRST_PAGE) == 0
    assert pamt.free_4k(FIRST_PAGE + 511) == REMOVAL_HINT
    with pytest.raises(ModuleFatal) as caught:
        pamt.uncount_4k(FIRST_PAGE + 511)
    assert caught.value.state == {"region": REGION << 21}
    assert caught.value.reason == "PAGE_COUNT below 0"


@pytest.mark.parametrize("tracked", [False, True])
def test_the_513th_page_is_fatal(tracked: bool) -> None:
    _, pamt = with_pair(count=511)
    use = pamt.use_tracked_4k if tracked else pamt.use_4k
    use(FIRST_PAGE, REG)
    with pytest.raises(ModuleFatal) as caught:
        use(FIRST_PAGE + 511, REG)
    assert caught.value.state == {"region": REGION << 21, "count": 513}
    assert caught.value.reason == "PAGE_COUNT above 512"


@pytest.mark.parametrize("level", [LEVEL_2M, LEVEL_1G])
def test_large_entries_and_their_bepoch(level: int) -> None:
    shared, pamt = make()
    key: tuple[Any, ...] = ("2m", REGION) if level == LEVEL_2M else ("1g", BLOCK)
    bepoch = (f"{key[0]}.bepoch", key[1])
    assert changes(shared, lambda: pamt.set_bepoch(FIRST_PAGE + 5, level, 7)) == {bepoch: 7}
    assert pamt.bepoch(FIRST_PAGE + 5, level) == 7
    assert pamt.bepoch(FIRST_PAGE + 5, LEVEL_1G + LEVEL_2M - level) == 0
    made = changes(shared, lambda: pamt.set_large(FIRST_PAGE, level, REG))
    assert made == {key: REG, bepoch: 0}
    pamt.set_bepoch(FIRST_PAGE, level, 8)
    assert changes(shared, lambda: pamt.set_large(FIRST_PAGE, level, 0)) == {key: 0}


PAIR = (FIRST_PAGE + 1024, FIRST_PAGE + 1025)
BITS = {("bitmap", REGION + 2): 0b11}


def test_a_pair_comes_and_goes() -> None:
    shared, pamt = make()
    assert pamt.take_pair_page(PAIR[0])
    assert changes(shared, lambda: pamt.take_pair_page(PAIR[1])) == BITS
    assert not pamt.take_pair_page(PAIR[1])
    assert [pamt.bitmap_bit(page) for page in range(PAIR[0], PAIR[1] + 2)] == [1, 1, 0]
    pamt.region(REGION).bepochs.store(3, 5)
    pamt.set_bepoch(FIRST_PAGE, LEVEL_2M, 6)
    pamt.region(REGION).entries.store(4, 99)
    assert changes(shared, lambda: pamt.install_pair(REGION, PAIR, 0, 0)) == {
        ("2m", REGION): PT_PAMT,
        ("2m.hpa0", REGION): PAIR[0],
        ("2m.hpa1", REGION): PAIR[1],
        ("2m.bepoch", REGION): 0,
        ("4k", REGION, 4): 0,
        ("4k.bepoch", REGION, 3): 0,
    }
    back = []
    pamt.region(REGION).count.store(3)
    pamt.region(REGION).bepochs.store(3, 5)
    pamt.region(REGION).entries.store(4, 99)
    gone = changes(shared, lambda: back.append(pamt.remove_pair(REGION, REG)))
    assert gone == {
        ("2m", REGION): REG,
        ("2m.count", REGION): 0,
        ("2m.hpa0", REGION): 0,
        ("2m.hpa1", REGION): 0,
        ("bitmap", REGION + 2): 0,
        ("4k", REGION, 4): 0,
        ("4k.bepoch", REGION, 3): 0,
    }
    assert back == [PAIR]


def test_returning_a_pair_page_leaves_its_neighbours() -> None:
    shared, pamt = make()
    for page in range(FIRST_PAGE, FIRST_PAGE + 512):
        pamt.take_pair_page(page)
    cleared = changes(shared, lambda: pamt.return_pair_page(FIRST_PAGE + 77))
    assert cleared == {("bitmap", REGION): (1 << 512) - 1 - (1 << 77)}


@pytest.mark.parametrize("dynamic", [True, False])
def test_a_2m_page_is_split_and_merged(dynamic: bool) -> None:
    shared, pamt = make(dynamic)
    pamt.take_pair_page(PAIR[0])
    pamt.take_pair_page(PAIR[1])
    pamt.set_large(FIRST_PAGE, LEVEL_2M, REG)
    pamt.set_bepoch(FIRST_PAGE, LEVEL_2M, 4)
    pamt.region(REGION).bepochs.store(3, 5)
    entries: Words = {("4k", REGION, index): REG for index in range(512)}
    split = changes(shared, lambda: pamt.split_2m(REGION, PAIR))
    common: Words = {**entries, ("4k.bepoch", REGION, 3): 0}
    if dynamic:
        pair: Words = {("2m.hpa0", REGION): PAIR[0], ("2m.hpa1", REGION): PAIR[1]}
        count: Words = {("2m.count", REGION): 512, ("2m.bepoch", REGION): 0}
        assert split == {**common, **pair, **count, ("2m", REGION): PT_PAMT}
    else:
        assert split == {**common, ("2m", REGION): 0}
    pamt.set_bepoch(FIRST_PAGE, LEVEL_2M, 6)
    back = []
    merged = changes(shared, lambda: back.append(pamt.merge_2m(REGION, TDCX)))
    emptied: Words = {**dict.fromkeys(entries, 0), ("2m", REGION): TDCX}
    if dynamic:
        words = ("2m.hpa0", "2m.hpa1", "2m.count", "2m.bepoch")
        gone: Words = {(name, REGION): 0 for name in words}
        assert merged == {**emptied, **gone, ("bitmap", REGION + 2): 0}
        assert back == [PAIR]
    else:
        assert merged == emptied
        assert back == [(0, 0)]


@pytest.mark.parametrize("dynamic", [True, False])
def test_a_1g_page_is_split_and_merged(dynamic: bool) -> None:
    shared, pamt = make(dynamic)
    for block in (BLOCK - 1, BLOCK + 1):  # both neighbours are in use, and nothing becomes of them
        pamt.open_block(block)
        for region in range(block << 9, block + 1 << 9):
            pamt.set_large(region << 9, LEVEL_2M, REG)
            pamt.set_bepoch(region << 9, LEVEL_2M, 7)
    regions = range(BLOCK << 9, BLOCK + 1 << 9)
    leaves: Words = {("2m", region): TDCX for region in regions}
    pamt.set_large(BLOCK << 18, LEVEL_1G, TDCX)
    pamt.set_bepoch(BLOCK << 18, LEVEL_1G, 9)
    assert changes(shared, lambda: pamt.split_1g(BLOCK)) == {**leaves, ("1g", BLOCK): 0}
    merged = changes(shared, lambda: pamt.merge_1g(BLOCK, REG))
    begun: Words = {("1g.bepoch", BLOCK): 0} if dynamic else {}
    assert merged == {**dict.fromkeys(leaves, 0), ("1g", BLOCK): REG, **begun}


@pytest.mark.parametrize("dynamic", [True, False])
@given(first=st.integers(0, 1535), pages=st.integers(1, 1200))
def test_reserved_pages(dynamic: bool, first: int, pages: int) -> None:
    shared, pamt = make(dynamic)
    start = (BLOCK << 18) + first
    pamt.reserve(start, pages // 2)
    pamt.reserve(start + pages // 2, pages - pages // 2)
    for page in range(BLOCK << 18, (BLOCK << 18) + 4096, 64):
        region = pamt.region(page >> 9)
        bits = region.bitmap.load() if dynamic else region.reserved
        assert bits == sum(
            1 << index for index in range(512) if start <= region.base + index < start + pages
        )
        assert pamt.any_use_of(page >> 9) == (bits != 0)
    if not dynamic:
        assert flat(shared) == {}


@pytest.mark.parametrize("index", INDICES)
def test_any_use_of_a_region(index: int) -> None:
    _, pamt = make()
    assert not pamt.any_use_of(REGION)
    pamt.take_pair_page(FIRST_PAGE + index)
    assert pamt.any_use_of(REGION)
    assert not pamt.any_use_of(REGION + 1)
    _, pamt = make(dynamic=False)
    assert not pamt.any_use_of(REGION)
    pamt.region(REGION).entries.store(index, REG)
    assert pamt.any_use_of(REGION)
    assert not pamt.any_use_of(REGION + 1)
