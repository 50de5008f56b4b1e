"""`dpamt verify --vmlinux`: a verdict on an object, as a user sees it."""

import json
from pathlib import Path

import pytest

from dpamt.cli.main import main
from tests.kernel_image.compiled import C, built, design_object

from .command import refused

CODE = '#include "kernel.h"\natomic_t *pamt_refcounts;\n'
GET = "int tdx_pamt_get(u64 pfn, void *cache) {{ {} }}\n"
PUT = "void tdx_pamt_put(u64 pfn) { pamt_refcounts[pfn / 512].counter = 0; }\n"


def test_a_verdict_says_what_it_is_about(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--vmlinux", str(design_object("merged")), "--cpus", "2"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "memory model: x86-TSO" in said
    assert "HOLDS" in said
    assert "answered, not executed: __free_pages, __seamcall, __seamcall_ret" in said
    assert "set before the first step, as a booted kernel has it: dpamt_refcounts = " in said


def test_people_see_c(capsys: pytest.CaptureFixture[str]) -> None:
    """Function, what was inlined into it, file and line; a column for each CPU."""
    path = design_object("v2")
    assert main(["verify", "--vmlinux", str(path), "--cpus", "2"]) == 1
    said = capsys.readouterr().out
    assert "bad-remove" in said
    assert "NOT CONFIRMED" not in said
    assert "every step on the real word: the same" in said
    assert "tdx_pamt_put/atomic_dec_and_test" in "".join(said.split())


def test_an_answer_that_the_code_takes_as_benign(capsys: pytest.CaptureFixture[str]) -> None:
    """As v2 declares it: then the pair removed twice is what is shown."""
    tolerated = "TDH.PHYMEM.PAMT.ADD=TDX_HPA_RANGE_NOT_FREE"
    given = ["--vmlinux", str(design_object("v2")), "--cpus", "2", "--tolerate", tolerated]
    assert main(["verify", *given]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "FAILS: at-rest, bad-remove, leak." in said
    assert "may answer TDX_HPA_RANGE_NOT_FREE: declared with --tolerate" in said
    assert said.index("bad-remove, in 2 CPUs") < said.index("CPU0")


NOTES = """
enum phase { IDLE, ADDING, REMOVING };
static struct { spinlock_t lock; struct { u32 puts; } seen[2]; volatile enum phase phase; } notes;
static void note(enum phase phase) { notes.phase = phase; }
static void count_put(u64 pfn)
{
	spin_lock(&notes.lock);
	notes.seen[pfn & 1].puts++;
	spin_unlock(&notes.lock);
}
"""


@pytest.mark.parametrize("cc", ["gcc", "clang"])
def test_words_and_values_by_their_names_in_c(
    cc: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Parts of structures, and enumerators, as DWARF names them."""
    text = (C / "v2.c").read_text().replace("static inline atomic_t", f"{NOTES}static atomic_t", 1)
    text = text.replace("	error = alloc", "	note(ADDING);\n	error = alloc", 1)
    text = text.replace(
        "void tdx_pamt_put(u64 pfn)\n{", "void tdx_pamt_put(u64 pfn)\n{	count_put(pfn);"
    )
    kept = tmp_path / "kept.json"
    path = built(text, ("-O1", "-g"), cc)
    assert main(["verify", "--vmlinux", str(path), "--cpus", "2", "--save", str(kept)]) == 1
    assert "notes.lock.lock()" in capsys.readouterr().out
    trial = json.loads(kept.read_text())["designs"][0]["trials"][0]
    steps = [step for found in trial["counterexamples"] for step in found["steps"]]
    words = {step["word"]: step["value"] for step in steps if step["word"].startswith("image.")}
    assert set(words) <= {
        *("image.notes.lock[0x0]", "image.notes.seen[0].puts[0x0]"),
        *("image.notes.seen[1].puts[0x0]", "image.notes.phase[0x0]"),
    }
    assert words["image.notes.phase[0x0]"] == "ADDING"
    assert "image.notes.seen[0].puts[0x0]" in words


def test_without_dwarf_symbol_and_instruction(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--vmlinux", str(design_object("v2", "-O2")), "--cpus", "2"]) == 1
    assert "lock dec dword ptr" in " ".join(capsys.readouterr().out.split())


def test_a_counterexample_is_kept_and_replayed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, kept = str(design_object("v2")), str(tmp_path / "kept.json")
    assert main(["verify", "--vmlinux", path, "--cpus", "2", "--save", kept]) == 1
    asked = json.loads(Path(kept).read_text())["designs"][0]["trials"][0]["asked"]
    assert asked["image"] == "tso"
    capsys.readouterr()
    assert main(["verify", "--replay", kept, path]) == 1
    assert "FAILS AGAIN: the same" in capsys.readouterr().out
    assert main(["verify", "--check", kept, path]) == 0
    other = str(design_object("v2", "-O1", "-g"))
    assert main(["verify", "--check", kept, other]) == 1, "other instructions"


def test_jobs_give_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["verify", "--vmlinux", str(design_object("v6")), "--cpus", "3", "--json"]
    found = []
    for jobs in ([], ["--jobs", "2"]):
        assert main([*asked, "--granularity", "seamcall", *jobs]) == 0
        (trial,) = json.loads(capsys.readouterr().out)["designs"][0]["trials"]
        found.append((trial["states"], trial["transitions"], trial["verdict"]))
    assert found[0] == found[1]


REFUSED = {
    "no function": (CODE, "no function tdx_pamt_get; expected a kernel with Dynamic PAMT"),
    "no counters": (
        "int tdx_pamt_get(long p, void *c) { return 0; } void tdx_pamt_put(long p) { }",
        "no variable dpamt_refcounts or pamt_refcounts; expected --functions counts=SYMBOL",
    ),
    "unknown call": (
        CODE + "extern void wait_a_bit(void);" + GET.format("wait_a_bit(); return 0;") + PUT,
        "tdx_pamt_get+0x4 calls wait_a_bit(), which is neither in the file nor answered",
    ),
    "instruction": (
        CODE + GET.format('asm volatile("rdtsc" : : : "rax", "rdx"); return 0;') + PUT,
        "rdtsc: leaves what a thread may do by itself",
    ),
    "constant": (
        CODE + "const int fixed = 3;" + GET.format("*(volatile int *)&fixed = 1; return 0;") + PUT,
        "writes fixed, which is constant here",
    ),
    "two sizes": (
        CODE
        + "volatile int word;"
        + GET.format("word = 5; *(volatile char *)&word = 1; return 0;")
        + PUT,
        "expected one size for each shared word",
    ),
    "a lock as a word": (
        '#include "kernel.h"\natomic_t *pamt_refcounts; spinlock_t lock;'
        + GET.format("_raw_spin_lock(&lock); return lock.word;")
        + PUT,
        "lock is a lock that functions take, and a word that code reads or writes",
    ),
    "atomic allocation": (
        CODE + GET.format("return !alloc_pages_noprof(0x820, 0);") + PUT,
        "is given 0x820 as gfp; expected GFP_KERNEL or another that may sleep",
    ),
    "current": (
        CODE
        + "extern long current_task;"
        + GET.format(
            'long task; asm volatile("movq %%gs:current_task, %0" : "=r"(task)); return task != 0;'
        )
        + PUT,
        "reads current, and there is no task here",
    ),
    "not aligned": (
        CODE + "char bytes[16];" + GET.format("return *(volatile int *)(bytes + 1);") + PUT,
        "which are not aligned; expected one word, one step",
    ),
    "half a counter": (
        CODE + GET.format("return *(volatile char *)&pamt_refcounts[pfn / 512];") + PUT,
        "expected one counter of 4 bytes (atomic_t)",
    ),
    "goes round": (
        CODE + GET.format('for (;;) asm volatile(""); return 0;') + PUT,
        "more than 200,000 instructions without a step that another CPU could notice",
    ),
    "nobody's memory": (
        CODE + GET.format("return *(volatile int *)0xffffc90002000000;") + PUT,
        "reads 4 bytes at 0xffffc90002000000, which is no memory of the image",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_in_no_table_is_one_line(name: str) -> None:
    text, line = REFUSED[name]
    assert line in refused("verify", "--vmlinux", str(built(text)), "--cpus", "2")


def test_a_red_zone_is_refused() -> None:
    text = CODE + GET.format("volatile long here = pfn; return here != (long)pfn;") + PUT
    path = built(text, ("-O2", "-mred-zone"))
    assert "expected code built with -mno-red-zone" in refused(
        "verify", "--vmlinux", str(path), "--cpus", "2"
    )


def test_interrupts_are_given_back(capsys: pytest.CaptureFixture[str]) -> None:
    text = (C / "merged.c").read_text().rstrip()
    assert text.endswith("}"), "the end of put"
    path = built(text.removesuffix("}") + 'asm volatile("cli"); }', ("-O1", "-g"))
    assert main(["verify", "--vmlinux", str(path), "--cpus", "2"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "warn: interrupts are off at the end of tdx_pamt_put" in said


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (
            "_raw_spin_unlock(NULL)",
            "page fault at 0x0 in _raw_spin_unlock() called at tdx_pamt_put",
        ),
        ("tdx_quirk_reset_paddr(1ul << 40, 4096)", "page fault at 0xffff898000000000 in"),
        ("__free_pages(phys_to_page(1ul << 40), 0)", "the allocator never gave it out"),
    ],
)
def test_what_a_kernel_would_fault_on_is_a_finding(
    call: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (C / "merged.c").read_text().rstrip()
    path = built(text.removesuffix("}") + f"{call}; }}")
    assert main(["verify", "--vmlinux", str(path), "--cpus", "2"]) == 1
    assert line in " ".join(capsys.readouterr().out.split())


def test_might_sleep_under_a_lock(capsys: pytest.CaptureFixture[str]) -> None:
    text = (C / "merged.c").read_text()
    text = text.replace('"kernel.h"', '"kernel.h"\nextern void __might_sleep(void);')
    text = text.replace("status = tdh", "__might_sleep(); status = tdh")
    path = built(text)
    assert main(["verify", "--vmlinux", str(path), "--cpus", "2"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "__might_sleep() may sleep, in tdx_pamt_get" in said
    assert "with dpamt_lock held since tdx_pamt_get" in said
    assert "NOT CONFIRMED" not in said


def test_a_warn_with_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    """A call in recent kernels, and no undefined instruction where it is told."""
    text = (C / "merged.c").read_text()
    text = text.replace('"kernel.h"', '"kernel.h"\nextern void __SCT__WARN_trap(void);')
    text = text.replace("atomic_set(count, 0);", "atomic_set(count, 0); __SCT__WARN_trap();")
    assert main(["verify", "--vmlinux", str(built(text)), "--cpus", "2"]) == 1
    assert "warn: WARN_ON_ONCE in tdx_pamt_put" in " ".join(capsys.readouterr().out.split())


def test_a_page_fault_is_a_finding(capsys: pytest.CaptureFixture[str]) -> None:
    """Not something that is missing here: any kernel would stop."""
    text = CODE + GET.format("return *(volatile int *)8;") + PUT
    assert main(["verify", "--vmlinux", str(built(text)), "--cpus", "2"]) == 1
    said = capsys.readouterr()
    assert "page fault at 0x8 in tdx_pamt_get" in said.out + said.err


OPTIONS = (
    (("--functions", "get=a"), "--functions: expected with --vmlinux FILE"),
    (("--memory-model", "sc"), "--memory-model: expected with --vmlinux FILE"),
    (("--tolerate", "TDH.MR.RTMR.EXTEND=TDX_SUCCESS"), "expected answer"),
    (
        ("--tolerate", "TDH.PHYMEM.PAMT.ADD=TDX_HPA_RANGE_NOT_FREE"),
        "--tolerate: expected with --vmlinux FILE",
    ),
    (("--vmlinux", "x.o", "merged"), "--vmlinux: expected without designs"),
    (("--vmlinux", "x.o", "--all"), "--vmlinux: expected without designs"),
    (("--vmlinux", "x.o", "--functions", "gut=a"), "expected functions"),
    (("--vmlinux", "x.o", "--memory-model", "arm"), "invalid choice"),
    (("--vmlinux", "x.o"), "x.o: No such file or directory; expected a vmlinux"),
)


@pytest.mark.parametrize(("options", "line"), OPTIONS)
def test_options_that_have_no_effect(options: tuple[str, ...], line: str) -> None:
    assert line in refused("verify", *options)
