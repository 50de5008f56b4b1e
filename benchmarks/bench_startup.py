"""Start of `dpamt --help` against a bare start of the same interpreter, interleaved, medians.

python -m benchmarks.bench_startup [--json]
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 25


def seconds(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    bare = [sys.executable, "-c", "pass"]
    dpamt = [str(Path(sys.executable).with_name("dpamt")), "--help"]
    seconds(bare)
    seconds(dpamt)
    pairs = [(seconds(bare), seconds(dpamt)) for _ in range(ROUNDS)]
    result = {
        "bare_start_ms": 1000 * statistics.median(bare for bare, _ in pairs),
        "dpamt_help_ms": 1000 * statistics.median(helped for _, helped in pairs),
        "ratio": statistics.median(helped / bare for bare, helped in pairs),
        "target": 2.0,
    }
    if as_json:
        print(json.dumps(result))
        return
    print(f"bare interpreter start  {result['bare_start_ms']:7.1f} ms")
    print(f"dpamt --help            {result['dpamt_help_ms']:7.1f} ms")
    print(f"ratio                   {result['ratio']:7.2f}     (target {result['target']})")


if __name__ == "__main__":
    main()
