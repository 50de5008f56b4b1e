"""The exerciser's rules, its console lines, and what is judged of them."""

import os
import re
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest

from dpamt.abi.leaves import TDH_MEM_PAGE_AUG, TDH_PHYMEM_PAMT_ADD, TDH_PHYMEM_PAMT_REMOVE
from dpamt.abi.status import (
    TDX_HPA_RANGE_NOT_FREE,
    TDX_MISSING_PAMT_PAGE_PAIR,
    TDX_NO_PAMT_PAGE_PAIR,
    TDX_OPERAND_BUSY,
    TDX_PAMT_PAGE_NOT_EMPTY,
)
from dpamt.boot.exerciser import (
    ThreadTold,
    Told,
    build_initrd,
    exports,
    line_that_matters,
    parse_exercise,
    read_console,
)
from dpamt.boot.judge import wrong_answers, wrong_in_threads
from dpamt.boot.schedule import MAX_REGIONS
from dpamt.errors import InputError
from dpamt.kernel_image.vmlinux import KernelImage
from tests.boot.small_kernel import SmallKernel


def test_rules() -> None:
    plain = parse_exercise("life")
    assert (plain.mode, dict(plain.parameters), plain.offline) == ("life", {}, -1)
    full = parse_exercise("hammer:design=v6:rounds=1000:use-every=10:bug=missing-get:offline=1")
    assert dict(full.parameters) == {
        "design": "v6",
        "rounds": "1000",
        "use_every": "10",
        "bug": "missing-get",
    }
    assert full.offline == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "''; expected one of life, hammer, hostile"),
        ("hammer:design=v3", "design=v3; expected one of merged, v6, v2"),
        ("hammer:bug=all", "bug=all; expected one of none, put-too-many"),
        ("life:rounds=0", "rounds=0; expected 1 to"),
        ("life:rounds=-1", "rounds=-1; expected 1 to"),
        ("life:rounds=\u0662", "expected 1 to"),
        ("life:rounds", "rounds; expected 1 to"),
        ("life:threads=65", "threads=65; expected 1 to 64"),
        ("life:speed=1", "option 'speed'; expected one of design, bug"),
        ("life:rounds=1:rounds=2", "rounds is said twice"),
        ("hammer:pause=1001", "pause=1001; expected 1 to 1,000"),
        ("life:pause=10", "pause=10 has no effect; expected hammer with it"),
        ("life:use-every=2", "use-every=2 has no effect; expected hammer"),
        ("hostile:bug=none", "bug=none has no effect; expected hammer"),
        ("life:fail=101", "fail=101; expected 1 to 100"),
        ("hammer:design=kernel:bug=unlocked-count", "expected design=merged or v6 with it"),
        ("hammer:bug=unlocked-count:design=v2", "expected design=merged or v6 with it"),
    ],
)
def test_what_is_no_rule(text: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_exercise(text)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_its_lines_are_read() -> None:
    told = read_console(
        [
            "virt/tdx: TDX-Module initialized",
            "dpamt: begin mode hammer design v6 bug none threads 2 rounds 10 fail 0",
            "dpamt: warn PAMT.REMOVE pfn 0x10200 status 0xc000030600000000",
            "dpamt: thread 0 did 10 scant 0 failed 0 first - status 0x0",
            "kvm_intel: dpamt: thread 1 did 9 scant 2 failed 1 first PAGE.AUG status "
            "0x8000030800000008",
            "dpamt: end counted 3",
            "dpamt: offline 1 result 1",
        ]
    )
    assert told == Told(
        [ThreadTold(0, 10, 0, 0, "-", 0), ThreadTold(1, 9, 2, 1, "PAGE.AUG", 0x8000030800000008)],
        [("PAMT.REMOVE", TDX_PAMT_PAGE_NOT_EMPTY)],
        3,
        True,
        "",
        1,
        "v6",
        0,
    )
    assert wrong_in_threads(told, "hammer") == [
        "thread 1: 2 of 9 rounds given up: no page, or no page pair for one",
        "thread 1: 1 of 9 rounds failed, first PAGE.AUG with TDX_MISSING_PAMT_PAGE_PAIR",
    ]
    told.fail = 5  # percent of the allocations: to be given up is what was asked for
    assert len(wrong_in_threads(told, "hammer")) == 1
    assert wrong_in_threads(Told(), "life") == ["the exerciser did not come to its end"]
    refused = read_console(["dpamt: refused mode=x"])
    assert wrong_in_threads(refused, "life") == ["the exerciser: refused mode=x"]


def test_answers_that_a_correct_host_never_gets() -> None:
    counts = Counter(
        {
            (TDH_MEM_PAGE_AUG, TDX_MISSING_PAMT_PAGE_PAIR | 8): 2,
            (TDH_PHYMEM_PAMT_ADD, TDX_HPA_RANGE_NOT_FREE | 1): 3,
            (TDH_PHYMEM_PAMT_REMOVE, TDX_NO_PAMT_PAGE_PAIR | 1): 1,
            (TDH_PHYMEM_PAMT_REMOVE, TDX_PAMT_PAGE_NOT_EMPTY): 4,
            (TDH_PHYMEM_PAMT_REMOVE, TDX_PAMT_PAGE_NOT_EMPTY | 1): 1,
            (TDH_PHYMEM_PAMT_ADD, 0): 100,
            (TDH_PHYMEM_PAMT_ADD, TDX_OPERAND_BUSY | 1): 5,
        }
    )
    assert wrong_answers(counts) == [
        "bad-remove: TDH.PHYMEM.PAMT.REMOVE answered TDX_NO_PAMT_PAGE_PAIR 1 times",
        "bad-remove: TDH.PHYMEM.PAMT.REMOVE answered TDX_PAMT_PAGE_NOT_EMPTY 5 times",
        "double-add: TDH.PHYMEM.PAMT.ADD answered TDX_HPA_RANGE_NOT_FREE 3 times",
        "missing-pair: TDH.MEM.PAGE.AUG answered TDX_MISSING_PAMT_PAGE_PAIR 2 times",
    ]


def test_what_a_kernel_exports_is_read_from_the_newer_list(tmp_path: Path) -> None:
    """`make modules` writes one list, `make vmlinux` the other; a tree may have both or either."""
    assert exports(tmp_path) == frozenset()
    for age, name in ((2, "Module.symvers"), (1, "vmlinux.symvers")):
        (tmp_path / name).write_text(f"0x0\tof_{name}\tvmlinux\tEXPORT_SYMBOL\t\n")
        os.utime(tmp_path / name, ns=(0, 10**9 - age))
        assert exports(tmp_path) == {f"of_{name}"}
    os.utime(tmp_path / "Module.symvers", ns=(0, 10**9))
    assert exports(tmp_path) == {"of_Module.symvers"}


def test_a_tree_that_is_not_prepared(tmp_path: Path) -> None:
    image = KernelImage(SmallKernel().write(tmp_path / "vmlinux"))
    with pytest.raises(InputError, match=r"no scripts/module.lds; expected .*modules_prepare"):
        build_initrd(tmp_path, image, parse_exercise("life"), tmp_path)


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (
            "pamt.c:3:1: warning: 'x' defined but not used\npamt.c:9:5: error: unknown type 'foo'\n"
            "make[2]: *** [Makefile.build:1: pamt.o] Error 1\nmake: *** [Makefile:2: all] Error 2",
            "pamt.c:9:5: error: unknown type 'foo'",
        ),
        (
            "WARNING: modpost: missing MODULE_DESCRIPTION()\n"
            'ERROR: modpost: "tdx_pamt_get" [kvm-intel.ko] undefined!\n'
            "make[2]: *** [scripts/Makefile.modpost:147: Module.symvers] Error 1\n",
            'ERROR: modpost: "tdx_pamt_get" [kvm-intel.ko] undefined!',
        ),
        (
            "cc1: all warnings being treated as errors\nx.c:1:2: error: no such thing\n",
            "x.c:1:2: error: no such thing",
        ),
        (
            "make[1]: Entering directory\nmake: *** No rule to make target 'x'.  Stop.\n",
            "make: *** No rule to make target 'x'. Stop.",
        ),
        ("", "no message"),
    ],
)
def test_the_line_that_matters(said: str, line: str) -> None:
    assert line_that_matters(said) == line


@pytest.mark.parametrize("name", ["threads", "rounds", "use-every", "offline", "fail", "pause"])
def test_a_number_is_taken_up_to_the_bound_that_its_refusal_names(name: str) -> None:
    with pytest.raises(InputError, match=r"expected 1 to [\d,]+") as refused:
        parse_exercise(f"hammer:{name}=0")
    most = int(str(refused.value).rpartition(" ")[2].replace(",", ""))
    for value in (1, most):
        found = parse_exercise(f"hammer:{name}={value}")
        kept = {**found.parameters, "offline": found.offline}[name.replace("-", "_")]
        assert str(kept) == str(value)
    for wrong in (most + 1, -1, "", "1.5", "\u0662"):
        with pytest.raises(InputError, match="expected 1 to"):
            parse_exercise(f"hammer:{name}={wrong}")


def test_a_schedule_has_as_many_regions_as_the_exerciser() -> None:
    source = (files("dpamt.boot") / "guest" / "exerciser.c").read_text()
    (most,) = re.findall(r"#define MAX_REGIONS (\d+)", source)
    assert int(most) == MAX_REGIONS
