"""The wheel without extras, outside the checkout: every command of the documents is run there.

`make bare`, or ``python -m tests.bare [LIMIT]``: builds the wheel from a copy of the sources,
installs it into a new environment, checks that every file of the package came along, and runs the
commands that README.md and docs/ show, in a folder with the files that they name.  A command that
needs an extra must say so in one line; any other must work.  One that goes on for LIMIT seconds
(4) is interrupted, and must then end as Ctrl-C ends a command.
"""

import gzip
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

ROOT: Final = Path(__file__).parents[1]
DOCUMENTS: Final = (
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "how-to").glob("*.md")),
    ROOT / "examples" / "README.md",
)

NEEDS: Final = (
    (r"dpamt boot ", "boot"),
    (r"dpamt (plan|trace) .*--html", "plots"),
    (r"dpamt trace .*--parquet", "plan"),
    (r"dpamt plan .*(--age|--fleet)", "plan"),
    (r"--ray", "ray"),
    (r"dpamt verify --vmlinux", "machine"),
)
"""Commands that need an extra, and which; the first that matches counts."""

MADE: Final = ("--checkpoint", "--save", "--out")
"""What other commands of a document read is made by these: they run first."""


SCENARIO: Final = """\
[host]
machine = "1GiB"
[[td]]
name = "web"
memory = "4MiB"
image = "4KiB"
[[phase]]
name = "up"
steps = [{ do = "build" }]
"""

_INTERRUPTED: Final = (130, -signal.SIGINT)
"""Both are 130 to a shell."""

API: Final = "python -m doctest api.md"


@dataclass(frozen=True)
class Result:
    command: str
    wrong: str
    seconds: float


def commands() -> list[str]:
    """Every line of a code block that calls dpamt, without its comment, in order, each once."""
    found: dict[str, None] = {}
    for document in DOCUMENTS:
        fenced = False
        for line in document.read_text(encoding="utf-8").splitlines():
            if line.startswith("```"):
                fenced = not fenced
            elif document.parent.name == "examples":  # a table: the last cell is the command
                found |= dict.fromkeys(re.findall(r"\| `(dpamt .+?)` \|$", line))
            elif fenced or line.startswith("    "):
                command = re.split(r"\s+#\s", line.strip())[0].strip()
                if re.match(r"dpamt (--?\w|[a-z])|.*\| dpamt ", command):
                    found[command] = None
    return list(found)


def make_files(folder: Path) -> None:
    """What the commands of the documents name: hosts, a design, a scenario, vectors, a log."""
    data = ROOT / "src" / "dpamt" / "platform" / "data"
    for name in ("my-machine.dmesg", "a.dmesg"):
        shutil.copy(data / "host-1tib.dmesg", folder / name)
    shutil.copy(data / "reserved-areas.dmesg", folder / "b.dmesg")
    (folder / "kern.log.2.gz").write_bytes(gzip.compress((folder / "b.dmesg").read_bytes()))
    for name in ("my-scenario.toml", "my.toml"):
        (folder / name).write_text(SCENARIO, encoding="utf-8")
    (folder / "tests" / "data").mkdir(parents=True)
    for name in ("vectors.jsonl", "mine.jsonl", "tests/data/module-vectors.jsonl"):
        shutil.copy(ROOT / "tests" / "data" / "module-vectors.jsonl", folder / name)
    (folder / "differs.jsonl").write_text(spoilt_vector(), encoding="utf-8")
    recording = gzip.decompress((ROOT / "tests/data/boot-false-add.jsonl.gz").read_bytes())
    for name in ("recording.txt", "trace.txt", "boot.jsonl"):
        (folder / name).write_bytes(recording)
    for name in ("counts.json", "launched.json", "closed.json"):
        (folder / name).write_text('{"dpamt_counts": 1, "regions": []}', encoding="utf-8")
    shutil.copy(ROOT / "docs" / "api.md", folder)
    shutil.copytree(ROOT / "examples", folder / "examples")
    (folder / "mine.py").write_text(wrong_design(), encoding="utf-8")


def spoilt_vector() -> str:
    """The first recorded scenario with an operand that the model refuses (docs/vectors.md)."""
    vectors = ROOT / "tests" / "data" / "module-vectors.jsonl"
    scenario = json.loads(vectors.read_text(encoding="utf-8").partition("\n")[0])
    scenario["calls"][1]["rdx"] = "0x101000123"
    return json.dumps(scenario) + "\n"


def wrong_design() -> str:
    """merged, changed as the diff of docs/first-hour.md changes it."""
    merged = (ROOT / "src/dpamt/host/designs/merged.py").read_text(encoding="utf-8")
    hour = (ROOT / "docs" / "first-hour.md").read_text(encoding="utf-8")
    diff = hour.partition("```diff\n")[2].partition("```")[0].splitlines()
    old = "\n".join(line[1:] for line in diff if not line.startswith("+"))
    new = "\n".join(line[1:] for line in diff if not line.startswith("-"))
    if merged.count(old) != 1:
        raise SystemExit("bare: the diff of docs/first-hour.md does not fit merged.py")
    return merged.replace(old, new)


