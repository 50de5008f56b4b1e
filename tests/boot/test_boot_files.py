"""What is given to QEMU: files that Linux takes, and the words of its command line."""

import bz2
import gzip
import lzma
from pathlib import Path
from typing import Any

import pytest

from dpamt.boot.boot_files import bzimage, initrd
from dpamt.boot.command_line import command_line
from dpamt.boot.hold import parse_hold
from dpamt.boot.outcome import BootOptions
from dpamt.boot.tiny_initrd import archive
from dpamt.errors import InputError

CPIO = archive({"/init": b"#!/bin/sh\n"})
PACKED = {
    "cpio": CPIO,
    "zeros, as the padding between two": bytes(508) + CPIO,
    "gzip": gzip.compress(CPIO),
    "bzip2": bz2.compress(CPIO),
    "xz": lzma.compress(CPIO),
    "lzma": lzma.compress(CPIO, lzma.FORMAT_ALONE),
    # The first bytes that the formats' own documents give (there is no library for them here).
    "lz4, legacy frame": bytes.fromhex("02214c18"),
    "zstd frame": bytes.fromhex("28b52ffd"),
    "lzop": bytes.fromhex("894c5a4f000d0a1a0a"),
    "old gzip": bytes.fromhex("1f9e"),
    "cpio with checksums": b"070702" + CPIO[6:],
}


@pytest.mark.parametrize("kind", PACKED)
def test_ram_disks_that_linux_takes(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "initrd"
    file.write_bytes(PACKED[kind])
    assert initrd(str(file)) == file


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"text\n", "begins as none"),
        (bytes(100), "begins as none"),
        (b"PK\x03\x04", "begins as none"),
        (b"070707", "begins as none"),  # cpio of another age
        (bytes(4096) + CPIO, "begins as none"),
    ],
)
def test_what_is_no_ram_disk(data: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "initrd"
    file.write_bytes(data)
    with pytest.raises(InputError, match=f"initrd: {said}; expected an initial RAM disk"):
        initrd(str(file))


def test_a_bzimage_has_its_header(tmp_path: Path) -> None:
    """Linux, Documentation/arch/x86/boot.rst: "HdrS" at 0x202."""
    file = tmp_path / "bzImage"
    file.write_bytes(bytes(0x202) + b"HdrS" + bytes(99))
    assert bzimage(str(file)) == file
    for data in (bytes(0x201) + b"HdrS" + bytes(99), bytes(0x202) + b"Hdr", b"\x7fELF" * 999, b""):
        file.write_bytes(data)
        with pytest.raises(InputError, match=r"bzImage: no HdrS at 0x202; expected a bzImage"):
            bzimage(str(file))


def words(**options: Any) -> list[str]:
    return command_line(BootOptions(Path("vmlinux"), **options)).split(" ")


def test_words_of_the_command_line() -> None:
    plain = words()
    assert {"console=ttyS0", "nokaslr", "no_timer_check", "panic=-1"} < set(plain)
    assert "earlyprintk=serial,ttyS0" in plain
    assert plain[-1] == "setcpuid=vmx,movdir64b,ss,xsave"
    assert "" not in plain
    assert words(append="a b") == [*plain, "a", "b"]
    kvm: Any = object()
    assert words(kvm=kvm) == [*plain, "printk.devkmsg=on"]
    hold = (parse_hold("0@TDH.SYS.INIT:until=1:1", 2),)
    assert words(hold=hold) == words(replay={}) == [*plain, "tsc=unstable"]
    assert words(hold=hold, kvm=kvm, append="c") == [
        *(*plain, "printk.devkmsg=on", "tsc=unstable", "c"),
    ]


def test_a_guest_without_tdx_is_not_told_of_vmx() -> None:
    assert words(tdx=False, append="a") == [*words()[:-1], "a"]
