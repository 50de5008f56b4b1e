"""Hosts that live on the model with everything at the wall taken down, and tracers' texts of it."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from dpamt.abi.pages import PAGE_SIZE
from dpamt.abi.registers import REGISTER_NAMES, SeamCall, TdxModuleArgs
from dpamt.boot.call import Call as BootCall
from dpamt.host.core.kernel import Cpu, Kernel
from dpamt.host.core.page_cache import PamtCache
from dpamt.platform.size import machine_from_size
from dpamt.run.scenario import Side, TdGroup, scenario_from_text
from dpamt.run.td import Td
from dpamt.run.world import World
from dpamt.trace.recording.model import Call, PamtOp

START = 1_000_000_000_000
STEP = 5_000
"""Nanoseconds of the clock: where it begins, how long everything takes."""

Fault = Callable[[int, TdxModuleArgs, SeamCall], int]
"""Answers a SEAMCALL in the module's place: (rax, registers, the module)."""


@dataclass
class Recorder:
    """Takes down SEAMCALLs, gets and puts of a world; ``fault`` may answer some."""

    items: list[Call | PamtOp] = field(default_factory=list)
    fault: Fault | None = None
    now: int = START

    def tick(self) -> int:
        self.now += STEP
        return self.now

    def watch(self, world: World) -> None:
        kernel = world.kernel
        for cpu in kernel.cpus:
            cpu.seamcall = self._wall(cpu.seamcall, cpu.index)
        get, put = kernel.tdx_pamt_get, kernel.tdx_pamt_put

        def recorded_get(kernel: Kernel, cpu: Cpu, pfn: int, cache: PamtCache | None) -> int:
            start = self.tick()
            result = get(kernel, cpu, pfn, cache)
            self._op(False, start, cpu.index, pfn, result)
            return result

        def recorded_put(kernel: Kernel, cpu: Cpu, pfn: int) -> None:
            start = self.tick()
            put(kernel, cpu, pfn)
            self._op(True, start, cpu.index, pfn, None)

        kernel.tdx_pamt_get, kernel.tdx_pamt_put = recorded_get, recorded_put

    def _op(self, put: bool, start: int, cpu: int, pfn: int, result: int | None) -> None:
        caller = b"tdx_sept_remove_private_spte+0x90" if put else b"tdx_sept_set_private_spte+0x51"
        self.items.append(
            PamtOp(put, start, self.tick(), cpu, 100 + cpu, b"qemu", pfn, result, caller)
        )

    def _wall(self, seamcall: SeamCall, cpu: int) -> SeamCall:
        def recorded(rax: int, args: TdxModuleArgs) -> int:
            before, start = args.as_tuple(), self.tick()
            if self.fault is None:
                status = seamcall(rax, args)
            else:
                status = self.fault(rax, args, seamcall)
            self.items.append(
                Call(
                    start,
                    self.tick(),
                    cpu,
                    100 + cpu,
                    b"qemu",
                    rax,
                    before,
                    status,
                    args.as_tuple(),
                    b"sc_retry+0x3f",
                )
            )
            return status

        return recorded

    @property
    def calls(self) -> list[Call]:
        return [item for item in self.items if isinstance(item, Call)]


class SmallWorld(World):
    in_bulk = False


def world_of(
    recorder: Recorder, design: str = "merged", memory: str = "1GiB", boot: bool = True
) -> SmallWorld:
    """A world that has booted; ``boot``: whether the recording has that too."""
    scenario = scenario_from_text('title = "recorded"\n[host]\nmachine = "x"\n', "recorded")
    world = SmallWorld(scenario, Side("dynamic", "auto", design), machine_from_size(memory))
    if boot:
        recorder.watch(world)
    world.boot()
    if not boot:
        recorder.watch(world)
    return world


def td_of(world: World, mib: int = 8, vcpus: int = 2, share_2m: float = 0.0, number: int = 1) -> Td:
    """A TD that is built and uses all of its memory."""
    td = Td(world, TdGroup("t", 1, mib << 20, vcpus, share_2m, 1.0, 4 * PAGE_SIZE), number, "s")
    td.build()
    td.fault(1.0, lambda _ranges: None)
    return td


# Texts.


def _tail(names: Iterable[str], values: Iterable[int], prefix: str = "") -> str:
    return " ".join(f"{prefix}{name}={value:#x}" for name, value in zip(names, values, strict=True))


