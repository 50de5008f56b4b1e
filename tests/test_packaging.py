"""What is made from the code and shipped is what the code says now; the examples run."""

import importlib.util
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from dpamt.cli.main import VERBS

from .cli.command import dpamt

ROOT = Path(__file__).parents[1]
SHELL = ROOT / "docs" / "shell"


def script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made() -> dict[str, str]:
    files: dict[str, str] = script(SHELL / "make.py").files()
    return files


def test_the_output_that_the_documents_show_is_what_comes() -> None:
    """`make docs` renews it."""
    shown = script(ROOT / "docs" / "shown.py")
    outputs = 0
    for page in shown.PAGES:
        text = page.read_text(encoding="utf-8")
        outputs += text.count("<!-- $ dpamt ")
        assert shown.renewed(text) == text, page
    assert outputs >= 7


def test_completion_and_man_pages_are_those_of_the_parsers() -> None:
    """`make docs` makes them again."""
    files = made()
    assert {f"dpamt-{verb}.1" for verb in VERBS} < set(files)
    for name, text in files.items():
        assert (SHELL / name).read_text(encoding="utf-8") == text, f"{name}: run make docs"
    assert {path.name for path in SHELL.iterdir()} - {"__pycache__"} == {*files, "make.py"}


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_verbs_and_options() -> None:
    asks = (
        "source docs/shell/dpamt; COMP_WORDS=(dpamt {words}); COMP_CWORD={at}; "
        "_shtab_dpamt; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )

    def completed(*words: str) -> list[str]:
        script = asks.format(words=" ".join(words), at=len(words))
        done = subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
        )
        return [line.strip() for line in done.stdout.splitlines()]

    assert "verify" in completed("ver")
    assert "--release" in completed("run", "--rel")
    assert "designs" in completed("list", "des")


def test_every_example_runs_as_its_table_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    commands = re.findall(r"\| `dpamt (.+?)` \|", (ROOT / "examples" / "README.md").read_text())
    named = {part for command in commands for part in command.split() if "examples/" in part}
    files = {f"examples/{path.name}" for path in (ROOT / "examples").glob("*.*")}
    assert named == files - {"examples/README.md"}
    for command in commands:
        ended = dpamt(*command.split(" "))
        assert ended.code == (1 if "racy" in command else 0), ended


def test_the_licence_covers_the_sources_of_the_guest() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["license"] == "Apache-2.0 AND (GPL-2.0-only OR MIT)"
    for file in (ROOT / "src" / "dpamt" / "boot" / "guest").glob("*.[ch]"):
        assert "SPDX-License-Identifier: GPL-2.0 OR MIT" in file.read_text(encoding="utf-8")
    texts = {path.name for path in (ROOT / "LICENSES").iterdir()}
    assert texts == {"GPL-2.0-only.txt", "MIT.txt"}
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").lstrip().startswith("Apache License")
