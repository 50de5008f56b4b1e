"""For each leaf, what can be wrong with a call, in the reference's order.

The lists are written from the reference and not from the code; its sections are named beside the
leaf.
"""

from collections.abc import Callable

from dpamt.abi import leaves as leaf
from dpamt.abi import operands as op
from dpamt.abi import status as s
from dpamt.abi.pages import PAGE_SHIFT, PAGE_SIZE, SIZE_2M
from dpamt.abi.states import SEPT_FREE, SEPT_MAPPED, SEPT_NL_MAPPED, SEPT_PENDING
from tests.module.faults import (
    FREE,
    HKID_BIT,
    OTHER_FREE,
    OUTSIDE,
    Fault,
    fatal_td,
    hold_2m,
    hold_4k,
    implicit_tdr,
    no_keys,
    of_td,
    page_info,
    private_page,
    state,
    tdr,
    walk,
)
from tests.module.metadata_faults import METADATA_CASES
from tests.module.recipes import FAR, GPA, LARGE, LONE, near
from tests.module.rig import FIRST, Rig

TABLE = FIRST + 65 * PAGE_SIZE
"""S-EPT page of 4K entries of a TD that the rig made; and that of 2M entries."""
TABLE_2M = FIRST + 66 * PAGE_SIZE
RCX, RDX, R8, R9, R12, R13 = (
    op.OPERAND_RCX,
    op.OPERAND_RDX,
    op.OPERAND_R8,
    op.OPERAND_R9,
    op.OPERAND_R12,
    op.OPERAND_R13,
)
INVALID, BUSY = s.TDX_OPERAND_INVALID, s.TDX_OPERAND_BUSY
RANGE, NOT_FREE = s.TDX_OPERAND_ADDR_RANGE_ERROR, s.TDX_PAGE_NOT_FREE
USED = near(0)
USED_PAGE = FIRST + PAGE_SIZE
"""The first page of TDCS."""
NONE = -1
"""There is no such page yet."""
MIGRATING = 7
"""An OP_STATE in which almost nothing may be done."""

Faults = Callable[[dict[str, int]], list[Fault]]


def word(page: int, sept_state: int) -> int:
    return page >> PAGE_SHIFT << 8 | sept_state


def untracked(rig: Rig) -> None:
    """A VCPU is still inside that entered before the last TRACK."""
    td = rig.module.tds.at(FIRST >> PAGE_SHIFT)
    for readers in td.epoch_readers:
        readers.store(1)


def hold_kot(rig: Rig) -> object:
    return rig.module.keys.kot_lock.try_exclusive()


def no_entropy(rig: Rig) -> None:
    rig.module.entropy_available = False


TRACKING = Fault("not tracked", s.TDX_TLB_TRACKING_NOT_DONE | RCX, {}, untracked, "epoch")
KOT = Fault("KOT busy", BUSY | op.OPERAND_KOT, {}, hold_kot, "kot")


def not_blocked(table: int, index: int, page: int, sept_state: int) -> Fault:
    def store(rig: Rig) -> None:
        rig.module.tds.sept.find(table >> PAGE_SHIFT).store(index, word(page, sept_state))

    return Fault("not blocked", s.TDX_GPA_RANGE_NOT_BLOCKED | RCX, {}, store, "entry", shown=True)


def page_busy(hpa: int, status: int = BUSY | RCX) -> Fault:
    return Fault("page busy", status, {}, hold_4k(hpa, False), f"pamt {hpa:#x}")


def large_busy() -> Fault:
    return Fault("large page busy", BUSY | RCX, {}, hold_2m(LARGE), "pamt large")


def demote_pair(call: dict[str, int]) -> list[Fault]:
    """(h.1) 11 to 19."""
    free = call["r12"]
    return [
        large_busy(),
        *(Fault("R12", INVALID | R12, {"r12": free | bit}) for bit in (8, HKID_BIT, 1 << 52)),
        *(Fault("R13", INVALID | R13, {"r13": free | bit}) for bit in (8, HKID_BIT, 1 << 52)),
        Fault("R12 range", RANGE | R12, {"r12": OUTSIDE}),
        Fault("R13 range", RANGE | R13, {"r13": OUTSIDE}),
        Fault("R12 of the page", BUSY | R12, {"r12": LARGE}),
        Fault("R12 used", NOT_FREE | R12, {"r12": FIRST + PAGE_SIZE}),
        Fault("R13 of the page", BUSY | R13, {"r13": LARGE}),
        Fault("R13 used", NOT_FREE | R13, {"r13": FIRST + PAGE_SIZE}),
        Fault("R13 twice", NOT_FREE | R13, {"r13": free}),
    ]


