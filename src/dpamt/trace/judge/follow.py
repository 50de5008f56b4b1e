"""The module as far as it can be followed: what each successful SEAMCALL shows and changes.

A handler says what must have been so for the call to succeed; where something else is known, the
answer is impossible.  Then it notes what is so afterwards.  Rules that need what no recording has
(S-EPT states, which the guest changes too; TLB epochs; contents) are left out.

Source of the rules: Intel TDX module source (open release), 2.0.08 to 2.0.18, as in
:mod:`dpamt.module.leaves`.
"""

from collections.abc import Callable
from typing import Final

from dpamt.abi import leaves as leaf
from dpamt.abi.pages import (
    HANDLE_FLAG,
    INFO_LEVEL_MASK,
    LEVEL_2M,
    NULL_PA,
    PAGES_PER_2M,
    REMOVAL_HINT,
)
from dpamt.abi.registers import REGISTER_NAMES
from dpamt.abi.states import TD_BLOCKED, TD_HKID_ASSIGNED, TD_KEYS_CONFIGURED, TD_TEARDOWN
from dpamt.abi.tdmr import SYS_CONFIG_DYNAMIC_PAMT
from dpamt.trace.judge.page_rules import PageRules, Sink
from dpamt.trace.judge.pages_of import page_of
from dpamt.trace.judge.state import (
    ALL_PAGES,
    LARGE,
    NO_PAIR,
    PAIR,
    STATE_NAMES,
    UNKNOWN,
    State,
    origin_of,
)
from dpamt.trace.recording.model import Call

_HKID_MASK: Final = 0xFFFF


