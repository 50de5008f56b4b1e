"""Whether a file is dpamt's is read from the file; half a file, or another's, is not."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpamt.boot.call import Recording
from dpamt.boot.core_file import write_core
from dpamt.own_files import GENERATOR, KINDS, STAMP, kind_of
from dpamt.report.verify_junit import junit_report
from dpamt.report.verify_sarif import sarif_log
from tests.boot.core_guest import guest

CERTIFICATE = {"format": 1, **STAMP, "clean": True, "designs": [{"design": "v2", "trials": []}]}


def recording() -> bytes:
    text = io.StringIO()
    Recording(text, vmlinux="vmlinux")
    return text.getvalue().encode()


def checkpoint() -> bytes:
    archived = io.BytesIO()
    with zipfile.ZipFile(archived, "w") as archive:
        archive.writestr("search.json", json.dumps({**STAMP, "asked": {}}))
        archive.writestr("states.bin", b"12345678")
    return archived.getvalue()


def table(**metadata: str) -> bytes:
    written = io.BytesIO()
    pa.parquet.write_table(pa.table({"host": [1]}).replace_schema_metadata(metadata), written)
    return written.getvalue()


def page(generator: str = GENERATOR) -> bytes:
    return f'<!doctype html>\n<html lang="en">\n{generator}\n<p>here</p>\n</html>\n'.encode()


def core() -> bytes:
    written = io.BytesIO()
    write_core(written, *guest())
    return written.getvalue()


OWN = {
    "certificate": json.dumps(CERTIFICATE, indent=2).encode() + b"\n",
    "trace": json.dumps({"otherData": STAMP, "traceEvents": []}).encode() + b"\n",
    "recording": recording(),
    "page": page(),
    "checkpoint": checkpoint(),
    "table": table(**STAMP),
    "sarif": sarif_log({}).encode(),
    "junit": junit_report({}).encode(),
    "core": core(),
}


def test_every_kind_is_tried() -> None:
    assert OWN.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_an_own_file_is_known(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(OWN[kind])
    assert kind_of(str(file)) == kind


@pytest.mark.parametrize("kind", KINDS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(data=st.data())
def test_half_an_own_file_is_not(kind: str, tmp_path: Path, data: st.DataObject) -> None:
    """But for its last line break."""
    whole = OWN[kind]
    most = len(whole) - (2 if kind in ("certificate", "trace", "page", "sarif", "junit") else 1)
    file = tmp_path / "file"
    file.write_bytes(whole[: data.draw(st.integers(0, most))])
    assert kind_of(str(file)) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"dpamt",
        b"{}",
        b'["dpamt"]',
        b'{"dpamt": "0.1.0"}',
        b'{"traceEvents": [], "dpamt": 1}',
        b'{"otherData": "dpamt", "traceEvents": 5}{',
        b'{"dpamt": "0.1.0", "designs": []}',
        b'{"vmlinux": 1}\n',
        b'{"dpamt": 1, "vmlinux": 1}\nhello\n',
        b"[" * 100_000,
        b'{"dpamt": ' + b"[" * 100_000,
        page(""),
        page('<meta name="generator" content="other 1.0">'),
        table(),
        b"PAR1PAR1",
        b"PK\x03\x04",
        b"def dpamt(): pass\n",
        b"\xff\xfe\x00",
    ],
    ids=range(19),
)
def test_another_file_is_not(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    assert kind_of(str(file)) is None


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: None], ids=["folder", "nothing"])
def test_what_cannot_be_read_is_not(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "file")
    assert kind_of(str(tmp_path / "file")) is None
