"""The story of a shutdown: which of the calls before it belong to it."""

import json
from pathlib import Path
from typing import Any

from dpamt.abi.pages import PAGE_SIZE, SIZE_2M
from dpamt.abi.status import TDX_OPERAND_BUSY, TDX_SUCCESS
from dpamt.module.fatal import ModuleFatal
from dpamt.report.conform_text import FileResult, conform_json, conform_text
from dpamt.trace.fatal_story import TOLD, Trail
from dpamt.trace.vector_file import read_vector_file
from dpamt.trace.vectors import replay

VECTORS = Path(__file__).parent.parent / "data" / "module-vectors.jsonl"
REGION = 0x100200000


def shown(registers: dict[str, int], status: int | None = TDX_SUCCESS) -> Trail:
    trail = Trail()
    trail.add("CALL", registers, status)
    return trail


def test_a_call_belongs_by_any_of_its_addresses() -> None:
    fatal = ModuleFatal("a reason", region=REGION)
    assert shown({"rcx": REGION | 1}).story(fatal) == ("CALL: TDX_SUCCESS",)
    hint = 1 << 62
    assert shown({"rcx": 0, "rdx": REGION + SIZE_2M - PAGE_SIZE | hint}).story(fatal)
    assert shown({"rcx": REGION - PAGE_SIZE, "rdx": REGION + SIZE_2M}).story(fatal) == ()
    page = ModuleFatal("a reason", hpa=REGION + 5 * PAGE_SIZE, count=3)
    assert shown({"rcx": REGION}, TDX_OPERAND_BUSY | 1).story(page) == ("CALL: TDX_OPERAND_BUSY",)
    assert shown({"rcx": 3}).story(page) == ()


def test_a_guest_page_is_met_at_its_own_size_and_a_step_has_no_status() -> None:
    fatal = ModuleFatal("a reason", gpa=0x1000)
    assert shown({"gpa": 0x1000}, None).story(fatal) == ("CALL",)
    assert shown({"rcx": 0x2000}).story(fatal) == ()


def test_only_the_last_are_told() -> None:
    trail = Trail()
    for number in range(3 * TOLD):
        trail.add(f"{number}", {"rcx": REGION}, TDX_SUCCESS)
    story = trail.story(ModuleFatal("a reason", region=REGION))
    assert len(story) == TOLD
    assert story[-1] == f"{3 * TOLD - 1}: TDX_SUCCESS"


def test_a_replay_that_ends_so_tells_it(tmp_path: Path) -> None:
    lines = map(json.loads, VECTORS.read_text(encoding="utf-8").splitlines())
    data: dict[str, Any] = next(line for line in lines if line["id"] == "D125")
    data["calls"][-1]["expect"] = {"status": "0x0"}
    data["calls"].insert(1, {"leaf": "TDH.PHYMEM.PAGE.RDMD", "rcx": "0x100400000"})
    data["calls"][1]["expect"] = {"status": "0x0", "rcx": 0, "r8": 1}
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps(data) + "\n")
    file = read_vector_file(path)
    result = FileResult(file, [replay(scenario) for scenario in file.scenarios], [])
    text = conform_text([result], "1.5.25")
    told = " ".join(text.partition("  how it came to that:\n")[2].split())
    assert told.startswith(
        "calls[0] TDH.PHYMEM.PAMT.ADD(rcx=0x100200001, rdx=0x101000000, r8=0x101001000): "
        "TDX_SUCCESS calls[2] TDH.MNG.CREATE(rcx=0x100205000, rdx=0x11): TDX_SUCCESS "
        "calls[3] @SET_4K_TYPE(hpa=0x100205000, type=NDA)"
    )
    document = conform_json([result], "1.5.25")
    assert len(document["files"][0]["differences"][0]["call"]["story"]) == 3
