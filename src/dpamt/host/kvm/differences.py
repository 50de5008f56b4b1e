"""The SEAMCALLs of the model's KVM held against those of a real one, phase by phase.

Two runs of one scenario make the same SEAMCALLs, except what depends on time and on the page
allocator.  Each such row has its reason here, with the function of the kernel that it comes from,
and the direction in which it may differ; a row without a reason is one that nobody has explained.

A reason cannot hide a loss: :func:`broken_laws` balances the calls of each run by itself, whatever
the other one did.

Source: Linux 7.3.4 arch/x86/kvm/vmx/tdx.c, arch/x86/virt/vmx/tdx/tdx.c, virt/kvm/kvm_main.c.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dpamt.abi.status import TDX_OPERAND_BUSY, TDX_SUCCESS, TDX_VCPU_NOT_ASSOCIATED, status_name

Counts = Mapping[tuple[str, str], int]
"""(Leaf, status) to how often; VP.ENTER's status has the exit reason behind a comma."""

PAIRS: Final = "page pairs"
TDS: Final = "TDs"
GUEST_PAGES: Final = "guest pages"
SEPT_PAGES: Final = "S-EPT pages"
CONTROL_PAGES: Final = "control pages"
PAGES: Final = (GUEST_PAGES, SEPT_PAGES, CONTROL_PAGES)

_OK: Final = status_name(TDX_SUCCESS)
_OWN_ACCORD: Final = (", TDCALL", ", HLT", ", EXTERNAL_INTERRUPT")
_BUSY: Final = status_name(TDX_OPERAND_BUSY)
_NOT_ASSOCIATED: Final = status_name(TDX_VCPU_NOT_ASSOCIATED)


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase of a run: its SEAMCALLs, and what there is at its end."""

    name: str
    counts: Counts
    ends: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that is not the same; ``because`` is empty where nobody has explained it."""

    phase: str
    what: str
    model: int
    kernel: int
    because: str

    def __str__(self) -> str:
        told = self.because or "not explained"
        return f"{self.phase}: {self.what}: model {self.model}, kernel {self.kernel}: {told}"


@dataclass(frozen=True, slots=True)
class _Reason:
    """Why rows of some leaves differ: ``applies`` has (status, model's count, kernel's)."""

    leaves: tuple[str, ...]
    applies: Callable[[str, int, int], bool]
    because: str


_REASONS: Final = (
    _Reason(
        ("TDH.PHYMEM.PAMT.ADD", "TDH.PHYMEM.PAMT.REMOVE", PAIRS),
        lambda status, model, kernel: status in ("", _OK),
        "which 2M regions pages come from is the page allocator's (tdx_pamt_get, tdx_pamt_put)",
    ),
    _Reason(
        ("TDH.VP.FLUSH",),
        lambda status, model, kernel: kernel > model and status in (_OK, _NOT_ASSOCIATED),
        "a VCPU's thread went to another CPU (tdx_vcpu_load, tdx_flush_vp_on_cpu)",
    ),
    _Reason(
        ("TDH.VP.ENTER",),
        lambda status, model, kernel: status.endswith(_OWN_ACCORD),
        "guests that ask for their work by TDVMCALLs, and interrupts of the host "
        "(tdx_handle_exit: handle_tdvmcall, EXIT_REASON_EXTERNAL_INTERRUPT)",
    ),
    _Reason(
        ("TDH.VP.ENTER",),
        lambda status, model, kernel: kernel > model and status.endswith(", EPT_VIOLATION"),
        "VCPUs that touch a page that is mapped meanwhile, or shared at that moment, leave once "
        "more (tdx_handle_ept_violation: RET_PF_SPURIOUS, KVM_EXIT_MEMORY_FAULT)",
    ),
    _Reason(
        ("TDH.VP.RD",),
        lambda status, model, kernel: status == _OK,
        "a halted VCPU is looked at as often as it is polled "
        "(kvm_vcpu_check_block, tdx_protected_apic_has_interrupt)",
    ),
    _Reason(
        ("TDH.VP.WR",),
        lambda status, model, kernel: kernel > model and status == _OK,
        "a VCPU whose shared root was dropped is given a new one (kvm_mmu_reload, "
        "tdx_load_mmu_pgd)",
    ),
    _Reason(
        (
            "TDH.VP.ENTER",
            "TDH.MEM.PAGE.AUG",
            "TDH.MEM.SEPT.ADD",
            "TDH.MEM.RANGE.BLOCK",
            "TDH.MEM.TRACK",
            "TDH.MEM.PAGE.REMOVE",
        ),
        lambda status, model, kernel: kernel > model and status.startswith(_BUSY),
        "VCPUs at work hold locks of the module; KVM tries again (tdx_exit_handlers_fastpath, "
        "RET_PF_RETRY, tdh_do_no_vcpus)",
    ),
)


