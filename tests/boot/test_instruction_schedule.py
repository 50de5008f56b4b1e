"""Schedules at instruction addresses: read, and followed whatever order CPUs come in."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpamt.boot.instruction_schedule import GuestWords, InstructionFollower, instruction_points
from dpamt.boot.request import BREAKPOINT_SITE, Request
from dpamt.boot.schedule import LEAF_STEP, exercise_of
from dpamt.errors import InputError
from dpamt.kernel_image.instructions import ATOMIC, READ, WRITE

BEGIN, END, PAMT_ADD = 7, 8, 58
LOAD, STORE, ADD, CALL, PUT = 0x1000, 0x1010, 0x1020, 0x1030, 0x2000
METHODS = {LOAD: "load", STORE: "store", ADD: "fetch_add", CALL: "mark"}
SIZE = 4
WORD = 0x8000
FIRST = 3


class Words(GuestWords):
    """One word; instructions of four bytes at the addresses above."""

    def __init__(self) -> None:
        self.put = PUT
        self.now = FIRST
        self.where = WORD

    def site(self, address: int) -> str:
        return f"f+{address:#x}"

    def behind(self, address: int) -> int:
        return address + SIZE

    def access(self, address: int) -> str:
        return {LOAD: READ, STORE: WRITE, ADD: ATOMIC}.get(address, "")

    def word_at(self, registers: Mapping[str, int]) -> tuple[int, int] | None:
        return (self.where, 4) if registers["rip"] in (LOAD, STORE, ADD) else None

    def value(self, address: int, size: int) -> int | None:
        return self.now


class Breakpoints:
    def __init__(self) -> None:
        self.put: list[int] = []
        self.is_armed = False

    def arm(self, addresses: Iterable[int]) -> None:
        assert not self.is_armed
        self.put, self.is_armed = list(addresses), True

    def disarm(self) -> None:
        self.is_armed = False


Program = list[tuple[int, int]]
"""Addresses and what is stored or added; a call makes a SEAMCALL."""


def told(drawn: list[tuple[int, tuple[int, int]]]) -> dict[str, Any]:
    """The counterexample that these steps are, by CPU, done in this order."""
    steps: list[dict[str, Any]] = []
    word = FIRST
    for number, (cpu, (address, value)) in enumerate(drawn):
        before = word
        word = {STORE: value, ADD: word + value}.get(address, word)
        shown = {"value": hex(word) if word >= 0 else str(word), "word": "host.counts[0x1]"}
        if address == CALL:
            shown = {"value": "", "word": ""}
        steps.append(
            {
                "cpu": cpu,
                "at": 2 * number,
                "function": f"f+{address:#x}",
                "file": "text",
                "line": 0,
                "method": METHODS[address],
                "arguments": [],
                "seamcall": "",
                "result": before if address in (LOAD, ADD) else None,
                "events": [],
                "address": address,
                **shown,
            }
        )
        if address == CALL:
            name = "TDH.PHYMEM.PAMT.ADD"
            end = {"method": "store", "at": 2 * number + 1, "seamcall": name, "address": 0}
            steps.append({**steps[-1], **end, "events": [f"{name} -> TDX_SUCCESS"]})
    return {
        "broken": "bad-remove",
        "text": "as it is told",
        "choices": [],
        "steps": steps,
        "cpus": ["get, use, put in region 0"] * 3,
    }


class Guest:
    """CPUs with their programs; an instruction is made when its request is answered."""

    def __init__(self, found: dict[str, Any], programs: list[Program]) -> None:
        self.words = Words()
        self.breakpoints = Breakpoints()
        self.follower = InstructionFollower(found, "kernel", self.words, self.breakpoints)
        self.log: list[tuple[int, tuple[int, int]]] = []
        self._threads = [self._thread(cpu, program) for cpu, program in enumerate(programs)]
        self.coming = {cpu: next(thread) for cpu, thread in enumerate(self._threads)}

    def _thread(self, cpu: int, program: Program) -> Iterator[Request]:
        yield Request(cpu, 0, {"rax": LEAF_STEP, "rcx": BEGIN, "rdx": 0})
        for address, value in program:
            yield Request(cpu, BREAKPOINT_SITE, {"rip": address, "rax": LEAF_STEP})
            self.log.append((cpu, (address, value)))
            if address in (STORE, ADD):
                self.words.now = value + (self.words.now if address == ADD else 0)
            if address == CALL:
                yield Request(cpu, 0, {"rax": PAMT_ADD, "rcx": 0, "rdx": 0})
            if address + SIZE in self.follower.addresses:
                yield Request(cpu, BREAKPOINT_SITE, {"rip": address + SIZE, "rax": 0})
        yield Request(cpu, 0, {"rax": LEAF_STEP, "rcx": END, "rdx": 0})

    def arrive(self, cpu: int) -> None:
        for request in self.follower.take(self.coming.pop(cpu)):
            if not request.is_breakpoint and request.registers["rax"] == PAMT_ADD:
                self.follower.answered(request, 0)
            following = next(self._threads[request.cpu], None)
            if following is not None:
                self.coming[request.cpu] = following

    def run(self, random: Any) -> InstructionFollower:
        while self.coming:
            self.arrive(random.choice(sorted(self.coming)))
        assert not self.follower.is_waiting
        assert self.breakpoints.put == self.follower.addresses
        assert not self.breakpoints.is_armed
        return self.follower


a_step = st.one_of(
    st.tuples(st.just(LOAD), st.just(0)),
    st.tuples(st.just(CALL), st.just(0)),
    st.tuples(st.sampled_from((STORE, ADD)), st.integers(-2, 3)),
)
drawn_steps = st.lists(st.tuples(st.integers(0, 2), a_step), min_size=1, max_size=20)
randoms = st.randoms(use_true_random=False)


def programs_of(drawn: list[tuple[int, tuple[int, int]]]) -> list[Program]:
    return [[step for cpu, step in drawn if cpu == number] for number in range(3)]


@given(drawn_steps, randoms)
def test_instructions_are_made_in_their_order(
    drawn: list[tuple[int, tuple[int, int]]], random: Any
) -> None:
    guest = Guest(told(drawn), programs_of(drawn))
    result = guest.run(random).result
    assert result.is_same, result.departure
    assert guest.log == drawn
    for point, word in zip(result.points, result.words, strict=True):
        assert (word is not None) == (point.address in (LOAD, STORE, ADD))
        if word is not None:
            assert word.address == WORD
            assert word.after == point.after


@given(drawn_steps, randoms, st.data())
def test_another_value_is_told_at_its_step(
    drawn: list[tuple[int, tuple[int, int]]], random: Any, data: st.DataObject
) -> None:
    found = told(drawn)
    valued = [step for step in found["steps"] if step["address"] in (LOAD, ADD)]
    if not valued:
        return
    step = data.draw(st.sampled_from(valued))
    step["result"] += 1
    result = Guest(found, programs_of(drawn)).run(random).result
    assert not result.is_same
    assert result.departure.startswith(f"CPU {step['cpu']}, step {step['at']}: {step['method']} at")
    assert result.points[len(result.done) - 1].at == step["at"]


def test_what_comes_after_the_last_step_waits_for_the_others() -> None:
    """CPU 0 has made its one step; its next one, of which the schedule knows nothing, waits."""
    drawn = [(0, (ADD, 1)), (1, (LOAD, 0))]
    guest = Guest(told(drawn), [[(ADD, 1), (ADD, 5)], [(LOAD, 0)], []])
    for cpu in (0, 1, 2, 0, 0, 0):
        if cpu in guest.coming:
            guest.arrive(cpu)
    assert guest.log == [(0, (ADD, 1))]
    for cpu in (1, 2, 1):
        if cpu in guest.coming:
            guest.arrive(cpu)
    while guest.coming:
        guest.arrive(min(guest.coming))
    assert guest.follower.result.is_same
    assert guest.log == [*drawn, (0, (ADD, 5))]


def test_a_load_that_nobody_else_notices_is_let_go() -> None:
    drawn = [(1, (LOAD, 0)), (0, (ADD, 1))]
    guest = Guest(told(drawn), [[(LOAD, 0), (ADD, 1)], [(LOAD, 0)], []])
    while guest.coming:
        guest.arrive(min(guest.coming))
    assert guest.follower.result.is_same


def test_a_store_that_waits_in_its_buffer() -> None:
    """The schedule has CPU 0's load before its store is seen; a vCPU of QEMU stores at once."""
    drawn = [(0, (LOAD, 0)), (0, (STORE, 1)), (1, (LOAD, 0))]
    guest = Guest(told(drawn), [[(STORE, 1), (LOAD, 0)], [(LOAD, 0)], []])
    while guest.coming:
        guest.arrive(min(guest.coming))
    departure = guest.follower.result.departure
    assert departure.startswith("CPU 0, step 0: load at f+0x1000 text; the vCPU is at f+0x1010")
    assert departure.endswith("waits in its store buffer there: QEMU cannot keep a store back")


