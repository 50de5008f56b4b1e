"""Atomic integers against plain Python arithmetic."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dpamt.sync import Words

INDEX = st.integers(0, 5)
VALUE = st.integers(0, 1 << 40)


class WordsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.words = Words()
        self.oracle = [0] * 6

    @rule(i=INDEX, v=VALUE)
    def store(self, i: int, v: int) -> None:
        self.words.at(i).store(v)
        self.oracle[i] = v

    @rule(i=INDEX, d=st.integers(-3, 3))
    def add(self, i: int, d: int) -> None:
        self.oracle[i] += d
        assert self.words.at(i).add(d) == self.oracle[i]

    @rule(i=INDEX)
    def inc_not_zero(self, i: int) -> None:
        expected = self.oracle[i] != 0
        assert self.words.at(i).inc_not_zero() == expected
        self.oracle[i] += expected

    @rule(i=INDEX, d=st.integers(-3, 3), unless=st.integers(-1, 3))
    def add_unless(self, i: int, d: int, unless: int) -> None:
        expected = self.oracle[i] != unless
        assert self.words.at(i).add_unless(d, unless) == expected
        self.oracle[i] += d * expected

    @rule(i=INDEX, e=st.integers(0, 3), v=VALUE)
    def compare_and_swap(self, i: int, e: int, v: int) -> None:
        expected = self.oracle[i] == e
        assert self.words.at(i).compare_and_swap(e, v) == expected
        if expected:
            self.oracle[i] = v

    @rule(i=INDEX, m=VALUE)
    def bits(self, i: int, m: int) -> None:
        assert self.words.at(i).set_bits(m) == self.oracle[i]
        self.oracle[i] |= m
        assert self.words.at(i).clear_bits(m >> 1) == self.oracle[i]
        self.oracle[i] &= ~(m >> 1)

    @rule(i=INDEX)
    def clear(self, i: int) -> None:
        self.words.clear(i)
        self.oracle[i] = 0

    @invariant()
    def same(self) -> None:
        assert [self.words.at(i).load() for i in range(6)] == self.oracle
        assert dict(self.words.non_zero()) == {i: v for i, v in enumerate(self.oracle) if v}

    @rule()
    def round_trip(self) -> None:
        held = self.words.at(0)
        captured = self.words.capture()
        held.store(99)
        self.words.at(77).store(1)
        self.words.restore(captured)
        assert held.load() == self.oracle[0]
        assert self.words.capture() == captured


TestWords = WordsMachine.TestCase


@given(st.dictionaries(st.integers(0, 1 << 40), VALUE))
def test_equal_contents_capture_equal(contents: dict[int, int]) -> None:
    forwards, backwards = Words(), Words()
    for index in contents:
        forwards.at(index).store(contents[index])
    for index in reversed(contents):
        backwards.at(index).store(7)
        backwards.at(index).store(contents[index])
    assert forwards.capture() == backwards.capture()
