"""What the fuzzer plays on: a module, the other CPUs that hold its locks, and the checks of both.

An operation is a plain value, so that a list of them can be replayed, cut and printed.
"""

import random
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from dpamt.abi import leaves as leaf
from dpamt.abi import status as s
from dpamt.abi.exits import EXIT_REASON_HLT, TDG_MEM_PAGE_ACCEPT
from dpamt.abi.pages import LEVEL_4K, PAGE_SHIFT, PAGES_PER_2M, PT_TDR, PT_TDVPR
from dpamt.abi.registers import REGISTER_NAMES, TdxModuleArgs
from dpamt.abi.states import OP_STATE_INITIALIZED, SYS_READY, TD_KEYS_CONFIGURED
from dpamt.module.sept_checks import descend
from dpamt.module.td import HEADER_LIFECYCLE_MASK, HEADER_LIFECYCLE_SHIFT
from dpamt.module.view import ModuleView
from dpamt.sync import EXCLUSIVE, SHARED, LockSet
from dpamt.sync.entry_pages import EntryPages
from dpamt.sync.host_priority import EX, HostPriorityWords
from dpamt.sync.shared_exclusive import SharedExclusiveLocks
from tests.module.answer_laws import broken_laws
from tests.module.fuzz_watch import TreeWatch, held_locks
from tests.module.rig import Rig

Registers = tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """A SEAMCALL on a logical processor."""

    number: int
    registers: Registers
    version: int = 0
    cpu: int = 0

    def __str__(self) -> str:
        name = leaf.LEAF_NAMES.get(self.number, f"leaf {self.number}")
        version = f" v{self.version}" if self.version else ""
        given = zip(REGISTER_NAMES, self.registers, strict=True)
        shown = " ".join(f"{register}={value:#x}" for register, value in given if value)
        return f"cpu {self.cpu}: {name}{version} {shown}".rstrip()


@dataclass(frozen=True)
class Enter:
    """TDH.VP.ENTER of a VCPU; inside it, one after another, what its guest and others do."""

    cpu: int
    tdvpr: int
    steps: tuple["tuple[str, int] | Call", ...]

    def __str__(self) -> str:
        steps = ", ".join(
            f"[{step}]" if isinstance(step, Call) else f"{step[0]} {step[1]:#x}"
            for step in self.steps
        )
        return f"cpu {self.cpu}: TDH.VP.ENTER rcx={self.tdvpr:#x}; inside: {steps}"


@dataclass(frozen=True)
class Hold:
    """Another CPU, number ``who``, takes locks as some call of its own would, or none of them."""

    who: int
    what: str
    where: tuple[int, ...]


@dataclass(frozen=True)
class Release:
    """That CPU lets go of all it holds."""

    who: int


@dataclass(frozen=True)
class Knob:
    """An input of the platform changes."""

    name: str
    value: bool


@dataclass(frozen=True)
class OpState:
    """A migration leaf, which is not modelled, moves the OP_STATE of a TD that is initialized."""

    tdr: int
    state: int


Operation = Call | Enter | Hold | Release | Knob | OpState
Answer = tuple[int, Registers]
_NO_ANSWER: Answer = (0, (0,) * len(REGISTER_NAMES))

_REFUSED_WITH_EFFECT = frozenset(
    {leaf.TDH_VP_ENTER, leaf.TDH_SYS_CONFIG, leaf.TDH_PHYMEM_CACHE_WB, leaf.TDH_MEM_SEPT_ADD}
)
"""Leaves that may keep something of a refused call: an association, a KeyID, the way come."""


