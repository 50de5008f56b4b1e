"""The primitives with Linux's names: what they do, plain and in steps, and what is not there."""

from pathlib import Path

import pytest

from dpamt.cli.main import main
from dpamt.sync import Mutex, RwLock, Shared, SpinLock, Word
from dpamt.sync.discipline import STEPS
from dpamt.sync.observed import Address, ObservedShared
from dpamt.sync.primitives import PRIMITIVES
from dpamt.sync.steps import (
    ACQUIRES,
    IRQS_OFF,
    LOOKS,
    RELEASES,
    SOFTIRQS_OFF,
    TRIES,
    UNLOCKS,
    WAITS,
)
from dpamt.verify.learn.automaton import Step
from dpamt.verify.learn.values import BLOCKED, DONE, MISUSED, Operations

ONE_LOCK = Path(__file__).parents[1] / "data" / "designs" / "one_lock.py"


@pytest.mark.parametrize(
    ("method", "arguments", "before", "result", "after"),
    [
        ("xchg", (7,), 3, 3, 7),
        ("cmpxchg", (3, 7), 3, 3, 7),
        ("cmpxchg", (4, 7), 3, 3, 3),
        ("inc", (), 3, None, 4),
        ("dec", (), 3, None, 2),
        ("inc_return", (), 3, 4, 4),
        ("dec_return", (), 3, 2, 2),
        ("sub_return", (5,), 3, -2, -2),
        ("fetch_add", (5,), 3, 3, 8),
        ("dec_and_test", (), 1, True, 0),
        ("dec_and_test", (), 2, False, 1),
        ("dec_if_positive", (), 1, 0, 0),
        ("dec_if_positive", (), 0, -1, 0),
    ],
)
def test_words_plain_and_in_steps(
    method: str, arguments: tuple[int, ...], before: int, result: object, after: int
) -> None:
    word = Word()
    word.store(before)
    assert getattr(word, method)(*arguments) == result
    assert word.load() == after
    operations = Operations(Shared().words("w"))
    assert operations.outcome(Step(Address("w", 0), method, arguments), before) == (
        DONE,
        result,
        after,
    )


@pytest.mark.parametrize("take", ["lock", "lock_irqsave", "lock_bh"])
def test_trylock_never_waits_and_every_form_takes_the_same_lock(take: str) -> None:
    lock = SpinLock("l")
    getattr(lock, take)()
    assert not lock.trylock()
    getattr(lock, {"lock": "unlock", **IRQS_OFF, **SOFTIRQS_OFF}[take])()
    assert lock.trylock()
    operations = Operations(lock)
    assert operations.outcome(Step(Address("l", 0), take, ()), True).how == BLOCKED
    assert operations.outcome(Step(Address("l", 0), "trylock", ()), True) == (DONE, False, True)
    assert operations.outcome(Step(Address("l", 0), "unlock_bh", ()), False).how == MISUSED


def test_readers_share_and_writers_do_not() -> None:
    lock = RwLock("l")
    lock.read_lock_irqsave()
    assert lock.read_trylock()
    assert not lock.write_trylock()
    lock.read_unlock()
    lock.read_unlock_irqrestore()
    assert lock.write_trylock()
    assert not lock.read_trylock()
    lock.write_unlock_bh()
    assert not lock.is_locked()


def test_every_primitive_is_a_step_that_the_tables_know() -> None:
    shared = ObservedShared()
    made = {
        SpinLock: shared.spinlock("a"),
        Mutex: shared.mutex("b"),
        RwLock: shared.rwlock("c"),
        Word: shared.words("d").at(0),
    }
    for kind, _, operations in PRIMITIVES[:4]:
        assert isinstance(made[kind], kind)
        for name in operations:
            assert name in STEPS
            assert callable(getattr(made[kind], name))
            if "lock" in name and not name.startswith("is_"):
                assert (name in ACQUIRES) != (name in RELEASES)
                assert (name in WAITS) + (name in TRIES) + (name in UNLOCKS) == 1
    assert TRIES < LOOKS


def test_a_mutex_has_no_irqsave() -> None:
    assert not hasattr(Mutex("m"), "lock_irqsave")


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("refcount.atomic_inc()", "a word has no atomic_inc; expected one of load, store"),
        ("lock.spin_lock()", "a spinlock has no spin_lock; expected one of lock, lock_irqsave"),
        ("spin_lock(lock)", "spin_lock is not there; expected a method of a word"),
        ("kernel.shared.seqlock('s')", "kernel.shared has no seqlock; expected one of words"),
    ],
)
def test_a_primitive_that_is_not_there_is_refused_with_those_that_are(
    call: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = ONE_LOCK.read_text(encoding="utf-8")
    path = tmp_path / "mine.py"
    path.write_text(text.replace("    lock.lock()\n", f"    {call}\n", 1), encoding="utf-8")
    assert main(["verify", str(path)]) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert "mine.py:" in said
    assert said.count("\n") == 1
