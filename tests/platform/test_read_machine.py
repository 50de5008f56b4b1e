from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpamt.errors import InputError
from dpamt.platform.read_machine import (
    PACKAGED_HOSTS,
    machine_from_text,
    packaged_host,
    read_machine,
)

E820 = "[mem 0x0-0x9fbff] usable\n[mem 0x100000-0x3fffffff] usable\n"
IOMEM = "00001000-0009fbff : System RAM\n00100000-3fffffff : System RAM\n"
LOG = "[    0.0] Linux version 7\n" + E820.replace("[mem", "[    0.0] BIOS-e820: [mem")


@pytest.mark.parametrize("text", [E820, IOMEM, LOG, E820.replace("[mem", "BIOS-e820: [mem")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_kind_of_a_file_is_told_by_its_content(
    tmp_path: Path, text: str, encoding: str
) -> None:
    path = tmp_path / "64GiB"
    path.write_text(text, encoding)
    machine = read_machine(str(path))
    assert machine.source == str(path)
    assert machine.total_pages == 0x9E + 0x3FF00
    assert machine.cmrs[0].end == 1 << 30


def test_a_size_needs_no_file() -> None:
    assert read_machine("64GiB").source == "64GiB"
    assert read_machine("64GiB,nodes=2").nodes == (0, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ":1: the file is empty"),
        (b" \n\n", ":1: the file is empty"),
        (b"virt/tdx\nab\0cd", ":2: found a zero byte at offset 11"),
        (b"\x7fELF\2\1\1\0\0", ":1: found a zero byte"),
        ("[mem 0x0-0x9fbff] usable".encode("utf-16-le"), ":1: found a zero byte"),
        (b"a\nb\n\xff\xfe\xfd", ": no memory"),
        (b"\xff\xfea", ":1: found bytes that are not UTF-16"),
        (b"\x1f\x8b\x08\x00", ":1: found a compressed file that cannot be unpacked"),
        (b"\xfd7zXZ\x00", ":1: found a compressed file that cannot be unpacked"),
        (b"\x28\xb5\x2f\xfd", ":1: found a zstd file"),
        (b'{"MESSAGE": "virt/tdx: CM', ":1: found"),
        (b"hello\n", ": no memory"),
    ],
)
def test_files_that_are_not_a_map_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "input"
    path.write_bytes(content)
    with pytest.raises(InputError, match="expected") as caught:
        read_machine(str(path))
    assert str(caught.value).startswith(f"{path}{message}")


@pytest.mark.parametrize("argument", ["no-such-file", "", "a\0b", "x" * 5000, "64 giraffes"])
def test_what_is_neither_file_nor_size_is_refused(argument: str) -> None:
    with pytest.raises(InputError, match="expected"):
        read_machine(argument)


def test_a_wrong_unit_is_told_as_a_size() -> None:
    with pytest.raises(InputError, match="memory size '64GB'"):
        read_machine("64GB")


def test_a_file_without_end_is_refused() -> None:
    with pytest.raises(InputError, match=r"^/dev/zero: larger than 64 MiB; expected"):
        read_machine("/dev/zero")


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="irectory"):
        read_machine(str(tmp_path))


def test_packaged_hosts() -> None:
    for name in PACKAGED_HOSTS:
        assert packaged_host(name).source == name
    with pytest.raises(InputError, match="expected one of host-1tib"):
        packaged_host("../secret")


@given(st.text())
def test_text_is_a_machine_or_an_input_error(text: str) -> None:
    with pytest.raises(InputError):
        machine_from_text(text, "file")


@given(st.text("0123456789abcdefx[]-: mem usableSytRAM\n"))
def test_nearly_maps_are_a_machine_or_an_input_error(text: str) -> None:
    for lead in ("", "[mem 0x100000-0x3fffffff] usable\n", "00100000-3fffffff : System RAM\n"):
        message = ""
        try:
            machine_from_text(lead + text, "file")
        except InputError as error:
            message = str(error)
        assert "\n" not in message
