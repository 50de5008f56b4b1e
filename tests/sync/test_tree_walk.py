"""The short cut down a tree of entry pages against the same steps one by one."""

from hypothesis import given
from hypothesis import strategies as st

from dpamt.sync import (
    EntryPage,
    EntryPages,
    HostPriorityWord,
    LockSet,
    SharedExclusiveLock,
    StepLockSet,
    way_down,
)

KIND = 0x84
OTHER = 0x81


class Tree:
    """Three levels of pages 1, 2, 3 under a lock; the way down is at index 5 of each."""

    def __init__(self, plain: bool, lock: int, kinds: tuple[int, int], entry: int) -> None:
        self.lock = SharedExclusiveLock() if plain else HostPriorityWord()
        self.lock.restore(lock)
        self.pages = EntryPages()
        for page, kind in zip((1, 2), kinds, strict=True):
            self.pages.at(page).store(5, page + 1 << 8 | kind)
        words = [0] * 512
        words[5] = 77 << 16 | entry
        self.pages.at(3).restore(tuple(words))

    def state(self) -> tuple[object, ...]:
        return self.lock.lock_word(), self.pages.capture()

    def by_steps(self, locks: LockSet, target: int) -> tuple[EntryPage, int, int] | None:
        """What the short cut stands for; None where it ends early."""
        if locks.shared(self.lock) < 0:
            return None
        page = self.pages.at(1)
        for _ in range(2 - target):
            word = page.load(5)
            if word & 0xFF != KIND:
                return None
            page = self.pages.at(word >> 8)
        payload = locks.exclusive_entry(page, 5)
        return None if payload < 0 else (page, 5, payload)


def walk(locks: LockSet, tree: Tree, target: int) -> tuple[EntryPage, int, int] | None:
    key = 5 << 18 | 5 << 9 | 5 if target == 0 else 5 << 18 | 5 << 9
    return locks.tree_walk(tree.lock, key, way_down(tree.pages, 1, 2, target), KIND)


locks = st.sampled_from([0, 1, 4, 8])
entries = st.sampled_from([0, 1, 2, 3])
kinds = st.tuples(*[st.sampled_from([KIND, KIND, OTHER, 0])] * 2)


@given(st.booleans(), locks, kinds, entries, st.integers(0, 2))
def test_it_equals_the_steps_or_declines_untouched(
    plain: bool, lock: int, kind: tuple[int, int], entry: int, target: int
) -> None:
    quick, slow = Tree(plain, lock, kind, entry), Tree(plain, lock, kind, entry)
    quick_locks, slow_locks = LockSet(), StepLockSet()
    before = quick.state()
    found = walk(quick_locks, quick, target)
    if found is None:
        assert quick.state() == before
        return
    expected = slow.by_steps(slow_locks, target)
    assert expected is not None
    assert found[1:] == expected[1:]
    assert quick.state() == slow.state()
    quick_locks.release_all()
    slow_locks.release_all()
    assert quick.state() == slow.state() == before


def test_an_uncontended_way_is_taken_and_released() -> None:
    tree, locks = Tree(False, 0, (KIND, KIND), 0), LockSet()
    assert walk(locks, tree, 0) == (tree.pages.at(3), 5, 77)
    assert tree.lock.lock_word() == 4
    assert tree.pages.at(3).locked() == {5: 1}
    locks.release_all()
    assert tree.lock.lock_word() == 0
    assert tree.pages.at(3).locked() == {}


def test_host_priority_raised_meanwhile_stays_after_the_release() -> None:
    tree, locks, other = Tree(False, 0, (KIND, KIND), 0), LockSet(), LockSet()
    walk(locks, tree, 0)
    assert other.exclusive_entry(tree.pages.at(3), 5) < 0
    assert other.exclusive(tree.lock) < 0
    locks.release_all()
    assert tree.pages.at(3).locked() == {5: 2}
    assert tree.lock.lock_word() == 2


def test_a_step_by_step_set_always_declines() -> None:
    assert walk(StepLockSet(), Tree(False, 0, (KIND, KIND), 0), 0) is None


@given(
    st.lists(
        st.tuples(
            st.integers(0, 1),
            st.sampled_from([KIND, KIND, OTHER, 0]),
            st.integers(0, 1),
            st.sampled_from([5, 5, 6]),
        ),
        max_size=12,
    )
)
def test_a_way_gone_before_is_read_again(changes: list[tuple[int, int, int, int]]) -> None:
    tree, locks = Tree(False, 0, (KIND, KIND), 0), LockSet()
    way = way_down(tree.pages, 1, 2, 0)
    tree.pages.at(4).store(5, 88)
    for depth, kind, child, slot in changes:
        below = ((2, 4), (3, 4))[depth][child]
        tree.pages.at(depth + 1).store(5, below << 8 | kind if kind else 0)
        key = 5 << 18 | 5 << 9 | slot
        page, open_way = 1, True
        for _ in range(2):
            word = tree.pages.at(page).load(5)
            open_way = open_way and word & 0xFF == KIND
            page = word >> 8 if open_way else page
        found = locks.tree_walk(tree.lock, key, way, KIND)
        locks.release_all()
        if found is None:
            # Declining is always right, but it does not last once the way stands.
            found = locks.tree_walk(tree.lock, key, way, KIND)
            locks.release_all()
        assert (found is not None) == open_way
        if found is not None:
            assert found == (tree.pages.at(page), slot, tree.pages.at(page).load(slot))
