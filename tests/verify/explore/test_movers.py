"""What moves and what does not: small threads whose failure needs one certain place to switch.

Each program has a run that goes wrong, and only if CPUs are switched where a reduction that took
too much for granted would not switch them.
"""

from collections.abc import Callable
from typing import Any

import pytest

from dpamt.sync.observed import ObservedShared
from dpamt.verify.explore.search import Search, search_of
from dpamt.verify.learn.automaton import Body, Event, Recorder, Start
from dpamt.verify.learn.control_point import ControlPoints
from dpamt.verify.programs.problem import WORDS, OwnWord, Problem, ThreadClass
from dpamt.verify.properties.named import DEADLOCK, KERNEL, LIVELOCK, properties


class Machine:
    """Words and locks of a small program, and the way to tell a failure."""

    def __init__(self) -> None:
        self.shared = ObservedShared()
        self.recorder = Recorder(ControlPoints((), (Machine,)))
        self.words = self.shared.words("words")
        self.a, self.b, self.c = (self.words.at(n) for n in range(3))
        self.lock = self.shared.spinlock("lock")
        self.other = self.shared.spinlock("other")
        self.rw = self.shared.rwlock("rw")

    def bug(self, text: str) -> None:
        self.recorder.tell(Event("bug", text))


Thread = Callable[[Machine], object]


def fails(*threads: Thread) -> set[str]:
    """The properties that fail when the threads run beside each other."""
    machine = Machine()

    def start(thread: Thread) -> Start:
        def begin() -> Body:
            return lambda: thread(machine)

        return begin

    problem = Problem(
        "a small program",
        machine.shared,
        machine.recorder,
        machine.recorder._places,
        tuple(ThreadClass(f"{n}", start(thread)) for n, thread in enumerate(threads)),
        list,
    )
    return set(search_of(problem, properties(), WORDS).explore().faults)


def sets_behind_the_lock(m: Machine) -> None:
    m.lock.lock()
    m.a.store(1)
    m.lock.unlock()
    m.b.store(1)


def reads_between(m: Machine) -> None:
    m.lock.lock()
    seen = m.a.load()
    m.lock.unlock()
    other = m.b.load()
    if seen and not other:
        m.bug("between the release and the next step")


def holds_and_sets(m: Machine) -> None:
    m.lock.lock()
    m.b.store(1)
    m.lock.unlock()


def looks_and_reads(m: Machine) -> None:
    held = m.lock.is_locked()
    other = m.b.load()
    if held and not other:
        m.bug("between the taking and the next step")


def tries_and_reads(m: Machine) -> None:
    taken = m.lock.trylock()
    if taken:
        m.lock.unlock()
        return
    other = m.b.load()
    if not other:
        m.bug("between the taking and the next step")


@pytest.mark.parametrize("look", [looks_and_reads, tries_and_reads])
def test_a_lock_that_is_looked_at_is_no_mover(look: Thread) -> None:
    assert KERNEL in fails(holds_and_sets, look)


def adds_and_tests(m: Machine) -> None:
    seen = m.a.add(0)
    if seen == 0:
        m.a.add(1)
        m.b.add(1)
    now = m.b.load()
    if now > 1:
        m.bug("two have seen 0")


def under_one_lock(m: Machine) -> None:
    m.lock.lock()
    seen = m.a.load()
    m.a.store(seen + 1)
    m.lock.unlock()


def under_another(m: Machine) -> None:
    m.other.lock()
    seen = m.a.load()
    m.a.store(seen + 1)
    now = m.a.load()
    m.other.unlock()
    if now != seen + 1:
        m.bug("somebody else came in")


def writes_as_a_reader(m: Machine) -> None:
    m.rw.read_lock()
    seen = m.a.load()
    m.a.store(seen + 1)
    now = m.a.load()
    m.rw.read_unlock()
    if now != seen + 1:
        m.bug("two readers write")


def writes_as_the_writer(m: Machine) -> None:
    m.rw.write_lock()
    seen = m.a.load()
    m.a.store(seen + 1)
    now = m.a.load()
    m.rw.write_unlock()
    if now != seen + 1:
        m.bug("somebody came in")


def reads_twice(m: Machine) -> None:
    m.rw.read_lock()
    seen = m.a.load()
    now = m.a.load()
    m.rw.read_unlock()
    if now != seen:
        m.bug("a writer came in")


def first_one_way(m: Machine) -> None:
    m.lock.lock()
    m.other.lock()
    m.other.unlock()
    m.lock.unlock()


def first_the_other(m: Machine) -> None:
    m.other.lock()
    m.lock.lock()
    m.lock.unlock()
    m.other.unlock()


def test_a_deadlock_is_a_state() -> None:
    assert DEADLOCK in fails(first_one_way, first_the_other)


