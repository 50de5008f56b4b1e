"""For every leaf, one call that succeeds and the preparations for it: where variations begin."""

from collections.abc import Callable

from dpamt.abi import leaves as leaf
from dpamt.abi.metadata import MAX_TDMRS
from dpamt.abi.pages import NULL_PA, PAGE_SIZE, SIZE_1G, SIZE_2M
from dpamt.abi.td_metadata import (
    POSTED_INTERRUPT_VECTOR,
    TSC_MULTIPLIER,
    VCPU_STATE_DETAILS,
)
from dpamt.module.leaves.table import HANDLERS
from tests.module.rig import FIRST, SOURCE, Rig, params_of

GPA = SIZE_2M
"""Where 2M pages and tables of the guest come and go; GPA 0 to 2M has a table always."""
LARGE = FIRST + 16 * SIZE_2M
"""A 2M page."""
FAR = [FIRST + (32 + n) * SIZE_2M for n in range(4)]
"""First pages of four regions that hold nothing else."""
LONE = FIRST + 48 * SIZE_2M
"""A free region without a pair."""
L2_VMS = 3

Call = dict[str, int]
Recipe = Callable[[Rig], Call]


def near(number: int) -> int:
    """A free page of the region that holds the control pages."""
    return FIRST + (100 + number) * PAGE_SIZE


def initialized(rig: Rig, vcpus: int = 1) -> int:
    return rig.make_td(FIRST, rig.hkid + 1, finalize=False, vcpus=vcpus)


def runnable(rig: Rig) -> int:
    """A TD with three L2 VMs, whose S-EPTs reach down to 2M entries."""
    tdr = rig.make_td(FIRST, rig.hkid + 1, l2_vms=L2_VMS)
    for level in (3, 2):
        pages = [near(10 * level + vm) for vm in range(L2_VMS)]
        rig.must(leaf.TDH_MEM_SEPT_ADD, 1, rcx=level, rdx=tdr, **sept_pages([NULL_PA, *pages]))
    return tdr


def sept_pages(pages: list[int]) -> Call:
    return dict(zip(("r8", "r9", "r10", "r11"), pages, strict=True))


def far_regions(rig: Rig) -> list[int]:
    for region in FAR:
        rig.add_pair(region)
    return FAR


def block_and_track(rig: Rig, tdr: int, info: int) -> Call:
    rig.must(leaf.TDH_MEM_RANGE_BLOCK, rcx=info, rdx=tdr)
    rig.must(leaf.TDH_MEM_TRACK, rcx=tdr)
    return {"rcx": info, "rdx": tdr}


def created(rig: Rig) -> int:
    rig.add_pair(FIRST)
    rig.must(leaf.TDH_MNG_CREATE, rcx=FIRST, rdx=rig.hkid + 1)
    return FIRST


def keyed(rig: Rig) -> int:
    tdr = created(rig)
    for cpu in rig.one_cpu_of_each_package():
        rig.must(leaf.TDH_MNG_KEY_CONFIG, cpu=cpu, rcx=tdr)
    return tdr


def mng_create(rig: Rig) -> Call:
    rig.add_pair(FIRST)
    return {"rcx": near(0), "rdx": rig.hkid + 1}


def mng_init(rig: Rig) -> Call:
    tdr = keyed(rig)
    for number in range(rig.module.release.min_tdcs_pages):
        rig.must(leaf.TDH_MNG_ADDCX, rcx=near(number), rdx=tdr)
    return {"rcx": tdr, "rdx": params_of(0)}


def vp_addcx(rig: Rig) -> Call:
    tdr = initialized(rig)
    rig.must(leaf.TDH_VP_CREATE, rcx=near(0), rdx=tdr)
    return {"rcx": near(1), "rdx": near(0)}


def vp_init(rig: Rig) -> Call:
    tdvpr = vp_addcx(rig)["rdx"]
    for number in range(1, 6):
        rig.must(leaf.TDH_VP_ADDCX, rcx=near(number), rdx=tdvpr)
    return {"rcx": tdvpr}


