"""Why TDX does not come up: the lines that show it, the cause and the next step.  One table.

`dpamt plan` and `dpamt decode` both read it.  A row's ``pattern`` is searched in a line of the log
without its prefix.  Rows are tried in their order, and the first that fits a line counts.  Where
a log shows several rows, the one with the lowest ``rank`` is reported, for one failure drags others
behind it (a SEAMCALL that fails, then "initialization failed (-5)", then KVM's own line).

Sources: Linux arch/x86/virt/vmx/tdx/tdx.c, 6.7 to 7.3, with the series that led to it (v6 of 2022
to v14 of 2023, whose wordings downstream kernels 5.15 to 6.5 kept); arch/x86/kvm/vmx/tdx.c, 6.16 to
7.3; arch/x86/kernel/cpu/intel.c (x86/tme, x86/mktme); reports: canonical/tdx issues 33, 83, 102,
135, 260, 331, 382, intel/td-partitioning issue 1.
"""

import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Cause:
    """A row: ``why`` and ``next_step`` are whole sentences without their full stops."""

    key: str
    pattern: str
    why: str
    next_step: str
    source: str
    rank: int = 1
    """0: names the reason; 1: names the step that failed; 2: only says that it failed."""
    fatal: bool = True
    """Whether TDX does not come up because of it."""
    for_ever: bool = False
    """Whether no step makes it come up on this machine."""


_CORE: Final = "arch/x86/virt/vmx/tdx/tdx.c"
_KVM: Final = "arch/x86/kvm/vmx/tdx.c"

_BIOS_STEPS: Final = (
    "turn on TME, TME-MT, TDX and the SEAM loader in the BIOS, give TDX at least two KeyIDs, "
    "populate memory as the maker asks for TDX, then boot cold"
)

