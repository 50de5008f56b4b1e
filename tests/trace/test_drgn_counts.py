"""The counters of a kernel, read by symbol: from a model of drgn's memory, and by drgn itself from
a process that has the kernel's variables."""

import importlib.util
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dpamt.errors import InputError
from dpamt.trace import drgn_counts
from dpamt.trace.judge.counts import compare, read_counts
from tests.trace.judge.test_judge import judged
from tests.trace.recorded import Recorder, td_of, world_of

MAX_PFN = 512 * 70_000 + 3
COUNTS = {0: 3, 17: 512, 65_535: 1, 65_536: 7, 70_000: 2}


class Memory:
    """What of drgn's Program the script uses: symbols, and memory at addresses."""

    def __init__(self, counters: str, lock: str, array: int = 0x1000_0000) -> None:
        words = [0] * -(-MAX_PFN // 512)
        for region, count in COUNTS.items():
            words[region] = count
        info = struct.pack("<8Q", 1 << 30, 2 << 30, *(0x1000 * place for place in range(6)))
        self.ranges = {
            0x100: struct.pack("<Q", array),
            0x200: struct.pack("<I", 1),
            0x300: struct.pack("<Q", MAX_PFN),
            0x400: struct.pack("<Qiii", 0x9000, 1, 512, 64),
            0x9000: info.ljust(512, b"\0"),
            0x1000_0000: struct.pack(f"<{len(words)}i", *words),
        }
        self.symbols = {counters: 0x100, lock: 0x200, "max_pfn": 0x300, "tdx_tdmr_list": 0x400}

    def symbol(self, name: str) -> Any:
        if name not in self.symbols:
            raise LookupError(name)
        return SimpleNamespace(address=self.symbols[name])

    def read(self, address: int, size: int) -> bytes:
        for start, data in self.ranges.items():
            if start <= address and address + size <= start + len(data):
                return data[address - start : address - start + size]
        raise ValueError(f"no memory at {address:#x}")

    def read_u64(self, address: int) -> int:
        return int.from_bytes(self.read(address, 8), "little")

    def read_u32(self, address: int) -> int:
        return int.from_bytes(self.read(address, 4), "little")


@pytest.mark.parametrize(
    "names", [("dpamt_refcounts", "dpamt_lock"), ("pamt_refcounts", "pamt_lock")]
)
def test_both_generations_of_names(names: tuple[str, str]) -> None:
    document = drgn_counts.counted(Memory(*names))
    assert dict(document["regions"]) == COUNTS
    assert (document["counters"], document["lock"], document["locked"]) == (*names, True)
    assert (document["pairs"], document["kb"], document["pages"]) == (5, 40, 525)
    assert document["tdmrs"][0]["base"] == 1 << 30


def test_a_kernel_without_counters_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert drgn_counts.main(Memory("other", "dpamt_lock")) == 2
    assert drgn_counts.main(Memory("dpamt_refcounts", "dpamt_lock", array=0)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(";")[0] for line in err.splitlines()] == [
        "dpamt_counts: no symbol dpamt_refcounts or pamt_refcounts",
        "dpamt_counts: dpamt_refcounts is NULL",
    ]


PROCESS = """
#include <stdlib.h>
#include <stdio.h>
#include <unistd.h>
struct list { void *tdmrs; int used, size, most; } tdx_tdmr_list;
unsigned long max_pfn = 512UL * 300 + 1;
int *dpamt_refcounts; unsigned int dpamt_lock;
unsigned long info[64] = { 1UL << 30, 1UL << 30 };
int main(void)
{
    dpamt_refcounts = calloc(301, sizeof(int));
    dpamt_refcounts[5] = 512; dpamt_refcounts[300] = 9;
    tdx_tdmr_list = (struct list){ info, 1, 512, 64 };
    puts("ready"); fflush(stdout);
    pause();
}
"""


@pytest.mark.skipif(
    importlib.util.find_spec("drgn") is None or shutil.which("gcc") is None,
    reason="no drgn or no compiler here",
)
def test_drgn_itself_reads_a_process_with_the_same_variables(tmp_path: Path) -> None:
    (tmp_path / "p.c").write_text(PROCESS)
    subprocess.run(["gcc", "-g", "-o", tmp_path / "p", tmp_path / "p.c"], check=True)
    with subprocess.Popen([tmp_path / "p"], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            command = [sys.executable, "-m", "drgn", "-q", "-p", str(process.pid)]
            done = subprocess.run(
                [*command, drgn_counts.__file__], capture_output=True, check=False
            )
        finally:
            process.kill()
    if b"ptrace" in done.stderr or b"Operation not permitted" in done.stderr:
        pytest.skip("drgn may not read a process here")
    assert done.returncode == 0, done
    document = json.loads(done.stdout)
    assert document["regions"] == [[5, 512], [300, 9]]
    assert document["tdmrs"][0]["size"] == 1 << 30


def test_counters_beside_a_recording() -> None:
    recorder = Recorder()
    world = world_of(recorder, memory="256MiB")
    td_of(world, 4)
    counts = dict(world.kernel.pamt_refcounts.non_zero())
    _judgement, judge = judged(recorder.items)
    assert compare(judge.state, counts, 0) == []
    region = next(iter(counts))
    wrong = compare(judge.state, {**counts, region: counts[region] + 1, 99: 1}, 0)
    assert len(wrong) == 2
    assert f"region {region << 21:#x}: the kernel counts {counts[region] + 1}" in wrong[0].what
    assert f"{counts[region]} of its pages are in use" in wrong[0].because


def test_what_is_no_file_of_counters_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "counts.json"
    path.write_text(json.dumps(drgn_counts.counted(Memory("dpamt_refcounts", "dpamt_lock"))))
    counters = read_counts(str(path))
    assert counters.regions == COUNTS
    assert counters.tdmrs == ((2 << 30, 0x1000, 0x3000, 0x5000),)
    for text, why in (
        ("[", ":1: column 2: Expecting value"),
        ("{}", "no dpamt_counts of 1"),
        ('{"dpamt_counts": 1}', "regions is no list"),
        ('{"dpamt_counts": 1, "regions": [[1, 2], [3]]}', r"regions\[1\]"),
        ('{"dpamt_counts": 1, "regions": [[-1, 2]]}', r"regions\[0\]"),
        ('{"dpamt_counts": 1, "regions": [], "tdmrs": 5}', "tdmrs is no list"),
        ('{"dpamt_counts": 1, "regions": [], "tdmrs": [{"size": 1}]}', r"tdmrs\[0\] has no size"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=why):
            read_counts(str(path))
    with pytest.raises(InputError, match="expected what the script"):
        read_counts(str(tmp_path / "none"))