def test_who_is_missing_is_named() -> None:
    drawn = [(0, (LOAD, 0)), (1, (LOAD, 0))]
    guest = Guest(told(drawn), programs_of(drawn))
    follower = guest.follower
    guest.arrive(2)
    assert follower.missing(10.0) == "2 of 3 CPUs did not come to the beginning within 10 s"
    guest.arrive(1)
    guest.arrive(0)
    guest.arrive(1)
    assert follower.missing(10.0) == (
        "CPU 0, step 0: load at f+0x1000 text; the CPU did not come there within 10 s"
    )
    guest.arrive(0)
    assert follower.missing(10.0) == (
        "CPU 0, step 0: load at f+0x1000 text; the CPU did not come to the end of it within 10 s"
    )
    let_go = follower.give_up(follower.missing(10.0))
    assert [request.cpu for request in let_go] == [1]
    assert follower.result.departure.startswith("CPU 0, step 0: load")
    assert not guest.breakpoints.is_armed


def test_another_word_is_told() -> None:
    drawn = [(0, (LOAD, 0)), (1, (LOAD, 0))]
    guest = Guest(told(drawn), programs_of(drawn))
    for cpu in (0, 1, 2):
        guest.arrive(cpu)
    guest.arrive(0)
    guest.words.where = WORD + 4
    while guest.coming:
        guest.arrive(min(guest.coming))
    departure = guest.follower.result.departure
    assert departure == (
        "CPU 1, step 2: load at f+0x1000 text: counts[0x1] is at 0x8000; the vCPU is at 0x8004"
    )