def interrupt(rig: Rig) -> None:
    rig.module.interrupt_pending = True


INTERRUPT = Fault("interrupt", s.TDX_INTERRUPTED_RESTARTABLE, {}, interrupt, "interrupt", True)


def pamt_add_faults(call: dict[str, int]) -> list[Fault]:
    """(f.1)"""
    region, page = call["rcx"], call["rdx"]
    return [
        *(
            Fault("RCX", INVALID | RCX, {"rcx": region ^ bit})
            for bit in (1, 2, 8, PAGE_SIZE, HKID_BIT, 1 << 52)
        ),
        *(Fault("RDX", INVALID | RDX, {"rdx": page | bit}) for bit in (8, HKID_BIT, 1 << 52)),
        Fault("RDX range", RANGE | RDX, {"rdx": OUTSIDE}),
        *(Fault("R8", INVALID | R8, {"r8": page | bit}) for bit in (8, HKID_BIT, 1 << 52)),
        Fault("R8 range", RANGE | R8, {"r8": OUTSIDE}),
        Fault("RCX range", RANGE | RCX, {"rcx": OUTSIDE | 1}),
        Fault("region busy", BUSY | RCX, {}, hold_2m(region), "region"),
        Fault("RDX busy", BUSY | RDX, {}, lambda rig: hold_ex_2m(rig, page), "pages"),
        Fault("R8 twice", NOT_FREE | R8, {"r8": page}),
    ]


def hold_ex_2m(rig: Rig, hpa: int) -> object:
    return rig.module.pamt.region(hpa >> 21).first.try_exclusive()


