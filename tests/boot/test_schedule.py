"""Schedules of counterexamples: read, refused, and followed whatever order CPUs come in."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpamt.boot.exerciser import design_to_replay
from dpamt.boot.request import Request
from dpamt.boot.schedule import LEAF_STEP, Follower, Point, exercise_of, points_of
from dpamt.errors import InputError

OPERATIONS = ("load", "inc_not_zero", "add", "store", "lock", "unlock")
BEGIN, END = 7, 8
AUG, REMOVE, TRACK = 6, 29, 38
LEAVES = {AUG: "TDH.MEM.PAGE.AUG", REMOVE: "TDH.MEM.PAGE.REMOVE"}


def told(cpu: int, at: int, what: int | str, result: Any) -> dict[str, Any]:
    """A step of a counterexample's JSON form; ``what`` is a leaf or an operation."""
    step: dict[str, Any] = {"cpu": cpu, "at": at, "seamcall": "", "events": [], "result": result}
    if isinstance(what, int):
        step |= {"seamcall": LEAVES[what], "events": [f"{LEAVES[what]} -> {result}"], "word": ""}
        return step
    word = "pamt_lock[0x0]" if what.endswith("lock") else "host.pamt_refcounts[0x1fe]"
    return step | {"word": word, "method": what}


def counterexample(steps: list[tuple[int, int | str, Any]], cpus: int) -> dict[str, Any]:
    return {
        "broken": "bad-remove",
        "text": "as it is told",
        "cpus": ["get, use, put in region 0"] * cpus,
        "choices": [],
        "steps": [told(cpu, at, what, result) for at, (cpu, what, result) in enumerate(steps)],
    }


class Guest:
    """CPUs with their programs, one request at a time; ``log``: what they did, in turn."""

    def __init__(self, follower: Follower, programs: list[list[tuple[int | str, Any]]]) -> None:
        self.follower = follower
        self.log: list[tuple[int, int | str]] = []
        self._threads = [self._thread(cpu, program) for cpu, program in enumerate(programs)]
        self.coming = {cpu: next(thread) for cpu, thread in enumerate(self._threads)}

    def _thread(self, cpu: int, program: list[tuple[int | str, Any]]) -> Iterator[Request]:
        yield self._step(cpu, BEGIN, 0)
        last = 0
        for what, result in program:
            if isinstance(what, int):
                yield Request(cpu, 0, {"rax": what, "rcx": 0, "rdx": 5})
                last = 0
            else:
                yield self._step(cpu, OPERATIONS.index(what) + 1, last)
                last = 0 if result is None else int(result)
            self.log.append((cpu, what))
        yield self._step(cpu, END, last)

    def _step(self, cpu: int, number: int, last: int) -> Request:
        return Request(cpu, 0, {"rax": LEAF_STEP, "rcx": number, "rdx": last % (1 << 64)})

    def arrive(self, cpu: int, status: int = 0) -> None:
        """A CPU's request comes in; whoever is let go makes its step and goes to its next one."""
        for request in self.follower.take(self.coming.pop(cpu)):
            if request.registers["rax"] != LEAF_STEP:
                self.follower.answered(request, status)
            following = next(self._threads[request.cpu], None)
            if following is not None:
                self.coming[request.cpu] = following


steps_of_cpus = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.one_of(
            st.tuples(st.sampled_from(OPERATIONS[:3]), st.integers(-1, 3)),
            st.tuples(st.sampled_from(OPERATIONS[3:]), st.none()),
            st.tuples(st.sampled_from((AUG, REMOVE)), st.just("TDX_SUCCESS")),
        ),
    ),
    max_size=25,
)


@given(steps_of_cpus, st.randoms(use_true_random=False))
def test_steps_are_made_in_their_order(
    drawn: list[tuple[int, tuple[int | str, Any]]], random: Any
) -> None:
    steps = [(cpu, *step) for cpu, step in drawn]
    found = counterexample(steps, 4)
    follower = Follower(found, "v2")
    programs = [[step for cpu, step in drawn if cpu == number] for number in range(4)]
    guest = Guest(follower, programs)
    while guest.coming:
        guest.arrive(random.choice(sorted(guest.coming)))
    assert guest.log == [(cpu, what) for cpu, what, _ in steps]
    assert follower.result.is_same
    assert not follower.is_waiting


def follow(found: dict[str, Any], programs: list[list[tuple[int | str, Any]]]) -> Follower:
    follower = Follower(found, "v2")
    guest = Guest(follower, programs)
    while guest.coming:
        guest.arrive(min(guest.coming))
    assert not follower.is_waiting
    return follower


TWO = counterexample(
    [(0, "load", 0), (1, "add", 2), (0, AUG, "TDX_SUCCESS"), (1, "add", 1), (0, "store", None)], 2
)
FIRST: list[tuple[int | str, Any]] = [("load", 0), (AUG, None), ("store", None)]
SECOND: list[tuple[int | str, Any]] = [("add", 2), ("add", 1)]


def test_what_the_counterexample_does_not_tell_of_passes() -> None:
    """A load of a word of its own, SEAMCALLs that have no part in it."""
    first = [*FIRST[:1], (TRACK, None), ("load", 9), *FIRST[1:]]
    assert follow(TWO, [first, SECOND]).result.is_same


