"""Locks in simulated time: the paths, and what is played with them."""

import pytest

from dpamt.host.designs.load import SHIPPED, load_design
from dpamt.verify.costs import Costs, fast_path_locks, lock_takes, paths, play


def test_the_fast_path_takes_no_lock_where_there_is_one() -> None:
    costs = Costs()
    takes = {
        name: tuple(map(lock_takes, paths(load_design(name), costs)))
        for name in ("v2", "v6", "merged", "per-2m-lock", "global-rwlock", "lazy")
    }
    assert takes == {
        "v2": (1, 0),
        "v6": (1, 0),
        "merged": (1, 1),
        "per-2m-lock": (1, 1),
        "global-rwlock": (1, 1),
        "lazy": (0, 0),
    }


def test_the_first_get_holds_the_lock_for_the_seamcall() -> None:
    costs = Costs(add=100.0)
    first, later = paths(load_design("merged"), costs)
    assert max(piece.microseconds + piece.varies for piece in first if piece.lock) > 100
    assert max(piece.microseconds for piece in later if piece.lock) < 1


def test_it_repeats_itself_and_waiting_grows_with_the_cpus() -> None:
    design = load_design("merged")
    assert play(design, 8, 512, seed=3) == play(design, 8, 512, seed=3)
    waits = [play(design, vcpus, 512).waited / vcpus for vcpus in (4, 32, 128)]
    assert waits == sorted(waits)
    assert play(design, 1, 512).contended == 0


def test_without_a_fast_path_the_lock_is_taken_for_every_page() -> None:
    merged, v6 = (play(load_design(name), 16, 1024) for name in ("merged", "v6"))
    assert merged.taken == 16 * 1024
    assert v6.taken == 16 * 2


def test_readers_of_one_lock_do_not_wait_for_each_other() -> None:
    readers = play(load_design("global-rwlock"), 64, 512)
    assert readers.taken == 64 * 512
    assert readers.contended == 0


@pytest.mark.parametrize("name", [name for name in SHIPPED if load_design(name).dynamic_pamt])
def test_the_played_path_has_every_take_of_the_fast_path(name: str) -> None:
    design = load_design(name)
    assert lock_takes(paths(design, Costs())[1]) == fast_path_locks(design)


def test_locks_of_regions_keep_tds_apart() -> None:
    assert play(load_design("per-2m-lock"), 64, 512).contended == 0
    assert play(load_design("merged"), 64, 512).contended > 0