def events(items: Iterable[Call | PamtOp]) -> list[tuple[int, int, int, str, str, str]]:
    """(time, cpu, pid, comm, event, arguments) of begin and end of everything, in order of time."""
    found = []
    for item in items:
        head = (item.cpu, item.pid, item.comm.decode())
        assert item.start is not None
        if isinstance(item, Call):
            assert item.status is not None
            assert item.after is not None
            caller = item.caller.decode()
            begun = f"fn={item.rax:#x} {_tail(REGISTER_NAMES, item.before)} caller={caller}"
            found.append((item.start, *head, "seamcall_begin", begun))
            ended = f"status={item.status:#x} {_tail(REGISTER_NAMES, item.after)}"
            found.append((item.end, *head, "seamcall_end", ended))
        else:
            what = "put" if item.put else "get"
            caller = item.caller.decode()
            found.append(
                (item.start, *head, f"pamt_{what}_begin", f"pfn={item.pfn:#x} caller={caller}")
            )
            result = "ret=0" if item.result is None else f"ret={item.result}"
            found.append((item.end, *head, f"pamt_{what}_end", result))
    found.sort()
    return found


def _second(time: int, digits: int) -> str:
    whole, rest = divmod(time, 10**9)
    return f"{whole}.{rest // 10 ** (9 - digits):0{digits}d}"


def ftrace(items: Iterable[Call | PamtOp]) -> Iterator[str]:
    yield "# tracer: nop"
    yield "#"
    yield "#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION"
    for time, cpu, pid, comm, event, tail in events(items):
        yield (
            f"{comm:>16}-{pid:<7d} [{cpu:03d}] d..2. {_second(time, 6):>12}: {event}: "
            f"(__seamcall_ret+0x0/0x60) {tail}"
        )


def trace_cmd(items: Iterable[Call | PamtOp]) -> Iterator[str]:
    yield "cpus=2"
    for time, cpu, pid, comm, event, tail in events(items):
        yield (
            f"{comm:>16}-{pid:<5d} [{cpu:03d}] {_second(time, 9):>12}: {event + ':':21} "
            f"(ffffffff81001230) {tail}"
        )


def perf(items: Iterable[Call | PamtOp]) -> Iterator[str]:
    for time, cpu, pid, comm, event, tail in events(items):
        yield (
            f"{comm:>16} {pid:7d} [{cpu:03d}] {_second(time, 6):>12}: dpamt:{event}: "
            f"(ffffffff81001230 <- ffffffff81001234) {tail}"
        )
        yield "\tffffffff81001230 __seamcall_ret+0x0 ([kernel.kallsyms])"
        yield ""


def bpftrace(items: Iterable[Call | PamtOp]) -> Iterator[str]:
    yield "Attaching 7 probes..."
    yield "# dpamt trace: bpftrace"
    for item in items:
        assert item.start is not None
        head = f"{item.comm.decode()}-{item.pid} [{item.cpu:03d}] {_second(item.end, 9)}: "
        tail = f" ns={item.end - item.start} caller={item.caller.decode()}"
        if isinstance(item, Call):
            assert item.status is not None
            assert item.after is not None
            yield (
                f"{head}seamcall: fn={item.rax:#x} {_tail(REGISTER_NAMES, item.before)} "
                f"status={item.status:#x} {_tail(REGISTER_NAMES, item.after, 'out_')}{tail}"
            )
        else:
            result = "" if item.result is None else f" ret={item.result}"
            yield f"{head}pamt_{'put' if item.put else 'get'}: pfn={item.pfn:#x}{result}{tail}"


def bpftrace_json(items: Iterable[Call | PamtOp]) -> Iterator[str]:
    yield json.dumps({"type": "attached_probes", "data": {"probes": 7}})
    for line in list(bpftrace(items))[1:]:
        yield json.dumps({"type": "printf", "data": line + "\n"})


def boot_record(items: Iterable[Call | PamtOp]) -> Iterator[str]:
    yield json.dumps({"format": 1, "vmlinux": "vmlinux"})
    for number, call in enumerate(item for item in items if isinstance(item, Call)):
        assert call.start is not None
        assert call.status is not None
        assert call.after is not None
        yield json.dumps(
            BootCall(
                number,
                call.cpu,
                call.start / 1e9,
                call.end / 1e9,
                "__seamcall_ret",
                call.caller.decode(),
                call.rax,
                call.before,
                call.status,
                call.after,
            ).as_json()
        )


WRITERS = {
    "ftrace": ftrace,
    "trace-cmd": trace_cmd,
    "perf": perf,
    "bpftrace": bpftrace,
    "bpftrace-json": bpftrace_json,
    "boot": boot_record,
}


def as_bytes(lines: Iterable[str]) -> bytes:
    return "".join(line + "\n" for line in lines).encode()
