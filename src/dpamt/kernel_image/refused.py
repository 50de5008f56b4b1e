"""Instructions that no thread may run here, and why.

What a thread is between two steps are its general registers, its flags and its own memory.  So an
instruction is refused that keeps something elsewhere (vector, floating-point, control, debug and
segment registers, MXCSR, protection keys, shadow stacks), that asks what only a machine knows, or
that leaves what a thread may do by itself.

Source: Intel SDM volume 1, 3.4 "Basic Program Execution Registers"; volume 2.
"""

from collections.abc import Iterable
from typing import Final

LEAVES: Final = "leaves what a thread may do by itself"
UNORDERED: Final = "is a store that x86-TSO does not order"
VECTOR: Final = "uses vector or floating-point registers"
SYSTEM: Final = "uses a register that is no general one"
_LEAVES: Final = frozenset(
    {
        *("cpuid", "rdtsc", "rdtscp", "rdrand", "rdseed", "rdpmc", "in", "out", "hlt", "syscall"),
        *("sysret", "sysenter", "sysexit", "iret", "iretd", "iretq", "int", "int1", "int3", "into"),
        *("wrmsr", "rdmsr", "swapgs", "lgdt", "lidt", "lldt", "ltr", "invlpg", "wbinvd", "vmcall"),
        *("vmlaunch", "vmresume", "vmptrld", "clflush", "clflushopt", "clwb", "xsave"),
        *("seamcall", "tdcall", "monitor", "mwait", "xbegin", "xabort", "xend", "xtest", "ptwrite"),
        *("insb", "insw", "insd", "outsb", "outsw", "outsd", "invd", "wbnoinvd", "invpcid"),
        *("invept", "invvpid", "vmread", "vmwrite", "vmxon", "vmxoff", "vmclear", "vmptrst"),
        *("vmfunc", "vmmcall", "vmrun", "vmload", "vmsave", "stgi", "clgi", "skinit", "rsm"),
        *("encls", "enclu", "enclv", "getsec", "enqcmd", "enqcmds", "monitorx", "mwaitx"),
        *("umonitor", "umwait", "tpause", "cldemote", "clzero", "stac", "clac", "sysretq"),
        "xlatb",  # it reads memory, and capstone gives no operand for that
        "enter",  # it writes the stack, and capstone gives no operand for that
    }
)
_UNORDERED: Final = frozenset({"movnti", "movdiri"})
"""Stores that other stores overtake (SDM volume 3, 9.2.2; volume 2, MOVDIRI)."""
_VECTOR: Final = frozenset(
    {
        *("ldmxcsr", "stmxcsr", "vldmxcsr", "vstmxcsr", "emms", "wait", "vzeroupper", "vzeroall"),
        *("xsaveopt", "xsavec", "xsaves", "xsave64", "xsaveopt64", "xsavec64", "xsaves64"),
        *("xrstor", "xrstors", "xrstor64", "xrstors64"),
    }
)
"""Those that name none of their registers; so do all that begin with F."""
_SYSTEM: Final = frozenset(
    {
        *("sgdt", "sidt", "sldt", "str", "smsw", "lmsw", "clts", "lar", "lsl", "verr", "rdpid"),
        *("lds", "les", "lfs", "lgs", "lss", "rdfsbase", "rdgsbase", "wrfsbase", "wrgsbase"),
        *("xgetbv", "xsetbv", "rdpkru", "wrpkru", "rdsspd", "rdsspq", "incsspd", "incsspq"),
        *("wrssd", "wrssq", "wrussd", "wrussq", "saveprevssp", "rstorssp", "setssbsy", "clrssbsy"),
    }
)
_EIGHT: Final = ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp")
WHOLE: Final = {
    **{f"{size}{name}": f"r{name}" for name in _EIGHT for size in ("r", "e", "")},
    **{f"{letter}{part}": f"r{letter}x" for letter in "abcd" for part in "lh"},
    **{f"{name}l": f"r{name}" for name in _EIGHT[4:]},
    **{f"r{n}{part}": f"r{n}" for n in range(8, 16) for part in ("", "d", "w", "b")},
}
"""General registers and parts of them: the whole."""
GENERAL: Final = frozenset(WHOLE)
_VECTORS: Final = ("xmm", "ymm", "zmm", "st", "mm", "k", "tmm")


def why_refused(mnemonic: str, registers: Iterable[str]) -> str:
    """Why an instruction with these register operands may not run; empty: it may."""
    if mnemonic in _LEAVES:
        return LEAVES
    if mnemonic in _UNORDERED:
        return UNORDERED
    if mnemonic in _VECTOR or mnemonic.startswith("f"):
        return VECTOR
    others = [name for name in registers if name not in GENERAL]
    if any(name.startswith(_VECTORS) for name in others):
        return VECTOR
    return SYSTEM if others or mnemonic in _SYSTEM else ""
