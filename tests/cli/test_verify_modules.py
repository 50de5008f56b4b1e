"""`dpamt verify --vmlinux FILE --module KO`: functions that lie in a module of a linked kernel."""

import json
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from dpamt.cli.main import main
from tests.kernel_image.compiled import C, built, design_object

from .command import refused
from .test_verify_image_kinds import KERNEL, TEXT_AT, linked, verdict


def joined(target: Path, *parts: Path) -> Path:
    """A module, as Kbuild makes one."""
    words: list[str | Path] = ["ld", "-m", "elf_x86_64", "-r", "--build-id=sha1", "-o", target]
    subprocess.run([*words, *parts], check=True)
    return target


def module(folder: Path, text: str, name: str = "pamt", *flags: str) -> Path:
    """A module of this text."""
    return joined(folder / f"{name}.ko", built(text, flags or ("-O2", "-g")))


def kernel(folder: Path, *texts: str) -> Path:
    """A linked kernel: the functions that are answered, and these texts."""
    target = folder / "kernel" / "vmlinux"
    target.parent.mkdir(exist_ok=True)
    words = ["ld", "-m", "elf_x86_64", "-e", "0", f"-Ttext={TEXT_AT:#x}", "--build-id=sha1"]
    subprocess.run(
        [*words, "-o", target, *(built(text, ("-O2", "-g")) for text in (KERNEL, *texts))],
        check=True,
    )
    return target


def code_of(name: str) -> str:
    """The text of a design in C."""
    return (C / f"{name}.c").read_text()


def trial_of(folder: Path) -> dict[str, object]:
    """The first search that :func:`verdict` kept."""
    found: dict[str, object] = json.loads((folder / "kept.json").read_text())["designs"][0]
    trials = found["trials"]
    assert isinstance(trials, list)
    return dict(trials[0])


