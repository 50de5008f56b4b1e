"""The lock set that takes every step by itself: equal to the quick one in all that can be seen."""

from hypothesis import given
from hypothesis import strategies as st

from dpamt.sync import (
    DECLINED,
    SHARED,
    EntryPage,
    EntryPages,
    EntryPath,
    HostPriorityWord,
    LockSet,
    SharedExclusiveLock,
    StepLockSet,
    way_down,
)
from dpamt.sync.entry_pages import ZEROS
from dpamt.sync.host_priority import EX, HP, READER

INDICES = (0, 7, 511)
OPERATIONS = [
    *("shared", "exclusive", "promote", "plain_shared", "plain_exclusive"),
    *("shared_entry", "exclusive_entry", "release"),
]
STEPS = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.sampled_from(OPERATIONS),
        st.sampled_from(INDICES),
    ),
    max_size=25,
)


class Locks:
    """A word, a plain lock and a page, and two CPUs that take them."""

    def __init__(self, kind: type[LockSet]) -> None:
        self.word, self.plain, self.page = HostPriorityWord(), SharedExclusiveLock(), EntryPage()
        self.word.store(5)
        self.page.store(7, 6)
        self.cpus = kind(), kind()
        self.readers: list[bool] = [False, False]

    def step(self, who: int, what: str, index: int) -> object:
        cpu = self.cpus[who]
        if what == "release":
            cpu.release_all()
            self.readers[who] = False
            return None
        if what == "promote":
            promoted = self.readers[who] and cpu.promote(self.word)
            self.readers[who] = self.readers[who] and not promoted
            return promoted
        if what == "shared":
            answer = cpu.shared(self.word)
            self.readers[who] = self.readers[who] or answer >= 0
            return answer
        if what == "exclusive":
            return cpu.exclusive(self.word)
        if what == "plain_shared":
            return cpu.shared(self.plain)
        if what == "plain_exclusive":
            return cpu.exclusive(self.plain)
        take = cpu.shared_entry if what == "shared_entry" else cpu.exclusive_entry
        return take(self.page, index)

    def state(self) -> tuple[object, ...]:
        return self.word.capture(), self.plain.lock_word(), self.page.capture()


@given(STEPS)
def test_it_answers_and_leaves_what_the_quick_one_does(steps: list[tuple[int, str, int]]) -> None:
    quick, slow = Locks(LockSet), Locks(StepLockSet)
    for who, what, index in steps:
        assert quick.step(who, what, index) == slow.step(who, what, index)
        assert quick.state() == slow.state()
    for locks in (quick, slow):
        locks.cpus[0].release_all()
        locks.cpus[1].release_all()
    assert quick.state() == slow.state()
    word, plain, page = slow.word.lock_word(), slow.plain.lock_word(), slow.page.locked()
    assert (word & ~HP, plain, {lock & ~HP for lock in page.values()} - {0}) == (0, 0, set())


def test_shared_and_exclusive_entries_are_released_as_they_were_taken() -> None:
    page, mine, other = EntryPage(), StepLockSet(), StepLockSet()
    for locks in (mine, other):
        assert locks.shared_entry(page, 7) == 0
    assert mine.exclusive_entry(page, 8) == 0
    assert other.exclusive_entry(page, 9) == 0
    mine.release_all()
    assert page.locked() == {7: READER, 9: EX}
    other.release_all()
    assert page.locked() == {}


def test_an_entry_written_and_released_before_the_rest() -> None:
    page, locks = EntryPage(), StepLockSet()
    for index in (3, 4, 5):
        assert locks.exclusive_entry(page, index) == 0
    assert locks.shared_entry(page, 6) == 0
    page.raise_host_priority(4)
    locks.store_and_release(page, 4, 17)
    assert page.locked() == {3: EX, 4: HP, 5: EX, 6: READER}
    assert page.load(4) == 17
    assert page.try_exclusive(4) == 17
    locks.release_all()
    assert page.locked() == {4: EX}


def test_it_declines_every_short_cut_untouched() -> None:
    top, first, page = HostPriorityWord(), HostPriorityWord(), EntryPage()
    locks = StepLockSet()
    assert locks.path(EntryPath(top, first, 0, page), 3, SHARED) == DECLINED
    pages = EntryPages()
    pages.at(4)
    assert locks.tree_walk(top, 0, way_down(pages, 4, 0, 0), 15) is None
    assert (top.capture(), first.capture(), page.locked()) == (0, 0, {})
    assert pages.find(4).locked() == {}


def test_host_priority_is_raised_beside_what_is_held() -> None:
    word, page = HostPriorityWord(), EntryPage()
    word.try_shared()
    page.try_shared(9)
    word.raise_host_priority()
    page.raise_host_priority(9)
    assert word.lock_word() == page.lock_word(9) == READER | HP


@given(st.sets(st.integers(0, 511), max_size=4), st.integers(0, 511), st.integers(0, 512))
def test_unlocked_entries_of_a_page(held: set[int], start: int, end: int) -> None:
    page = EntryPage()
    assert page.unlocked(0, 512)
    for index in held:
        page.try_exclusive(index)
    if start <= end:
        assert page.unlocked(start, end) == (not held & set(range(start, end)))
    for index in held:
        page.release_exclusive(index)
    assert page.unlocked(start, max(start, end))
    assert page._locks is ZEROS
    assert page.try_shared(3) == 0
