"""`dpamt verify` against Spin, on the same question in the same run.

    python -m benchmarks.bench_verify [--json] [--most-spin N] [--most-states N]

The question: threads that each get, use and put a page, in one 2M region or two, in the design v6;
does every assertion hold in every interleaving?  Spin (Debian package `spin`, and a C compiler)
answers it on a model of the same steps written by hand (`benchmarks/spin/refcount.pml`), compiled
with its partial-order reduction; dpamt on the functions themselves, whose automata it learns on the
way.  Seconds are of whole processes: spin, compiler and verifier there, interpreter and learning
here; in brackets those of the search alone (here with the learning).  Memory is the largest
resident set of the process that searches.
"""

import argparse
import json
import math
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from dpamt.host.designs.load import load_design
from dpamt.verify.programs import regions
from dpamt.verify.properties import properties
from dpamt.verify.verdict import verify

MODEL = Path(__file__).parent / "spin" / "refcount.pml"
SIZES = [(n,) for n in range(2, 9)] + [(1, 1), (2, 1), (2, 2)]
SPIN_MEMORY_MIB = 14_000


class Run(NamedTuple):
    """One answer: whether all holds, states, seconds of the process, of the search alone, MiB."""

    holds: bool
    states: int
    seconds: float
    search: float
    mib: int


def ours(cpus: tuple[int, ...]) -> Run:
    """A process of its own, so that its memory and start-up are its own."""
    began = perf_counter()
    said = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_verify", "--one", "+".join(map(str, cpus))],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds = perf_counter() - began
    told = json.loads(said.stdout)
    return Run(told["holds"], told["states"], seconds, told["search"], told["mib"])


def one(cpus: tuple[int, ...]) -> None:
    """What the process of :func:`ours` does."""
    design = load_design("v6")
    verdict = verify(regions(design, cpus), properties(design.tolerated))
    mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    told = {
        "holds": verdict.verdict == "holds",
        "states": verdict.states,
        "search": verdict.seconds,
        "mib": mib,
    }
    print(json.dumps(told))


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
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--most-spin", type=int, default=5, help="largest size for Spin, in CPUs")
    options = parser.parse_args()
    if options.one:
        one(tuple(map(int, options.one.split("+"))))
        return
    has_spin = bool(shutil.which("spin") and shutil.which("cc"))
    if not has_spin:
        print("spin or cc is not installed (apt-get install spin gcc): only dpamt", file=sys.stderr)
    rows = []
    for cpus in SIZES:
        mine = ours(cpus)
        theirs = spin(cpus) if has_spin and sum(cpus) <= options.most_spin else None
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
