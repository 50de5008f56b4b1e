"""What is wrong with a run of KVM's TDs: what its VMM and its guests met, and what is left."""

from collections import Counter

from dpamt.abi.pages import PAGE_SHIFT, PT_EPT, PT_REG, PT_TDCX, PT_TDR, PT_TDVPR
from dpamt.boot.judge import wrong_answers
from dpamt.boot.kvm.told import VmmTold
from dpamt.module.module import TdxModule
from dpamt.module.view import ModuleView

KINDS = {
    PT_TDR: "TDR",
    PT_TDVPR: "TDVPR",
    PT_TDCX: "TDCX",
    PT_EPT: "S-EPT",
    PT_REG: "guest",
}
"""Page types of TDs, in words."""


def wrong_with_kvm(
    told: VmmTold,
    refused: Counter[tuple[str, str]],
    counts: Counter[tuple[int, int]],
    injects: bool,
    dictates: bool = False,
) -> list[str]:
    """Findings; what follows from injected calls is for the report alone, not a finding.

    ``dictates``: answers were dictated, behind the module's back.  Where rules only made the module
    busy, a correct host still never sees the answers of :func:`wrong_answers`.
    """
    if injects:
        return [] if dictates else wrong_answers(counts)
    found = [f"the VMM: {trouble}" for trouble in told.troubles]
    found += [f"a guest: {text}" for text in guests_met(refused)]
    return found + wrong_answers(counts)


def guests_met(refused: Counter[tuple[str, str]]) -> list[str]:
    """A sentence for each kind of answer that was no success for a guest."""
    return [
        f"{asked} was answered {answer}, {count:,} times"
        for (asked, answer), count in sorted(refused.items())
    ]


def left_over(module: TdxModule) -> list[str]:
    """What the kernel did not give back, when it has ended: TDs, their pages by kind, pairs."""
    view = ModuleView(module)
    tds, used = view.tds(), view.used_pages()
    pairs = len(view.pairs()) if module.pamt.dynamic else 0
    found = []
    if tds or used:
        kinds = Counter(KINDS.get(use.type, f"type {use.type}") for use in used.values())
        pages = ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items()))
        with_pairs = f", {pairs} page pairs" if pairs else ""
        first = min(used, default=0) << PAGE_SHIFT
        found.append(
            f"leak: {len(tds)} TD{'' if len(tds) == 1 else 's'} alive when the machine restarted; "
            f"not given back: {pages} pages (the lowest at {first:#x}){with_pairs}"
        )
    elif pairs:
        found.append(f"leak: {pairs} page pairs are left and no TD uses them")
    return found