def install(folder: Path) -> Path:
    """Build, check and install the wheel; the folder with its `dpamt`."""
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSES", "src", "docs"):
        here = ROOT / name
        if here.is_dir():
            shutil.copytree(
                here, source / name, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__")
            )
        else:
            shutil.copy(here, source / name)
    once, twice = (_built(folder, name) for name in ("once", "twice"))
    for first, second in zip(once, twice, strict=True):
        if first.read_bytes() != second.read_bytes():
            raise SystemExit(f"bare: {first.name} is another one when it is made again")
    (wheel,) = (file for file in once if file.suffix == ".whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("dpamt/")}
    package = source / "src"
    there = {
        str(file.relative_to(package)) for file in (package / "dpamt").rglob("*") if file.is_file()
    }
    if packed != there:
        raise SystemExit(f"bare: the wheel lacks or has too much: {sorted(packed ^ there)}")
    subprocess.run([sys.executable, "-m", "venv", "bare"], cwd=folder, check=True)
    python = folder / "bare" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-qq", wheel], cwd=folder, check=True)
    for name in (
        "man/man1/dpamt-run.1",
        "bash-completion/completions/dpamt",
        "fish/vendor_completions.d/dpamt.fish",
    ):
        if not (folder / "bare" / "share" / name).is_file():
            raise SystemExit(f"bare: share/{name} is not installed")
    for module in ("numpy", "pyarrow", "plotly", "ray", "elftools"):
        if subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode == 0:
            raise SystemExit(f"bare: {module} is installed; expected an environment without extras")
    return python.parent


def _built(folder: Path, name: str) -> list[Path]:
    """The sdist, and the wheel made from it, of a copy of the sources."""
    copy = folder / f"source-{name}"
    shutil.copytree(folder / "source", copy, copy_function=shutil.copyfile)
    dist = (sys.executable, ROOT / "packaging" / "dist.py", folder / name, copy)
    subprocess.run(dist, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return sorted((folder / name).iterdir())


def run(command: str, programs: Path, folder: Path, limit: float) -> Result:
    """Run it as a shell does, and judge how it ended."""
    if command.startswith("dmesg |"):
        command = command.replace("dmesg", "cat my-machine.dmesg", 1)
    began = monotonic()
    started = subprocess.Popen(
        ["/bin/sh", "-c", f"exec {command}" if "|" not in command else command],
        cwd=folder,
        env={"PATH": f"{programs}:/usr/bin:/bin", "LANG": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    stopped = False
    try:
        out, err = started.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        stopped = True
        started.send_signal(signal.SIGINT)
        out, err = started.communicate(timeout=60)
    code = started.returncode
    return Result(command, judged(command, code, out, err, stopped), monotonic() - began)


def judged(command: str, code: int, out: str, err: str, stopped: bool) -> str:
    """What is wrong; empty when all is well."""
    ended = f"exit code {code}: {err.strip() or out.strip()[-200:]}"
    if stopped:  # or it had just come to its end
        return "" if code in (0, 1, *_INTERRUPTED) and _is_notes(err) else ended
    for pattern, extra in NEEDS:
        if re.search(pattern, command):
            line = rf"dpamt: .* needs \w+: pip install 'dpamt\[{extra}\]'\n"
            told = code == 2 and not out and re.fullmatch(line, err)
            return "" if told else f"expected a line that names dpamt[{extra}]; {ended}"
    if command == API:
        return "" if (code, out) == (0, "") else ended
    answered = bool(out) != (" > " in command)  # what is redirected comes to a file
    return "" if code in (0, 1) and answered and _is_notes(err) else ended


def _is_notes(err: str) -> bool:
    """Whether standard error has lines of dpamt alone: no traceback, no warning."""
    return all(line.startswith("dpamt: ") for line in err.splitlines())


def main(arguments: list[str]) -> int:
    """0 when every command did what it should; prints a line for each."""
    limit = float(arguments[0]) if arguments else 4.0
    with tempfile.TemporaryDirectory(prefix="dpamt-bare-") as name:
        folder = Path(name)
        programs = install(folder)
        work = folder / "work"
        work.mkdir()
        make_files(work)
        every = ["dpamt verify ./mine.py --cpus 2 --save mine.json", *commands()]
        every = list(dict.fromkeys([*every, API]))
        first = [command for command in every if any(option in command for option in MADE)]
        rest = [command for command in every if command not in first]
        done = [run(command, programs, work, 10 * limit) for command in first]
        with ThreadPoolExecutor(2) as pool:
            done += pool.map(lambda command: run(command, programs, work, limit), rest)
    for result in done:
        print(f"{'FAILS' if result.wrong else 'ok':5} {result.seconds:5.1f} s  {result.command}")
        if result.wrong:
            print(f"      {result.wrong}")
    if len(done) < 20:
        print("bare: the documents show fewer than 20 commands; expected more")
        return 1
    return int(any(result.wrong for result in done))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
