"""Kernel locks in a plain run: what would wait for ever is a finding."""

import pytest

from dpamt.errors import Finding
from dpamt.sync import Deadlock, Mutex, RwLock, RwLocks, SpinLock, SpinLocks


@pytest.mark.parametrize("kind", [SpinLock, Mutex])
def test_taking_twice_is_a_self_deadlock(kind: type[SpinLock]) -> None:
    lock = kind("pamt_lock")
    lock.lock()
    with pytest.raises(Deadlock, match="pamt_lock taken while held"):
        lock.lock()
    lock.unlock()
    lock.lock()
    assert lock.is_locked()


def test_releasing_what_is_not_held_is_a_finding() -> None:
    with pytest.raises(Finding, match="released while not held"):
        SpinLock("pamt_lock").unlock()


def test_readers_share_and_writers_do_not() -> None:
    lock = RwLock("mmu_lock")
    lock.read_lock()
    lock.read_lock()
    with pytest.raises(Deadlock):
        lock.write_lock()
    lock.read_unlock()
    lock.read_unlock()
    lock.write_lock()
    assert lock.is_write_locked()
    for call in (lock.read_lock, lock.write_lock, lock.read_unlock):
        with pytest.raises(Deadlock):
            call()
    lock.write_unlock()
    assert not lock.is_locked()
    with pytest.raises(Deadlock):
        lock.write_unlock()


def test_a_lock_of_an_array_is_one_lock_with_its_index_in_its_name() -> None:
    spin, rw = SpinLocks("region"), RwLocks("region")
    assert spin.at(3) is spin.at(3)
    spin.at(3).lock()
    spin.at(4).lock()
    with pytest.raises(Deadlock, match=r"region\[0x3\] taken while held"):
        spin.at(3).lock()
    assert list(spin.held()) == [3, 4]
    spin.at(3).unlock()
    assert list(spin.held()) == [4]
    rw.at(17).read_lock()
    rw.at(5).write_lock()
    with pytest.raises(Deadlock, match=r"region\[0x11\] write-locked while held"):
        rw.at(17).write_lock()
    assert list(rw.held()) == [5, 17]


def test_arrays_of_locks_are_captured_and_put_back() -> None:
    spin, rw = SpinLocks("region"), RwLocks("region")
    lock, other = spin.at(3), rw.at(4)
    free = spin.capture(), rw.capture()
    assert free == ((), ())
    lock.lock()
    other.read_lock()
    other.read_lock()
    held = spin.capture(), rw.capture()
    spin.restore(free[0])
    rw.restore(free[1])
    assert not lock.is_locked()
    assert not other.is_locked()
    spin.restore(held[0])
    rw.restore(held[1])
    assert (spin.capture(), rw.capture()) == held
    lock.unlock()
    other.read_unlock()
    other.read_unlock()
    assert (spin.capture(), rw.capture()) == free
