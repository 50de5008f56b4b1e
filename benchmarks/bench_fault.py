"""What a host-side fault costs, in bare Python calls.

    python -m benchmarks.bench_fault [--json]

The whole of it: page pools topped up, guest page allocated, mmu_lock, mirror entry frozen,
tdx_pamt_get, TDH.MEM.PAGE.AUG through the SEAMCALL ABI, entry published; in each design, on the
real kernel and module.  Interleaved with bare calls as in bench_seamcall.py.
"""

import argparse
import json
from statistics import median

from tests.host.rig import booted, fault, make_td

from benchmarks.bench_seamcall import BATCH, bare_cost, time_of
from dpamt.abi.pages import PAGE_SIZE, SIZE_2M
from dpamt.host.kvm.mmu import tdx_handle_ept_violation
from dpamt.host.kvm.zap import kvm_gmem_punch_hole

TARGET = 150


class Subject:
    """A TD whose S-EPT is there down to the last level, so that a fault needs one page."""

    def __init__(self, design: str) -> None:
        self.host = booted(design, 64)
        self.vm = make_td(self.host, 16)
        if fault(self.host, self.vm, SIZE_2M) or fault(self.host, self.vm, 0):
            raise SystemExit("first fault refused")
        self.clear()

    def clear(self) -> None:
        """Take the pages away again, all but the first, which keeps the pair: not measured."""
        kvm_gmem_punch_hole(self.vm, self.host.cpu, PAGE_SIZE, BATCH * PAGE_SIZE)

    def faults(self) -> None:
        """BATCH faults on 4K pages."""
        vm, cpu = self.vm, self.host.cpu
        vcpu = vm.vcpus[0]
        cpu.running_vcpu = vcpu
        for gpa in range(PAGE_SIZE, (BATCH + 1) * PAGE_SIZE, PAGE_SIZE):
            if tdx_handle_ept_violation(vm, vcpu, cpu, gpa, 0):
                raise SystemExit("fault refused")
        cpu.running_vcpu = None


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """Design to the median nanoseconds of a fault and its cost in bare calls."""
    subjects = {design: Subject(design) for design in ("static", "v2", "merged")}
    costs: dict[str, list[float]] = {name: [] for name in subjects}
    ratios: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, subject in subjects.items():
            before = bare_cost()
            cost = time_of(subject.faults) / BATCH
            unit = (before + bare_cost()) / 2
            subject.clear()
            costs[name].append(cost)
            ratios[name].append(cost / unit)
    return {
        name: {"ns": median(costs[name]), "bare_calls": median(ratios[name])} for name in subjects
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="cost of a fault in bare Python calls")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options.rounds)
    if options.json:
        print(json.dumps({"target": TARGET, **result}, indent=2))
        return
    print(f"{'fault at 4K, design':24} {'ns':>9} {'bare calls':>11}   (target {TARGET})")
    for name, cost in result.items():
        print(f"{name:24} {cost['ns']:9.0f} {cost['bare_calls']:11.1f}")


if __name__ == "__main__":
    main()
