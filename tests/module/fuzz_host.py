"""Whom the fuzzer sends: hosts that lead TDs through their lives, while noise comes in between."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from dpamt.abi import leaves as leaf
from dpamt.abi import status as s
from dpamt.abi.pages import (
    LEVEL_2M,
    NULL_PA,
    PAGE_SHIFT,
    PAGE_SIZE,
    SIZE_2M,
)
from dpamt.abi.registers import REGISTER_NAMES
from dpamt.abi.states import SEPT_PRIVATE_LEAF
from dpamt.abi.td_metadata import TD_FIELDS, VCPU_FIELDS
from dpamt.abi.td_params import TDVPS_MIN_PAGES, TDVPS_PAGES_PER_L2_VM
from dpamt.module.sept import STATE_MASK
from dpamt.module.sept_checks import descend
from tests.module.answer_laws import MISSING_OPERANDS, OPERAND_OF
from tests.module.fuzz_noise import BLOCK, ENDS, GPA_1G, INDICES, PLACES, SLOTS, Choices
from tests.module.fuzz_world import (
    Answer,
    Call,
    Enter,
    Operation,
    World,
)
from tests.module.rig import SOURCE, params_of

Steps = Generator[Operation, Answer, Answer]
Story = Generator[Operation, Answer, None]

_AGAIN = frozenset({s.TDX_OPERAND_BUSY, s.TDX_INTERRUPTED_RESTARTABLE, s.TDX_INTERRUPTED_BUSY})
_UNKNOWN: Answer = (s.ERROR_BIT, ())


@dataclass
class _Going:
    """A story and the answer it waits for; None before its first operation."""

    story: Story
    answer: Any = None


class Hosts(Choices):
    """Makes the next operation from what the world looks like."""

    def __init__(self, world: World, seed: int) -> None:
        super().__init__(world, seed)
        self.large_blocks = self.random.random() < 0.04
        """Whether one TD builds a 1G page."""
        self._stories: list[_Going] = []
        self._current: _Going | None = None

    def next(self) -> Operation:
        """The next operation; :meth:`told` must be called with its answer."""
        self._current = None
        chance = self.random.random()
        if chance < 0.10:
            return self.noise()
        if chance < 0.17:
            return self.disturbance()
        if chance < 0.20:
            return self.pair_call()
        if len(self._stories) < 3:
            self._stories.append(_Going(self._life()))
        going = self.random.choice(self._stories)
        try:
            operation = going.story.send(going.answer)
        except StopIteration:
            self._stories.remove(going)
            return self.noise()
        self._current = going
        return operation

    def told(self, answer: Answer) -> None:
        """The answer to the last operation."""
        if self._current is not None:
            self._current.answer = answer

    def _try(self, call: Call, tries: int = 4) -> Steps:
        """The call, again where it was busy, with a pair added where one was missing."""
        answer = yield call
        while tries and answer[0] & s.ERROR_BIT:
            tries -= 1
            code = answer[0] & s.STATUS_MASK
            if code == s.TDX_MISSING_PAMT_PAGE_PAIR:
                names = MISSING_OPERANDS[call.number]
                operand = answer[0] & ~s.STATUS_MASK
                name = next(name for name in names if OPERAND_OF[name] == operand)
                page = call.registers[REGISTER_NAMES.index(name)]
                region = page & ~(SIZE_2M - 1) & ~(1 << 63)
                yield self.call(leaf.TDH_PHYMEM_PAMT_ADD, region | 1, *self.pair())
            elif code not in _AGAIN:
                return answer
            answer = yield call
        return answer

    def _must(self, number: int, *registers: int, version: int = 0, cpu: int = -1) -> Steps:
        """A call that a TD cannot do without; NULL_PA stands for some free page each time."""
        answer = _UNKNOWN
        for _ in range(12):
            given = [self.page() if value == NULL_PA else value for value in registers]
            call = self.call(number, *given, version=version, cpu=cpu)
            answer = yield from self._try(call)
            if not answer[0] & s.ERROR_BIT:
                break
            self.world.rig.module.entropy_available = True
        return answer

    def _life(self) -> Story:
        """A TD from its creation to its end, whatever comes in between."""
        tdr = self.page()
        l2_vms = self.random.choice((0, 0, 0, 1, 2, 3))
        keyid = self.world.rig.hkid + 1 + self.random.randrange(6)
        status, _ = yield from self._try(self.call(leaf.TDH_MNG_CREATE, tdr, keyid))
        if status:
            return
        vcpus: list[int] = []
        status, _ = yield from self._build(tdr, l2_vms)
        if not status:
            yield from self._add_vcpus(tdr, vcpus, l2_vms)
            yield from self._fill(tdr, l2_vms)
            for _ in range(self.random.randrange(40, 160)):
                yield from self._work(tdr, vcpus, l2_vms)
        yield from self._end(tdr, vcpus)

    def _build(self, tdr: int, l2_vms: int) -> Steps:
        """Up to MNG.INIT; its answer."""
        for cpu in self.world.rig.one_cpu_of_each_package():
            yield from self._must(leaf.TDH_MNG_KEY_CONFIG, tdr, cpu=cpu)
        for _ in range(self.world.module.release.min_tdcs_pages + l2_vms):
            yield from self._must(leaf.TDH_MNG_ADDCX, NULL_PA, tdr)
        return (yield from self._must(leaf.TDH_MNG_INIT, tdr, params_of(l2_vms)))

    def _add_vcpus(self, tdr: int, vcpus: list[int], l2_vms: int) -> Story:
        for _ in range(2):
            tdvpr = self.page()
            status, _ = yield from self._must(leaf.TDH_VP_CREATE, tdvpr, tdr)
            if status:
                continue
            vcpus.append(tdvpr)
            for _ in range(TDVPS_MIN_PAGES - 1 + TDVPS_PAGES_PER_L2_VM * l2_vms):
                yield from self._must(leaf.TDH_VP_ADDCX, NULL_PA, tdvpr)
            version = self.random.randrange(2)
            yield from self._must(leaf.TDH_VP_INIT, tdvpr, 0, tdvpr & 7, version=version)
            yield from self._metadata(tdr, tdvpr)

    def _fill(self, tdr: int, l2_vms: int) -> Story:
        """The first S-EPT pages and measured pages; most TDs are finalized."""
        for info in (3, 2, 1):
            yield from self._table(tdr, info, l2_vms)
        for index in INDICES[: self.random.randrange(3)]:
            gpa = index * PAGE_SIZE
            add = self.call(leaf.TDH_MEM_PAGE_ADD, gpa, tdr, self.page(), SOURCE)
            yield from self._try(add)
            yield self.call(leaf.TDH_MR_EXTEND, gpa, tdr)
        if self.random.random() < 0.9:
            yield from self._must(leaf.TDH_MR_FINALIZE, tdr)
        if self.large_blocks:
            self.large_blocks = False
            yield from self._build_1g(tdr)

    def _table(self, tdr: int, info: int, l2_vms: int) -> Steps:
        """SEPT.ADD, often for the L2 VMs too."""
        if l2_vms and self.random.random() < 0.8:
            pages = [self.page() if vm <= l2_vms else NULL_PA for vm in range(4)]
            add = self.call(leaf.TDH_MEM_SEPT_ADD, info, tdr | 1, *pages, version=1)
        else:
            add = self.call(leaf.TDH_MEM_SEPT_ADD, info, tdr, self.page())
        return (yield from self._try(add))

    def _build_1g(self, tdr: int) -> Story:
        """512 pages of 2M in a block, to be promoted."""
        yield from self._table(tdr, GPA_1G | 2, 0)
        for n in range(512):
            at = n * SIZE_2M
            aug = self.call(leaf.TDH_MEM_PAGE_AUG, GPA_1G + at | 1, tdr, BLOCK + at)
            yield from self._try(aug, 6)
        yield from self._quiet(tdr, GPA_1G | 2)
        yield from self._try(self.call(leaf.TDH_MEM_PAGE_PROMOTE, GPA_1G | 2, tdr))

    def _quiet(self, tdr: int, info: int) -> Steps:
        """Take it from the guest."""
        yield from self._try(self.call(leaf.TDH_MEM_RANGE_BLOCK, info, tdr))
        return (yield from self._try(self.call(leaf.TDH_MEM_TRACK, tdr)))

    def _mapped(self, tdr: int, leaves: bool) -> int:
        """Page info of something that the TD has there, a page or a table, if it has any."""
        module = self.world.module
        td = module.tds.at(tdr >> PAGE_SHIFT)
        found = []
        if td.op_state.load():
            for info in PLACES:
                level = info & 7
                eptp, gfn = td.eptp.load(), info >> PAGE_SHIFT
                page, index, reached = descend(module.processor(0), eptp, level, gfn)
                state = page.load(index) & STATE_MASK
                if reached == level and state and (state in SEPT_PRIVATE_LEAF) == leaves:
                    found.append(info)
        return self.random.choice(found or PLACES)

    def _work(self, tdr: int, vcpus: list[int], l2_vms: int) -> Story:
        """One thing that a host does for a TD that runs."""
        pick, chance = self.random.choice, self.random.random
        slot = pick(SLOTS) * SIZE_2M
        gpa = slot + pick(INDICES) * PAGE_SIZE
        kind = self.random.randrange(12)
        if kind < 3:
            aug = self.call(leaf.TDH_MEM_PAGE_AUG, gpa, tdr, self.page())
            status, _ = yield from self._try(aug)
            if status & s.STATUS_MASK == s.TDX_EPT_WALK_FAILED:
                yield from self._table(tdr, slot | 1, l2_vms)
        elif kind == 3:
            info = slot | LEVEL_2M
            yield from self._try(self.call(leaf.TDH_MEM_PAGE_AUG, info, tdr, self.region()))
        elif kind == 4 and vcpus:
            yield self._enter(tdr, pick(vcpus))
        elif kind == 5:
            info = self._mapped(tdr, leaves=True)
            if chance() < 0.9:
                yield from self._quiet(tdr, info)
            yield from self._try(self.call(leaf.TDH_MEM_PAGE_REMOVE, info, tdr))
        elif kind == 6:
            info = self._mapped(tdr, leaves=True)
            if chance() < 0.8:
                yield from self._quiet(tdr, info)
            relocate = self.call(leaf.TDH_MEM_PAGE_RELOCATE, info, tdr, self.page())
            yield from self._try(relocate)
        elif kind == 7:
            yield from self._split(tdr, slot, l2_vms)
        elif kind in (8, 9):
            info = self._mapped(tdr, leaves=False)
            yield from self._quiet(tdr, info)
            version = self.random.randrange(2)
            number = leaf.TDH_MEM_PAGE_PROMOTE if kind == 8 else leaf.TDH_MEM_SEPT_REMOVE
            yield from self._try(self.call(number, info, tdr, version=version))
        elif kind == 10 and chance() < 0.3:
            yield from self._empty(tdr, slot)
        else:
            info = self._mapped(tdr, leaves=chance() < 0.5)
            number = pick((leaf.TDH_MEM_RANGE_UNBLOCK, leaf.TDH_MEM_SEPT_RD))
            yield from self._try(self.call(number, info, tdr))

    def _metadata(self, tdr: int, tdvpr: int) -> Story:
        """Read a field of the TD; read and write one of a VCPU, where it is or elsewhere."""
        version = self.random.randrange(2)
        field = self.random.choice(TD_FIELDS).id
        yield from self._try(self.call(leaf.TDH_MNG_RD, tdr, field, version=version))
        cpu = self._cpu_of(tdvpr)
        field = self.random.choice(VCPU_FIELDS).id
        yield from self._try(self.call(leaf.TDH_VP_RD, tdvpr, field, version=version, cpu=cpu))
        value = self.random.choice((0, 0x80, 0xF2, SOURCE, self.random.getrandbits(64)))
        write = self.call(leaf.TDH_VP_WR, tdvpr, field, value, NULL_PA, cpu=cpu)
        yield from self._try(write)

    def _split(self, tdr: int, slot: int, l2_vms: int) -> Story:
        """DEMOTE; the host makes a 2M page first where it can."""
        info = slot | LEVEL_2M
        yield from self._try(self.call(leaf.TDH_MEM_PAGE_AUG, info, tdr, self.region()))
        yield from self._quiet(tdr, info)
        pages = [self.page() if vm <= l2_vms else NULL_PA for vm in range(4)]
        sparse = self.random.random() < 0.3
        demote = self.call(leaf.TDH_MEM_PAGE_DEMOTE, info, tdr | sparse, *pages, *self.pair())
        yield from self._try(demote)
        if self.random.random() < 0.5:
            yield from self._quiet(tdr, info)
            yield from self._try(self.call(leaf.TDH_MEM_PAGE_PROMOTE, info, tdr))

    def _empty(self, tdr: int, slot: int) -> Story:
        """Take away what a table maps, and the table."""
        for index in INDICES:
            gpa = slot + index * PAGE_SIZE
            yield from self._quiet(tdr, gpa)
            yield from self._try(self.call(leaf.TDH_MEM_PAGE_REMOVE, gpa, tdr))
        yield from self._quiet(tdr, slot | 1)
        version = self.random.randrange(2)
        yield from self._try(self.call(leaf.TDH_MEM_SEPT_REMOVE, slot | 1, tdr, version=version))

    def _enter(self, tdr: int, tdvpr: int) -> Enter:
        steps: list[tuple[str, int] | Call] = []
        cpu = self._cpu_of(tdvpr)
        for _ in range(self.random.randrange(4)):
            kind = self.random.randrange(5)
            if kind < 3:
                info = self._mapped(tdr, leaves=True) if kind else self.info()
                steps.append(("accept", info))
            elif kind == 3:
                steps.append(("access", self.info()))
            else:
                call = self.noise()
                while call.number in (leaf.TDH_VP_ENTER, *ENDS):
                    call = self.noise()
                steps.append(Call(call.number, call.registers, call.version, (cpu + 1) % 4))
        return Enter(cpu, tdvpr, tuple(steps))

    def _cpu_of(self, tdvpr: int) -> int:
        """The processor that the VCPU is on."""
        known = self.world.module.tds.vcpu(tdvpr >> PAGE_SHIFT).lp.load()
        return known - 1 if known else self.random.randrange(4)

    def _end(self, tdr: int, vcpus: list[int]) -> Story:
        """Tear the TD down and reclaim all its pages, then the pairs that nobody needs."""
        for tdvpr in vcpus:
            flush = self.call(leaf.TDH_VP_FLUSH, tdvpr, cpu=self._cpu_of(tdvpr))
            yield from self._try(flush)
        yield from self._try(self.call(leaf.TDH_MNG_VPFLUSHDONE, tdr))
        for cpu in self.world.rig.one_cpu_of_each_package():
            for resume in (0, 1):
                yield from self._try(self.call(leaf.TDH_PHYMEM_CACHE_WB, resume, cpu=cpu))
        yield from self._try(self.call(leaf.TDH_MNG_KEY_FREEID, tdr))
        view = self.world.view
        for uses in (view.large_pages(2), view.large_pages(LEVEL_2M), view.used_pages()):
            for page, use in uses.items():
                if use.owner == tdr >> PAGE_SHIFT:
                    hpa = page << PAGE_SHIFT
                    yield from self._try(self.call(leaf.TDH_PHYMEM_PAGE_RECLAIM, hpa))
        yield from self._try(self.call(leaf.TDH_PHYMEM_PAGE_RECLAIM, tdr))
        for region in view.pairs():
            yield self.call(leaf.TDH_PHYMEM_PAMT_REMOVE, region << 21 | 1)
