"""``make mutants``: mutmut puts one small bug after another into the files of a group.

``python -m tests.mutants [WORKERS] [GROUP]``: ``pamt`` (the PAMT and lock files, the default),
``files`` (what writes files for the user) or ``plan`` (a part of the plan's arithmetic).  It works
on a copy in ``build/mutants``, so that the checkout is not touched, runs for each mutant those of
the chosen tests that reach it, and prints what survived.  Mutants that no test can tell are listed
in ``mutants_equivalent.toml``, by reason.  Exit 1 when fewer than LEAST are killed.
"""

import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

GROUPS = {
    "pamt": (
        [
            "module/checks.py",
            "module/leaves/phymem_pamt.py",
            "module/pamt.py",
            "sync/entry_pages.py",
            "sync/host_priority.py",
            "sync/lock_set.py",
            "sync/shared_exclusive.py",
        ],
        [
            "tests/sync/test_host_priority.py",
            "tests/sync/test_lock_set.py",
            "tests/sync/test_runs.py",
            "tests/sync/test_shared.py",
            "tests/sync/test_step_lock_set.py",
            "tests/sync/test_tree_walk.py",
            "tests/sync/test_way_again.py",
            "tests/module/test_1g_pages.py",
            "tests/module/test_check_order.py",
            "tests/module/test_checks.py",
            "tests/module/test_fatal.py",
            "tests/module/test_fault_pairs.py",
            "tests/module/test_l2_sept.py",
            "tests/module/test_missing_pair_and_hints.py",
            "tests/module/test_pair_boundaries.py",
            "tests/module/test_pamt.py",
            "tests/module/test_phymem_pamt.py",
            "tests/module/test_view.py",
            "tests/module/test_vp.py",
        ],
    ),
    "files": (
        ["files.py", "own_files.py"],
        ["tests/test_files.py", "tests/test_own_files.py"],
    ),
    "plan": (
        ["plan/break_even.py", "plan/fresh.py", "plan/mix_size.py"],
        ["tests/plan/test_answer.py", "tests/plan/test_figures.py", "tests/plan/test_mix.py"],
    ),
}
"""Name to files, and the tests that run on their mutants."""

FILES, TESTS = GROUPS[next((name for name in GROUPS if name in sys.argv[1:]), "pamt")]
"""Quick ones that reach those files; the fuzzer would kill more, and take hours."""
LEAST = 0.9

ROOT = Path(__file__).parent.parent
PLACE = ROOT / "build" / "mutants"
# Without shrinking and with the same examples each time: a killed mutant is killed in a moment.
CONFTEST = """
from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "mutants",
    database=None,
    deadline=None,
    derandomize=True,
    max_examples=60,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("mutants")
"""
CONFIG = f"""
[tool.mutmut]
source_paths = ["src"]
only_mutate = {[f"src/dpamt/{file}" for file in FILES]}
pytest_add_cli_args_test_selection = {TESTS}
timeout_multiplier = 4.0
timeout_constant = 3.0
use_git_change_detection = false
"""


def equivalent() -> set[str]:
    """The mutants that no test can tell, as :func:`changed` names them."""
    text = (ROOT / "tests" / "mutants_equivalent.toml").read_text(encoding="utf-8")
    return {mutant for group in tomllib.loads(text)["equivalent"] for mutant in group["mutants"]}


def prepare() -> None:
    """A fresh copy, with the settings of the run."""
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    left_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in ("src", "tests"):
        shutil.copytree(ROOT / folder, PLACE / folder, ignore=left_out)
    (PLACE / "tests" / "conftest.py").write_text(CONFTEST)
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8") + CONFIG
    (PLACE / "pyproject.toml").write_text(settings, encoding="utf-8")


def mutmut(*arguments: str) -> str:
    command = [sys.executable, "-m", "mutmut", *arguments]
    ran = subprocess.run(command, cwd=PLACE, capture_output=True, text=True, check=False)
    return ran.stdout


def changed(mutant: str) -> str:
    """What a mutant is: its function and the line that it changes."""
    lines = mutmut("show", mutant).splitlines()
    old = [line[1:].strip() for line in lines if re.match(r"-(?!--)", line)]
    new = [line[1:].strip() for line in lines if re.match(r"\+(?!\+\+)", line)]
    return f"{function_of(mutant)}: {' '.join(old)}  ->  {' '.join(new)}"


def function_of(mutant: str) -> str:
    """``dpamt.sync.words.xǁWordǁadd__mutmut_3`` is ``sync.words.Word.add``."""
    name = mutant.split("__mutmut_")[0].removeprefix("dpamt.")
    return name.replace(".xǁ", ".").replace("ǁ", ".").replace(".x_", ".")


def main() -> int:
    """Run, count, show; see the head of the file."""
    if "--keep" not in sys.argv:
        prepare()
        workers = next((word for word in sys.argv[1:] if word.isdigit()), "2")
        command = [sys.executable, "-m", "mutmut", "run", "--max-children", workers]
        ran = subprocess.run(command, cwd=PLACE, check=False)
        if ran.returncode:
            print("mutmut did not run through: do the tests pass?")
            return 1
    lines = mutmut("results", "--all", "true").splitlines()
    verdicts = dict(line.strip().split(": ", 1) for line in lines if ": " in line)
    counts: Counter[tuple[str, str]] = Counter()
    known = equivalent()
    alive = []
    for mutant, verdict in verdicts.items():
        file = ".".join(function_of(mutant).split(".")[:-1])
        file = next(f for f in FILES if file.startswith(f.removesuffix(".py").replace("/", ".")))
        if verdict in ("killed", "timeout"):
            counts[file, "killed"] += 1
            continue
        what = changed(mutant)
        counts[file, "equivalent" if what in known else "survived"] += 1
        if what not in known:
            alive.append(f"{verdict}: {what}")
    for line in sorted(alive):
        print(line)
    kinds = ("killed", "equivalent", "survived")
    print(f"{'':32}" + "".join(f"{kind:>12}" for kind in ("mutants", *kinds)))
    for file in [*FILES, ""]:
        row = [
            sum(n for (at, what), n in counts.items() if at == (file or at) and what == kind)
            for kind in kinds
        ]
        print(f"{file or 'all':32}" + "".join(f"{n:12,}" for n in (sum(row), *row)))
    killed = sum(n for (_, kind), n in counts.items() if kind == "killed")
    share = killed / max(1, sum(counts.values()))
    print(f"killed {share:.1%}")
    return 0 if verdicts and share >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