def differences(model: Sequence[Phase], kernel: Sequence[Phase]) -> tuple[Difference, ...]:
    """Every row that differs, in the order of the phases.

    Raises ValueError for runs of other phases.
    """
    names = [phase.name for phase in model]
    if names != [phase.name for phase in kernel]:
        others = ", ".join(phase.name for phase in kernel)
        raise ValueError(f"phases {', '.join(names)} and {others} are not of one scenario")
    return tuple(
        found
        for ours, theirs in zip(model, kernel, strict=True)
        for found in _of_phase(ours, theirs)
    )


def _of_phase(model: Phase, kernel: Phase) -> list[Difference]:
    found = []
    for leaf, status in sorted(model.counts.keys() | kernel.counts.keys()):
        ours, theirs = model.counts.get((leaf, status), 0), kernel.counts.get((leaf, status), 0)
        if ours != theirs:
            because = _because(leaf, status, ours, theirs)
            found.append(Difference(model.name, f"{leaf} {status}", ours, theirs, because))
    for what in sorted(model.ends.keys() | kernel.ends.keys()):
        ours, theirs = model.ends.get(what, 0), kernel.ends.get(what, 0)
        if ours != theirs:
            found.append(
                Difference(model.name, what, ours, theirs, _because(what, "", ours, theirs))
            )
    return found


def _because(what: str, status: str, model: int, kernel: int) -> str:
    for reason in _REASONS:
        if what in reason.leaves and reason.applies(status, model, kernel):
            return reason.because
    return ""


_GIVEN: Final = (
    "TDH.MNG.CREATE",
    "TDH.MNG.ADDCX",
    "TDH.VP.CREATE",
    "TDH.VP.ADDCX",
    "TDH.MEM.SEPT.ADD",
    "TDH.MEM.PAGE.ADD",
    "TDH.MEM.PAGE.AUG",
)
_TAKEN: Final = ("TDH.MEM.PAGE.REMOVE", "TDH.MEM.SEPT.REMOVE", "TDH.PHYMEM.PAGE.RECLAIM")


def broken_laws(phases: Sequence[Phase]) -> tuple[str, ...]:
    """A sentence for each balance that a run breaks, whoever made its calls.

    For runs with pages of 4K only, without failures that were injected, that begin with no TD and
    no page pair.
    """
    found = []
    before: Mapping[str, int] = {}
    for phase in phases:

        def done(*leaves: str, phase: Phase = phase) -> int:
            return sum(phase.counts.get((leaf, _OK), 0) for leaf in leaves)

        pairs = done("TDH.PHYMEM.PAMT.ADD") - done("TDH.PHYMEM.PAMT.REMOVE")
        pages = done(*_GIVEN) - done(*_TAKEN)
        held = sum(phase.ends.get(what, 0) - before.get(what, 0) for what in PAGES)
        ended = done("TDH.MNG.KEY.FREEID")
        balances = (
            ("page pairs added less removed", pairs, phase.ends[PAIRS] - before.get(PAIRS, 0)),
            ("pages given to TDs less those taken back", pages, held),
            (
                "TDs created less KeyIDs freed",
                done("TDH.MNG.CREATE") - ended,
                phase.ends[TDS] - before.get(TDS, 0),
            ),
            ("pages blocked", done("TDH.MEM.RANGE.BLOCK"), done("TDH.MEM.PAGE.REMOVE")),
            (
                "pages written back",
                done("TDH.PHYMEM.PAGE.WBINVD"),
                done("TDH.MEM.PAGE.REMOVE") + ended,
            ),
        )
        found += [
            f"{phase.name}: {what}: {told}, expected {wanted}"
            for what, told, wanted in balances
            if told != wanted
        ]
        before = phase.ends
    return tuple(found)
