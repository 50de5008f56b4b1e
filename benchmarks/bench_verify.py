"""`dpamt verify` against Spin, on the same question in the same run.

    python -m benchmarks.bench_verify [--json] [--most-spin MIB] [--times N] [--largest]

The question: N threads that each get, use and put a page in one 2M region, or in two, in the design
v6; does every assertion hold in every interleaving?  dpamt answers it on the functions themselves,
each SEAMCALL as one step.  Spin (Debian package ``spin``, and a C compiler) answers it on models of
the same steps that were written by hand:

as written   ``refcount.pml``, each thread a process, Spin's partial-order reduction on;
lean         the same with ``-DLEAN``: dead variables reset and private steps joined, by hand;
counted      ``counted.pml``: threads counted by place, the exact quotient by symmetry.  It has the
             reductions that dpamt has, so it is what the speed for each state is compared with.

Seconds are user and system time of the process that searches, so other work on the machine counts
less.  dpamt's include the start of Python and all learning; Spin's are of ``pan`` alone, and what
spin and the compiler took is told apart.  The fastest of several runs counts, of both.  Memory is
the largest resident set.
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
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent / "spin"
SIZES = [(n,) for n in (2, 3, 4, 5, 6, 8, 10, 12, 14, 16)] + [(1, 1), (2, 2), (3, 3), (4, 4)]
LARGEST = [(20,), (5, 5), (6, 6)]
_COMMAND = ("verify", "v6", "--granularity", "seamcall", "--max-states", "50000000", "--json")
MOST_STATES = 20_000_000
"""Above this many states, guessed from the two sizes before, Spin is not run."""


class Run(NamedTuple):
    """One answer: whether all holds, states, transitions, CPU seconds, MiB."""

    holds: bool
    states: int
    transitions: int
    seconds: float
    mib: int


class Model(NamedTuple):
    """One way to ask Spin: file, flags of spin, of the compiler, and of pan."""

    name: str
    file: str
    spin: tuple[str, ...] = ()
    compiler: tuple[str, ...] = ("-O2",)
    pan: tuple[str, ...] = ()


AS_WRITTEN = Model("as written", "refcount.pml")
LEAN = Model("lean", "refcount.pml", ("-DLEAN",))
COUNTED = Model("counted", "counted.pml")
WAYS = [
    AS_WRITTEN,
    Model("as written, no partial-order reduction", "refcount.pml", (), ("-O2", "-DNOREDUCE")),
    LEAN,
    Model("lean, no partial-order reduction", "refcount.pml", ("-DLEAN",), ("-O2", "-DNOREDUCE")),
    Model("lean, -O0", "refcount.pml", ("-DLEAN",), ("-O0",)),
    Model("lean, -O3", "refcount.pml", ("-DLEAN",), ("-O3",)),
    Model("lean, hash compact (not exact)", "refcount.pml", ("-DLEAN",), ("-O2", "-DHC4")),
    Model("lean, bitstate (not exact)", "refcount.pml", ("-DLEAN",), ("-O2", "-DBITSTATE")),
]
WAYS_AT = 5
"""CPUs at which these are compared."""


def measured(
    command: list[str], folder: str, environment: dict[str, str]
) -> tuple[str, float, int]:
    """(standard output, CPU seconds, MiB) of a process."""
    with tempfile.TemporaryFile() as answer:
        process = subprocess.Popen(command, cwd=folder, stdout=answer, env=environment)
        _, status, used = os.wait4(process.pid, 0)
        answer.seek(0)
        text = answer.read().decode()
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {status}:\n{text}")
    return text, used.ru_utime + used.ru_stime, used.ru_maxrss >> 10


def ours(cpus: tuple[int, ...], bytecode: str, more: tuple[str, ...] = ()) -> Run:
    """The command, in a process of its own; ``bytecode`` is a folder with what was compiled."""
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
    }
    environment["PYTHONPYCACHEPREFIX"] = bytecode
    label = "+".join(map(str, cpus))
    command = [sys.executable, "-m", "dpamt", *_COMMAND, "--cpus", label, *more]
    text, seconds, mib = measured(command, ".", environment)
    trial = json.loads(text)["designs"][0]["trials"][0]
    return Run(trial["verdict"] == "holds", trial["states"], trial["transitions"], seconds, mib)


def spin(model: Model, cpus: tuple[int, ...]) -> tuple[Run, float]:
    """What pan says, and the CPU seconds of spin and the compiler."""
    environment = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        sizes = (f"-DN={sum(cpus)}", *((f"-DREGIONS={len(cpus)}",) if len(cpus) > 1 else ()))
        words = ["spin", "-a", *sizes, *model.spin, str(FOLDER / model.file)]
        _, first, _ = measured(words, folder, environment)
        words = ["cc", *model.compiler, "-DSAFETY", "-DMEMLIM=14000", "-o", "pan", "pan.c"]
        _, second, _ = measured(words, folder, environment)
        said, seconds, mib = measured(["./pan", "-m100000", *model.pan], folder, environment)
    states = int(float(_number(r"([0-9.e+]+) states, stored", said)))
    transitions = int(float(_number(r"([0-9.e+]+) transitions", said)))
    return Run("errors: 0" in said, states, transitions, seconds, mib), first + second


def _number(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise SystemExit(f"spin said nothing like {pattern!r}:\n{text}")
    return found.group(1)


def fastest(times: int, run: Callable[[], Run]) -> Run:
    """The fastest of several runs; they must say the same."""
    runs = [run() for _ in range(times)]
    assert len({(each.holds, each.states) for each in runs}) == 1
    return min(runs, key=lambda each: each.seconds)


class Rival:
    """One model, run at growing sizes as long as it can be expected to end."""

    def __init__(self, model: Model, times: int, most_states: int) -> None:
        self.model = model
        self._times = times
        self._most = most_states
        self._before: list[int] = []

    def at(self, cpus: tuple[int, ...]) -> Run | None:
        """The next size; None where it would be too large."""
        if len(cpus) > 1 and self.model.file == COUNTED.file:
            return None
        if len(cpus) > 1 and sum(cpus) > 4:
            return None
        if len(cpus) == 1 and len(self._before) > 1:
            grows = self._before[-1] / self._before[-2]
            if self._before[-1] * grows > self._most:
                return None
        found = fastest(self._times, lambda: spin(self.model, cpus)[0])
        if len(cpus) == 1:
            self._before.append(found.states)
        return found


def exponent(points: list[tuple[int, int]]) -> float:
    """Slope of log(states) over log(CPUs): states grow like CPUs to this power."""
    logs = [(math.log(n), math.log(states)) for n, states in points]
    mean_x = sum(x for x, _ in logs) / len(logs)
    mean_y = sum(y for _, y in logs) / len(logs)
    over = sum((x - mean_x) * (y - mean_y) for x, y in logs)
    return over / sum((x - mean_x) ** 2 for x, _ in logs)


def rows(options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Size by size, what each says; then Spin's ways at one size."""
    has_spin = bool(shutil.which("spin") and shutil.which("cc"))
    if not has_spin:
        print("spin or cc is not installed (apt-get install spin gcc): only dpamt", file=sys.stderr)
    rivals = [
        Rival(model, options.times, options.most_spin) for model in (AS_WRITTEN, LEAN, COUNTED)
    ]
    with tempfile.TemporaryDirectory() as bytecode:
        ours((1,), bytecode)
        for cpus in [*SIZES, *(LARGEST if options.largest else ())]:
            row: dict[str, object] = {
                "cpus": "+".join(map(str, cpus)),
                "dpamt": fastest(options.times, partial(ours, cpus, bytecode))._asdict(),
            }
            for rival in rivals if has_spin else ():
                found = rival.at(cpus)
                if found is not None:
                    row[rival.model.name] = found._asdict()
            yield row
    for model in WAYS if has_spin and not options.quick else ():
        found, compiling = spin(model, (WAYS_AT,))
        yield {"way": model.name, "spin": found._asdict(), "compiling": compiling}


