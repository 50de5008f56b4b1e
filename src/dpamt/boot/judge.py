"""What of a guest's SEAMCALLs a correct host never sees: named as `dpamt verify` names it.

The names and rules are those of design.md's invariants; BUSY is judged apart, because a rule may
have put it there.
"""

from collections import Counter
from typing import Final

from dpamt.abi.leaves import TDH_PHYMEM_PAMT_ADD, TDH_PHYMEM_PAMT_REMOVE, leaf_name
from dpamt.abi.status import (
    STATUS_MASK,
    TDX_HPA_RANGE_NOT_FREE,
    TDX_MISSING_PAMT_PAGE_PAIR,
    TDX_NO_PAMT_PAGE_PAIR,
    TDX_PAMT_PAGE_NOT_EMPTY,
    status_name,
)
from dpamt.boot.exerciser import Told
from dpamt.module.module import TdxModule
from dpamt.module.view import ModuleView

_NEVER: Final = (
    ("missing-pair", None, TDX_MISSING_PAMT_PAGE_PAIR),
    ("double-add", TDH_PHYMEM_PAMT_ADD, TDX_HPA_RANGE_NOT_FREE),
    ("bad-remove", TDH_PHYMEM_PAMT_REMOVE, TDX_NO_PAMT_PAGE_PAIR),
    ("bad-remove", TDH_PHYMEM_PAMT_REMOVE, TDX_PAMT_PAGE_NOT_EMPTY),
)
"""Name, leaf (None: any) and status class of what a correct get/put protocol never meets."""


def wrong_answers(counts: Counter[tuple[int, int]]) -> list[str]:
    """A sentence for each kind of answer that a correct protocol never meets."""
    found: Counter[tuple[str, int, int]] = Counter()
    for (leaf, status), count in counts.items():
        for name, where, wanted in _NEVER:
            if status & STATUS_MASK == wanted and where in (None, leaf):
                found[name, leaf, wanted] += count
    return [
        f"{name}: {leaf_name(leaf)} answered {status_name(status)} {count:,} times"
        for (name, leaf, status), count in sorted(found.items())
    ]


def wrong_at_rest(module: TdxModule, told: Told) -> list[str]:
    """What is left when every TD is gone: pairs, TDs, counts."""
    view = ModuleView(module)
    found = []
    tds, pairs = view.tds(), view.pairs()
    if tds:
        found.append(f"leak: {len(tds)} TDs are left")
    if pairs and module.pamt.dynamic:
        found.append(f"leak: {len(pairs)} page pairs are left and no TD uses them")
    if told.counted:
        found.append(f"at-rest: the refcounts sum up to {told.counted}, and nobody uses a page")
    return found


def wrong_in_threads(told: Told, mode: str) -> list[str]:
    """What the exerciser itself saw."""
    if told.refused:
        return [f"the exerciser: {told.refused}"]
    if not told.began or told.counted is None:
        return ["the exerciser did not come to its end"]
    if mode == "hostile":
        return []
    scant = [
        f"thread {thread.number}: {thread.scant:,} of {thread.did:,} rounds given up: no page, or "
        "no page pair for one"
        for thread in told.threads
        if thread.scant and not told.fail
    ]
    return scant + [
        f"thread {thread.number}: {thread.failed:,} of {thread.did:,} rounds failed, first "
        f"{thread.first} with {status_name(thread.status)}"
        for thread in told.threads
        if thread.failed
    ]
