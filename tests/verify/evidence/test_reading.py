"""Documents from elsewhere: what is none is refused in one line, and in bounded memory."""

import subprocess
import sys
from pathlib import Path

import pytest

from dpamt.errors import InputError
from dpamt.verify.evidence.reading import MOST_BYTES, MOST_VALUES, parse_json, read_json


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"[]", "no object"),
        (b'{"a": ' + b"[" * 100_000, "nested more than 24 deep"),
        (b'{"a": ' + b'{"b": ' * 100_000, "nested more than 24 deep"),
        (b'{"a": "' + b"[" * 100 + b'", "b": [[]}', "Expecting"),
        (b'{"a": "\\"' + b"]" * 9 + b"[" * 99, "nterminated string"),
        (b'{"a": 1, "a": 2}', "'a' is there twice"),
        (b'{"a": NaN}', "the number NaN"),
        (b'{"a": -Infinity}', "the number -Infinity"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "a number of 5001 digits"),
        (b'{"a": "\\u001b[2J"}', "control characters"),
        (b'{"\\u0007": 1}', "control characters"),
        (b'{"a": ["\\ud800"]}', "control characters"),
        (b'{"a": "\xff"}', "invalid start byte"),
        (b'{"a": [' + b"1," * MOST_VALUES + b"1]}", "more than 4,000,000 values"),
        (b" " * (MOST_BYTES + 1), "more than 64 MiB"),
    ],
)
def test_what_is_refused(text: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_json(text)


def test_what_is_read() -> None:
    text = '{"a": ["\\n\\t ü", 1e3, [[[{"b": "[[[["}]]], ' + "7" * 100 + "]}"
    found = parse_json(text.encode())
    assert found == {"a": ["\n\t ü", 1000.0, [[[{"b": "[[[["}]]], int("7" * 100)]}


def test_a_file_without_end_is_one_line() -> None:
    with pytest.raises(InputError, match=r"^/dev/zero: more than 64 MiB; expected that$"):
        read_json("/dev/zero", "expected that")


@pytest.mark.parametrize("kind", ["lists", "objects", "texts"])
def test_memory_is_bounded(kind: str, tmp_path: Path) -> None:
    """The worst that may be read takes less than a gigabyte."""
    item = {"lists": "[],", "objects": '{"":0},', "texts": '"aaaaaaaaa",'}[kind]
    count = min(MOST_BYTES // len(item), MOST_VALUES // (2 if kind != "texts" else 1)) - 10
    file = tmp_path / "large.json"
    file.write_text('{"a": [' + item * count + "0]}", encoding="utf-8")
    reads = (
        "import resource, sys\n"
        "from dpamt.verify.evidence.reading import read_json\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "read_json(sys.argv[1], '')\n"
    )
    subprocess.run([sys.executable, "-c", reads, str(file)], check=True, timeout=120)