@pytest.mark.parametrize("name", ["merged", "v2"])
def test_a_module_is_as_if_it_was_linked_in(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Verdict, states, assumptions, lines of C, and the functions' code but for its addresses."""
    whole = verdict(linked(tmp_path, name, "gcc"), tmp_path)
    one = trial_of(tmp_path)
    ko = joined(tmp_path / "pamt.ko", design_object(name))
    capsys.readouterr()
    assert verdict(kernel(tmp_path), tmp_path, "--module", str(ko)) == whole
    assert whole[1] == ("holds" if name == "merged" else "fails")
    said = " ".join(capsys.readouterr().out.split())
    other = trial_of(tmp_path)
    for key in ("states", "transitions", "depth", "ends", "not_reached"):
        assert one[key] == other[key], key
    assert said.startswith("vmlinux + pamt.ko: every interleaving")
    assert "; module pamt.ko, build id " in said.partition("memory model")[0]
    assert said.partition("memory model")[0].count("GCC: ") == 2
    assert other["asked"]["modules"] == [str(ko)]  # type: ignore[index]
    if name == "v2":
        assert "[tdx_pamt_put/atomic_dec_and_test" in said
        assert one["counterexamples"][0]["steps"][0] | {"address": 0} == (  # type: ignore[index]
            other["counterexamples"][0]["steps"][0] | {"address": 0}  # type: ignore[index]
        )


def test_without_dwarf_symbol_and_instruction(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ko = joined(tmp_path / "pamt.ko", design_object("v2", "-O2"))
    assert verdict(kernel(tmp_path), tmp_path, "--module", str(ko))[0] == 1
    assert "[tdx_pamt_put+0x" in capsys.readouterr().out


def test_a_certificate_is_of_the_modules_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--check, --replay and --resume are given kernel and module; other code is seen."""
    image, ko = str(kernel(tmp_path)), joined(tmp_path / "pamt.ko", design_object("v2"))
    kept = str(tmp_path / "kept.json")
    assert verdict(Path(image), tmp_path, "--module", str(ko))[0] == 1
    assert main(["verify", "--check", kept, image, str(ko)]) == 0
    assert f"{ko} as the module {ko}" in capsys.readouterr().err
    assert main(["verify", "--replay", kept, image, str(ko)]) == 1
    assert "FAILS AGAIN: the same" in capsys.readouterr().out
    assert f"is about the module {ko}, which is not executed" in refused(
        "verify", "--check", kept, image
    )
    joined(ko, design_object("v2", "-O1", "-g"))
    assert main(["verify", "--check", kept, image, str(ko)]) == 1
    assert "the functions that ran are not those of the certificate" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize("is_module", [True, False])
def test_a_search_is_taken_up(is_module: bool, tmp_path: Path) -> None:
    """What ran, was answered and was not reached before it was kept counts afterwards."""
    image, ko = str(design_object("merged")), ""
    if is_module:
        image, ko = (
            str(kernel(tmp_path)),
            str(joined(tmp_path / "pamt.ko", design_object("merged"))),
        )
    files = [image, ko] if is_module else [image]
    kept = str(tmp_path / "kept.search")
    asked = [
        "--vmlinux",
        image,
        *(["--module", ko] if is_module else []),
        "--cpus",
        "3",
        "--granularity",
        "seamcall",
    ]
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    assert main(["verify", *asked, "--save", str(first)]) == 0
    assert main(["verify", *asked, "--max-states", "20", "--checkpoint", kept]) == 1
    assert main(["verify", "--resume", kept, *files, "--save", str(second)]) == 0
    one, other = (
        json.loads(path.read_text())["designs"][0]["trials"][0] for path in (first, second)
    )
    for key in ("verdict", "states", "transitions", "code", "assumptions", "not_reached"):
        assert one[key] == other[key], key
    assert main(["verify", "--check", str(second), *files]) == 0
    if is_module:
        assert "is about the module" in refused("verify", "--resume", kept, image)


def test_a_module_calls_the_kernel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The kernel's own instructions run: there the counter is lowered, before or under the lock."""
    text = code_of("v2")
    early = "	if (!atomic_dec_and_test(count))\n		return;\n	spin_lock(&pamt_lock);\n"
    assert early in text
    declared = "extern int drop(atomic_t *count, spinlock_t *lock);\n"
    called = "	if (!drop(count, &pamt_lock))\n		return;\n"
    text = text.replace(early, called).replace("atomic_t *pamt", f"{declared}atomic_t *pamt", 1)
    drop = '#include "kernel.h"\n' + "int drop(atomic_t *count, spinlock_t *lock)\n{\n%s\n}\n"
    late = drop % "	return atomic_dec_and_lock(count, lock);"
    at_once = "	if (!atomic_dec_and_test(count))\n		return 0;\n	spin_lock(lock);\n	return 1;"
    soon = drop % at_once
    ko = str(module(tmp_path, text))
    assert verdict(kernel(tmp_path, late), tmp_path, "--module", ko)[:2] == (0, "holds")
    found = verdict(kernel(tmp_path, soon), tmp_path, "--module", ko)
    assert found == verdict(linked(tmp_path, "v2", "gcc"), tmp_path)
    assert "[drop/atomic_dec_and_test" in " ".join(capsys.readouterr().out.split())


def test_a_module_uses_the_one_before_it(tmp_path: Path) -> None:
    """In the other order the symbol is one that nobody defines."""
    text = code_of("merged").replace("spinlock_t dpamt_lock;", "extern spinlock_t dpamt_lock;")
    first = module(tmp_path, '#include "kernel.h"\nspinlock_t dpamt_lock;\n', "locks")
    second = module(tmp_path, text)
    image = kernel(tmp_path)
    given = ["--module", str(first), "--module", str(second)]
    expected = verdict(linked(tmp_path, "merged", "gcc"), tmp_path)
    assert verdict(image, tmp_path, *given) == expected
    swapped = ["--module", str(second), "--module", str(first)]
    assert f"{first}: defines nothing that is asked for or that a later module uses" in refused(
        "verify", "--vmlinux", str(image), *swapped
    )


def test_a_warn_of_each_file_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tables of bugs in kernel and module: the WARN of either is a WARN, not a BUG."""
    warns = '#include "kernel.h"\n' + "int warns(int yes) { return WARN_ON_ONCE(yes); }\n"
    text = code_of("merged").replace(
        "	if (error)\n", "	WARN_ON_ONCE(pfn);\n	if (error)\n", 1
    )
    assert (
        verdict(kernel(tmp_path, warns), tmp_path, "--module", str(module(tmp_path, text)))[0] == 1
    )
    assert "WARN" in capsys.readouterr().out
    text = code_of("merged").replace("	if (error)\n", "	warns(1);\n	if (error)\n", 1)
    text = text.replace("atomic_t *", "extern int warns(int yes);\natomic_t *", 1)
    assert (
        verdict(kernel(tmp_path, warns), tmp_path, "--module", str(module(tmp_path, text)))[0] == 1
    )
    said = capsys.readouterr().out
    assert "WARN" in said
    assert "BUG in" not in said


def test_what_both_define(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The kernel's goes first; the module's is MODULE:NAME, with words and locks of its own.

    The kernel's helpers call the kernel's get, so they are none of the module's.
    """
    helper = "void *tdx_alloc_control_page(void) { __builtin_trap(); }\n"
    image = str(kernel(tmp_path, code_of("merged") + helper))
    text = code_of("v2").replace("pamt_refcounts", "dpamt_refcounts")
    ko = str(module(tmp_path, text.replace("pamt_lock", "dpamt_lock")))
    said = refused("verify", "--vmlinux", image, "--module", ko)
    assert f"{ko}: dpamt_refcounts is that of {image}; expected pamt:dpamt_refcounts" in said
    names = "get=pamt:tdx_pamt_get,put=pamt:tdx_pamt_put"
    expected = verdict(linked(tmp_path, "v2", "gcc"), tmp_path)
    states = trial_of(tmp_path)["states"]
    capsys.readouterr()
    found = verdict(Path(image), tmp_path, "--module", ko, "--functions", names)
    assert found == expected
    assert trial_of(tmp_path)["states"] == states
    said = " ".join(capsys.readouterr().out.split())
    assert "pamt:dpamt_refcounts = 0x" in said
    assert "get and put take no dpamt_lock of vmlinux by a call" in said
    assert "in the file of get or a later one, dpamt's own in their place: " in said
    assert "tdx_alloc_control_page" in said.partition("dpamt's own in their place: ")[2]


WORD = "static volatile u32 seen;\n"


def test_variables_of_one_name_are_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is raised by every get; were they one word, the second would be ahead of the first."""
    look = f'#include "kernel.h"\n{WORD}' + "u32 look(void) { return ++seen; }\n"
    two = (
        "	u32 first = look();\n	if (first != ++seen)\n		return -EIO;\n	if (error)\n"
    )
    text = code_of("merged").replace("	if (error)\n", two, 1)
    text = text.replace("atomic_t *", f"extern u32 look(void);\n{WORD}atomic_t *", 1)
    asked = ["--module", str(module(tmp_path, text)), "--cpus", "1", "--granularity", "seamcall"]
    assert verdict(kernel(tmp_path, look), tmp_path, *asked)[:2] == (0, "holds")
    one = text.replace(WORD, "extern volatile u32 seen;\n")
    asked = [
        "--module",
        str(module(tmp_path, one, "one")),
        "--cpus",
        "1",
        "--granularity",
        "seamcall",
    ]
    image = kernel(tmp_path, look.replace("static ", ""))
    assert main(["verify", "--vmlinux", str(image), *asked]) == 1
    assert "no TD can be made" in capsys.readouterr().err


def test_values_are_set_in_a_module(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = code_of("merged").replace(
        "	if (error)\n", "	if (!on)\n		return -EIO;\n	if (error)\n", 1
    )
    text = text.replace("atomic_t *", "static volatile int on;\natomic_t *", 1)
    image, ko = kernel(tmp_path, "volatile int on;\n"), str(module(tmp_path, text))
    given = ["--module", ko, "--set", "on=1"]
    assert main(["verify", "--vmlinux", str(image), *given]) == 1
    assert "no TD can be made" in capsys.readouterr().err
    assert verdict(image, tmp_path, *given, "--set", "pamt:on=1")[:2] == (0, "holds")
    said = " ".join(capsys.readouterr().out.split())
    assert "on is that of vmlinux, and not that of pamt.ko" in said
    kept = str(tmp_path / "kept.json")
    assert main(["verify", "--check", kept, str(image), ko]) == 0


def test_what_nobody_defines_is_refused_by_name(tmp_path: Path) -> None:
    text = code_of("merged").replace("	if (error)\n", "	wait_a_bit();\n	if (error)\n", 1)
    text = text.replace("atomic_t *", "extern void wait_a_bit(void);\natomic_t *", 1)
    ko = str(module(tmp_path, text))
    said = refused("verify", "--vmlinux", str(kernel(tmp_path)), "--module", ko, "--cpus", "2")
    assert f"{ko}: tdx_pamt_get+0x" in said
    assert "calls wait_a_bit(), which is neither in the file nor answered" in said


def test_what_is_no_module(tmp_path: Path) -> None:
    image, good = kernel(tmp_path), joined(tmp_path / "pamt.ko", design_object("merged"))
    bad = tmp_path / "bad.ko"

    def line(*modules: Path, of: Path = image) -> str:
        words = [word for one in modules for word in ("--module", str(one))]
        return refused("verify", "--vmlinux", str(of), *words)

    assert f"{image}: an ELF file of type ET_EXEC; expected a relocatable module" in line(image)
    assert f"{bad}: No such file or directory; expected" in line(bad)
    data = bytearray(good.read_bytes())
    bad.write_bytes(data[:2000])
    assert f"{bad}: cut off" in line(bad)
    struct.pack_into("<H", data, 18, 183)
    bad.write_bytes(data)
    assert f"{bad}: an ELF file for AArch64; expected" in line(bad)
    subprocess.run(["strip", "-o", bad, good], check=True)
    assert f"{bad}: no symbols; expected" in line(bad)
    joined(bad, built("int other;\n"))
    assert f"{bad}: defines nothing that is asked for" in line(good, bad)
    (tmp_path / "twice").mkdir()
    again = Path(shutil.copy(good, tmp_path / "twice" / "pamt.ko"))
    assert f"{again}: a second module with the name pamt" in line(good, again)
    assert "not linked; expected a vmlinux with --module" in line(good, of=design_object("v2"))
    assert "--module: expected with --vmlinux FILE" in refused("verify", "--module", str(good))
    assert "--module: has no effect with --check" in refused(
        "verify", "--check", "kept.json", "--module", str(good)
    )
    far = tmp_path / "far"
    words: list[str | Path] = ["ld", "-m", "elf_x86_64", "-e", "0", "-Ttext=0x100000000000"]
    subprocess.run([*words, "-o", far, built(KERNEL, ("-O2", "-mcmodel=large"))], check=True)
    assert "does not reach" in line(good, of=far)


def test_boot_replays_a_kernel_alone(tmp_path: Path) -> None:
    image, ko = kernel(tmp_path), joined(tmp_path / "pamt.ko", design_object("v2"))
    assert verdict(image, tmp_path, "--module", str(ko))[0] == 1
    said = refused("boot", "--vmlinux", str(image), "--replay", str(tmp_path / "kept.json"))
    assert "counterexample: of a kernel with --module; expected one of a vmlinux alone" in said


@pytest.mark.parametrize("modules", [5, "pamt.ko", [5]])
def test_a_document_whose_modules_are_none(modules: object, tmp_path: Path) -> None:
    image, ko = kernel(tmp_path), joined(tmp_path / "pamt.ko", design_object("v2"))
    assert verdict(image, tmp_path, "--module", str(ko))[0] == 1
    kept = tmp_path / "kept.json"
    document = json.loads(kept.read_text())
    document["designs"][0]["trials"][0]["asked"]["modules"] = modules
    kept.write_text(json.dumps(document))
    assert "modules" in refused("verify", "--check", str(kept), str(image), str(ko))
