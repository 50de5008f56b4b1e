"""The get and put of the kernels that are built here: every interleaving of their instructions."""

from pathlib import Path

import pytest

from dpamt.boot.exerciser import build_files, parse_exercise
from dpamt.cli.main import main
from dpamt.kernel_image.vmlinux import KernelImage
from dpamt.verify.machine_code.design import machine_design
from dpamt.verify.machine_code.memory_model import SC, TSO
from dpamt.verify.programs.get_put import regions
from dpamt.verify.programs.problem import GRANULARITIES, SEAMCALL
from dpamt.verify.properties.named import properties
from dpamt.verify.verdict import verify
from tests.boot.kernel.test_dynamic_kernel import dynamic, with_v2s_put
from tests.verify.judge.compare import ONE_REGION, compared

__all__ = ["dynamic", "with_v2s_put"]


@pytest.mark.parametrize("model", [SC, TSO])
def test_every_default_trial_holds(
    dynamic: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--vmlinux", str(dynamic / "vmlinux"), "--memory-model", model]
    assert main(["verify", *given]) == 0
    said = capsys.readouterr().out
    assert "HOLDS" in said
    assert "faults " in said
    assert "pages " in said


@pytest.mark.parametrize(("cpus", "states"), [((8,), 2883), ((2, 2), 576)])
def test_many_cpus(dynamic: Path, cpus: tuple[int, ...], states: int) -> None:
    design = machine_design(dynamic / "vmlinux")
    said = verify(regions(design, cpus), properties(frozenset()), SEAMCALL)
    assert (said.verdict, said.states) == ("holds", states)


def test_v2s_put_removes_a_pair_twice(
    with_v2s_put: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "--vmlinux", str(with_v2s_put / "vmlinux"), "--cpus", "2"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "TDH.PHYMEM.PAMT.REMOVE returned TDX_NO_PAMT_PAGE_PAIR" in said
    assert "NOT CONFIRMED" not in said


@pytest.mark.parametrize("model", [SC, TSO])
def test_a_plain_search_agrees(dynamic: Path, with_v2s_put: Path, model: str) -> None:
    for build in (dynamic, with_v2s_put):
        design = machine_design(build / "vmlinux", model=model)
        for one in compared(build.name, design, (ONE_REGION,), GRANULARITIES[:1]):
            assert one.agree, str(one)


def test_the_object_of_tdx_alone_is_as_the_kernel(dynamic: Path, with_v2s_put: Path) -> None:
    """One file of a kernel's build, before anything is linked."""
    for build, verdict in ((dynamic, "holds"), (with_v2s_put, "fails")):
        said = [
            verify(regions(machine_design(path), (2,)), properties(frozenset()), SEAMCALL)
            for path in (build / "vmlinux", build / "arch/x86/virt/vmx/tdx/tdx.o")
        ]
        assert {one.verdict for one in said} == {verdict}
        assert said[0].states == said[1].states
        broken = [{found.broken for found in one.counterexamples} for one in said]
        assert broken[0] == broken[1]


@pytest.mark.parametrize(("counted_as", "code"), [("MERGED", 0), ("V2", 1)])
def test_a_module_that_kbuild_made(
    counted_as: str,
    code: int,
    dynamic: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The exerciser's own get and put; a parameter tells it where __seamcall_ret is."""
    build_files(dynamic, KernelImage(dynamic / "vmlinux"), parse_exercise("hammer"), tmp_path)
    named = (tmp_path / "module" / "exerciser.h").read_text()
    listed = named.partition("enum design {")[2].partition("}")[0].replace(" ", "").split(",")
    values = [f"chosen_design={listed.index(f'DESIGN_{counted_as}')}", "seamcall=__seamcall_ret"]
    given = ["--functions", "get=pamt_get,put=pamt_put,counts=counts", "--cpus", "2"]
    for value in values:
        given += ["--set", value]
    assert main(["verify", "--vmlinux", str(tmp_path / "module" / "kvm-intel.ko"), *given]) == code
    said = " ".join(capsys.readouterr().out.split())
    assert ("HOLDS" in said) == (code == 0)
    assert ("TDX_NO_PAMT_PAGE_PAIR" in said) == (code == 1)


def test_a_kernel_without_dynamic_pamt(build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--vmlinux", str(build / "vmlinux")]) == 2
    assert (
        "no function tdx_pamt_get; expected a kernel with Dynamic PAMT" in capsys.readouterr().err
    )
