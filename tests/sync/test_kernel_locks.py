"""Kernel locks in a plain run: what would wait for ever is a finding."""

import pytest

from dpamt.errors import Finding
from dpamt.sync import Deadlock, Mutex, RwLock, SpinLock


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
