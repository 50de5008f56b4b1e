"""docs/plan-hosts.md and docs/plan.md show what is printed, line for line."""

import re
import shlex
from pathlib import Path

import pytest

from tests.cli.command import dpamt

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"```\n\$ dpamt (plan [^\n]+)\n(.*?)```(?:\n\nExit code (\d))?", re.DOTALL)


@pytest.mark.parametrize(
    ("command", "shown", "code"),
    BLOCK.findall((DOCS / "plan-hosts.md").read_text(encoding="utf-8")),
    ids=lambda value: value if value.startswith("plan") else "",
)
def test_the_page_shows_what_is_printed(command: str, shown: str, code: str) -> None:
    ended = dpamt(*shlex.split(command))
    assert ended.out.startswith(shown)
    assert ended.code == int(code)
    assert len(shown.splitlines()) <= 24


def test_the_first_example_is_what_is_printed() -> None:
    ((command, shown, _code),) = BLOCK.findall((DOCS / "plan.md").read_text(encoding="utf-8"))
    assert shown in dpamt(*shlex.split(command)).out
