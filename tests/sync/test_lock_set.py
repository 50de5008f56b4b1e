"""The lock set: what it holds, that it gives all back, and that its short cut decides nothing."""

from hypothesis import given
from hypothesis import strategies as st

from dpamt.sync import (
    BUSY,
    DECLINED,
    EXCLUSIVE,
    SHARED,
    EntryPage,
    EntryPath,
    HostPriorityWord,
    LockSet,
    SharedExclusiveLock,
)

KIND = 15


class Path:
    """A 1G entry, a 2M entry and a page of 4K entries, in some state."""

    def __init__(self, top: int, middle: int, entry: int, payloads: tuple[int, int, int]) -> None:
        self.top, self.middle, self.page = HostPriorityWord(), HostPriorityWord(), EntryPage()
        self.top.restore(payloads[0] << 16 | top)
        self.middle.restore(payloads[1] << 16 | middle)
        words = [0] * 512
        words[3] = payloads[2] << 16 | entry
        self.page.restore(tuple(words))
        self.path = EntryPath(self.top, self.middle, KIND, self.page)

    def state(self) -> tuple[object, ...]:
        return self.top.capture(), self.middle.capture(), self.page.capture()

    def one_by_one(self, locks: LockSet, how: int) -> int:
        """What the short cut stands for."""
        top = locks.shared(self.top)
        if top:
            return BUSY if top < 0 else DECLINED
        middle = locks.shared(self.middle)
        if middle < 0 or middle != KIND:
            return BUSY if middle < 0 else DECLINED
        if how == EXCLUSIVE:
            return locks.exclusive_entry(self.page, 3)
        return locks.shared_entry(self.page, 3)


LOCK = st.sampled_from([0, 1, 2, 3, 4, 6, 8, 12])
PAYLOADS = st.tuples(
    st.sampled_from([0, 3]),
    st.sampled_from([KIND, KIND, 5 << 8 | KIND, 0]),
    st.sampled_from([0, 4, 77 << 8 | 3]),
)


@given(LOCK, LOCK, LOCK, PAYLOADS, st.sampled_from([SHARED, EXCLUSIVE]))
def test_the_short_cut_equals_the_steps_or_declines_untouched(
    top: int, middle: int, entry: int, payloads: tuple[int, int, int], how: int
) -> None:
    quick, slow = Path(top, middle, entry, payloads), Path(top, middle, entry, payloads)
    quick_locks, slow_locks = LockSet(), LockSet()
    before = quick.state()
    answer = quick_locks.path(quick.path, 3, how)
    if answer == DECLINED:
        assert quick.state() == before
        return
    assert slow.one_by_one(slow_locks, how) == answer
    assert quick.state() == slow.state()
    quick_locks.release_all()
    slow_locks.release_all()
    assert quick.state() == slow.state() == before


def test_an_uncontended_path_takes_the_short_cut() -> None:
    path = Path(0, 0, 0, (0, KIND, 42 << 8))
    assert LockSet().path(path.path, 3, EXCLUSIVE) == 42 << 8


def test_promotion_and_mixed_locks_are_all_released() -> None:
    word, plain, page, locks = HostPriorityWord(), SharedExclusiveLock(), EntryPage(), LockSet()
    assert locks.shared(word) == 0
    assert locks.promote(word)
    assert locks.exclusive(plain) == 0
    assert locks.shared_entry(page, 9) == 0
    assert locks.exclusive_entry(page, 10) == 0
    assert (word.lock_word(), plain.lock_word()) == (1, 1)
    assert page.locked() == {9: 4, 10: 1}
    locks.release_all()
    assert (word.lock_word(), plain.lock_word(), page.locked()) == (0, 0, {})


def test_a_refused_promotion_leaves_a_reader_and_host_priority() -> None:
    word, mine, other = HostPriorityWord(), LockSet(), LockSet()
    mine.shared(word)
    other.shared(word)
    assert not mine.promote(word)
    assert word.lock_word() == 2 + 2 * 4
    mine.release_all()
    other.release_all()
    assert word.lock_word() == 2


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 2)), max_size=12))
def test_contention_on_entries_never_leaves_a_lock(steps: list[tuple[bool, bool, int]]) -> None:
    page, sets = EntryPage(), (LockSet(), LockSet())
    for who, exclusively, index in steps:
        locks = sets[who]
        if exclusively:
            locks.exclusive_entry(page, index)
        else:
            locks.shared_entry(page, index)
    sets[0].release_all()
    sets[1].release_all()
    # A stray reader count goes with the exclusive hold it met; host priority may stay.
    assert all(lock == 2 for lock in page.locked().values())


def test_plain_locks_change_nothing_when_busy() -> None:
    lock = SharedExclusiveLock()
    assert lock.try_shared() == 0
    assert lock.try_exclusive() == BUSY
    assert lock.try_shared() == 0
    lock.release_shared()
    lock.release_shared()
    assert lock.try_exclusive() == 0
    assert lock.try_shared() == BUSY
    lock.release_exclusive()
    assert lock.lock_word() == 0
