"""A search in one process and on shards of a Ray cluster on this machine: CPU seconds, memory.

``python -m benchmarks.bench_shards [--cpus 6+6] [--rounds 2] [--json]``.  Each search runs in a
process of its own.  The seconds are user CPU seconds, because they depend least on what else runs.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from time import monotonic
from typing import Any, Final

from dpamt.host.designs.load import load_design
from dpamt.verify.asked import Asked, prepare
from dpamt.verify.cluster.coordinator import sharded_search
from dpamt.verify.cluster.ray_team import RayTeam
from dpamt.verify.explore.search import Search, search_of
from dpamt.verify.programs.problem import SEAMCALL

WAYS: Final = (("one process", 1), ("one process", 2), ("shards", 1), ("shards", 2))
_TICKS: Final = os.sysconf("SC_CLK_TCK")


def used(process: int) -> tuple[float, int]:
    """User CPU seconds and peak MiB of a process.  Source: proc(5), stat field 14, VmHWM."""
    folder = Path("/proc") / str(process)
    ticks = (folder / "stat").read_text().rsplit(")", 1)[1].split()[11]
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    return int(ticks) / _TICKS, int(status["VmHWM"].split()[0]) >> 10


def run(way: str, count: int, cpus: str) -> dict[str, Any]:
    """Search once, in this process or on shards."""
    asked = Asked("v6", "", tuple(map(int, cpus.split("+"))), "apart", 0, SEAMCALL, 1 << 31)
    design = load_design(asked.design)
    trial, judges = prepare(asked, design)
    given = trial.make(design), judges, asked.granularity, asked.most_states
    if way == "one process":
        search = search_of(*given)
        search.jobs = count
        return measured(search, [])
    with RayTeam("local", count) as team:
        return measured(sharded_search(team, *given), [process for _, process in team.places])


def measured(search: Search, shards: list[int]) -> dict[str, Any]:
    """What a search takes, of this process and of its shards."""
    before = [used(process)[0] for process in (os.getpid(), *shards)]
    began = monotonic()
    found = search.explore()
    seconds = monotonic() - began
    after = [used(process) for process in (os.getpid(), *shards)]
    return {
        "states": found.states,
        "transitions": found.transitions,
        "depth": found.depth,
        "verdict": found.verdict,
        "wall": round(seconds, 2),
        "user": [round(now - then, 2) for (now, _), then in zip(after, before, strict=True)],
        "mib": [mib for _, mib in after],
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpus", default="6+6")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--way", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(run(options.way[0], int(options.way[1]), options.cpus)))
        return
    rows = []
    for _ in range(options.rounds):
        for way, count in WAYS:
            command = [sys.executable, "-m", "benchmarks.bench_shards", "--cpus", options.cpus]
            done = subprocess.run(
                [*command, "--way", way, str(count)], check=True, capture_output=True, text=True
            )
            rows.append({"way": way, "count": count, **json.loads(done.stdout)})
            if not options.json:
                row = rows[-1]
                print(
                    f"{way:12} {count}  {row['states']:>11,} states  user {sum(row['user']):6.2f} "
                    f"{row['user']}  wall {row['wall']:6.2f}  MiB {row['mib']}  load {row['load']}"
                )
    if options.json:
        print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
