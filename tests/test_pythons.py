"""Other releases of Python, those that are on this machine, give the same answers as this one.

The verifier reads bytecode, which differs from release to release: its verdicts, states and
counterexamples must not.
"""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
RELEASES = ("3.12", "3.13", "3.14")
NEEDS = ("rich", "pygments", "markdown_it", "mdurl")
"""The dependency and its own, all of them Python alone."""


def python_of(release: str) -> str | None:
    """A python of that release that starts: on the path, or among pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    others = sorted(pyenv.glob(f"{release}.*/bin/python"))
    for program in (shutil.which(f"python{release}"), *map(str, others)):
        if program is None:
            continue
        ask = "import sys; print('%d.%d' % sys.version_info[:2])"
        asked = subprocess.run([program, "-c", ask], capture_output=True, text=True, check=False)
        if asked.stdout.strip() == release:
            return program
    return None


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with dpamt and what it needs, nothing else."""
    folder = tmp_path_factory.mktemp("packages")
    (folder / "dpamt").symlink_to(ROOT / "src" / "dpamt")
    for name in NEEDS:
        found = importlib.import_module(name).__file__
        assert found is not None
        (folder / name).symlink_to(Path(found).parent)
    return folder


def answer(program: str, packages: Path, *arguments: str) -> Any:
    """The document that the command prints, without what may differ."""
    ended = subprocess.run(
        [program, "-W", "error", "-m", "dpamt", *arguments, "--json"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(packages)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode in (0, 1), ended.stderr
    document = json.loads(ended.stdout)
    if arguments[0] == "verify":
        for name in ("python", "code"):  # hashes are of bytecode
            del document[name]
        for design in document["designs"]:
            for trial in design["trials"]:
                del trial["seconds"], trial["code"]
    return document


ASKS = (
    ("verify", "v2", "v6", "--cpus", "2"),
    ("verify", "examples/racy.py", "--cpus", "2", "--granularity", "words"),
    ("run", "examples/scenario.toml"),
    ("plan", "examples/host.dmesg", "--td", "4x4GiB/2vcpu@2M=90%"),
)


@pytest.fixture(scope="module")
def here(packages: Path) -> list[Any]:
    return [answer(sys.executable, packages, *ask) for ask in ASKS]


@pytest.mark.parametrize("release", RELEASES)
def test_the_same_answers(release: str, packages: Path, here: list[Any]) -> None:
    program = python_of(release)
    if program is None:
        pytest.skip(f"no Python {release} on this machine")
    for ask, expected in zip(ASKS, here, strict=True):
        assert answer(program, packages, *ask) == expected, ask
