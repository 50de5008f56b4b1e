"""A simulated week of fleets of 2 TiB hosts: seconds and memory by hosts, one process and two.

    python -m benchmarks.bench_fleet [--json] [--hosts 10,100,1000] [--hours 168]

Each fleet in processes of its own: VMs made up by the generator, 85 % of memory in them on average,
spilled, placed under both modes, one host of the fleet aged page by page for a day.  Seconds are of
the wall and of the processor; MiB are the most that the largest of the processes held.
"""

import argparse
import json
import resource
import subprocess
import sys
from dataclasses import replace
from statistics import correlation, linear_regression
from time import perf_counter

from dpamt.plan.fleet.generate import Made, generate_vms
from dpamt.plan.fleet.hosts import HostType
from dpamt.plan.fleet.simulate import simulate_fleet
from dpamt.platform.size import machine_from_size

HOST_GIB = 2048
SHARE_IN_VMS = 0.85


def one(hosts: int, hours: float, processes: int) -> dict[str, float]:
    machine = machine_from_size("2TiB,cpus=256")
    machine = replace(machine, keyid_bits=9, private_keyids=(32, 512))
    vms = generate_vms(Made(hosts * HOST_GIB * SHARE_IN_VMS, hours, 1))
    start = perf_counter()
    fleet = simulate_fleet(vms, [HostType("2TiB", machine, hosts)], processes=processes)
    wall = perf_counter() - start
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "hosts": hosts,
        "processes": processes,
        "vms": fleet.vms,
        "seconds": wall,
        "cpu_seconds": sum(usage.ru_utime + usage.ru_stime for usage in usages),
        "mib": max(usage.ru_maxrss for usage in usages) / 1024,
        "saved_share": fleet.mean_saved / fleet.static_bytes,
        "regions_per_page": fleet.spreads["2TiB"].regions_per_page,
        "newly_fitting": fleet.newly_fitting_tds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--hosts", default="10,100,1000")
    parser.add_argument("--hours", type=float, default=168.0)
    parser.add_argument("--one", nargs=2, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(arguments.one[0], arguments.hours, arguments.one[1])))
        return
    sizes = [int(text) for text in arguments.hosts.split(",")]
    rows = []
    for hosts, processes in [*((size, 1) for size in sizes), (sizes[-1], 2)]:
        command = [sys.executable, "-m", "benchmarks.bench_fleet", "--hours", str(arguments.hours)]
        command += ["--one", str(hosts), str(processes)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout))
        if not arguments.json:
            row = rows[-1]
            print(
                f"{hosts} hosts, {processes} process{'es'[: 2 * (processes > 1)]}: "
                f"{row['vms']:,} VMs, {row['seconds']:.1f} s, processor {row['cpu_seconds']:.1f} s,"
                f" {row['mib']:.0f} MiB; saves {row['saved_share']:.1%}, "
                f"{row['regions_per_page']:.3f} regions a page, "
                f"{row['newly_fitting']} more TDs fit",
                flush=True,
            )
    if arguments.json:
        print(json.dumps(rows))
        return
    single = rows[:-1]
    for what in ("cpu_seconds", "mib"):
        if len(single) > 2:
            values = [row[what] for row in single]
            slope, base = linear_regression(sizes, values)
            fit = correlation(sizes, values) ** 2
            print(f"{what} = {slope:.4f} a host + {base:.1f}, R² = {fit:.4f}")
    print(f"two processes: {single[-1]['seconds'] / rows[-1]['seconds']:.2f} times as fast as one")


if __name__ == "__main__":
    main()
