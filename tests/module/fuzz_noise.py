"""Choices of the fuzzer: pages, operands, noise from everywhere, other CPUs that get in the way.

All of them come from one random generator, so that a seed says everything.
"""

import random
from collections.abc import Sequence

from dpamt.abi import leaves as leaf
from dpamt.abi.pages import (
    NULL_PA,
    PAGE_SHIFT,
    PAGE_SIZE,
    PT_PAMT,
    SIZE_1G,
    SIZE_2M,
)
from dpamt.module.leaves.table import HANDLERS
from dpamt.sync import EXCLUSIVE, SHARED
from tests.module.fuzz_world import (
    Call,
    Hold,
    Knob,
    Operation,
    OpState,
    Release,
    World,
)
from tests.module.rig import FIRST, PAIRS, RESERVED, SOURCE, params_of

REGIONS = [FIRST + n * SIZE_2M for n in range(6)] + [RESERVED]
"""Regions that all TDs share."""
LARGE = [FIRST + n * SIZE_2M for n in (8, 9, 10, 4, 5)]
"""Regions for 2M pages; two of them are among those shared."""
OFFSETS = [*range(24), *range(250, 262), *range(500, 512)]
POOL: list[int] = [region + n * PAGE_SIZE for region in REGIONS for n in OFFSETS]
PAIR_POOL = [PAIRS + n * PAGE_SIZE for n in range(40)]
BLOCK = FIRST + SIZE_1G
"""A block for a 1G page."""
SLOTS = range(3)
INDICES = (0, 1, 2, 3, 255, 256, 510, 511)
GPA_1G = SIZE_1G
PLACES = [slot * SIZE_2M | 1 for slot in SLOTS] + [
    slot * SIZE_2M + index * PAGE_SIZE for slot in SLOTS for index in INDICES
]
"""Page infos of all guest memory that hosts deal with, but for the 1G page."""
_PAGE, _TDR, _TDVPR, _INFO, _KEYID, _SIZE, _SMALL = range(7)
"""Kinds of operands."""
OPERANDS: dict[int, tuple[int, ...]] = {
    leaf.TDH_VP_ENTER: (_TDVPR,),
    leaf.TDH_MNG_ADDCX: (_PAGE, _TDR),
    leaf.TDH_MNG_CREATE: (_PAGE, _KEYID),
    leaf.TDH_MNG_INIT: (_TDR, _PAGE),
    leaf.TDH_VP_CREATE: (_PAGE, _TDR),
    leaf.TDH_VP_ADDCX: (_PAGE, _TDVPR),
    leaf.TDH_VP_INIT: (_TDVPR, _SMALL, _SMALL),
    leaf.TDH_VP_FLUSH: (_TDVPR,),
    leaf.TDH_PHYMEM_PAGE_RDMD: (_SIZE,),
    leaf.TDH_PHYMEM_PAGE_RECLAIM: (_PAGE,),
    leaf.TDH_PHYMEM_PAGE_WBINVD: (_PAGE,),
    leaf.TDH_PHYMEM_PAMT_ADD: (_SIZE, _PAGE, _PAGE),
    leaf.TDH_PHYMEM_PAMT_REMOVE: (_SIZE,),
    leaf.TDH_PHYMEM_CACHE_WB: (_SMALL,),
    leaf.TDH_MEM_TRACK: (_TDR,),
    leaf.TDH_SYS_TDMR_INIT: (_SIZE,),
    leaf.TDH_SYS_RD: (_SMALL, _SMALL),
    **dict.fromkeys(
        (
            leaf.TDH_MNG_KEY_CONFIG,
            leaf.TDH_MNG_VPFLUSHDONE,
            leaf.TDH_MNG_KEY_FREEID,
            leaf.TDH_MR_FINALIZE,
        ),
        (_TDR,),
    ),
}
"""Kinds of a leaf's registers, RCX first; the others name guest memory, a TD and pages."""
IN_TD = (_INFO, _TDR, *[_PAGE] * 6)
NUMBERS = [*HANDLERS, 0xFFFF, 11, 32, 50, 130]
ENDS = {leaf.TDH_SYS_SHUTDOWN}
"""Leaves after which nothing goes on."""