def vp_flush(rig: Rig) -> Call:
    return {"rcx": rig.tdvpr(rig.make_td(FIRST, rig.hkid + 1))}


def vp_wr(rig: Rig) -> Call:
    return vp_flush(rig) | {"rdx": POSTED_INTERRUPT_VECTOR.id, "r8": 0xF2, "r9": 0xFFFF}


def vpflushdone(rig: Rig) -> Call:
    tdr = rig.make_td(FIRST, rig.hkid + 1)
    rig.must(leaf.TDH_VP_FLUSH, rcx=rig.tdvpr(tdr))
    return {"rcx": tdr}


def cache_wb(rig: Rig) -> Call:
    rig.must(leaf.TDH_MNG_VPFLUSHDONE, **vpflushdone(rig))
    return {}


def key_freeid(rig: Rig) -> Call:
    rig.must(leaf.TDH_PHYMEM_CACHE_WB, **cache_wb(rig))
    return {"rcx": FIRST}


def torn_down(rig: Rig, page: int) -> Call:
    """RECLAIM of a 4K page that a TD had as memory."""
    tdr = rig.make_td(FIRST, rig.hkid + 1)
    rig.must(leaf.TDH_MEM_PAGE_AUG, rcx=0, rdx=tdr, r8=page)
    rig.must(leaf.TDH_VP_FLUSH, rcx=rig.tdvpr(tdr))
    rig.must(leaf.TDH_MNG_VPFLUSHDONE, rcx=tdr)
    rig.must(leaf.TDH_PHYMEM_CACHE_WB)
    rig.must(leaf.TDH_MNG_KEY_FREEID, rcx=tdr)
    return {"rcx": page}


def sept_add(rig: Rig, pages: list[int] | None = None) -> Call:
    pages = pages or [near(number) for number in range(4)]
    return {"rcx": GPA | 1, "rdx": runnable(rig), **sept_pages(pages)}


def sept_remove(rig: Rig, pages: list[int] | None = None) -> Call:
    call = sept_add(rig, pages)
    rig.must(leaf.TDH_MEM_SEPT_ADD, 1, **call)
    return block_and_track(rig, call["rdx"], call["rcx"])


def page_add(rig: Rig) -> Call:
    return {"rcx": 0, "rdx": initialized(rig), "r8": near(0), "r9": SOURCE}


def mr_extend(rig: Rig) -> Call:
    call = page_add(rig)
    rig.must(leaf.TDH_MEM_PAGE_ADD, **call)
    return {"rcx": 0, "rdx": call["rdx"]}


def aug_4k(rig: Rig) -> Call:
    return {"rcx": 0, "rdx": runnable(rig), "r8": near(0)}


def aug_2m(rig: Rig) -> Call:
    return {"rcx": GPA | 1, "rdx": runnable(rig), "r8": LARGE}


def page_remove(rig: Rig, page: int = near(0)) -> Call:
    tdr = runnable(rig)
    rig.must(leaf.TDH_MEM_PAGE_AUG, rcx=0, rdx=tdr, r8=page)
    return block_and_track(rig, tdr, 0)


def page_relocate(rig: Rig, page: int = near(0), new: int = near(1)) -> Call:
    return page_remove(rig, page) | {"r8": new}


def page_demote(rig: Rig, pages: list[int] | None = None) -> Call:
    call = aug_2m(rig)
    rig.must(leaf.TDH_MEM_PAGE_AUG, **call)
    pages = pages or [near(number) for number in range(4)]
    pair = dict(zip(("r12", "r13"), rig.take_pair(), strict=True))
    return block_and_track(rig, call["rdx"], call["rcx"]) | sept_pages(pages) | pair