class Follower(PageRules):
    """Follows successful calls."""

    def __init__(self, state: State, sink: Sink) -> None:
        super().__init__(state, sink)
        self._handlers: dict[int, Callable[[Call], None]] = {
            leaf.TDH_SYS_CONFIG: self._sys_config,
            leaf.TDH_MNG_CREATE: self._mng_create,
            leaf.TDH_MNG_ADDCX: lambda call: self._use_child(call, 0, page_of(call.before[1])),
            leaf.TDH_VP_CREATE: self._vp_create,
            leaf.TDH_VP_ADDCX: self._vp_addcx,
            leaf.TDH_MEM_PAGE_ADD: lambda call: self._use_child(call, 2, page_of(call.before[1])),
            leaf.TDH_MEM_PAGE_AUG: self._page_aug,
            leaf.TDH_MEM_SEPT_ADD: self._sept_add,
            leaf.TDH_MEM_SEPT_REMOVE: self._sept_remove,
            leaf.TDH_MEM_PAGE_REMOVE: self._page_remove,
            leaf.TDH_MEM_PAGE_RELOCATE: self._relocate,
            leaf.TDH_MEM_PAGE_DEMOTE: self._demote,
            leaf.TDH_MEM_PAGE_PROMOTE: self._promote,
            leaf.TDH_PHYMEM_PAGE_RECLAIM: self._reclaim,
            leaf.TDH_PHYMEM_PAMT_ADD: self._pamt_add,
            leaf.TDH_PHYMEM_PAMT_REMOVE: self._pamt_remove,
            leaf.TDH_MNG_VPFLUSHDONE: lambda call: self._set_lifecycle(call, TD_BLOCKED),
            leaf.TDH_MNG_KEY_FREEID: self._key_freeid,
            leaf.TDH_MNG_INIT: lambda call: self._set_lifecycle(call, TD_KEYS_CONFIGURED),
        }

    def take(self, call: Call, number: int) -> None:
        """One call of this leaf that succeeded."""
        handler = self._handlers.get(number)
        if handler is not None:
            handler(call)

    def _use_child(self, call: Call, register: int, tdr: int | None) -> None:
        self._use(call, page_of(call.before[register]))
        self._lives(call, tdr)
        self.state.add_children(tdr, 1)

    # The leaves.

    def _sys_config(self, call: Call) -> None:
        self.state.begin(bool(call.before[2] & SYS_CONFIG_DYNAMIC_PAMT))

    def _mng_create(self, call: Call) -> None:
        state, page = self.state, page_of(call.before[0])
        hkid = call.before[1] & _HKID_MASK
        for tdr, td in state.tds.items():
            if td.hkid == hkid and td.lifecycle is not None and td.lifecycle != TD_TEARDOWN:
                self.sink.impossible(
                    call, None, f"KeyID {hkid} belongs to the TD at {tdr << 12:#x}", None
                )
                td.hkid = None
                break
        self._use(call, page)
        state.tds.pop(page, None)
        td = state.td(page)
        td.lifecycle, td.children, td.hkid = TD_HKID_ASSIGNED, 0, hkid

    def _set_lifecycle(self, call: Call, lifecycle: int) -> None:
        self.state.td(page_of(call.before[0] & ~1)).lifecycle = lifecycle

    def _key_freeid(self, call: Call) -> None:
        self._set_lifecycle(call, TD_TEARDOWN)
        self.state.td(page_of(call.before[0])).hkid = None

    def _vp_create(self, call: Call) -> None:
        tdr = page_of(call.before[1])
        self._use_child(call, 0, tdr)
        tdvpr = page_of(call.before[0])
        self.state.owners[tdvpr] = tdr
        self.state.td(tdr).tdvprs.add(tdvpr)

    def _vp_addcx(self, call: Call) -> None:
        self._use_child(call, 0, self.state.owners.get(page_of(call.before[1])))

    def _page_aug(self, call: Call) -> None:
        if call.before[0] & INFO_LEVEL_MASK != LEVEL_2M:
            self._use_child(call, 2, page_of(call.before[1]))
            return
        state, index, tdr = self.state, call.before[2] >> 21, page_of(call.before[1])
        region = state.region(index)
        if (region.state == PAIR and state.dynamic) or region.state == LARGE:
            self._impossible(
                call, index, region, f"region {index << 21:#x} has {STATE_NAMES[region.state]}"
            )
        elif region.used or region.inside:
            self._impossible(
                call, index, region, f"pages of region {index << 21:#x} are in use at 4K"
            )
        self._clear(index, region, LARGE, call)
        state.td(tdr).large[call.before[0] >> 21] = index
        self._lives(call, tdr)
        state.add_children(tdr, PAGES_PER_2M)

    def _sept_add(self, call: Call) -> None:
        tdr = page_of(call.before[1])
        self._lives(call, tdr)
        if not call.rax >> 16 & 0xFF:
            if call.before[1] & HANDLE_FLAG:  # the page is not used where there is one already
                self._doubt(page_of(call.before[2]), tdr)
            else:
                self._use(call, page_of(call.before[2]))
                self.state.add_children(tdr, 1)
            return
        self.take_part(call)

    def take_part(self, call: Call) -> None:
        """SEPT.ADD of version 1, also one that was interrupted: the pages that it has taken."""
        tdr = page_of(call.before[1])
        for register in range(2, 6):  # R8 to R11: NULL_PA afterwards where a page was taken
            page = call.before[register]
            if page == NULL_PA:
                continue
            if call.after is None:
                self._doubt(page_of(page), tdr)
            elif call.after[register] == NULL_PA:
                self._use(call, page_of(page))
                self.state.add_children(tdr, 1)
                self.state.td(tdr).has_l2 |= register > 2

    def _removed(self, call: Call) -> None:
        """A 4K page that the module names in RCX, with the hint in bit 62."""
        if call.after is None:
            self.state.lose_pages()
        else:
            value = call.after[0]
            self._free(call, page_of(value), value & REMOVAL_HINT)
        self.state.add_children(page_of(call.before[1]), -1)

    def _sept_remove(self, call: Call) -> None:
        self._removed(call)
        self._l2_removed(call)

    def _l2_removed(self, call: Call) -> None:
        """S-EPT pages of L2 VMs that went as well: version 1 names them."""
        tdr = page_of(call.before[1])
        if not call.rax >> 16 & 0xFF or call.after is None:
            td = self.state.tds.get(tdr)
            if td is None or td.has_l2 or td.children is None:
                self.state.lose_pages()
            return
        for value in call.after[3:6]:
            if value != NULL_PA:
                self._free(call, page_of(value), value & REMOVAL_HINT)
                self.state.add_children(tdr, -1)

    def _page_remove(self, call: Call) -> None:
        level = call.before[0] & INFO_LEVEL_MASK
        if not level:
            self._removed(call)
            return
        state, tdr = self.state, page_of(call.before[1])
        known = state.td(tdr).large.pop(call.before[0] >> 21, None)
        state.add_children(tdr, -(PAGES_PER_2M**level))
        if level != LEVEL_2M:
            return
        index = known if call.after is None else call.after[0] >> 21
        if index is None:
            return
        region = state.region(index)
        if region.state == PAIR or (region.state == NO_PAIR and state.dynamic):
            self._impossible(
                call,
                index,
                region,
                f"region {index << 21:#x} has {STATE_NAMES[region.state]}, it is no 2M page",
            )
        elif known is not None and known != index:
            self._impossible(
                call,
                index,
                region,
                f"the TD's page there is {known << 21:#x}, not {index << 21:#x}",
            )
        self._clear(index, region, NO_PAIR, call)

    def _relocate(self, call: Call) -> None:
        self._use(call, page_of(call.before[2]))
        if call.after is None:
            self.state.lose_pages()
        else:
            self._free(call, page_of(call.after[0]), None)

    def _demote(self, call: Call) -> None:
        state, tdr = self.state, page_of(call.before[1])
        self._use(call, page_of(call.before[2]))
        self._lives(call, tdr)
        state.add_children(tdr, 1)
        if not call.before[1] & HANDLE_FLAG:
            for value in call.before[3:6]:  # pages for L2 VMs, of which the TD may have fewer
                if page_of(value) and value != NULL_PA:
                    self._doubt(page_of(value), tdr)
                    state.td(tdr).has_l2 = True
        if call.before[0] & INFO_LEVEL_MASK != LEVEL_2M:
            return
        index = state.td(tdr).large.pop(call.before[0] >> 21, None)
        if index is None:
            return
        region = state.region(index)
        if not state.dynamic:
            state.lose_pages()
            state.set_state(region, UNKNOWN)
            region.seen_by(call)
            return
        if region.state == PAIR:
            self._impossible(call, index, region, f"region {index << 21:#x} has a page pair")
        pair = (page_of(call.before[6]), page_of(call.before[7]))
        self._check_pair_pages(call, index, pair)
        state.set_pair(index, region, pair)
        state.set_state(region, PAIR)
        state.set_used(region, ALL_PAGES, ALL_PAGES)
        region.origin = origin_of(call)
        region.added = call.end, call.comm, call.caller
        if region.refs is not None:
            region.refs = PAGES_PER_2M
        region.seen_by(call)

    def _promote(self, call: Call) -> None:
        state, tdr = self.state, page_of(call.before[1])
        if call.after is None:
            state.lose_pages()
            return
        self._free(call, page_of(call.after[0]), None)
        state.add_children(tdr, -1)
        self._l2_removed(call)
        if call.before[0] & INFO_LEVEL_MASK != LEVEL_2M:
            return
        if not state.dynamic:  # nothing tells which region it is
            state.lose_pages()
            return
        index = state.pair_pages.get(page_of(call.after[6]))
        if index is not None:
            self._clear(index, state.region(index), LARGE, call)
            state.td(tdr).large[call.before[0] >> 21] = index

    def _reclaim(self, call: Call) -> None:
        state, page = self.state, page_of(call.before[0])
        region = state.region(page >> 9)
        size = 1 if region.state == LARGE else 0
        owner = None
        hint = None
        if call.after is not None:
            size, owner = call.after[2], page_of(call.after[1])
            hint = call.after[3] & REMOVAL_HINT
        td = state.tds.get(page)
        if td is not None and td.children and not state.blind:
            self.sink.impossible(
                call, page >> 9, f"the TD at {page << 12:#x} has {td.children} pages left", None
            )
        if size:
            if region.state in (NO_PAIR, PAIR) and size == LEVEL_2M and state.dynamic:
                self._impossible(
                    call,
                    page >> 9,
                    region,
                    f"region {page >> 9 << 21:#x} has {STATE_NAMES[region.state]}, so it is no 2M "
                    "page",
                )
            self._clear(page >> 9, region, NO_PAIR, call)
        else:
            self._free(call, page, hint)
        if td is not None:
            state.tds.pop(page)
            for tdvpr in td.tdvprs:
                state.owners.pop(tdvpr, None)
            return
        owned = None if owner is None else state.tds.get(owner)
        if owned is not None and owner:
            state.add_children(owner, -(PAGES_PER_2M**size))
            if owned.lifecycle not in (None, TD_TEARDOWN):
                self.sink.impossible(
                    call,
                    page >> 9,
                    f"its TD at {owner << 12:#x} has not given its KeyID back",
                    None,
                )
                owned.lifecycle = None

    def _pamt_add(self, call: Call) -> None:
        state, index = self.state, call.before[0] >> 21
        state.dynamic = True
        region = state.region(index)
        if region.state in (PAIR, LARGE):
            self._impossible(
                call,
                index,
                region,
                f"region {index << 21:#x} has {STATE_NAMES[region.state]}; expected "
                "TDX_HPA_RANGE_NOT_FREE",
            )
        pair = (page_of(call.before[1]), page_of(call.before[2]))
        self._check_pair_pages(call, index, pair)
        state.set_pair(index, region, pair)
        state.set_state(region, PAIR)
        state.set_used(region, 0, ALL_PAGES)
        region.origin = origin_of(call)
        region.added = call.end, call.comm, call.caller
        region.seen_by(call)

    def _pamt_remove(self, call: Call) -> None:
        state, index = self.state, call.before[0] >> 21
        state.dynamic = True
        region = state.region(index)
        if region.state in (NO_PAIR, LARGE):
            self._impossible(
                call,
                index,
                region,
                f"region {index << 21:#x} has {STATE_NAMES[region.state]}; expected "
                "TDX_NO_PAMT_PAGE_PAIR",
            )
        elif region.used:
            self._impossible(
                call,
                index,
                region,
                f"{region.used.bit_count()} pages of region {index << 21:#x} are in use; expected "
                "TDX_PAMT_PAGE_NOT_EMPTY",
            )
        elif call.after is not None and region.pair is not None:
            given = (page_of(call.after[1]), page_of(call.after[2]))
            if given != region.pair:
                self._impossible(
                    call,
                    index,
                    region,
                    f"it returned pages {given[0] << 12:#x} and {given[1] << 12:#x}, and was given "
                    f"{region.pair[0] << 12:#x} and {region.pair[1] << 12:#x}",
                )
        self._clear(index, region, NO_PAIR, call)
        region.added = None


assert REGISTER_NAMES[2] == "r8"
assert REGISTER_NAMES[6] == "r12"
