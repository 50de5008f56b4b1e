"""The reason of a refusal: the functions, the place and the condition are those of the source."""

import ast
import linecache
import sys
from pathlib import Path

import pytest

import dpamt
from dpamt.abi.exits import TDG_MEM_PAGE_ACCEPT
from dpamt.abi.leaves import TDH_MEM_PAGE_AUG, TDH_SYS_RD
from dpamt.abi.registers import TdxModuleArgs
from dpamt.module.guest import Guest
from dpamt.module.module import TdxModule
from dpamt.trace.vector_file import Scenario, read_vectors
from dpamt.trace.vector_machine import build_module
from dpamt.trace.why import Why, condition_of, watching

PACKAGE = Path(dpamt.__file__).parent
VECTORS = Path(__file__).parent.parent / "data" / "module-vectors.jsonl"
FIRST: Scenario = read_vectors(VECTORS)[0]


@pytest.fixture
def module() -> TdxModule:
    return build_module(FIRST, "1.5.25")


def source(why: Why) -> str:
    """The line that a reason points to."""
    file, line = why.place.split(":")
    return linecache.getline(str(PACKAGE / file), int(line)).strip()


def test_a_check_of_the_leaf_itself(module: TdxModule) -> None:
    args = TdxModuleArgs.of(rdx=0x1_0000_0000_0000)
    with watching() as seen:
        status = module.processor(0).seamcall(TDH_SYS_RD, args)
    assert status
    (why,) = seen
    assert why.path == ("tdh_sys_rd",)
    assert why.place.startswith("module/leaves/sys_rd.py:")
    assert source(why).startswith("raise Refused(TDX_METADATA_FIELD_ID_INCORRECT")
    assert why.condition
    assert "tdh_sys_rd (module/leaves/sys_rd.py:" in str(why)


def test_a_check_below_the_leaf_and_its_numbers(module: TdxModule) -> None:
    args = TdxModuleArgs.of(rcx=0, rdx=0x123)
    with watching() as seen:
        module.processor(0).seamcall(TDH_MEM_PAGE_AUG, args)
    (why,) = seen
    assert why.path[0] == "tdh_mem_page_aug"
    assert len(why.path) > 1
    assert why.values["hpa"] == 0x123
    assert "hpa = 0x123" in str(why)
    ast.parse(why.condition)


def test_the_dispatcher_refuses_too(module: TdxModule) -> None:
    with watching() as seen:
        module.processor(0).seamcall(1 << 40, TdxModuleArgs())
    assert seen[-1].path == ("admit",)
    assert "RESERVED" in seen[-1].condition


def test_a_guests_call(module: TdxModule) -> None:
    guest = Guest(module.processor(0), module.tds.at(5))
    with watching() as seen:
        guest.tdcall(TDG_MEM_PAGE_ACCEPT, TdxModuleArgs.of(rcx=7))
    assert seen[-1].path[0] == "tdcall"
    assert "info" in seen[-1].values


def test_a_call_that_succeeds_has_none_and_the_tracer_is_put_back(module: TdxModule) -> None:
    before = sys.gettrace()
    with watching() as seen:
        status = module.processor(0).seamcall(TDH_SYS_RD, TdxModuleArgs.of(rdx=0x9100000100000008))
    assert status == 0
    assert seen == []
    assert sys.gettrace() is before


def test_conditions_are_those_of_the_innermost_branch(tmp_path: Path) -> None:
    file = tmp_path / "source.py"
    file.write_text(
        "def f(a, b):\n"  # 1
        "    if a:\n"
        "        if b:\n"
        "            one()\n"  # 4
        "        two()\n"  # 5
        "    elif b > 1:\n"
        "        three()\n"  # 7
        "    else:\n"
        "        four()\n"  # 9
        "    five()\n"  # 10
    )
    told = {line: condition_of(file, line) for line in (4, 5, 7, 9, 10)}
    assert told == {4: "b", 5: "a", 7: "b > 1", 9: "not (b > 1)", 10: ""}