CAUSES: Final[tuple[Cause, ...]] = (
    Cause(
        "not-intel",
        r"CPU0: +(?:AMD|Hygon|Centaur|Shanghai)",
        "the processor is not one of Intel's, and TDX is",
        "take the log of a machine with an Intel processor that has TDX; for a machine of this "
        "size give the size instead of the log, such as 64GiB",
        "arch/x86/kernel/cpu/common.c, print_cpu_info(), at boot for CPU 0",
        0,
        for_ever=True,
    ),
    Cause(
        "reserved-areas",
        r"reserved areas exhausted",
        "a TDMR needs more reserved areas than the TDX module takes (16): the memory map has too "
        "many small holes",
        "take a kernel with the patch of 2024 that looks for holes between CMRs instead of between "
        "memory blocks (\"x86/virt/tdx: Reduce TDMR's reserved areas by using CMRs to find memory "
        'holes"); a firmware update or fewer firmware-reserved areas help as well',
        f"{_CORE}, tdmr_add_rsvd_area()",
        0,
    ),
    Cause(
        "tdmrs-exhausted",
        r"TDMRs exhausted",
        "memory is in more pieces of 1 GiB and more than the TDX module has TDMRs (64)",
        "take out or disable memory that makes islands in the address map, or join it in the BIOS "
        "(no NUMA clustering, no mirroring)",
        f"{_CORE}, fill_out_tdmrs()",
        0,
    ),
    Cause(
        "bios-off",
        r"TDX is not enabled by BIOS|tdx: not enabled by BIOS|SEAMCALL failed: #GP",
        "a SEAMCALL ended in #GP: the BIOS has given out KeyIDs but has not turned TDX (SEAM) on",
        _BIOS_STEPS,
        f"{_CORE}, seamcall(): TDX_SEAMCALL_GP; canonical/tdx issues 33 and 102",
        0,
    ),
    Cause(
        "no-module",
        r"module (?:is )?not loaded|TDX module is not loaded",
        "the TDX module is not loaded: SEAMCALL ended in VMfailInvalid",
        "turn on the SEAM loader in the BIOS, or put a TDX module (TDX-SEAM.so and its "
        "signature) where the boot loader looks for it; then boot cold",
        f"{_CORE}, seamcall(): TDX_SEAMCALL_VMFAILINVALID",
        0,
    ),
    Cause(
        "not-in-vmx",
        r"CPU (?:\d+ )?is not in VMX operation|SEAMCALL failed: #UD",
        "a CPU was not in VMX operation when it made a SEAMCALL",
        "turn on VMX in the BIOS, and let kvm_intel turn virtualization on when it is loaded "
        "(kvm.enable_virt_at_load=1)",
        f"{_CORE}, seamcall(): TDX_SEAMCALL_UD",
        0,
    ),
    Cause(
        "few-keyids",
        r"too few private KeyIDs available",
        "the BIOS gives TDX fewer than two KeyIDs: one is the module's own, none is left for a TD",
        "raise the TME-MT/TDX key split in the BIOS",
        f"{_CORE}, tdx_init()",
        0,
    ),
    Cause(
        "hibernation",
        r"Hibernation support is enabled",
        "hibernation is possible on this kernel, and TDX cannot live with it",
        "boot with nohibernate on the kernel's command line",
        f"{_CORE}, tdx_init(), hibernation_available()",
        0,
    ),
    Cause(
        "rbp",
        r"frame pointer \(RBP\) clobber bug present",
        "this TDX module destroys RBP (TDX_FEATURES0 bit 18 is not set), and Linux refuses it",
        "update the TDX module to 1.5.06 or later",
        f"{_CORE}, check_features()",
        0,
    ),
    Cause(
        "memory-notifier",
        r"register_memory_notifier\(\) failed",
        "Linux could not register for memory hot-plug",
        "look for the lines before it in the whole log",
        f"{_CORE}, tdx_init()",
        0,
    ),
    Cause(
        "no-keyids",
        r"no TDX private KeyIDs available",
        "the BIOS gives TDX no KeyIDs",
        _BIOS_STEPS,
        f"{_KVM}, tdx_bringup()",
        0,
    ),
    Cause(
        "not-supported",
        r"TDX (?:is )?not supported by the host platform|TDX not supported by the host",
        "the kernel's early TDX set-up did not succeed, so KVM finds no TDX host",
        "read the tdx: lines of the early boot above it; without any, " + _BIOS_STEPS,
        f"{_KVM}, tdx_bringup(): X86_FEATURE_TDX_HOST_PLATFORM",
        1,
    ),
    Cause(
        "kvm-needs",
        r"(?:EPT|TDP MMU and MMIO caching(?: and EPT A/D bit)?|APICv|OSXSAVE|XSAVE|MOVDIR64B|"
        r"[Ss]elf-snoop) (?:is|are) required for TDX|requires kvm\.enable_virt_at_load=1",
        "KVM was loaded without something that TDX needs; the line names it",
        "load kvm and kvm_intel with it turned on (ept=1, enable_apicv=1, kvm.tdp_mmu=1, "
        "kvm.mmio_caching=1, kvm.enable_virt_at_load=1), or turn it on in the BIOS",
        f"{_KVM}, tdx_bringup()",
        0,
    ),
    Cause(
        "tme-off",
        r"x86/(?:tme|mktme): (?:not enabled|disabled) by BIOS",
        "memory encryption (TME, TME-MT) is off in the BIOS, and TDX is built on it",
        _BIOS_STEPS,
        "arch/x86/kernel/cpu/intel.c, detect_tme()",
        1,
    ),
    Cause(
        "seamcall",
        r"SEAMCALL.{0,60}failed: .*0x[0-9a-fA-F]+|SEAMCALL failed: (?:CPU \d+: )?leaf",
        "a SEAMCALL failed; its line names the leaf and the status",
        "read what dpamt decode says of leaf and status",
        f"{_CORE}, seamcall_err(); {_KVM}, pr_tdx_error()",
        1,
        fatal=False,
    ),
    Cause(
        "seamcall-init",
        r"^(?!)",
        "a SEAMCALL of the module's initialisation (TDH.SYS.*) failed; its line names the leaf and "
        "the status",
        "read what dpamt decode says of leaf and status; a TDX module or BIOS that is too old is "
        "the usual reason: update both",
        f"{_CORE}, seamcall_err()",
        1,
    ),
    Cause(
        "failed",
        r"tdx: (?i:(?:TDX[- ])?module )?initialization failed|"
        r"Failed to initialize (?:the )?TDX module",
        "the initialisation of the TDX module failed",
        "look at the tdx: lines before it; if there are none, take the whole dmesg",
        f"{_CORE}, tdx_enable(); {_KVM}, __tdx_bringup()",
        2,
    ),
)