def gives_back_what_another_has(m: Machine) -> None:
    m.lock.unlock()


def test_a_lock_is_released_by_its_holder_alone() -> None:
    assert KERNEL in fails(holds_and_sets, gives_back_what_another_has)
    assert KERNEL in fails(gives_back_what_another_has)


SMALL: tuple[tuple[tuple[Thread, ...], set[str]], ...] = (
    ((sets_behind_the_lock, reads_between), {KERNEL}),
    ((adds_and_tests, adds_and_tests), {KERNEL}),
    ((under_one_lock, under_another), {KERNEL}),
    ((writes_as_a_reader, writes_as_a_reader), {KERNEL}),
    ((writes_as_the_writer, reads_twice, reads_twice), set()),
)
"""Threads, and the properties that fail when they run beside each other."""


@pytest.mark.parametrize(("threads", "broken"), SMALL)
def test_what_fails(threads: tuple[Thread, ...], broken: set[str]) -> None:
    assert fails(*threads) == broken


def takes_a_ticket(m: Machine) -> None:
    mine = m.a.fetch_add(1)
    now = -1
    while now != mine:
        now = m.b.load()
    seen = m.c.load()
    m.c.store(seen + 1)
    then = m.c.load()
    m.b.inc()
    if then != seen + 1:
        m.bug("two hold the ticket")


def waits_for_nobody(m: Machine) -> None:
    now = 0
    while not now:
        now = m.b.load()


def test_waiting_for_a_word_is_no_endless_block() -> None:
    assert fails(takes_a_ticket, takes_a_ticket) == set()
    assert fails(waits_for_nobody, holds_and_sets) == set()
    assert fails(waits_for_nobody) == {LIVELOCK}


def at_once(m: Machine) -> None:
    m.bug("before it has done a step")
    m.a.store(1)


def does_no_step(m: Machine) -> int:
    return -5


def returns_what_has_no_hash(m: Machine) -> object:
    m.a.store(1)
    return [5]


def test_a_thread_may_end_with_anything() -> None:
    assert fails(returns_what_has_no_hash) == {KERNEL}


def test_what_a_thread_does_before_its_first_step_counts() -> None:
    """There is no edge that leads there: it is so in every schedule, and in the first state."""
    assert fails(at_once) == fails(reads_twice, at_once) == {KERNEL}
    assert fails(does_no_step) == fails(does_no_step, reads_twice) == {KERNEL}


def class_of_two(
    run: Callable[[Machine, int], object], own: tuple[OwnWord, ...] = ()
) -> tuple[Search, set[str]]:
    """Two threads of one class, with the pages 16 and 17."""
    machine = Machine()

    def start(page: int) -> Start:
        def begin() -> Body:
            return lambda: run(machine, page)

        return begin

    starts = (start(16), start(17))
    kind = ThreadClass("two", starts[0], 2, own, (16, 17), starts=starts)
    problem = Problem(
        "a small program",
        machine.shared,
        machine.recorder,
        machine.recorder._places,
        (kind,),
        list,
    )
    search = search_of(problem, properties(), WORDS)
    return search, set(search.explore().faults)


def test_a_word_keyed_by_the_page_is_not_one_word_for_all() -> None:
    def run(m: Machine, page: int) -> None:
        won = m.words.at(page).compare_and_swap(0, 1)
        if won:
            m.b.add(1)
        now = m.b.load()
        if now == 2:
            m.bug("both have won")

    search, broken = class_of_two(run)
    assert broken == {KERNEL}
    assert search.apart == [0]
    (line,) = search.assumptions()
    assert line.startswith('threads of "two" are kept apart')


def test_a_declared_word_of_ones_own_keeps_threads_alike() -> None:
    def run(m: Machine, page: int) -> None:
        m.words.at(page).store(1)
        m.b.add(1)
        m.words.at(page).store(0)

    search, broken = class_of_two(run, (OwnWord("words", (16, 17)),))
    assert broken == set()
    assert search.apart == []


@pytest.mark.parametrize(
    "run",
    [
        lambda m, page: m.b.store(page),
        lambda m, page: m.b.store(1) if page & 1 else m.c.store(1),
        lambda m, page: m.bug("odd") if page & 1 else None,
        lambda m, page: page & 1,
    ],
    ids=["a value", "a branch", "an event", "an end"],
)
def test_what_goes_by_the_page_tells_threads_apart(run: Callable[[Machine, int], Any]) -> None:
    search, _ = class_of_two(run)
    assert search.apart == [0]


def test_a_sum_that_one_of_them_looks_at_tells_threads_apart() -> None:
    def run(m: Machine, page: int) -> None:
        if page & 1:
            seen = m.b.add(1)
            m.c.store(0 * seen)
        else:
            m.b.add(1)
            m.c.store(0)

    search, _ = class_of_two(run)
    assert search.apart == [0]
