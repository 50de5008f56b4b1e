"""The host-priority lock against a field-by-field oracle of the reference's table."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from dpamt.sync import BUSY, BUSY_HOST_PRIORITY, HostPriorityWord
from dpamt.sync.entry_pages import EntryPage
from dpamt.sync.host_priority import EX, HP, READER


@dataclass
class Fields:
    """The lock as its three fields, changed as the table's rows say."""

    ex: bool = False
    hp: bool = False
    readers: int = 0

    @property
    def word(self) -> int:
        return self.readers * 4 + self.hp * 2 + self.ex

    def host_shared(self) -> bool:
        self.readers += 1
        self.hp = self.ex
        return not self.ex

    def host_exclusive(self) -> bool:
        if self.ex or self.readers:
            self.hp = True
            return False
        self.ex, self.hp = True, False
        return True

    def guest_shared(self) -> int:
        if self.hp:
            return BUSY_HOST_PRIORITY
        if self.ex:
            return BUSY
        self.readers += 1
        return 0

    def guest_exclusive(self) -> int:
        if (self.ex, self.hp, self.readers) == (False, False, 0):
            self.ex = True
            return 0
        only_priority = self.hp and not self.ex and not self.readers
        return BUSY_HOST_PRIORITY if only_priority else BUSY

    def promote(self) -> bool:
        if self.readers == 1 and not self.ex:
            self.ex, self.hp, self.readers = True, False, 0
            return True
        self.hp = True
        return False


OPERATIONS = st.lists(
    st.sampled_from(
        ["host_shared", "host_exclusive", "guest_shared", "guest_exclusive", "promote", "release"]
    ),
    max_size=40,
)


@given(OPERATIONS, st.integers(0, 1 << 60))
def test_every_history_matches_the_table(operations: list[str], payload: int) -> None:
    word, oracle = HostPriorityWord(), Fields()
    word.store(payload)
    shared = 0
    for operation in operations:
        if operation == "host_shared":
            got = oracle.host_shared()
            assert word.try_shared() == (payload if got else BUSY)
            shared += got
        elif operation == "host_exclusive":
            assert word.try_exclusive() == (payload if oracle.host_exclusive() else BUSY)
        elif operation == "guest_shared":
            expected = oracle.guest_shared()
            assert word.try_shared_guest() == (payload if expected == 0 else expected)
            shared += expected == 0
        elif operation == "guest_exclusive":
            expected = oracle.guest_exclusive()
            assert word.try_exclusive_guest() == (payload if expected == 0 else expected)
        elif operation == "promote" and shared and not oracle.ex:
            promoted = oracle.promote()
            assert word.promote() == promoted
            shared -= promoted
        elif operation == "release" and oracle.ex:
            word.release_exclusive()
            oracle.ex, oracle.readers = False, 0
        elif operation == "release" and shared:
            word.release_shared()
            oracle.readers -= 1
            shared -= 1
        assert word.lock_word() == oracle.word
        assert word.load() == payload


@given(OPERATIONS, st.integers(0, 511), st.integers(0, 1 << 60))
def test_an_entry_of_a_page_is_the_same_lock(
    operations: list[str], index: int, payload: int
) -> None:
    page, word = EntryPage(), HostPriorityWord()
    page.store(index, payload)
    word.store(payload)
    shared = 0
    for operation in operations:
        exclusive = word.lock_word() & EX
        if operation == "host_shared":
            got = word.try_shared()
            assert page.try_shared(index) == got
            shared += got >= 0
        elif operation == "host_exclusive":
            assert page.try_exclusive(index) == word.try_exclusive()
        elif operation == "release" and exclusive:
            word.release_exclusive()
            page.release_exclusive(index)
        elif operation == "release" and shared:
            word.release_shared()
            page.release_shared(index)
            shared -= 1
        assert page.lock_word(index) == word.lock_word()
    assert page.load(index) == payload
    assert [i for i in range(512) if i != index and page.lock_word(i)] == []


def test_host_priority_left_behind_keeps_guests_out_until_the_host_succeeds() -> None:
    word = HostPriorityWord()
    assert word.try_exclusive_guest() == 0
    assert word.try_shared() == BUSY
    word.release_exclusive()
    assert word.lock_word() == HP
    assert word.try_shared_guest() == BUSY_HOST_PRIORITY
    assert word.try_shared() == 0
    assert word.lock_word() == READER
    assert word.try_shared_guest() == 0


@given(st.integers(0, 1 << 60), st.sampled_from([0, EX, HP, READER, READER | HP, 5 * READER]))
def test_capture_and_restore(payload: int, lock: int) -> None:
    word = HostPriorityWord()
    word.restore(payload << 16 | lock)
    assert (word.load(), word.lock_word()) == (payload, lock)
    assert word.capture() == payload << 16 | lock
