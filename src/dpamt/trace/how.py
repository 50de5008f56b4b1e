"""How to record: the commands for each tracer, for a kernel version, with what they need.

Probed are ``__seamcall`` and ``__seamcall_ret`` (RDI = RAX of the call, RSI = struct
tdx_module_args: RCX, RDX, R8 to R13 at offsets 0 to 56), ``tdx_pamt_get`` and ``tdx_pamt_put``.
``__seamcall_saved_ret``, which makes TDH.VP.ENTER, is noinstr: no tracer may probe it.

Source: Linux arch/x86/virt/vmx/tdx/seamcall.S, arch/x86/include/asm/shared/tdx.h,
Documentation/trace/kprobetrace.rst: more than one function an event since 5.4; ``$argN`` in return
probes, read when the function returns, since 6.9.
"""

import re
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
_SEAMCALLS: Final = ("__seamcall", "__seamcall_ret")
_VERSION: Final = re.compile(r"(\d{1,3})\.(\d{1,4})(?:[.\-+~].{0,80})?")

_TRACEFS: Final = "/sys/kernel/tracing"
_BUFFER_KB: Final = 65536


def parse_kernel(text: str) -> Version:
    """``7.4``, or what ``uname -r`` prints.  Raises InputError for anything else."""
    match = _VERSION.fullmatch(text.strip())
    if match is None:
        raise InputError(f"--kernel {text!r}: expected a version such as 7.4, or uname -r")
    return int(match[1]), int(match[2])


def how(tool: str, kernel: Version = DEFAULT_KERNEL, counts: bool = True) -> str:
    """The script of a tool, what it needs as comments in it; ``counts``: with gets and puts, whose
    argument is a pfn.

    Raises InputError for a kernel that the tool cannot record this on.
    """
    if tool == "drgn":
        return (files("dpamt.trace") / "drgn_counts.py").read_text(encoding="utf-8")
    if tool == "bpftrace":
        first, rest = _bpftrace(counts).split("\n", 1)
        return "\n".join([first, *_remarks(kernel, counts, True, "// ")]) + "\n" + rest
    if kernel < _EVENTS_OF_TWO:
        raise InputError(
            f"--how {tool}: Linux {kernel[0]}.{kernel[1]} has one function an event; expected 5.4 "
            "or later, or --how bpftrace"
        )
    outputs = kernel >= _RETURN_ARGUMENTS
    setup, end = _probes(outputs, counts), _end(counts)
    body = {"ftrace": _FTRACE, "trace-cmd": _TRACE_CMD, "perf": _PERF}[tool]
    remarks = _remarks(kernel, counts, outputs, "# ")
    lines = ["#!/bin/sh", _ABOUT[tool], *remarks, "set -eu", *setup, *body, *end]
    return "\n".join(lines) + "\n"


def _remarks(kernel: Version, counts: bool, outputs: bool, mark: str) -> list[str]:
    found = [
        "Run it as root.  The kernel needs CONFIG_KPROBES (and CONFIG_KPROBE_EVENTS, for bpftrace "
        "CONFIG_BPF_SYSCALL).",
        "TDH.VP.ENTER is not recorded: its function is noinstr.",
    ]
    if not outputs:
        found.append(
            f"Linux {kernel[0]}.{kernel[1]} cannot read arguments at a function's return, 6.9 can: "
            "single pages are not followed; bpftrace has no such limit."
        )
    if counts:
        found.append(
            "tdx_pamt_get() and tdx_pamt_put() take a pfn since the v6 series; for v2 to v5, where "
            "they take a struct page, use --no-counts."
        )
    return [
        line
        for text in found
        for line in wrap(text, 96, initial_indent=mark, subsequent_indent=mark)
    ]


def _probes(outputs: bool, counts: bool) -> list[str]:
    """Definitions for kprobe_events."""
    at = {name: 8 * index for index, name in enumerate(REGISTER_NAMES)}
    before = " ".join(f"{name}=+{offset}(%si):x64" for name, offset in at.items())
    after = " ".join(f"{name}=+{offset}($arg2):x64" for name, offset in at.items())
    lines = []
    for function in _SEAMCALLS:
        lines.append(f"p:dpamt/seamcall_begin {function} fn=%di:x64 {before}")
        ended = f"r512:dpamt/seamcall_end {function} status=$retval:x64"
        lines.append(f"{ended} {after}" if outputs else ended)
    if counts:
        for what in ("get", "put"):
            lines.append(f"p:dpamt/pamt_{what}_begin tdx_pamt_{what} pfn=%di:x64")
            ret = "ret=$retval:s32"
            lines.append(f"r512:dpamt/pamt_{what}_end tdx_pamt_{what} {ret}")
    return [
        "trap : INT",
        f"cd {_TRACEFS}",
        *_end(counts),
        *(f"echo '{line}' >> kprobe_events" for line in lines),
    ]