CASES: dict[tuple[int, int, str], Faults] = {
    # (e.1)
    (leaf.TDH_MNG_CREATE, 0, ""): lambda call: [
        Fault("KeyID bits", INVALID | RDX, {"rdx": call["rdx"] | 1 << 16}),
        Fault("KeyID", INVALID | RDX, {"rdx": 1}),
        *private_page("rcx", NONE, True),
        KOT,
        Fault(
            "KeyID taken",
            s.TDX_HKID_NOT_FREE,
            {},
            lambda rig: rig.module.kot.at(rig.hkid + 1).store(1),
            "keyid",
        ),
        Fault("entropy", s.TDX_RND_NO_ENTROPY, {}, no_entropy, "entropy"),
    ],
    # (e.2)
    (leaf.TDH_MNG_KEY_CONFIG, 0, ""): lambda call: [
        *tdr("rcx", True),
        fatal_td(),
        no_keys(s.TDX_LIFECYCLE_STATE_INCORRECT),
    ],
    # (e.3)
    (leaf.TDH_MNG_ADDCX, 0, ""): lambda call: [
        *tdr("rdx", True),
        fatal_td(),
        no_keys(),
        Fault(
            "too many",
            s.TDX_TDCX_NUM_INCORRECT,
            {},
            of_td(lambda td: td.header.add(12 << 3)),
            "tdcx",
        ),
        *private_page("rcx", NONE, True),
    ],
    # (e.4)
    (leaf.TDH_MNG_INIT, 0, ""): lambda call: [
        *tdr("rcx", True)[1:],
        *state(False, 1),
        Fault("RDX unaligned", INVALID | RDX, {"rdx": call["rdx"] | 512}),
        Fault("RDX private", INVALID | RDX, {"rdx": call["rdx"] | HKID_BIT}),
        Fault("RDX beyond", INVALID | RDX, {"rdx": call["rdx"] | 1 << 52}),
    ],
    # (e.5)
    (leaf.TDH_VP_CREATE, 0, ""): lambda call: [
        *tdr("rdx", False),
        *state(True, 2),
        *private_page("rcx", USED_PAGE, True),
    ],
    # (e.6)
    (leaf.TDH_VP_ADDCX, 0, ""): lambda call: [
        *private_page("rdx", OTHER_FREE, False, call["rdx"]),
        page_busy(call["rdx"], BUSY | RDX),
        implicit_tdr(),
        *state(True, 2),
        *vcpu_faults(call["rdx"], s.TDX_TDCX_NUM_INCORRECT, 15),
        *private_page("rcx", USED_PAGE, True),
    ],
    # (e.7)
    (leaf.TDH_VP_INIT, 0, ""): lambda call: [
        *private_page("rcx", OTHER_FREE, False, call["rcx"]),
        page_busy(call["rcx"]),
        implicit_tdr(),
        *state(True, 2),
        *reversed(vcpu_faults(call["rcx"], s.TDX_TDCX_NUM_INCORRECT, 1)),
        Fault(
            "too many VCPUs",
            s.TDX_MAX_VCPUS_EXCEEDED,
            {},
            of_td(lambda td: td.vcpus.store(4)),
            "vcpus",
        ),
    ],
    # (e.8), version 0
    (leaf.TDH_MEM_SEPT_ADD, 0, ""): lambda call: [
        Fault("handle", INVALID | RDX, {"rdx": call["rdx"] | 2}),
        Fault("handle", INVALID | RDX, {"rdx": call["rdx"] | 1 << 52}),
        *tdr("rdx", False)[1:2],
        *tdr("rdx", False)[3:],
        *state(True, 5),
        *page_info(call["rcx"], 0),
        *walk(call["rcx"], TABLE_2M, 1, word(LARGE, SEPT_PENDING), False),
        *private_page("r8", USED_PAGE, True),
    ],
    # (e.9)
    (leaf.TDH_MEM_SEPT_REMOVE, 0, ""): lambda call: [
        *tdr("rdx", False),
        *state(True, 0),
        *page_info(call["rcx"], 0),
        *walk(call["rcx"], TABLE_2M, 1, word(near(0), SEPT_PENDING), True),
        page_busy(near(0)),
        not_blocked(TABLE_2M, 1, near(0), SEPT_NL_MAPPED),
        TRACKING,
        Fault(
            "not empty",
            s.TDX_EPT_PAGE_NOT_FREE | RCX,
            {},
            lambda rig: rig.module.tds.sept.find(near(0) >> PAGE_SHIFT).store(9, 9 << 8 | 4),
            "content",
            True,
        ),
    ],
    # (e.11)
    (leaf.TDH_MEM_PAGE_ADD, 0, ""): lambda call: [
        *tdr("rdx", True),
        *state(False, 2),
        *page_info(0, 1),
        *(walk(0, TABLE, 0, word(FREE, SEPT_MAPPED), False)[at] for at in (0, 2, 4)),
        Fault("R9 unaligned", INVALID | R9, {"r9": call["r9"] | 8}),
        Fault("R9 private", INVALID | R9, {"r9": call["r9"] | HKID_BIT}),
        *private_page("r8", USED_PAGE, True),
    ],
    # (e.12)
    (leaf.TDH_MEM_PAGE_AUG, 0, "4K"): lambda call: [
        *tdr("rdx", False),
        *state(True, MIGRATING),
        *page_info(0, 2),
        *walk(0, TABLE, 0, word(FREE, SEPT_MAPPED), False),
        *private_page("r8", USED_PAGE, True),
    ],
    (leaf.TDH_MEM_PAGE_AUG, 0, "2M"): lambda call: [
        *tdr("rdx", False),
        *state(True, MIGRATING),
        *page_info(GPA | 1, 3),
        *walk(GPA | 1, TABLE_2M, 1, word(LARGE, SEPT_MAPPED), False),
        Fault("R8 unaligned", INVALID | R8, {"r8": LARGE | PAGE_SIZE}),
        Fault("R8 keyid", INVALID | R8, {"r8": LARGE | HKID_BIT}),
        Fault("R8 range", RANGE | R8, {"r8": OUTSIDE}),
        Fault("R8 busy", BUSY | R8, {"r8": LARGE}, hold_2m(LARGE), "large"),
        Fault(
            "R8 with a pair",
            s.TDX_PAGE_METADATA_INCORRECT | R8,
            {"r8": FAR[0]},
            lambda rig: rig.add_pair(FAR[0]),
        ),
    ],
    # (e.13)
    (leaf.TDH_MEM_PAGE_REMOVE, 0, ""): lambda call: [
        *tdr("rdx", False),
        *state(True, MIGRATING),
        *page_info(0, 3),
        *walk(0, TABLE, 0, SEPT_FREE, False),
        page_busy(USED),
        not_blocked(TABLE, 0, USED, SEPT_MAPPED),
        TRACKING,
    ],
    # (e.14)
    (leaf.TDH_MEM_RANGE_BLOCK, 0, ""): lambda call: [
        *tdr("rdx", False),
        *state(True, MIGRATING),
        *page_info(0, 4),
        *walk(0, TABLE, 0, SEPT_FREE, True),
    ],
    # (e.15)
    (leaf.TDH_MEM_RANGE_UNBLOCK, 0, ""): lambda call: [
        *tdr("rdx", False),
        *state(True, MIGRATING),
        *page_info(0, 4),
        *walk(0, TABLE, 0, word(USED, SEPT_MAPPED), True),
        TRACKING,
    ],
    # (e.16)
    (leaf.TDH_MEM_TRACK, 0, ""): lambda call: [
        *tdr("rcx", False),
        *state(True, 10),
        Fault(
            "epoch lock",
            BUSY | op.OPERAND_TD_EPOCH,
            {},
            of_td(lambda td: td.epoch_lock.try_shared()),
            "epoch lock",
        ),
        Fault("previous epoch", s.TDX_PREVIOUS_TLB_EPOCH_BUSY, {}, untracked, "epoch"),
    ],
    # (e.10)
    (leaf.TDH_MEM_SEPT_RD, 0, ""): lambda call: [
        *tdr("rdx", False)[1:],
        *state(True, 0),
        Fault("L2 attributes", INVALID | RDX, {"rdx": call["rdx"] | 1}),
        *page_info(call["rcx"], 4),
        *walk(call["rcx"], TABLE_2M, 0, 0, False)[:4],
    ],
    # (e.17)
    (leaf.TDH_MR_EXTEND, 0, ""): lambda call: [
        *tdr("rdx", True),
        *state(False, 2),
        Fault("unaligned", INVALID | RCX, {"rcx": 128}),
        Fault("shared GPA", INVALID | RCX, {"rcx": 1 << 47}),
        Fault("no page", s.TDX_EPT_ENTRY_NOT_PRESENT | RCX, {"rcx": 0x1000}, shown=True),
    ],
    (leaf.TDH_MR_FINALIZE, 0, ""): lambda call: [
        *tdr("rcx", True),
        *state(False, 2),
        Fault("no VCPU", s.TDX_NO_VCPUS, {}, of_td(lambda td: td.vcpus.store(0)), "vcpus"),
    ],
    # (e.18)
    (leaf.TDH_MNG_VPFLUSHDONE, 0, ""): lambda call: [
        *tdr("rcx", True),
        KOT,
        no_keys(s.TDX_LIFECYCLE_STATE_INCORRECT),
        Fault(
            "VCPU inside",
            s.TDX_FLUSHVP_NOT_DONE,
            {},
            of_td(lambda td: td.associated.store(1)),
            "associated",
        ),
    ],
    (leaf.TDH_MNG_KEY_FREEID, 0, ""): lambda call: [
        *tdr("rcx", True),
        no_keys(s.TDX_LIFECYCLE_STATE_INCORRECT),
        KOT,
        Fault(
            "not written back",
            s.TDX_WBCACHE_NOT_COMPLETE,
            {},
            lambda rig: rig.module.kot.at(rig.hkid + 1).set_bits(1 << 8),
            "packages",
        ),
    ],
    (leaf.TDH_PHYMEM_CACHE_WB, 0, ""): lambda call: [
        Fault("RCX", INVALID | RCX, {"rcx": 2}),
        Fault(
            "package",
            BUSY | op.OPERAND_WBCACHE,
            {},
            lambda rig: rig.module.keys.write_back_lock.at(0).try_exclusive(),
            "package",
        ),
        KOT,
        Fault("resume", s.TDX_WBCACHE_RESUME_ERROR, {"rcx": 1}),
        Fault("interrupt", s.TDX_INTERRUPTED_RESUMABLE, {}, interrupt, "interrupt"),
    ],
    # (e.20), (i)
    (leaf.TDH_PHYMEM_PAGE_WBINVD, 0, ""): lambda call: [
        Fault("unaligned", INVALID | RCX, {"rcx": call["rcx"] | 8}),
        Fault("beyond", INVALID | RCX, {"rcx": call["rcx"] | 1 << 52}),
        Fault("range", RANGE | RCX, {"rcx": OUTSIDE}),
        Fault("busy", BUSY | RCX, {}, lambda rig: hold_ex_2m(rig, call["rcx"]), "region"),
    ],
    (leaf.TDH_PHYMEM_PAGE_RDMD, 0, ""): lambda call: [
        *(
            Fault("RCX", INVALID | RCX, {"rcx": call["rcx"] | bit})
            for bit in (3, 8, HKID_BIT, 1 << 52, 1 | PAGE_SIZE, 2 | SIZE_2M)
        ),
        Fault("range", RANGE | RCX, {"rcx": OUTSIDE}),
        Fault("busy", BUSY | RCX, {}, hold_4k(call["rcx"]), "page"),
    ],
    # (e.19)
    (leaf.TDH_PHYMEM_PAGE_RECLAIM, 0, ""): lambda call: [
        *(
            Fault("RCX", INVALID | RCX, {"rcx": call["rcx"] | bit})
            for bit in (8, HKID_BIT, 1 << 52)
        ),
        Fault("range", RANGE | RCX, {"rcx": OUTSIDE}),
        Fault("free", s.TDX_PAGE_METADATA_INCORRECT | RCX, {"rcx": FREE}),
        Fault("without a pair", s.TDX_PAGE_METADATA_INCORRECT | RCX, {"rcx": LONE}),
        page_busy(call["rcx"]),
        implicit_tdr(),
        Fault(
            "life cycle",
            s.TDX_LIFECYCLE_STATE_INCORRECT,
            {},
            of_td(lambda td: td.header.clear_bits(2)),
            "lifecycle",
        ),
    ],
    # (f.1), (f.2)
    (leaf.TDH_PHYMEM_PAMT_ADD, 0, ""): pamt_add_faults,
    (leaf.TDH_PHYMEM_PAMT_REMOVE, 0, ""): lambda call: [
        *(
            Fault("RCX", INVALID | RCX, {"rcx": call["rcx"] ^ bit})
            for bit in (1, 2, 8, PAGE_SIZE, HKID_BIT, 1 << 52)
        ),
        Fault("RCX range", RANGE | RCX, {"rcx": OUTSIDE | 1}),
        Fault("region busy", BUSY | RCX, {"rcx": call["rcx"]}, hold_2m(call["rcx"]), "region"),
        Fault("no pair", s.TDX_NO_PAMT_PAGE_PAIR | RCX, {"rcx": LONE | 1}),
        Fault(
            "not empty",
            s.TDX_PAMT_PAGE_NOT_EMPTY | 1,
            {},
            lambda rig: rig.module.pamt.region(FIRST >> 21).entries.store(300, 4),
            "entry",
        ),
    ],
    # (h.1)
    (leaf.TDH_MEM_PAGE_DEMOTE, 0, ""): lambda call: [
        Fault("handle", INVALID | RDX, {"rdx": call["rdx"] | 2}),
        Fault("handle", INVALID | RDX, {"rdx": call["rdx"] | 1 << 52}),
        *tdr("rdx", False)[1:2],
        *tdr("rdx", False)[3:],
        *state(True, MIGRATING),
        *page_info(GPA | 1, 3),
        *walk(GPA | 1, TABLE_2M, 1, SEPT_FREE, False),
        not_blocked(TABLE_2M, 1, LARGE, SEPT_MAPPED),
        TRACKING,
        *private_page("r8", USED_PAGE, True),
        INTERRUPT,
        *demote_pair(call),
    ],
    # (h.2)
    (leaf.TDH_MEM_PAGE_PROMOTE, 0, ""): lambda call: [
        *tdr("rdx", False),
        *state(True, MIGRATING),
        *page_info(GPA | 1, 3),
        *walk(GPA | 1, TABLE_2M, 1, word(LARGE, SEPT_MAPPED), True),
        page_busy(near(0)),
        not_blocked(TABLE_2M, 1, near(0), SEPT_NL_MAPPED),
        TRACKING,
        Fault(
            "a hole",
            s.TDX_EPT_INVALID_PROMOTE_CONDITIONS | RCX,
            {},
            lambda rig: rig.module.tds.sept.find(near(0) >> PAGE_SHIFT).store(9, 0),
            "content",
            True,
        ),
        INTERRUPT,
        large_busy(),
    ],
    # (h.3)
    (leaf.TDH_MEM_PAGE_RELOCATE, 0, ""): lambda call: [
        *tdr("rdx", False),
        *state(True, MIGRATING),
        *page_info(0, 1),
        *walk(0, TABLE, 0, SEPT_FREE, False),
        Fault("R8 the same", INVALID | R8, {"r8": USED}),
        page_busy(USED),
        not_blocked(TABLE, 0, USED, SEPT_PENDING),
        TRACKING,
        *private_page("r8", USED_PAGE, True),
    ],
    **METADATA_CASES,
}


def vcpu_faults(tdvpr: int, pages_status: int, pages: int) -> list[Fault]:
    """A VCPU in a state other than the first, and a number of pages that will not do."""

    def ready(rig: Rig) -> None:
        rig.module.tds.vcpu(tdvpr >> PAGE_SHIFT).state.store(2)

    def count(rig: Rig) -> None:
        rig.module.tds.vcpu(tdvpr >> PAGE_SHIFT).pages.store(pages)

    return [
        Fault("VCPU state", s.TDX_VCPU_STATE_INCORRECT | 2, {}, ready, "vcpu"),
        Fault("VCPU pages", pages_status, {}, count, "vcpu pages"),
    ]
