"""Every block of code in the documents is run, or compared with what is printed, or has a reason.

Commands of dpamt run in ``tests/bare.py``, shown output is renewed by ``docs/shown.py``.  What
neither takes stands here: who compares it, or why nobody can.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from dpamt.run.scenario import scenario_from_text

from . import bare

ROOT: Final = Path(__file__).parents[1]


@dataclass(frozen=True)
class Block:
    """One fenced block, without its indent."""

    page: str
    line: int
    language: str
    text: str
    is_shown: bool
    """Made by ``docs/shown.py``."""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks() -> Iterator[Block]:
    """All of them; the language of a block without one is empty."""
    for path in bare.DOCUMENTS:
        lines = path.read_text(encoding="utf-8").splitlines()
        at = 0
        while at < len(lines):
            fence = re.match(r"( *)```(\w*)$", lines[at])
            if fence is None:
                at += 1
                continue
            end = next(n for n in range(at + 1, len(lines)) if lines[n] == f"{fence[1]}```")
            text = "\n".join(line.removeprefix(fence[1]) for line in lines[at + 1 : end])
            page = str(path.relative_to(ROOT))
            shown = lines[at - 1].strip().startswith("<!-- $ ")
            yield Block(page, at + 1, fence[2], text, shown)
            at = end + 1


BLOCKS: Final = list(blocks())

NOT_RUN: Final = {
    r"make (run|test)": "CI runs `make test`; the output of `dpamt run` is compared",
    r"export PATH=.*": "it changes the reader's shell",
    r"(sudo )?dmesg > .*|drgn .*": "of the reader's own host",
    r"pip(x)? install .*": "an installation; `make bare` installs the wheel",
    r"cp merged\.py mine\.py|\$EDITOR mine\.py": "tests/bare.py makes it, by the page's diff",
    r"make -C linux .*|\(cd linux .*": "builds a kernel: `make test-kernel` runs the same",
    r"podman .*": "no container engine where CI runs; the page says so",
    r"kb\(\) .*|launch_td .*|close_td .*|a=\$\(kb\).*|if ! dpamt expect .*|--check .*|then .*|fi": (
        "a sketch of a test on a TDX host; tests/cli/test_expect.py has its command"
    ),
}
"""Lines of shell that are not run, and why."""

ELSEWHERE: Final = {
    ("docs/architecture.md", "cli/"): "a drawing; tests/test_rooms.py holds the rooms to it",
    ("docs/boot.md", "What the kernel said"): "needs a kernel: tests/boot/kernel",
    ("docs/boot.md", "LEAF:answer"): "a grammar: tests/boot/test_forced.py",
    ("docs/boot.md", "LEAF:delay"): "a grammar: tests/boot/test_delays.py",
    ("docs/boot.md", "CPU@PLACE"): "a grammar: tests/boot/test_hold.py",
    ("docs/boot.md", "     162  CPU 0"): "needs a kernel: tests/boot/kernel",
    ("docs/boot.md", "The counterexample in C"): "needs a kernel: tests/boot/kernel",
    ("docs/boot-kvm.md", "TDs, phase by phase"): "needs a kernel: tests/boot/kernel",
    ("docs/boot-kvm.md", "  TDH.MEM.TRACK:busy"): "needs a kernel: tests/boot/kernel",
    ("docs/boot-kvm.md", "  12 in tdx_pamt_get"): "needs a kernel: tests/boot/kernel",
    ("docs/machine-code.md", "[tdx_pamt_put"): "needs a kernel: tests/verify/machine_code",
    ("docs/plan.md", "$ dpamt plan"): "tests/plan/test_hosts_page.py",
    ("docs/plan-hosts.md", "$ dpamt plan"): "tests/plan/test_hosts_page.py",
}
"""Page and beginning of a block that is not made by docs/shown.py: who compares it, or why not."""


def test_there_are_blocks() -> None:
    assert len(BLOCKS) > 80
    assert sum(block.is_shown for block in BLOCKS) >= 11


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "sh"], ids=str)
def test_every_line_of_shell_is_run_or_has_its_reason(block: Block) -> None:
    run = set(bare.commands())
    for line in block.text.splitlines():
        command = re.split(r"\s+#\s", line.strip())[0].strip()
        has_reason = any(re.fullmatch(pattern, command) for pattern in NOT_RUN)
        assert not command or (command in run) != has_reason, (str(block), command)


def test_every_reason_has_its_line() -> None:
    lines = [line.strip() for block in BLOCKS for line in block.text.splitlines()]
    lines = [re.split(r"\s+#\s", line)[0].strip() for line in lines]
    for pattern in NOT_RUN:
        assert any(re.fullmatch(pattern, line) for line in lines), pattern
    for page, beginning in ELSEWHERE:
        assert any(b.page == page and b.text.startswith(beginning) for b in BLOCKS), beginning


@pytest.mark.parametrize("block", [b for b in BLOCKS if not b.language], ids=str)
def test_every_shown_output_is_compared_or_has_its_reason(block: Block) -> None:
    has_reason = any(
        block.page == page and block.text.startswith(beginning) for page, beginning in ELSEWHERE
    )
    assert block.is_shown != has_reason


OTHERS: Final = [b for b in BLOCKS if b.language not in ("", "sh")]


@pytest.mark.parametrize("block", OTHERS, ids=str)
def test_other_blocks_are_what_they_say(block: Block) -> None:
    """Python runs, TOML is a scenario, YAML is read; a diff and a query have their own tests."""
    if block.language == "python":
        if not block.text.startswith(">>>"):  # else tests/run/test_docs.py
            names: dict[str, Any] = {}
            exec(compile(ast.parse(block.text), str(block), "exec"), names)
            assert len(names) > 1
    elif block.language == "toml":
        tomllib.loads(block.text)
        assert scenario_from_text(block.text, str(block)).sides
    elif block.language == "yaml":
        assert isinstance(yaml.safe_load(block.text), dict)
    elif block.language == "diff":
        assert bare.wrong_design().startswith('"""')
    else:
        assert block.language == "sql"  # tests/plan/fleet/test_events.py runs it
