"""Time and memory of the default `dpamt run`, each a process of its own.

python -m benchmarks.bench_default_run [--json]
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    command = [str(Path(sys.executable).with_name("dpamt")), "run", "--json"]
    seconds = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - begin)
    peak_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    result = {"seconds": statistics.median(seconds), "peak_mib": peak_mib}
    if as_json:
        print(json.dumps(result))
        return
    print(f"dpamt run, default scenario  {result['seconds']:6.1f} s   {peak_mib:6.0f} MiB at peak")


if __name__ == "__main__":
    main()