def page_promote(rig: Rig, pages: list[int] | None = None) -> Call:
    call = page_demote(rig, pages)
    rig.must(leaf.TDH_MEM_PAGE_DEMOTE, **call)
    return block_and_track(rig, call["rdx"], call["rcx"])


def range_block(rig: Rig) -> Call:
    call = aug_4k(rig)
    rig.must(leaf.TDH_MEM_PAGE_AUG, **call)
    return {"rcx": 0, "rdx": call["rdx"]}


def pamt_add(rig: Rig) -> Call:
    pair = rig.take_pair()
    return {"rcx": FIRST | 1, "rdx": pair[0], "r8": pair[1]}


def pamt_remove(rig: Rig) -> Call:
    rig.must(leaf.TDH_PHYMEM_PAMT_ADD, **pamt_add(rig))
    return {"rcx": FIRST | 1}


def sys_lp_init(rig: Rig) -> Call:
    rig.must(leaf.TDH_SYS_INIT)
    return {}


def sys_config(rig: Rig) -> Call:
    sys_lp_init(rig)
    for cpu in range(len(rig.module.processors)):
        rig.must(leaf.TDH_SYS_LP_INIT, cpu=cpu)
    return rig.config


def sys_key_config(rig: Rig) -> Call:
    rig.must(leaf.TDH_SYS_CONFIG, **sys_config(rig))
    return {}


def sys_tdmr_init(rig: Rig) -> Call:
    sys_key_config(rig)
    for cpu in rig.one_cpu_of_each_package():
        rig.must(leaf.TDH_SYS_KEY_CONFIG, cpu=cpu)
    return {"rcx": FIRST}


def sys_update(rig: Rig) -> Call:
    rig.must(leaf.TDH_SYS_TDMR_INIT, **sys_tdmr_init(rig))
    rig.must(leaf.TDH_SYS_SHUTDOWN, rcx=1)
    rig.module.install(rig.module.release)
    sys_config(rig)
    return {}


def sys_disable(rig: Rig) -> Call:
    rig.module.ready_handlers[leaf.TDH_SYS_DISABLE] = HANDLERS[leaf.TDH_SYS_DISABLE]
    return {}