def _end(counts: bool) -> list[str]:
    names = ["seamcall_begin", "seamcall_end"]
    if counts:
        names += [f"pamt_{what}_{side}" for what in ("get", "put") for side in ("begin", "end")]
    return [f"echo '-:dpamt/{name}' 2>/dev/null >> kprobe_events || true" for name in names]


_ABOUT: Final = {
    "ftrace": "# Records into trace.txt until Enter is pressed: dpamt trace trace.txt",
    "trace-cmd": "# Records into trace.dat until Ctrl-C, then turns it into trace.txt.",
    "perf": "# Records into perf.data until Ctrl-C, then turns it into trace.txt.",
}
_FTRACE: Final = (
    f"echo {_BUFFER_KB} > buffer_size_kb",
    "echo 1 > events/dpamt/enable",
    'cat trace_pipe > "$OLDPWD/trace.txt" &',
    "reader=$!",
    "read -r _",
    "echo 0 > events/dpamt/enable",
    "sleep 1",
    "kill $reader",
)
_TRACE_CMD: Final = (
    'cd "$OLDPWD"',
    f"trace-cmd record -b {_BUFFER_KB} -e dpamt -o trace.dat || true",
    "trace-cmd report -t -i trace.dat > trace.txt",
    f"cd {_TRACEFS}",
)
_PERF: Final = (
    'cd "$OLDPWD"',
    "perf record -a -m 16M -e 'dpamt:*' -o perf.data || true",
    "perf script -i perf.data --show-lost-events --ns -F comm,tid,cpu,time,event,trace > trace.txt",
    f"cd {_TRACEFS}",
)


def _bpftrace(counts: bool) -> str:
    """Each line is one printf(): what two print may have another CPU's line in between."""
    offsets = [8 * index for index in range(len(REGISTER_NAMES))]
    registers = " ".join(f"{name}=0x%llx" for name in REGISTER_NAMES)
    both = [", ".join(f"{kind}:{one}" for one in _SEAMCALLS) for kind in ("kprobe", "kretprobe")]
    lines = [
        "#!/usr/bin/env bpftrace",
        "// bpftrace dpamt.bt > trace.txt, until Ctrl-C: dpamt trace trace.txt",
        'BEGIN { printf("# dpamt trace: bpftrace\\n"); }',
        "",
        both[0],
        "{",
        "  @args[tid] = arg1;",
        f'  printf("{_HEAD}seamcall_begin: fn=0x%llx {registers}\\n",',
        f"    {_WHO}, arg0,",
        "    " + ", ".join(f"*(uint64 *)(arg1 + {offset})" for offset in offsets) + ");",
        "}",
        "",
        both[1] + " /@args[tid]/",
        "{",
        "  $args = @args[tid];",
        f'  printf("{_HEAD}seamcall_end: status=0x%llx {registers} caller=%s\\n",',
        f"    {_WHO}, retval,",
        "    " + ", ".join(f"*(uint64 *)($args + {offset})" for offset in offsets) + ",",
        '    ksym(reg("ip")));',
        "  delete(@args[tid]);",
        "}",
    ]
    if counts:
        lines += [
            "",
            "kprobe:tdx_pamt_get, kprobe:tdx_pamt_put { @op[tid] = nsecs; @pfn[tid] = arg0; }",
        ]
        for what, ret, value in (("get", " ret=%d", ", (int32)retval"), ("put", "", "")):
            lines += [
                f"kretprobe:tdx_pamt_{what} /@op[tid]/",
                "{",
                f'  printf("{_HEAD}pamt_{what}: pfn=0x%llx{ret} ns=%llu caller=%s\\n",',
                f'    {_WHO}, @pfn[tid]{value}, nsecs - @op[tid], ksym(reg("ip")));',
                "  delete(@op[tid]); delete(@pfn[tid]);",
                "}",
            ]
    maps = ["args", *(("op", "pfn") if counts else ())]
    lines += ["", "END { " + " ".join(f"clear(@{name});" for name in maps) + " }"]
    return "\n".join(lines) + "\n"


_HEAD: Final = "%s-%d [%03d] %llu.%09llu: "
_WHO: Final = "comm, tid, cpu, nsecs / 1000000000, nsecs % 1000000000"