class World:
    """A module under fire.  ``broken`` collects what is wrong; empty as long as all is well."""

    def __init__(self, dynamic: bool, release: str, started: bool = True) -> None:
        self.rig = Rig(dynamic, release, cpus=4, packages=2, started=started)
        self.module = self.rig.module
        self.view = ModuleView(self.module)
        self.broken: list[str] = []
        self.calls = 0
        self.answers: dict[tuple[int, int], int] = {}
        """(leaf, status code) to how often."""
        self.tdrs: dict[int, int] = {}
        """TDR to KeyID of each TD that still has its TDR."""
        self.tdvprs: dict[int, int] = {}
        """TDVPR to TDR of each VCPU."""
        self.watch = TreeWatch(self.module)
        self._inside = 0
        """Calls that a VP.ENTER still in progress surrounds."""
        self._others: dict[int, LockSet] = {}
        self._held: dict[tuple[str, int], int] = {}
        """The lock words of what other CPUs hold."""

    @property
    def undisturbed(self) -> bool:
        """Whether nobody else holds a lock."""
        return not self._others

    def play(self, operation: Operation, watched: bool = False) -> Answer:
        """Do it; ``watched``: a refusal must change nothing."""
        if isinstance(operation, Call):
            return self._watched(operation) if watched else self._call(operation)
        if isinstance(operation, Enter):
            return self._enter(operation)
        if isinstance(operation, Hold):
            self._hold(operation)
        elif isinstance(operation, Release):
            self._release(operation.who)
        elif isinstance(operation, Knob):
            setattr(self.module, operation.name, operation.value)
        else:
            td = self.module.tds.at(operation.tdr >> PAGE_SHIFT)
            if operation.tdr in self.tdrs and td.op_state.load() > OP_STATE_INITIALIZED:
                td.op_state.store(operation.state)
        return _NO_ANSWER

    # Calls.

    def _call(self, call: Call) -> Answer:
        args = TdxModuleArgs()
        for name, value in zip(REGISTER_NAMES, call.registers, strict=True):
            if value:
                setattr(args, name, value)
        rax = call.number | call.version << leaf.RAX_VERSION_SHIFT
        status = self.module.processor(call.cpu).seamcall(rax, args)
        answer = status, args.as_tuple()
        self.calls += 1
        key = call.number, status & s.STATUS_MASK
        self.answers[key] = self.answers.get(key, 0) + 1
        for law in broken_laws(
            call.number, call.version, call.registers, *answer, self.module.pamt.dynamic
        ):
            self.broken.append(f"{call} -> {status:#x} {s.status_name(status)}: {law}")
        found = self.watch.look(call.number, call.registers, *answer)
        self.broken += [f"{call} -> {s.status_name(status)}: {fault}" for fault in found]
        if not self._inside:
            self.check_locks()
        if not status:
            self._remember(call, answer[1])
        return answer

    def _remember(self, call: Call, outputs: Registers) -> None:
        rcx, rdx = call.registers[:2]
        if call.number == leaf.TDH_MNG_CREATE:
            self.tdrs[rcx] = rdx
        elif call.number == leaf.TDH_VP_CREATE:
            self.tdvprs[rcx] = rdx
        elif call.number == leaf.TDH_PHYMEM_PAGE_RECLAIM:
            if outputs[0] == PT_TDR:
                del self.tdrs[rcx]
            elif outputs[0] == PT_TDVPR:
                del self.tdvprs[rcx]

    def _watched(self, call: Call) -> Answer:
        before = self.payloads()
        status, outputs = self._call(call)
        if (
            status & s.ERROR_BIT
            and call.number not in _REFUSED_WITH_EFFECT
            and before != self.payloads()
        ):
            self.broken.append(f"{call} -> {s.status_name(status)}: refused, and changed something")
        return status, outputs

    def payloads(self) -> dict[str, Hashable]:
        """All state of the module without its locks."""
        found: dict[str, Hashable] = {}
        for name, array in self.module.shared._arrays.items():
            if isinstance(array, EntryPages):
                pages = ((page, tuple(array.find(page).payloads())) for page in array.pages())
                found[name] = tuple((page, words) for page, words in pages if any(words))
            elif isinstance(array, HostPriorityWords):
                words = ((index, word.load()) for index, word in array.non_zero())
                found[name] = tuple(sorted((index, word) for index, word in words if word))
            elif not isinstance(array, SharedExclusiveLocks):
                found[name] = array.capture()
        return found

    def _enter(self, enter: Enter) -> Answer:
        self.module.attach_guest(enter.tdvpr, _Guest(self, enter.steps))
        registers = (enter.tdvpr, *_NO_ANSWER[1][1:])
        return self._call(Call(leaf.TDH_VP_ENTER, registers, cpu=enter.cpu))

    def call_inside(self, call: Call) -> None:
        """A call while a guest runs: the locks of its VP.ENTER are held."""
        self._inside += 1
        self._call(call)
        self._inside -= 1

    # Other CPUs.

    def _hold(self, hold: Hold) -> None:
        self.check_locks()
        self._release(hold.who)
        locks = LockSet()
        if self._take(locks, hold.what, *hold.where):
            self._others[hold.who] = locks
        else:
            locks.release_all()
        self._held = held_locks(self.module)

    def _release(self, who: int) -> None:
        if who in self._others:
            self.check_locks()
            self._others.pop(who).release_all()
            self._held = held_locks(self.module)

    def release_others(self) -> None:
        """Every other CPU lets go."""
        for who in list(self._others):
            self._release(who)

    def _take(self, locks: LockSet, what: str, *where: int) -> bool:
        """Take the locks of a call in progress; False: not to be had."""
        module = self.module
        if what == "page":
            page, how, level = where
            return module.pamt.walk(page >> PAGE_SHIFT, how, level, locks) not in (-1, -4)
        if what == "td":
            return self._take_td(locks, *where)
        if what == "kot":
            lock = module.keys.kot_lock
        elif what == "ket":
            lock = module.keys.key_engines.at(where[1])
        elif what == "wbcache":
            lock = module.keys.write_back_lock.at(where[1])
        elif what == "tdmr":
            lock = module.tdmrs.all[0].lock
        else:
            lock = module.global_lock
        taken = locks.shared(lock) if where[0] == SHARED else locks.exclusive(lock)
        return taken >= 0

    def _take_td(self, locks: LockSet, tdr: int, how: int, tree: int, info: int) -> bool:
        """TDR as ``how``; shared also OP_STATE, and by ``tree``: -1 the epoch, else tree, entry."""
        module = self.module
        if module.pamt.walk(tdr >> PAGE_SHIFT, how, LEVEL_4K, locks) != PT_TDR:
            return False
        td = module.tds.at(tdr >> PAGE_SHIFT)
        lifecycle = td.header.load() & HEADER_LIFECYCLE_MASK
        running = lifecycle == TD_KEYS_CONFIGURED << HEADER_LIFECYCLE_SHIFT
        if how == EXCLUSIVE or not running or td.op_state.load() < OP_STATE_INITIALIZED:
            return True
        if locks.shared(td.op_state) < 0:
            return False
        if tree < 0:
            return locks.exclusive(td.epoch_lock) >= 0
        if (locks.shared(td.tree) if tree == SHARED else locks.exclusive(td.tree)) < 0:
            return False
        level, gfn = info & 7, info >> PAGE_SHIFT
        lp = module.processor(0)
        sept, index, _ = descend(lp, td.eptp.load(), level, gfn)
        return locks.exclusive_entry(sept, index) >= 0

    # Checks.

    def check_locks(self) -> None:
        """Exactly what other CPUs hold is locked; a failed reader's stray count aside."""
        words = held_locks(self.module)
        if not words and not self._held:
            return
        for where in words.keys() | self._held.keys():
            held, word = self._held.get(where, 0), words.get(where, 0)
            same = word & EX if held & EX else word >> 2 == held >> 2 and not word & EX
            if not same:
                name = f"{where[0]} {where[1]:#x}"
                self.broken.append(f"{name}: lock word {word:#x}, others hold {held:#x}")

    def check(self, seed: int = 0, rdmd_everywhere: bool = False) -> None:
        """The whole tree, S-EPTs too, and what RDMD says of some pages, or all that matter."""
        self.check_locks()
        view = self.view
        if sorted(lock.word for lock in view.held_locks()) != sorted(
            held_locks(self.module).values()
        ):
            self.broken.append("the view tells other locks than the arrays")
        self.broken += [line for line in view.check() if " is locked " not in line]
        self.broken += self.watch.against(view)
        if self.module.sys_state.load() == SYS_READY and self.module.pamt.regions:
            pick = random.Random(seed)
            if rdmd_everywhere:
                for region in list(self.module.pamt.regions):
                    self.broken += self.watch.rdmd(region, self._meant_in(region, pick))
                return
            regions = list(self.module.pamt.regions)
            for _ in range(12):
                index = pick.choice((0, 1, 2, 255, 256, 511, pick.randrange(PAGES_PER_2M)))
                self.broken += self.watch.rdmd(pick.choice(regions), [index])

    def _meant_in(self, region: int, pick: random.Random) -> list[int]:
        """Pages of a region that are in use or have a bit; its ends, and any page."""
        meant = {0, 1, PAGES_PER_2M - 1, pick.randrange(PAGES_PER_2M)}
        known = self.watch.regions.get(region)
        if known is not None:
            bits = known.used | known.bits
            meant |= {index for index in range(PAGES_PER_2M) if bits >> index & 1}
        return sorted(meant)


class _Guest:
    """A guest's program, with what other CPUs call while it is inside."""

    def __init__(self, world: World, steps: tuple[tuple[str, int] | Call, ...]) -> None:
        self._world = world
        self._steps = steps

    def run(
        self,
        tdcall: Callable[[int, TdxModuleArgs], int],
        access: Callable[[int], None],
        exits: TdxModuleArgs,
    ) -> int:
        for step in self._steps:
            if isinstance(step, Call):
                self._world.call_inside(step)
            elif step[0] == "accept":
                status = tdcall(TDG_MEM_PAGE_ACCEPT, TdxModuleArgs.of(rcx=step[1]))
                if status & s.STATUS_MASK not in s.STATUS_NAMES:
                    self._world.broken.append(f"accept of {step[1]:#x}: {status:#x}")
            else:
                access(step[1])
        return EXIT_REASON_HLT