RECIPES: dict[tuple[int, int, str], Recipe] = {
    (leaf.TDH_VP_ENTER, 0, ""): vp_flush,
    (leaf.TDH_MNG_ADDCX, 0, ""): lambda rig: {"rcx": near(0), "rdx": keyed(rig)},
    (leaf.TDH_MEM_PAGE_ADD, 0, ""): page_add,
    (leaf.TDH_MEM_SEPT_ADD, 0, ""): sept_add,
    (leaf.TDH_MEM_SEPT_ADD, 1, ""): sept_add,
    (leaf.TDH_VP_ADDCX, 0, ""): vp_addcx,
    (leaf.TDH_MEM_PAGE_RELOCATE, 0, ""): page_relocate,
    (leaf.TDH_MEM_PAGE_AUG, 0, "4K"): aug_4k,
    (leaf.TDH_MEM_PAGE_AUG, 0, "2M"): aug_2m,
    (leaf.TDH_MEM_RANGE_BLOCK, 0, ""): range_block,
    (leaf.TDH_MNG_KEY_CONFIG, 0, ""): lambda rig: {"rcx": created(rig)},
    (leaf.TDH_MNG_CREATE, 0, ""): mng_create,
    (leaf.TDH_VP_CREATE, 0, ""): lambda rig: {"rcx": near(0), "rdx": initialized(rig)},
    (leaf.TDH_MEM_PAGE_DEMOTE, 0, ""): page_demote,
    (leaf.TDH_MR_EXTEND, 0, ""): mr_extend,
    (leaf.TDH_MR_FINALIZE, 0, ""): lambda rig: {"rcx": initialized(rig)},
    (leaf.TDH_VP_FLUSH, 0, ""): vp_flush,
    (leaf.TDH_MNG_VPFLUSHDONE, 0, ""): vpflushdone,
    (leaf.TDH_MNG_KEY_FREEID, 0, ""): key_freeid,
    (leaf.TDH_MNG_INIT, 0, ""): mng_init,
    (leaf.TDH_VP_INIT, 0, ""): vp_init,
    (leaf.TDH_VP_INIT, 1, ""): lambda rig: vp_init(rig) | {"r8": 1},
    (leaf.TDH_MEM_PAGE_PROMOTE, 0, ""): page_promote,
    (leaf.TDH_MEM_PAGE_PROMOTE, 1, ""): page_promote,
    (leaf.TDH_PHYMEM_PAGE_RDMD, 0, ""): lambda rig: {"rcx": created(rig)},
    (leaf.TDH_MEM_SEPT_RD, 0, ""): lambda rig: {"rcx": 1, "rdx": runnable(rig)},
    (leaf.TDH_MNG_KEY_RECLAIMID, 0, ""): lambda rig: {"rcx": created(rig)},
    (leaf.TDH_PHYMEM_PAGE_RECLAIM, 0, ""): lambda rig: torn_down(rig, near(0)),
    (leaf.TDH_MEM_PAGE_REMOVE, 0, ""): page_remove,
    (leaf.TDH_MEM_SEPT_REMOVE, 0, ""): sept_remove,
    (leaf.TDH_MEM_SEPT_REMOVE, 1, ""): sept_remove,
    (leaf.TDH_MNG_RD, 0, ""): lambda rig: {"rcx": initialized(rig), "rdx": TSC_MULTIPLIER.id},
    (leaf.TDH_MNG_RD, 1, ""): lambda rig: {"rcx": initialized(rig), "rdx": TSC_MULTIPLIER.id},
    (leaf.TDH_VP_RD, 0, ""): lambda rig: vp_flush(rig) | {"rdx": VCPU_STATE_DETAILS.id},
    (leaf.TDH_VP_RD, 1, ""): lambda rig: vp_flush(rig) | {"rdx": VCPU_STATE_DETAILS.id},
    (leaf.TDH_VP_WR, 0, ""): vp_wr,
    (leaf.TDH_SYS_RD, 0, ""): lambda rig: {"rdx": MAX_TDMRS.id},
    (leaf.TDH_SYS_TDMR_INIT, 0, "last"): lambda rig: {"rcx": FIRST},
    (leaf.TDH_MEM_TRACK, 0, ""): lambda rig: {"rcx": runnable(rig)},
    (leaf.TDH_MEM_RANGE_UNBLOCK, 0, ""): page_remove,
    (leaf.TDH_PHYMEM_CACHE_WB, 0, ""): cache_wb,
    (leaf.TDH_PHYMEM_PAGE_WBINVD, 0, ""): lambda rig: {"rcx": LONE + SIZE_1G},
    (leaf.TDH_SYS_SHUTDOWN, 0, ""): lambda rig: {"rcx": 1},
    (leaf.TDH_SYS_DISABLE, 0, ""): sys_disable,
    (leaf.TDH_PHYMEM_PAMT_ADD, 0, ""): pamt_add,
    (leaf.TDH_PHYMEM_PAMT_REMOVE, 0, ""): pamt_remove,
}
"""(leaf, version, which) to the recipe."""

START: dict[tuple[int, int, str], Recipe] = {
    (leaf.TDH_SYS_INIT, 0, ""): lambda rig: {},
    (leaf.TDH_SYS_LP_INIT, 0, ""): sys_lp_init,
    (leaf.TDH_SYS_CONFIG, 0, ""): sys_config,
    (leaf.TDH_SYS_KEY_CONFIG, 0, ""): sys_key_config,
    (leaf.TDH_SYS_TDMR_INIT, 0, "first"): sys_tdmr_init,
    (leaf.TDH_SYS_UPDATE, 0, ""): sys_update,
}
"""The same for a module that has not been started."""
