"""A TD's secure EPT against the PAMT, for audits: every mapping is a page of the TD, and once.

Reading takes no lock and is no step.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from dpamt.abi.pages import LEVEL_2M, LEVEL_4K, PAGE_SHIFT, PT_EPT, PT_REG
from dpamt.abi.states import (
    HKID_ASSIGNED,
    SEPT_FREE,
    SEPT_NL_BLOCKED,
    SEPT_NL_MAPPED,
    SEPT_REMOVED,
    TD_HKID_ASSIGNED,
    TD_KEYS_CONFIGURED,
)
from dpamt.module.keys import KOT_STATE_MASK
from dpamt.module.module import TdxModule
from dpamt.module.sept import FRAME_SHIFT, STATE_MASK
from dpamt.module.td import (
    EPTP_LEVELS_MASK,
    EPTP_LEVELS_SHIFT,
    EPTP_ROOT_SHIFT,
    HEADER_HKID_SHIFT,
    HEADER_LIFECYCLE_MASK,
    HEADER_LIFECYCLE_SHIFT,
)

Uses = Mapping[int, tuple[int, int]]
"""Page to (type, owner)."""

_NON_LEAF: Final = (SEPT_NL_MAPPED, SEPT_NL_BLOCKED)
_EMPTY: Final = (SEPT_FREE, SEPT_REMOVED)


def check_td(module: TdxModule, page: int, used: Uses, large: Uses) -> list[str]:
    """A sentence for every contradiction between the TD at ``page`` and PAMT and KOT.

    ``used`` are the 4K pages in use, ``large`` the 2M pages.  Once teardown has begun only its
    pages remain, in any order, and nothing is checked here.
    """
    td = module.tds.at(page)
    header = td.header.load()
    lifecycle = (header & HEADER_LIFECYCLE_MASK) >> HEADER_LIFECYCLE_SHIFT
    where = f"TD at {page << PAGE_SHIFT:#x}"
    found: list[str] = []
    if lifecycle not in (TD_HKID_ASSIGNED, TD_KEYS_CONFIGURED):
        return found
    keyid = header >> HEADER_HKID_SHIFT
    if module.kot.at(keyid).load() & KOT_STATE_MASK != HKID_ASSIGNED:
        found.append(f"{where}: its KeyID {keyid} is not assigned")
    mapped: set[tuple[int, int]] = set()
    for frame, level, leaf in _entries(module, page):
        kind = PT_REG if leaf else PT_EPT
        uses = large if leaf and level == LEVEL_2M else used
        if (not leaf or level in (LEVEL_4K, LEVEL_2M)) and uses.get(frame) != (kind, page):
            found.append(
                f"{where}: S-EPT points to {frame << PAGE_SHIFT:#x} at level {level}, which is "
                "not such a page of this TD"
            )
        key = (frame, level if leaf else LEVEL_4K)
        if key in mapped:
            found.append(f"{where}: S-EPT points twice to {frame << PAGE_SHIFT:#x}")
        mapped.add(key)
    for level, uses in ((LEVEL_4K, used), (LEVEL_2M, large)):
        for frame, use in uses.items():
            if use == (PT_REG, page) and (frame, level) not in mapped:
                found.append(f"{where}: its page {frame << PAGE_SHIFT:#x} is mapped nowhere")
    return found


def _entries(module: TdxModule, page: int) -> Iterator[tuple[int, int, bool]]:
    """(frame, level, leaf) of every entry in use below the TD's S-EPT root."""
    eptp = module.tds.at(page).eptp.load()
    if not eptp:
        return
    levels = (eptp & EPTP_LEVELS_MASK) >> EPTP_LEVELS_SHIFT
    pending = [(eptp >> EPTP_ROOT_SHIFT, levels - 1)]
    while pending:
        table, level = pending.pop()
        for word in module.tds.sept.find(table).payloads():
            state = word & STATE_MASK
            if state in _EMPTY:
                continue
            frame = word >> FRAME_SHIFT
            yield frame, level, state not in _NON_LEAF
            if state in _NON_LEAF:
                pending.append((frame, level - 1))
