"""Searches that are stopped, kept and taken up again come to what they come to in one go."""

import json
import os
import zipfile
from array import array
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpamt.errors import InputError
from dpamt.host.designs.load import load_design
from dpamt.verify.evidence.checkpoint import keep, read, take_up
from dpamt.verify.explore.judging import Found
from dpamt.verify.explore.search import Search, search_of
from dpamt.verify.programs.get_put import regions
from dpamt.verify.programs.problem import GRANULARITIES, SEAMCALL
from dpamt.verify.programs.suite import trials_of
from dpamt.verify.properties.named import properties
from dpamt.verify.verdict import Verdict, verdict_of, verify

ASKED = {"design": "nothing looks at it here"}
CASES = {
    "v6": (2, 1),  # holds
    "v2": (3,),  # fails
    "lazy": (2,),
    "global-rwlock": (2,),
}


def fresh(name: str, granularity: str, most: int = 1_000_000) -> Search:
    design = load_design(name)
    return search_of(regions(design, CASES[name]), properties(design.tolerated), granularity, most)


def stopped(path: Path, name: str, granularity: str, most: int) -> None:
    search = fresh(name, granularity, most)
    search.keep = lambda search, found: keep(str(path), ASKED, search, found)
    search.explore()


def timeless(said: Verdict) -> Verdict:
    return replace(said, seconds=0.0)


@pytest.mark.parametrize("name", CASES)
@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_it_comes_to_the_same(name: str, data: st.DataObject, tmp_path: Path) -> None:
    granularity = data.draw(st.sampled_from(GRANULARITIES[:2] if name == "v2" else GRANULARITIES))
    search = fresh(name, granularity)
    whole = verdict_of(search, search.explore())
    path = tmp_path / "kept"
    stops = sorted(data.draw(st.sets(st.integers(1, whole.states - 1), min_size=1, max_size=3)))
    stopped(path, name, granularity, stops[0])
    for most in stops[1:]:
        search = fresh(name, granularity, most)
        search.keep = lambda search, found: keep(str(path), ASKED, search, found)
        search.explore(take_up(read(str(path)), search))
    search = fresh(name, granularity)
    again = verdict_of(search, search.explore(take_up(read(str(path)), search)))
    assert timeless(again) == timeless(whole)