class Choices:
    """Picks what an operation needs, most likely what can succeed, from what the world has."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.random = random.Random(seed)
        self.moves = self.random.random() < 0.2
        """Whether OP_STATEs move, as migration would have it."""

    def page(self) -> int:
        """A page of the pool; most likely a free one."""
        page: int = POOL[0]
        for _ in range(6):
            page = self.random.choice(POOL)
            if self._free(page):
                break
        return page

    def _free(self, page: int) -> bool:
        region = self.world.module.pamt.find_region(page >> 21)
        if region is None:
            return False
        index = page >> PAGE_SHIFT & 511
        return not (region.entries.load(index) or region.bitmap.load() >> index & 1)

    def pair(self) -> tuple[int, int]:
        """Two pages for a pair, most likely free ones."""
        pool = PAIR_POOL if self.random.random() < 0.9 else POOL
        free = [page for page in pool if self._free(page)] or pool
        return self.random.choice(free), self.random.choice(free)

    def pair_call(self) -> Call:
        """PAMT.REMOVE most likely of an empty region, PAMT.ADD to one without a pair.

        The pages of the pair are free, or anything: in use, in a pair, reserved, twice the same,
        or of the region itself.
        """
        pick, chance = self.random.choice, self.random.random
        pamt = self.world.module.pamt
        bare = []
        for place in LARGE if chance() < 0.3 else REGIONS:
            region = pamt.find_region(place >> 21)
            entry = region.first.load() if region is not None else 0
            if not entry:
                bare.append(place)
            elif region and not region.count.load() and entry == PT_PAMT and chance() < 0.3:
                return self.call(leaf.TDH_PHYMEM_PAMT_REMOVE, place | 1)
        place = pick(bare or REGIONS)
        first, second = self.pair()
        if chance() < 0.4:
            first = pick((pick(POOL), pick(PAIR_POOL), second, place + pick(OFFSETS) * PAGE_SIZE))
        if chance() < 0.3:
            second = pick((pick(POOL), pick(PAIR_POOL), place + pick(OFFSETS) * PAGE_SIZE))
        return self.call(leaf.TDH_PHYMEM_PAMT_ADD, place | 1, first, second)

    def region(self) -> int:
        """A region for a 2M page, most likely a free one."""
        free = [r for r in LARGE if not self.world.module.pamt.region(r >> 21).first.load()]
        return int(self.random.choice(free or LARGE))

    def info(self) -> int:
        """Guest memory and a level."""
        pick = self.random.choice
        level = pick((0, 0, 0, 1, 1, 1, 2, 3))
        gpa = pick(SLOTS) * SIZE_2M if level < 2 else pick((0, 0, GPA_1G))
        return gpa + (pick(INDICES) * PAGE_SIZE if level == 0 else 0) | level

    def call(self, number: int, *registers: int, version: int = 0, cpu: int = -1) -> Call:
        """A call on some processor; registers in their order."""
        cpu = cpu if cpu >= 0 else self.random.randrange(4)
        return Call(number, (registers + (0,) * 8)[:8], version, cpu)

    def noise(self) -> Call:
        number = self.random.choice(NUMBERS)
        if number in ENDS and self.random.random() < 0.98:
            number = leaf.TDH_MEM_PAGE_AUG
        kinds = OPERANDS.get(number, IN_TD)
        registers = [self._operand(kind) for kind in kinds]
        version = self.random.choice((0, 0, 0, 0, 1, 1, 2, 255))
        return self.call(number, *registers, version=version)

    def _operand(self, kind: int) -> int:
        pick, chance = self.random.choice, self.random.random
        if chance() < 0.08:
            kind = self.random.randrange(7)
        value = self._value_of(kind)
        if chance() < 0.06:
            value ^= 1 << self.random.randrange(64)
        if chance() < 0.03:
            value = pick((NULL_PA, self.random.getrandbits(64), self.random.getrandbits(48)))
        return value

    def _value_of(self, kind: int) -> int:
        def pick(values: Sequence[int]) -> int:
            return self.random.choice(values)

        if kind == _TDR:
            return pick(list(self.world.tdrs) or POOL) | (self.random.random() < 0.1)
        if kind == _TDVPR:
            return pick(list(self.world.tdvprs) or POOL)
        if kind == _INFO:
            return self.info()
        if kind == _KEYID:
            return self.world.rig.hkid + pick(range(7))
        if kind == _SIZE:
            return pick((pick(REGIONS) | 1, self.region() | 1, BLOCK | 2, self.page(), FIRST))
        if kind == _SMALL:
            return pick((0, 1, 2, 0x9100000100000008, NULL_PA))
        return pick((self.page(), pick(POOL), pick(PAIR_POOL), self.region(), SOURCE, params_of(0)))

    def disturbance(self) -> Operation:
        pick, module = self.random.choice, self.world.module
        who = self.random.randrange(3)
        kind = self.random.randrange(8)
        if kind < 4:
            return Release(who)
        if kind == 4:
            name = pick(("interrupt_pending", "interrupt_pending", "entropy_available"))
            return Knob(name, (name == "entropy_available") ^ (self.random.random() < 0.3))
        if kind == 5 and self.moves and self.world.tdrs:
            return OpState(pick(list(self.world.tdrs)), pick((2, 2, 2, 3, 4, 5, 8, 9, 10)))
        how = pick((SHARED, SHARED, EXCLUSIVE))
        if kind == 6 and self.world.tdrs:
            tree = pick((-1, SHARED, SHARED, EXCLUSIVE))
            info = self.info()
            return Hold(who, "td", (pick(list(self.world.tdrs)), how, tree, info))
        if kind == 7:
            what = pick(("kot", "kot", "ket", "wbcache", "tdmr", "global"))
            return Hold(who, what, (how, module.processors[-1].package))
        return Hold(who, "page", (pick((self.page(), pick(POOL))), how, pick((0, 0, 1))))


def start_up(pick: random.Random, world: World) -> Call:
    """A call to a module that is being started: most likely one that helps."""
    numbers = (
        leaf.TDH_SYS_INIT,
        leaf.TDH_SYS_LP_INIT,
        leaf.TDH_SYS_LP_INIT,
        leaf.TDH_SYS_CONFIG,
        leaf.TDH_SYS_KEY_CONFIG,
        leaf.TDH_SYS_RD,
        leaf.TDH_SYS_TDMR_INIT,
    )
    number = pick.choice(numbers) if pick.random() < 0.9 else pick.choice(NUMBERS)
    values = [0] * 8
    if number == leaf.TDH_SYS_CONFIG:
        values[:3] = [world.rig.config[name] for name in ("rcx", "rdx", "r8")]
    elif number == leaf.TDH_SYS_TDMR_INIT:
        values[0] = FIRST
    elif number == leaf.TDH_SYS_RD:
        values[1] = pick.choice((NULL_PA, 0x9100000100000008, pick.getrandbits(64)))
    if pick.random() < 0.15:
        values[pick.randrange(8)] ^= 1 << pick.randrange(64)
    version = pick.choice((0,) * 12 + (1, 2))
    return Call(number, tuple(values), version, pick.randrange(4))