ERRNO_WHY: Final[dict[int, tuple[str, str]]] = {
    -5: (
        "a SEAMCALL failed during initialisation (EIO)",
        "give the SEAMCALL line before it to dpamt decode; a module of 2023 or older is the usual "
        "reason: update it",
    ),
    -12: (
        "Linux could not allocate memory, most likely for PAMT (ENOMEM)",
        "boot with more free memory, and initialise TDX at boot rather than later",
    ),
    -13: (
        "a CPU was not in VMX operation (EACCES)",
        "load kvm_intel first, with virtualization turned on at load",
    ),
    -16: ("something else was using the TDX module (EBUSY)", "boot again"),
    -19: (
        "the TDX module does not answer (ENODEV): not loaded, or TDX is off in the BIOS",
        _BIOS_STEPS,
    ),
    -22: ("Linux refused what the TDX module says of itself (EINVAL)", "update the TDX module"),
    -28: (
        "TDMRs or their reserved areas ran out (ENOSPC)",
        "look for the line before it that "
        "names the TDMR; a kernel that looks for holes between CMRs (patch of 2024) needs fewer",
    ),
    -95: ("SEAMCALL ended in #GP (EOPNOTSUPP): TDX is off in the BIOS", _BIOS_STEPS),
}
"""By the number in "initialization failed (-N)": why, and the next step.

Source: Linux arch/x86/virt/vmx/tdx/tdx.c, 6.7 to 7.3.
"""

TOO_OLD: Final = Cause(
    "module-too-old",
    "",
    "TDX module 1.0 does not know the metadata fields that Linux reads (TDH.SYS.RD)",
    "update the TDX module, with the BIOS or as a file, to 1.5 or later",
    f"{_CORE}, get_tdx_sys_info(); canonical/tdx issue 331",
    0,
)
"""Known from the version, not from a line of its own."""

UNTRIED: Final = Cause(
    "not-tried",
    "",
    "the BIOS gives KeyIDs, but nothing in this log says that Linux then initialised the module",
    "before Linux 7.0 KVM does it: load kvm_intel with tdx=1 and boot with nohibernate; then look "
    "again for a line on the TDX module, and check the SEAM loader in the BIOS",
    f"{_CORE}; canonical/tdx issues 260 and 382",
    2,
    fatal=False,
)

GUEST: Final = re.compile(
    r"tdx: Guest detected|Memory Encryption Features active: (?:Intel )?TDX|"
    r"tdx: Guest initialized|Detected confidential virtualization tdx"
)
"""Lines of a TD guest's kernel (arch/x86/coco/tdx/tdx.c, arch/x86/mm/mem_encrypt.c; the last is
systemd's)."""

_COMPILED: Final = tuple((re.compile(cause.pattern), cause) for cause in CAUSES)
_ERRNO: Final = re.compile(r"(?:initialization failed|TDX module) \((-\d{1,4})\)")


def cause_of(text: str) -> Cause | None:
    """The row that a line of a log shows, if any."""
    if not any(mark in text for mark in ("TDX", "tdx", "tme", "SEAMCALL", "CPU0:")):
        return None
    for pattern, cause in _COMPILED:
        if pattern.search(text):
            return cause
    return None


def errno_of(text: str) -> int | None:
    """The negative errno of "initialization failed (-N)"."""
    match = _ERRNO.search(text)
    return int(match[1]) if match else None
