"""What is made from the code and shipped is what the code says now; the examples run."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from dpamt import __version__
from dpamt.cli.main import VERBS
from dpamt.cli.parsers import parsers

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


def test_the_version_is_that_of_the_changes_and_of_the_tag() -> None:
    """The rule of CONTRIBUTING.md: one place, semantic, the newest section of CHANGELOG.md."""
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", __version__)
    sections = re.findall(r"^## (\S+),", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert sections[0] == __version__
    dist = script(ROOT / "packaging" / "dist.py")
    dist.check_tag(f"v{__version__}\n")
    dist.check_tag("")
    dist.check_tag("of-somebody\n")
    with pytest.raises(SystemExit, match=r"tag v0.0.1; expected v"):
        dist.check_tag("v0.0.1\n")


def test_the_action_verifies_and_writes_a_log(tmp_path: Path) -> None:
    """Its own script, run as GitHub runs it; an input is never a command."""
    steps = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))["runs"]["steps"]
    (step,) = (step for step in steps if step.get("name") == "Verify")
    assert set(step["env"]) == {"DESIGNS", "OPTIONS", "SARIF"}
    assert "${{" not in step["run"]
    shutil.copy(ROOT / "examples" / "racy.py", tmp_path)
    for designs, code in (("racy.py", 1), ("v6", 0), ("$(touch,here) *", 2)):
        (tmp_path / "dpamt.sarif").unlink(missing_ok=True)
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "DESIGNS": designs,
            "OPTIONS": "--cpus 2",
            "SARIF": "dpamt.sarif",
        }
        bash = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        ended = subprocess.run(bash, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert ended.returncode == code, ended
        assert (tmp_path / "dpamt.sarif").exists() == (code < 2)
    assert not (tmp_path / "here").exists()


def test_the_hook_takes_designs_alone_and_its_command_is_known() -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text("utf-8"))
    assert re.search(hook["files"], "designs/mine.py")
    assert re.search(hook["files"], "kernel/designs/mine.py")
    assert not re.search(hook["files"], "src/mine.py")
    program, verb, *more = hook["entry"].split()
    assert (program, more) == ("dpamt", [])
    assert parsers()[verb].options([*hook["args"], "designs/mine.py"]).regions == (2,)


def test_the_container_file_copies_and_installs_what_is_there() -> None:
    """No engine builds it where CI runs; its files, extras and Python are looked up."""
    lines = (ROOT / "packaging" / "Containerfile").read_text(encoding="utf-8")
    steps = [line.split(maxsplit=1) for line in re.sub(r"\\\n", "", lines).splitlines() if line]
    steps = [step for step in steps if step[0] != "#"]
    assert {step[0] for step in steps} <= {"FROM", "COPY", "RUN", "WORKDIR", "ENTRYPOINT"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for word, rest in steps:
        if word == "COPY" and not rest.startswith("--from"):
            assert all((ROOT / source).exists() for source in rest.split()[:-1]), rest
        elif word == "FROM":
            found = re.match(r"docker\.io/library/python:3\.(\d+)-slim", rest)
            assert found is not None
            assert int(found[1]) >= 11, rest
        elif word == "RUN" and "[" in rest:
            (extras,) = re.findall(r"\[([\w,]+)\]", rest)
            assert set(extras.split(",")) <= set(project["optional-dependencies"])
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {".venv", ".git", "build"} <= set(ignored)