@pytest.mark.parametrize("field", ["cpu", "at", "method", "address", "value"])
def test_a_step_without_its_fields(field: str) -> None:
    found = told([(0, (ADD, 1))])
    del found["steps"][0][field]
    with pytest.raises(InputError, match=r"^counterexample: steps: .*expected the form of --save$"):
        instruction_points(found)


def test_a_trylock_is_one_step_of_a_vcpu() -> None:
    """It looks at the lock, and takes it: two steps of the counterexample, one call."""
    found = told([(0, (LOAD, 0)), (1, (LOAD, 0)), (0, (LOAD, 0))])
    for step, method in zip(found["steps"], ("is_locked", "load", "trylock"), strict=True):
        step["method"] = method
    points = instruction_points(found)
    assert [(point.cpu, point.what) for point in points] == [(1, "load"), (0, "trylock")]
    found["steps"][2]["address"] = ADD  # it saw the lock held, and the CPU is elsewhere by now
    assert len(instruction_points(found)) == 3


def test_choices_of_store_buffers_are_no_allocations_that_fail() -> None:
    found = told([(0, (ADD, 1))])
    choice = found["steps"][0] | {"method": "choose", "result": 1, "word": ""}
    found["steps"].insert(0, choice)
    found["choices"] = [1]
    assert exercise_of(found, "kernel").parameters["threads"] == "3"
    assert len(instruction_points(found)) == 1
    choice["address"] = 0
    with pytest.raises(InputError, match="an allocation fails"):
        exercise_of(found, "kernel")


def test_a_leaf_without_a_name_is_told_by_its_number() -> None:
    """Where a vCPU makes another SEAMCALL than the schedule has."""
    follower = object.__new__(InstructionFollower)
    nobody: Any = None
    for leaf, name in ((PAMT_ADD, "TDH.PHYMEM.PAMT.ADD"), (400, "400")):
        request = Request(0, 0, {"rax": leaf | 1 << 16})
        assert follower._instead(request, nobody) == f"the vCPU is in {name}"
    step = Request(0, 0, {"rax": LEAF_STEP})
    assert follower._instead(step, nobody) == "the vCPU is at the end"
