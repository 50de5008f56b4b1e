"""Names that a terminal would obey, or that no output can take."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpamt.errors import InputError
from dpamt.host.designs.load import load_design
from dpamt.verify.properties.from_file import load_properties
from dpamt.visible import check_name, visible

from .cli.command import dpamt, refused

MAP = "BIOS-e820: [mem 0x0000000000100000-0x000000103fffffff] usable\n"
BYTES = os.fsdecode(b"gr\xf6\xdfe")
STRANGE = (BYTES, "a\x1b[31mb", "a\x9bb", "a\u202eb", "a\rb")


@given(st.text(st.characters(codec=None)))
def test_only_what_can_be_printed_is_left(text: str) -> None:
    shown = visible(text)
    assert all(one.isprintable() or one in "\n\t" for one in shown)
    assert visible(shown) == shown
    if text.isprintable():
        assert shown == text
    shown.encode()


def test_bytes_that_are_no_text() -> None:
    assert visible(BYTES) == r"gr\xf6\xdfe"
    assert visible("a\x1b[31m\n\tb") == "a\\x1b[31m\n\tb"


@pytest.mark.parametrize("name", STRANGE)
def test_a_log_of_that_name(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.dmesg").write_text(MAP)
    (tmp_path / "plain").write_text(MAP)
    for words in ((f"{name}.dmesg",), (f"{name}.dmesg", "plain")):
        text = dpamt("plan", *words, cwd=tmp_path)
        assert text.code == 0
        assert f"Plan for {' '.join(visible(name.replace(chr(13), ' ')).split())}.dmesg" in text.out
        assert visible(text.out) == text.out
        assert json.loads(dpamt("plan", *words, "--json", cwd=tmp_path).out)


@pytest.mark.parametrize("name", STRANGE)
def test_a_file_of_that_name_that_is_not_there(name: str, tmp_path: Path) -> None:
    for verb in ("plan", "decode", "trace", "run", "conform"):
        line = refused(verb, f"./{name}.x", cwd=tmp_path)
        assert visible(line) == line


@pytest.mark.parametrize("name", STRANGE)
def test_a_python_file_of_that_name_is_refused(name: str, tmp_path: Path) -> None:
    """Its name would stand in certificates, which are then not read again."""
    at = tmp_path / f"{name}.py"
    at.write_text("def f(view):\n    return True\n")
    for load in (load_design, load_properties):
        with pytest.raises(InputError, match="expected a file with another name"):
            load(str(at))
    check_name("größe.py")