def main() -> None:
    """Both, size by size."""
    parser = argparse.ArgumentParser(description="dpamt verify against Spin.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--most-spin", type=int, default=MOST_STATES, help="largest for Spin, states"
    )
    parser.add_argument("--times", type=int, default=3, help="runs of each, the fastest counts")
    parser.add_argument("--largest", action="store_true", help="20, 5+5 and 6+6 CPUs too")
    parser.add_argument("--quick", action="store_true", help="sizes only")
    options = parser.parse_args()
    found = []
    for row in rows(options):
        found.append(row)
        if not options.json:
            _show(row)
    single = {
        int(str(row["cpus"])): row["dpamt"]["states"]  # type: ignore[index]
        for row in found
        if "+" not in str(row.get("cpus", "+"))
    }
    power = exponent([(n, states) for n, states in single.items() if n >= 4])
    if options.json:
        print(json.dumps({"rows": found, "exponent": power}))
    else:
        print(f"one region, from 4 CPUs on: states grow like CPUs to the power {power:.1f}")


def _show(row: dict[str, object]) -> None:
    title = f"{row['cpus']} CPUs" if "cpus" in row else f"spin, {row['way']}"
    for name, said in row.items():
        if not isinstance(said, dict):
            continue
        rate = said["states"] / max(said["seconds"], 0.01) / 1e6
        print(
            f"{title:12} {name:11} {said['states']:11,} states {said['seconds']:7.2f} s "
            f"{rate:5.2f} M/s {said['mib']:5} MiB"
        )
        title = ""
    if "compiling" in row:
        print(f"{'':12} spin and cc {row['compiling']:.2f} s")
    sys.stdout.flush()


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    main()
