"""How to record: the commands for each tracer, for a kernel version, with what they need.

Probed are ``__seamcall`` and ``__seamcall_ret`` (RDI = RAX of the call, RSI = struct
tdx_module_args: RCX, RDX, R8 to R13 at offsets 0 to 56), ``tdx_pamt_get`` and ``tdx_pamt_put``.
``__seamcall_saved_ret``, which makes TDH.VP.ENTER, is noinstr: no tracer may probe it.

Source: Linux arch/x86/virt/vmx/tdx/seamcall.S, arch/x86/include/asm/shared/tdx.h,
Documentation/trace/kprobetrace.rst: more than one function an event since 5.4; ``$argN`` in return
probes, read when the function returns, since 6.9; include/trace/events/lock.h: since 5.19.  Fprobes
are no way: they need the call to the function tracer at a function's beginning, and ``__seamcall``
is written in assembler and has none.
"""

import re
from dataclasses import dataclass
from importlib.resources import files
from textwrap import wrap
from typing import Final

from dpamt.abi.registers import REGISTER_NAMES
from dpamt.errors import InputError

TOOLS: Final = ("bpftrace", "ftrace", "trace-cmd", "perf", "drgn")

Version = tuple[int, int]
DEFAULT_KERNEL: Final = (7, 4)
_EVENTS_OF_TWO: Final = (5, 4)
_RETURN_ARGUMENTS: Final = (6, 9)
_CONTENTION: Final = (5, 19)
_PLAIN: Final = "__seamcall"
_RETURNS: Final = "__seamcall_ret"
"""The first leaves the structure as it is, the second stores the registers after the call in it."""
_VERSION: Final = re.compile(r"(\d{1,3})\.(\d{1,4})(?:[.\-+~].{0,80})?")

_TRACEFS: Final = "/sys/kernel/tracing"
_BUFFER_KB: Final = 65536


def parse_kernel(text: str) -> Version:
    """``7.4``, or what ``uname -r`` prints.  Raises InputError for anything else."""
    match = _VERSION.fullmatch(text.strip())
    if match is None:
        raise InputError(f"--kernel {text!r}: expected a version such as 7.4, or uname -r")
    return int(match[1]), int(match[2])


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is recorded beside the SEAMCALLs, on which kernel."""

    kernel: Version = DEFAULT_KERNEL
    counts: bool = True
    """Gets and puts, whose argument is a pfn."""
    stacks: bool = False
    """The stack of each begin."""
    locks: bool = False
    """Waits for the lock of gets and puts."""

    @property
    def outputs(self) -> bool:
        """Whether a kprobe event can read arguments at a function's return."""
        return self.kernel >= _RETURN_ARGUMENTS


def how(tool: str, wanted: Wanted | None = None) -> str:
    """The script of a tool, what it needs as comments in it.

    Raises InputError for a kernel that the tool cannot record this on.
    """
    wanted = Wanted() if wanted is None else wanted
    kernel = wanted.kernel
    if tool == "drgn":
        return (files("dpamt.trace") / "drgn_counts.py").read_text(encoding="utf-8")
    if wanted.locks and kernel < _CONTENTION:
        raise InputError(
            f"--locks: Linux {kernel[0]}.{kernel[1]} has no lock:contention_begin; expected 5.19 "
            "or later"
        )
    if wanted.locks and not wanted.counts:
        raise InputError("--locks and --no-counts: expected one of them; waits are those of gets")
    if wanted.stacks and tool == "trace-cmd":
        raise InputError(
            "--how trace-cmd --stacks: its report shows eight frames of a stack, seven of them the "
            "probe's own; expected ftrace, perf or bpftrace with --stacks"
        )
    if tool == "bpftrace":
        first, rest = _bpftrace(wanted).split("\n", 1)
        return "\n".join([first, *_remarks(wanted, True, "// ")]) + "\n" + rest
    if kernel < _EVENTS_OF_TWO:
        raise InputError(
            f"--how {tool}: Linux {kernel[0]}.{kernel[1]} has one function an event; expected 5.4 "
            "or later, or --how bpftrace"
        )
    body = {"ftrace": _ftrace, "trace-cmd": _trace_cmd, "perf": _perf}[tool](wanted)
    remarks = _remarks(wanted, wanted.outputs, "# ")
    lock = _FIND_LOCK if wanted.locks else ()
    lines = ["#!/bin/sh", _ABOUT[tool], *remarks, "set -eu", *lock, *_probes(wanted), *body]
    return "\n".join([*lines, *_end(wanted.counts)]) + "\n"


