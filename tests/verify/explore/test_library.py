"""Where no compiled search can be made, it is said why, and the search in Python goes on."""

from pathlib import Path

from .library_process import told


def test_a_compiler_that_fails(tmp_path: Path) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'no such option' >&2\nexit 3\n", encoding="utf-8")
    compiler.chmod(0o755)
    said = told(CC=str(compiler), XDG_CACHE_HOME=str(tmp_path))
    assert said == f"True {compiler} ended with 3: no such option"


def test_no_compiler(tmp_path: Path) -> None:
    assert told(PATH=str(tmp_path), CC="") == "True no C compiler (cc) is on the path"


def test_where_nothing_can_be_kept_it_is_made_for_this_run(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert told(XDG_CACHE_HOME=str(file)) == "False"


def test_it_is_compiled_once(tmp_path: Path) -> None:
    for _ in range(2):
        assert told(XDG_CACHE_HOME=str(tmp_path)) == "False"
    (made,) = (tmp_path / "dpamt").iterdir()
    assert made.name.startswith("search-")
