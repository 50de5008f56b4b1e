"""`dpamt verify --vmlinux` on linked files, modules and variables that a boot would have set."""

import json
import subprocess
from pathlib import Path

import pytest

from dpamt.cli.main import main
from tests.kernel_image.compiled import COMPILERS, C, built, design_object

from .command import refused

KERNEL = """
#include "kernel.h"
u64 vmemmap_base;
void _raw_spin_lock(spinlock_t *lock) { lock->word = 1; }
void _raw_spin_unlock(spinlock_t *lock) { lock->word = 0; }
int _raw_spin_trylock(spinlock_t *lock) { return !lock->word; }
struct page *alloc_pages_noprof(u32 gfp, u32 order) { return NULL; }
void __free_pages(struct page *page, u32 order) { }
u64 __seamcall(u64 leaf, struct tdx_module_args *args) { return leaf; }
u64 __seamcall_ret(u64 leaf, struct tdx_module_args *args) { return leaf; }
void tdx_quirk_reset_paddr(u64 base, u64 size) { }
int _printk(const char *format, ...) { return 0; }
"""
"""The functions that are answered, as any kernel has them: none of these bodies runs."""
TEXT_AT = 0xFFFF_FFFF_8100_0000


def linked(folder: Path, name: str, cc: str, *flags: str) -> Path:
    """A file that is linked at a kernel's addresses."""
    target = folder / "vmlinux"
    parts = [design_object(name, "-O2", "-g", cc=cc), built(KERNEL, ("-O2", "-g"), cc)]
    words: list[str | Path] = [
        "ld",
        "-m",
        "elf_x86_64",
        "-e",
        "0",
        f"-Ttext={TEXT_AT:#x}",
        "--build-id=sha1",
    ]
    done = subprocess.run([*words, *flags, "-o", target, *parts], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def verdict(path: Path, folder: Path, *options: str) -> tuple[int, str, list[str]]:
    """Exit code, verdict of the first search, properties that fail."""
    kept = folder / "kept.json"
    cpus = () if "--cpus" in options else ("--cpus", "2")
    given = ["--vmlinux", str(path), *cpus, *options, "--save", str(kept), "--force"]
    code = main(["verify", *given])
    trial = json.loads(kept.read_text())["designs"][0]["trials"][0]
    return code, trial["verdict"], sorted(f["broken"] for f in trial["counterexamples"])


@pytest.mark.parametrize("cc", COMPILERS)
@pytest.mark.parametrize("name", ["merged", "v2"])
def test_a_linked_kernel_is_as_its_object(cc: str, name: str, tmp_path: Path) -> None:
    """With the relocations that a kernel with KASLR keeps, and without."""
    expected = verdict(design_object(name, "-O2", "-g", cc=cc), tmp_path)
    assert expected[1] == ("holds" if name == "merged" else "fails")
    assert verdict(linked(tmp_path, name, cc), tmp_path) == expected
    assert verdict(linked(tmp_path, name, cc, "--emit-relocs"), tmp_path) == expected


@pytest.mark.parametrize("name", ["merged", "v2"])
def test_a_module_is_as_its_object(name: str, tmp_path: Path) -> None:
    """As Kbuild makes one: objects that are linked again, and can be relocated."""
    target = tmp_path / "pamt.ko"
    other = built("int unrelated;\nint other(void) { return unrelated; }\n")
    words: list[str | Path] = ["ld", "-m", "elf_x86_64", "-r", "--build-id=sha1", "-o", target]
    subprocess.run([*words, other, design_object(name)], check=True)
    assert verdict(target, tmp_path) == verdict(design_object(name), tmp_path)


SWITCHED = """
static volatile int is_dynamic;
static u64 (*volatile call)(u64 leaf, struct tdx_module_args *args);
"""


@pytest.fixture(scope="module")
def switched() -> Path:
    """merged, with a parameter and a pointer that are 0 in the file."""
    text = (C / "merged.c").read_text()
    text = text.replace('#include "kernel.h"\n', f'#include "kernel.h"\n{SWITCHED}', 1)
    before = "int tdx_pamt_get(u64 pfn, void *cache)\n{"
    assert before in text
    early = "\tstruct tdx_module_args none = {};\n\tif (!is_dynamic)\n\t\treturn -EIO;\n"
    return built(text.replace(before, f"{before}\n{early}\tcall(0, &none);\n", 1))


def test_variables_are_set_as_a_booted_kernel_has_them(
    switched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--set", "is_dynamic=1", "--set", "call=tdx_quirk_reset_page"]
    assert main(["verify", "--vmlinux", str(switched), "--cpus", "2", *given]) == 2
    assert "tdx_quirk_reset_page() is given" in capsys.readouterr().err  # what it was given is odd
    given = ["--set", "is_dynamic=1", "--set", "call=_printk"]
    assert verdict(switched, tmp_path, *given)[:2] == (0, "holds")
    said = " ".join(capsys.readouterr().out.split())
    assert "given with --set, and never changed: call = " in said
    assert ", is_dynamic = 0x1" in said
    kept = json.loads((tmp_path / "kept.json").read_text())
    asked = kept["designs"][0]["trials"][0]["asked"]["image"]
    assert asked == "tso,set=call=_printk,set=is_dynamic=1"
    assert main(["verify", "--check", str(tmp_path / "kept.json"), str(switched)]) == 0


def test_a_call_through_null_is_a_finding(
    switched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--vmlinux", str(switched), "--cpus", "2", "--set", "is_dynamic=1"]
    assert main(["verify", *given]) == 1
    said = capsys.readouterr()
    assert "page fault at 0x0 in tdx_pamt_get" in said.out + said.err


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("nothing=1", "no variable nothing; expected one for --set"),
        ("is_dynamic=0x100000000", "expected what 4 bytes hold"),
        ("is_dynamic=who", "no symbol who; expected it or a number"),
        ("tdx_pamt_get=1", "expected 1, 2, 4 or 8 for --set"),
        ("is_dynamic", "expected value"),
        ("is_dynamic=1,2", "expected value"),
    ],
)
def test_what_cannot_be_set(switched: Path, given: str, line: str) -> None:
    assert line in refused("verify", "--vmlinux", str(switched), "--set", given)


def test_without_an_image() -> None:
    assert "--set: expected with --vmlinux FILE" in refused("verify", "--set", "a=1")


DECLARED = """
#define atomic_dec_and_lock inlined_dec_and_lock
#include "kernel.h"
#undef atomic_dec_and_lock
extern int atomic_dec_and_lock(atomic_t *v, spinlock_t *lock);
"""


@pytest.mark.parametrize("model", ["sc", "tso"])
def test_a_count_that_falls_under_a_lock_is_as_its_inlined_code(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """atomic_dec_and_lock() of an object, which v6 calls, and a put that does not use it right."""
    text = (C / "v6.c").read_text().replace('#include "kernel.h"\n', DECLARED, 1)
    inlined = verdict(design_object("v6"), tmp_path, "--memory-model", model)
    assert verdict(built(text), tmp_path, "--memory-model", model) == inlined
    assert inlined[1] == "holds"
    assert "atomic_dec_and_lock" in " ".join(capsys.readouterr().out.split())
    before = "if (!atomic_dec_and_lock(count, &pamt_lock))\n\t\treturn;\n"
    assert before in text
    early = before + "\tspin_unlock(&pamt_lock);\n\tspin_lock(&pamt_lock);\n"
    assert verdict(built(text.replace(before, early)), tmp_path, "--memory-model", model)[0] == 1