def _remarks(wanted: Wanted, outputs: bool, mark: str) -> list[str]:
    found = [
        "Run it as root.  The kernel needs CONFIG_KPROBES (and CONFIG_KPROBE_EVENTS, for bpftrace "
        "CONFIG_BPF_SYSCALL and CONFIG_BPF_EVENTS).",
        "TDH.VP.ENTER is not recorded: its function is noinstr.",
    ]
    if not outputs:
        found.append(
            f"Linux {wanted.kernel[0]}.{wanted.kernel[1]} cannot read arguments at a function's "
            "return, 6.9 can: single pages are not followed; bpftrace has no such limit."
        )
    if wanted.counts:
        found.append(
            "tdx_pamt_get() and tdx_pamt_put() take a pfn since the v6 series; for v2 to v5, where "
            "they take a struct page, use --no-counts."
        )
    return [
        line
        for text in found
        for line in wrap(text, 96, initial_indent=mark, subsequent_indent=mark)
    ]


def _probes(wanted: Wanted) -> list[str]:
    """Definitions for kprobe_events."""
    at = {name: 8 * index for index, name in enumerate(REGISTER_NAMES)}
    before = " ".join(f"{name}=+{offset}(%si):x64" for name, offset in at.items())
    after = " ".join(f"{name}=+{offset}($arg2):x64" for name, offset in at.items())
    lines = [f"p:dpamt/seamcall_begin {name} fn=%di:x64 {before}" for name in (_PLAIN, _RETURNS)]
    status = "status=$retval:x64"
    lines.append(f"r512:dpamt/seamcall_done {_PLAIN} {status}")
    ended = f"r512:dpamt/seamcall_end {_RETURNS} {status}"
    lines.append(f"{ended} {after}" if wanted.outputs else ended)
    if wanted.counts:
        for what in ("get", "put"):
            lines.append(f"p:dpamt/pamt_{what}_begin tdx_pamt_{what} pfn=%di:x64")
            ret = "ret=$retval:s32"
            lines.append(f"r512:dpamt/pamt_{what}_end tdx_pamt_{what} {ret}")
    return [
        "trap : INT",
        f"cd {_TRACEFS}",
        *_end(wanted.counts),
        *(f"echo '{line}' >> kprobe_events" for line in lines),
    ]


def _end(counts: bool) -> list[str]:
    names = ["seamcall_begin", "seamcall_done", "seamcall_end"]
    if counts:
        names += [f"pamt_{what}_{side}" for what in ("get", "put") for side in ("begin", "end")]
    return [f"echo '-:dpamt/{name}' 2>/dev/null >> kprobe_events || true" for name in names]


def _begins(counts: bool) -> list[str]:
    return ["seamcall_begin", *(("pamt_get_begin", "pamt_put_begin") if counts else ())]


_ABOUT: Final = {
    "ftrace": "# Records into trace.txt until Enter is pressed: dpamt trace trace.txt",
    "trace-cmd": "# Records into trace.dat until Ctrl-C, then turns it into trace.txt.",
    "perf": "# Records into perf.data until Ctrl-C, then turns it into trace.txt.",
}
_FIND_LOCK: Final = (
    'lock=0x$(awk \'$3 == "dpamt_lock" || $3 == "pamt_lock" { print $1; exit }\' /proc/kallsyms)',
    'test "$lock" != 0x || { echo "no dpamt_lock in /proc/kallsyms" >&2; exit 1; }',
)
_OPTIMIZED: Final = "/proc/sys/debug/kprobes-optimization"
_UNOPTIMIZED: Final = (
    "# An optimised kprobe runs where no stack can be followed: off meanwhile.",
    f"optimized=$(cat {_OPTIMIZED} 2>/dev/null || true)",
    f'test "$optimized" != 1 || echo 0 > {_OPTIMIZED}',
)
_OPTIMIZED_AGAIN: Final = f'test "$optimized" != 1 || echo 1 > {_OPTIMIZED}'
_CONTENTIONS: Final = ("contention_begin", "contention_end")


def _ftrace(wanted: Wanted) -> list[str]:
    triggers = [f"events/dpamt/{name}/trigger" for name in _begins(wanted.counts)]
    locks = [f"events/lock/{name}" for name in _CONTENTIONS] if wanted.locks else []
    return [
        f"echo {_BUFFER_KB} > buffer_size_kb",
        *(_UNOPTIMIZED if wanted.stacks else ()),
        *(f"echo stacktrace > {name}" for name in triggers if wanted.stacks),
        *(f'echo "lock_addr == $lock" > {name}/filter' for name in locks),
        *(f"echo 1 > {name}/enable" for name in locks),
        "echo 1 > events/dpamt/enable",
        'cat trace_pipe > "$OLDPWD/trace.txt" &',
        "reader=$!",
        "read -r _",
        "echo 0 > events/dpamt/enable",
        *(f"echo 0 > {name}/enable" for name in locks),
        *(f"echo 0 > {name}/filter" for name in locks),
        *(f"echo '!stacktrace' > {name}" for name in triggers if wanted.stacks),
        *([_OPTIMIZED_AGAIN] if wanted.stacks else []),
        "sleep 1",
        "kill $reader",
    ]


