"""The archive that ends a boot: read back by another reader of ELF, and as newc says."""

from io import BytesIO

from elftools.elf.elffile import ELFFile

from dpamt.boot.tiny_initrd import archive, quick_initrd, reboot_init


def entries(data: bytes) -> dict[str, tuple[int, bytes]]:
    """Name to (mode, contents), by Documentation/driver-api/early-userspace/buffer-format.rst."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        at += 110
        name = data[at : at + fields[11] - 1].decode()
        at += fields[11] + -(110 + fields[11]) % 4
        contents = data[at : at + fields[6]]
        at += fields[6] + -fields[6] % 4
        if name == "TRAILER!!!":
            return found
        found[name] = fields[1], contents


def test_the_init_is_a_static_program() -> None:
    elf = ELFFile(BytesIO(reboot_init()))
    assert elf["e_type"] == "ET_EXEC"
    assert elf.get_machine_arch() == "x64"
    (part,) = elf.iter_segments()
    assert part["p_type"] == "PT_LOAD"
    sizes = (elf["e_ehsize"], elf["e_phoff"], elf["e_phentsize"], elf["e_phnum"], elf["e_shnum"])
    assert sizes == (64, 64, 56, 1, 0)
    assert (part["p_filesz"], part["p_memsz"]) == (len(reboot_init()), len(reboot_init()))
    assert part["p_offset"] % part["p_align"] == part["p_vaddr"] % part["p_align"]
    assert part["p_vaddr"] <= elf["e_entry"] < part["p_vaddr"] + part["p_filesz"]


def test_the_archive() -> None:
    found = entries(quick_initrd())
    assert found["init"] == (0o100755, reboot_init())
    assert found["dev/console"][0] == 0o020600
    assert found["proc"][0] == 0o040755
    for size in range(5):
        assert entries(archive({"init": bytes(size)}))["init"][1] == bytes(size)
