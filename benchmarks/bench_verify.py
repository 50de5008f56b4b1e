"""`dpamt verify` against Spin, on the same question in the same run.

    python -m benchmarks.bench_verify [--json] [--most-spin N] [--times N]

The question: threads that each get, use and put a page, in one 2M region or two, in the design v6;
does every assertion hold in every interleaving?  Spin (Debian package `spin`, and a C compiler)
answers it on a model of the same steps written by hand (`benchmarks/spin/refcount.pml`), compiled
with its partial-order reduction; dpamt on the functions themselves, whose automata it learns on the
way.  Seconds are of whole processes: spin, compiler and verifier there; here `python -m dpamt
verify v6 --cpus N --granularity seamcall --json`, its bytecode compiled before, as pip does when
it installs.  Of so many times (3) the fastest is taken, of both.  In brackets the search alone
(here with the learning).  Memory is the largest resident set of the process that searches.
"""

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

MODEL = Path(__file__).parent / "spin" / "refcount.pml"
SIZES = [(n,) for n in range(2, 9)] + [(1, 1), (2, 1), (2, 2)]
_COMMAND = ("verify", "v6", "--granularity", "seamcall", "--json", "--cpus")
SPIN_MEMORY_MIB = 14_000


class Run(NamedTuple):
    """One answer: whether all holds, states, seconds of the process, of the search alone, MiB."""

    holds: bool
    states: int
    seconds: float
    search: float
    mib: int


def ours(cpus: tuple[int, ...], bytecode: str) -> Run:
    """The command, in a process of its own; ``bytecode`` is a folder with what was compiled."""
    label = "+".join(map(str, cpus))
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
    }
    with tempfile.TemporaryFile() as answer:
        began = perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "dpamt", *_COMMAND, label],
            stdout=answer,
            env={**environment, "PYTHONPYCACHEPREFIX": bytecode},
        )
        _, _, used = os.wait4(process.pid, 0)
        seconds = perf_counter() - began
        answer.seek(0)
        trial = json.load(answer)["designs"][0]["trials"][0]
    mib = used.ru_maxrss >> 10
    return Run(trial["verdict"] == "holds", trial["states"], seconds, trial["seconds"], mib)


def fastest(times: int, run: Callable[[], Run]) -> Run:
    """The fastest of several runs; they must say the same."""
    runs = [run() for _ in range(times)]
    assert len({(each.holds, each.states) for each in runs}) == 1
    return min(runs, key=lambda each: each.seconds)


def spin(cpus: tuple[int, ...]) -> Run:
    """spin -a, the compiler, the verifier."""
    with tempfile.TemporaryDirectory() as folder:
        began = perf_counter()
        for command in (
            ["spin", "-a", f"-DN={sum(cpus)}", f"-DREGIONS={len(cpus)}", str(MODEL)],
            ["cc", "-O2", "-DSAFETY", f"-DMEMLIM={SPIN_MEMORY_MIB}", "-o", "pan", "pan.c"],
        ):
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
        said = subprocess.run(
            ["./pan", "-m1000000"], cwd=folder, check=True, capture_output=True, text=True
        ).stdout
        seconds = perf_counter() - began
    states = int(float(_number(r"([0-9.e+]+) states, stored", said)))
    mib = int(float(_number(r"([0-9.]+)\s+total actual memory usage", said)))
    search = float(_number(r"elapsed time ([0-9.]+)", said))
    return Run("errors: 0" in said, states, seconds, search, mib)


def _number(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise SystemExit(f"spin said nothing like {pattern!r}:\n{text}")
    return found.group(1)


def exponent(points: list[tuple[int, int]]) -> float:
    """Slope of log(states) over log(CPUs): states grow like CPUs to this power."""
    logs = [(math.log(n), math.log(states)) for n, states in points]
    mean_x = sum(x for x, _ in logs) / len(logs)
    mean_y = sum(y for _, y in logs) / len(logs)
    over = sum((x - mean_x) * (y - mean_y) for x, y in logs)
    return over / sum((x - mean_x) ** 2 for x, _ in logs)


def main() -> None:
    """Both, size by size."""
    parser = argparse.ArgumentParser(description="dpamt verify against Spin.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--most-spin", type=int, default=5, help="largest size for Spin, in CPUs")
    parser.add_argument("--times", type=int, default=3, help="runs of each, the fastest counts")
    options = parser.parse_args()
    has_spin = bool(shutil.which("spin") and shutil.which("cc"))
    if not has_spin:
        print("spin or cc is not installed (apt-get install spin gcc): only dpamt", file=sys.stderr)
    rows = []
    with tempfile.TemporaryDirectory() as bytecode:
        ours((1,), bytecode)
        for cpus in SIZES:
            mine = fastest(options.times, partial(ours, cpus, bytecode))
            theirs = None
            if has_spin and sum(cpus) <= options.most_spin:
                theirs = fastest(options.times, partial(spin, cpus))
            rows.append((cpus, mine, theirs))
            if not options.json:
                _show(cpus, mine, theirs)
    single = [(cpus[0], mine.states) for cpus, mine, _ in rows if len(cpus) == 1]
    power = exponent(single[2:])
    if options.json:
        print(
            json.dumps(
                {
                    "rows": [
                        {
                            "cpus": list(cpus),
                            "dpamt": mine._asdict(),
                            "spin": theirs._asdict() if theirs else None,
                        }
                        for cpus, mine, theirs in rows
                    ],
                    "exponent": power,
                }
            )
        )
    else:
        print(f"one region, 4 to 8 CPUs: states grow like CPUs to the power {power:.1f}")


def _show(cpus: tuple[int, ...], mine: Run, theirs: Run | None) -> None:
    label = "+".join(map(str, cpus)) + " CPUs"
    line = f"{label:10} dpamt {mine.states:7,} states {mine.seconds:6.2f} s "
    line += f"({mine.search:.2f} s) {mine.mib:3} MiB"
    if theirs:
        assert mine.holds == theirs.holds
        line += f"   spin {theirs.states:10,} states {theirs.seconds:6.2f} s "
        line += f"({theirs.search:.2f} s) {theirs.mib:5} MiB"
        line += f"   {theirs.seconds / mine.seconds:6.1f} times"
    print(line)
    sys.stdout.flush()


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    main()