def _trace_cmd(wanted: Wanted) -> list[str]:
    events = ["-e dpamt"]
    if wanted.locks:
        events += [f'-e lock:{name} -f "lock_addr == $lock"' for name in _CONTENTIONS]
    return [
        'cd "$OLDPWD"',
        f"trace-cmd record -b {_BUFFER_KB} {' '.join(events)} -o trace.dat || true",
        "trace-cmd report -t -i trace.dat > trace.txt",
        f"cd {_TRACEFS}",
    ]


def _perf(wanted: Wanted) -> list[str]:
    events = ["-e 'dpamt:*'"]
    if wanted.locks:
        events += [f'-e lock:{name} --filter "lock_addr == $lock"' for name in _CONTENTIONS]
    stacks, fields = (" -g", ",ip,sym") if wanted.stacks else ("", "")
    return [
        'cd "$OLDPWD"',
        f"perf record -a -m 16M{stacks} {' '.join(events)} -o perf.data || true",
        "perf script -i perf.data --show-lost-events --ns "
        f"-F comm,tid,cpu,time,event,trace{fields} > trace.txt",
        f"cd {_TRACEFS}",
    ]


def _bpftrace(wanted: Wanted) -> str:
    """Each line is one printf(): what two print may have another CPU's line in between."""
    offsets = [8 * index for index in range(len(REGISTER_NAMES))]
    registers = " ".join(f"{name}=0x%llx" for name in REGISTER_NAMES)
    stack, frames = ("%s", ", kstack(12)") if wanted.stacks else ("", "")
    values = "    " + ", ".join(f"*(uint64 *)({{}} + {offset})" for offset in offsets)
    lines = [
        "#!/usr/bin/env bpftrace",
        "// bpftrace dpamt.bt > trace.txt, until Ctrl-C: dpamt trace trace.txt",
        'BEGIN { printf("# dpamt trace: bpftrace\\n"); }',
        "",
        f"kprobe:{_PLAIN}, kprobe:{_RETURNS}",
        "{",
        "  @args[tid] = arg1;",
        f'  printf("{_HEAD}seamcall_begin: fn=0x%llx {registers}{stack}\\n",',
        f"    {_WHO}, arg0,",
        values.replace("{}", "arg1") + f"{frames});",
        "}",
        "",
        f"kretprobe:{_PLAIN} /@args[tid]/",
        "{",
        f'  printf("{_HEAD}seamcall_done: status=0x%llx caller=%s\\n",',
        f'    {_WHO}, retval, ksym(reg("ip")));',
        "  delete(@args[tid]);",
        "}",
        f"kretprobe:{_RETURNS} /@args[tid]/",
        "{",
        "  $args = @args[tid];",
        f'  printf("{_HEAD}seamcall_end: status=0x%llx {registers} caller=%s\\n",',
        f"    {_WHO}, retval,",
        values.replace("{}", "$args") + ",",
        '    ksym(reg("ip")));',
        "  delete(@args[tid]);",
        "}",
    ]
    maps = ["args", *(("op", "pfn") if wanted.counts else ())]
    waited, waits = "", ""
    if wanted.locks:
        waited, waits = " waited=%llu", ", @waited[tid]"
        maps += ["wait", "waited"]
        lines += [
            "",
            "tracepoint:lock:contention_begin /@op[tid]/ { @wait[tid] = nsecs; }",
            "tracepoint:lock:contention_end /@wait[tid]/",
            "{ @waited[tid] = @waited[tid] + nsecs - @wait[tid]; delete(@wait[tid]); }",
        ]
    if wanted.counts:
        lines += [
            "",
            "kprobe:tdx_pamt_get, kprobe:tdx_pamt_put { @op[tid] = nsecs; @pfn[tid] = arg0; }",
        ]
        for what, ret, value in (("get", " ret=%d", ", (int32)retval"), ("put", "", "")):
            text = f"pamt_{what}: pfn=0x%llx{ret} ns=%llu{waited} caller=%s{stack}"
            forget = " delete(@waited[tid]);" if wanted.locks else ""
            lines += [
                f"kretprobe:tdx_pamt_{what} /@op[tid]/",
                "{",
                f'  printf("{_HEAD}{text}\\n",',
                f"    {_WHO}, @pfn[tid]{value}, nsecs - @op[tid]{waits},",
                f'    ksym(reg("ip")){frames});',
                f"  delete(@op[tid]); delete(@pfn[tid]);{forget}",
                "}",
            ]
    lines += ["", "END { " + " ".join(f"clear(@{name});" for name in maps) + " }"]
    return "\n".join(lines) + "\n"


_HEAD: Final = "%s-%d [%03d] %llu.%09llu: "
_WHO: Final = "comm, tid, cpu, nsecs / 1000000000, nsecs % 1000000000"
