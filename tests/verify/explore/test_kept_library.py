"""The compiled loop between runs: kept, swept, and never loaded from what others can write."""

import os
import time
from pathlib import Path

import pytest

from dpamt.verify.explore.compiled.kept_library import (
    ABANDONED_SECONDS,
    KEPT,
    UNUSED_SECONDS,
    unused,
)

from .library_process import told

PARTS = frozenset({"search.c", "search.so"})
NOW = 1.5e9
LOADED = "False"


def library_of(folder: Path, number: int, age: float) -> Path:
    path = folder / f"search-{number:024x}.so"
    path.write_bytes(b"")
    os.utime(path, (NOW - age, NOW - age))
    return path


def swept(folder: Path, path: Path) -> set[str]:
    return {one.name for one in unused(folder, path, PARTS, NOW)}


def test_the_newest_stay_by_their_last_use(tmp_path: Path) -> None:
    paths = [library_of(tmp_path, at, UNUSED_SECONDS * (at + 2)) for at in range(KEPT + 3)]
    assert swept(tmp_path, paths[0]) == {path.name for path in paths[KEPT:]}
    os.utime(paths[-1], (NOW, NOW))
    assert swept(tmp_path, paths[0]) == {path.name for path in paths[KEPT - 1 : -1]}


def test_what_another_run_may_be_loading_stays(tmp_path: Path) -> None:
    paths = [library_of(tmp_path, at, UNUSED_SECONDS - 60) for at in range(KEPT + 3)]
    assert not swept(tmp_path, paths[0])


def test_the_one_in_use_stays_whatever_its_age(tmp_path: Path) -> None:
    """A clock that was set back makes all others look newer."""
    paths = [library_of(tmp_path, at, UNUSED_SECONDS * (at + 2)) for at in range(KEPT + 1)]
    assert not swept(tmp_path, paths[-1])


def test_what_is_not_dpamts_stays(tmp_path: Path) -> None:
    for at in range(KEPT + 1):
        library_of(tmp_path, at, 0)
    old = NOW - 10 * ABANDONED_SECONDS
    for name in ("search-mine.so", "notes.txt", "search-" + "0" * 24 + ".so.bak"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (old, old))
    for name, parts in {
        "build-abcd1234": ("search.c",),
        "tmp7emvr7o5": ("search.c", "search.so"),
        "tmp8888888_": ("search.c", "diary.txt"),
        "kernel-7.3.4": ("search.c",),
    }.items():
        (tmp_path / name).mkdir()
        for part in parts:
            (tmp_path / name / part).touch()
        os.utime(tmp_path / name, (old, old))
    (tmp_path / "build-zzzz1234").mkdir()
    os.utime(tmp_path / "build-zzzz1234", (NOW - 60, NOW - 60))
    link = tmp_path / f"search-{99:024x}.so"
    link.symlink_to(tmp_path / "notes.txt")
    assert swept(tmp_path, tmp_path) == {"build-abcd1234", "tmp7emvr7o5"}


def test_a_build_sweeps_and_marks_its_use(tmp_path: Path) -> None:
    folder = tmp_path / "dpamt"
    folder.mkdir()
    for at in range(KEPT + 3):
        library_of(folder, at, 0)
    begun = time.time()
    assert told(XDG_CACHE_HOME=str(tmp_path)) == LOADED
    left = sorted(folder.iterdir(), key=lambda one: one.stat().st_mtime)
    assert len(left) == KEPT
    (made,) = [one for one in left if one.stat().st_size]
    assert made == left[-1]
    os.utime(made, (0, 0))
    assert told(XDG_CACHE_HOME=str(tmp_path)) == LOADED
    assert made.stat().st_mtime >= begun - 2


@pytest.mark.parametrize("spoilt", ["empty", "writable", "folder"])
def test_what_cannot_be_trusted_is_built_again(spoilt: str, tmp_path: Path) -> None:
    assert told(XDG_CACHE_HOME=str(tmp_path)) == LOADED
    (made,) = (tmp_path / "dpamt").iterdir()
    number = made.stat().st_ino
    if spoilt == "empty":
        made.write_bytes(b"")
    elif spoilt == "writable":
        made.chmod(0o777)
    else:
        made.unlink()
        made.mkdir()
    assert told(XDG_CACHE_HOME=str(tmp_path)) == LOADED
    if spoilt != "folder":
        assert made.stat().st_ino != number
        assert made.stat().st_mode & 0o777 == 0o755


def test_another_users_folder_is_not_trusted(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a file of another user")
    assert told(XDG_CACHE_HOME=str(tmp_path)) == LOADED
    folder = tmp_path / "dpamt"
    (made,) = folder.iterdir()
    made.write_bytes(b"#!")
    os.chown(made, 65534, 65534)
    made.chmod(0o755)
    os.chown(folder, 65534, 65534)
    os.utime(made, (1, 1))
    assert told(XDG_CACHE_HOME=str(tmp_path)) == LOADED


@pytest.mark.parametrize("environment", [{"HOME": "relative"}, {"HOME": "/proc/nowhere"}])
def test_without_a_home_it_is_built_for_the_run(
    environment: dict[str, str], tmp_path: Path
) -> None:
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        assert told(XDG_CACHE_HOME="", **environment) == LOADED
    finally:
        os.chdir(here)
    assert not list(tmp_path.iterdir())