@pytest.mark.parametrize(
    ("programs", "why"),
    [
        ([FIRST, [("add", 2), ("store", None)]], "CPU 1, step 3: add; in C it is store"),
        ([FIRST, [("add", 3), ("add", 1)]], "CPU 1, step 1: add: 2; in C it is 3"),
        ([FIRST, SECOND[:1]], "CPU 1, step 3: add; the C code is at its end"),
        ([FIRST, [("add", -1), ("add", 1)]], "CPU 1, step 1: add: 2; in C it is -1"),
    ],
)
def test_a_departure_is_told_and_everybody_goes(
    programs: list[list[tuple[int | str, Any]]], why: str
) -> None:
    follower = follow(TWO, programs)
    assert follower.result.departure == why
    assert not follower.result.is_same


def test_another_answer_of_the_module_is_a_departure() -> None:
    follower = Follower(TWO, "v2")
    guest = Guest(follower, [FIRST, SECOND])
    while guest.coming:
        guest.arrive(min(guest.coming), status=0xC0000305_00000001)
    assert follower.result.departure == (
        "CPU 0, step 2: TDH.MEM.PAGE.AUG: TDX_SUCCESS; in C it is TDX_NO_PAMT_PAGE_PAIR"
    )


def test_who_waits_in_vain_is_let_go() -> None:
    follower = Follower(TWO, "v2")
    guest = Guest(follower, [FIRST, SECOND])
    guest.arrive(0)
    guest.arrive(1)
    guest.arrive(1)
    assert follower.is_waiting
    assert [request.cpu for request in follower.give_up("nobody came")] == [1]
    assert follower.result.departure == "nobody came"


def test_a_cpu_without_a_part_goes_as_it_comes() -> None:
    follower = Follower(TWO, "v2")
    guest = Guest(follower, [FIRST, SECOND])
    stray = Request(7, 0, {"rax": AUG, "rcx": 0, "rdx": 0})
    guest.arrive(0)
    assert follower.take(stray) == [stray]
    guest.arrive(1)
    guest.arrive(1)
    assert follower.take(stray) == [stray]
    while guest.coming:
        guest.arrive(min(guest.coming))
    assert follower.result.is_same


def test_code_that_announces_nothing_is_followed_by_its_seamcalls() -> None:
    assert points_of(TWO, announced=False) == [Point(0, LEAVES[AUG], AUG, "TDX_SUCCESS", 2)]
    follower = Follower(TWO, "kernel")
    guest = Guest(follower, [[(AUG, None)], []])
    while guest.coming:
        guest.arrive(max(guest.coming))
    assert follower.result.is_same


def test_the_threads_of_a_counterexample() -> None:
    found = TWO | {"cpus": ["get, use, put in region 0", "get, put in region 1"]}
    parameters = exercise_of(found, "v2").parameters
    assert parameters == {"design": "v2", "threads": "2", "regions": "0,1", "uses": "1,0"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"cpus": ["softirq on the same CPU: put"]}, "the exerciser has 'get, use, put'"),
        ({"cpus": ["get, use, put in region 9"]}, "the exerciser has"),
        ({"choices": [0, 1]}, "an allocation fails"),
    ],
)
def test_what_cannot_be_followed_is_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        exercise_of(TWO | change, "v2")


@pytest.mark.parametrize(
    "steps", [[{}], [None], "x", [{"cpu": 0, "at": 1, "seamcall": "TDH.X", "events": []}]]
)
def test_steps_that_are_none(steps: Any) -> None:
    with pytest.raises(InputError, match="expected the form of --save"):
        points_of({"steps": steps}, announced=True)


def test_which_code_stands_for_a_design(tmp_path: Path) -> None:
    assert design_to_replay("v2", tmp_path) == "v2"
    with pytest.raises(InputError, match=r"mine\.py is not in C here"):
        design_to_replay("mine.py", tmp_path)
    names = ("tdx_pamt_get", "tdx_pamt_put", "tdx_alloc_control_page", "tdx_free_control_page")
    lines = "".join(f"0x1\t{name}\tvmlinux\tEXPORT_SYMBOL_GPL\t\n" for name in names)
    (tmp_path / "vmlinux.symvers").write_text(lines)
    assert design_to_replay("mine.py", tmp_path) == "kernel"


def test_a_real_counterexample_is_read(tmp_path: Path) -> None:
    """What `dpamt verify v2` finds: every SEAMCALL, refcount and lock of it, in order."""
    from dpamt.cli.main import main

    file = tmp_path / "v2.json"
    assert main(["verify", "v2", "--trial", "words", "--save", str(file)]) == 1
    found = json.loads(file.read_text())["designs"][0]["trials"][0]["counterexamples"][0]
    points = points_of(found, announced=True)
    assert [point.at for point in points] == sorted(point.at for point in points)
    assert points[-1].what == "TDH.PHYMEM.PAMT.REMOVE"
    assert points[-1].expected == "TDX_NO_PAMT_PAGE_PAIR"
    assert {point.what for point in points} >= {"load", "inc_not_zero", "lock", "unlock", "add"}