@pytest.mark.parametrize("name", ["merged", "v3"])
def test_pages_that_are_used_whole_are_put_back_after_a_stop(name: str, tmp_path: Path) -> None:
    """DEMOTE fills whole pages of entries; the audits at the end read them from the machine."""
    design = load_design(name)
    trial = next(one for one in trials_of(design) if one.name == "demote")
    judges = properties(design.tolerated)

    def made(most: int) -> Search:
        return search_of(trial.make(design), judges, trial.granularity, most)

    whole = made(1_000_000)
    said = verdict_of(whole, whole.explore())
    assert whole.engine.words.start_pages
    assert (said.verdict == "fails") == (name == "v3")
    path = tmp_path / "kept"
    for most in (1, said.states // 2, said.states - 1):
        search = made(most)
        search.keep = lambda search, found: keep(str(path), ASKED, search, found)
        search.explore()
        search = made(1_000_000)
        assert timeless(verdict_of(search, search.explore(take_up(read(str(path)), search)))) == (
            timeless(said)
        )


def test_other_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    stopped(path, "v6", SEAMCALL, 50)
    other = load_design("merged")
    search = search_of(
        regions(replace(other, source="v6"), (2, 1)), properties(other.tolerated), SEAMCALL
    )
    with pytest.raises(InputError, match="the code that is verified has changed"):
        take_up(read(str(path)), search)


def test_other_bounds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    stopped(path, "v6", SEAMCALL, 50)
    design = load_design("v6")
    search = search_of(regions(design, (3,)), properties(design.tolerated), SEAMCALL)
    with pytest.raises(InputError, match="the bounds have changed"):
        take_up(read(str(path)), search)


def without(name: str) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            members = {member: archive.read(member) for member in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for member, content in members.items():
                if member != name:
                    archive.writestr(member, content)

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        without("search.json"),
        without("locals.txt"),
        without("states.bin"),
        without("slots.txt"),
        lambda path: path.write_bytes(path.read_bytes()[:-40]),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
    ],
)
def test_a_file_that_is_not_whole_is_one_line(
    spoil: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "kept"
    stopped(path, "v6", SEAMCALL, 50)
    spoil(path)
    with pytest.raises(InputError, match="expected a file that --checkpoint wrote") as refused:
        take_up(read(str(path)), fresh("v6", SEAMCALL))
    assert "\n" not in str(refused.value)


def members_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {member: archive.read(member) for member in archive.namelist()}


def write(path: Path, members: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members.items():
            archive.writestr(member, content)


def with_head(**changed: object) -> Callable[[dict[str, bytes]], object]:
    def change(members: dict[str, bytes]) -> None:
        head = json.loads(members["search.json"])
        members["search.json"] = json.dumps({**head, **changed}).encode()

    return change


def with_numbers(name: str, kind: str, at: int, value: int) -> Callable[[dict[str, bytes]], object]:
    def change(members: dict[str, bytes]) -> None:
        numbers = array(kind, members[name])
        numbers[at] = value
        members[name] = numbers.tobytes()

    return change


@pytest.mark.parametrize(
    "change",
    [
        with_head(capacity=1 << 60),
        with_head(capacity=-1),
        with_head(capacity="8"),
        with_head(level_end=1 << 40),
        with_head(faults=[["leak", "text", 10**9, -1, 0, 3]]),
        with_head(faults=[1]),
        with_head(python=3),
        with_head(code={}),
        with_head(bounds=[]),
        with_numbers("parents.bin", "i", 3, 3),
        with_numbers("parents.bin", "i", 5, 40),
        with_numbers("targets.bin", "I", 0, 1 << 31),
        with_numbers("first_edges.bin", "q", 1, 1 << 60),
        lambda members: members.update({"search.json": b"[" * 100_000}),
        lambda members: members.update({"search.json": b"{}"}),
        lambda members: members.update({"knowledge.txt": b"(" * 5000}),
        lambda members: members.update({"knowledge.txt": b"9" * (2 << 20)}),
        lambda members: members.update({"locals.txt": b"__import__('os')"}),
        lambda members: members.update({"nodes0.txt": b"()\n('a', 3)"}),
        lambda members: members.update({"../../more.txt": b""}),
        lambda members: members.update({"states.bin": b"1"}),
    ],
)
def test_a_file_that_was_made_to_harm_is_one_line(
    change: Callable[[dict[str, bytes]], object], tmp_path: Path
) -> None:
    path = tmp_path / "kept"
    stopped(path, "v6", SEAMCALL, 50)
    members = members_of(path)
    change(members)
    write(path, members)
    with pytest.raises(InputError) as refused:
        take_up(read(str(path)), fresh("v6", SEAMCALL))
    assert str(refused.value).startswith(f"{path}: ")
    assert "\n" not in str(refused.value)


def test_what_was_packed_too_well_is_not_unpacked(tmp_path: Path) -> None:
    """A gigabyte of zeros takes a megabyte; it is refused by what the file says of itself."""
    path = tmp_path / "kept"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("search.json", "{}")
        with archive.open("states.bin", "w", force_zip64=True) as member:
            for _ in range(1 << 7):
                member.write(bytes(1 << 20))
    with pytest.raises(InputError, match="more than 200 times as many"):
        read(str(path))


def test_no_more_memory_than_it_may(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    write(path, {"search.json": b"{}", "states.bin": os.urandom(3 << 20)})
    with pytest.raises(InputError, match=r"3 MiB, 0 MiB of it text; expected at most 1 MiB"):
        read(str(path), 1 << 20)


def test_a_member_that_is_there_twice(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    stopped(path, "v6", SEAMCALL, 50)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("states.bin", b"")
    with pytest.raises(InputError, match="not such a file, or not whole"):
        read(str(path))


def test_memory_is_a_bound() -> None:
    def ready(search: Search) -> Found | None:
        search.most_memory = 1
        search.compiled_from = 1 << 40  # in Python it lasts long enough to be looked at
        return None

    design = load_design("v6")
    said = verify(
        regions(design, (10,)), properties(design.tolerated), SEAMCALL, 1_000_000, None, ready
    )
    assert said.verdict == "not finished"
    assert "MiB of memory (--max-memory)" in said.stopped
    assert f"{said.states:,} states seen" in said.stopped
