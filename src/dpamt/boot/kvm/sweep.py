"""SEAMCALLs of a small TD's life that fail in turn, one life for each; all lives in one boot.

In the first life no SEAMCALL fails.  Its calls, each by its leaf and by how many of that leaf came
before it, with the locks that it takes, are what `--sweep` chooses from (:mod:`sweep_words`).  Each
later life has one rule, which a user can give to `--inject` as it stands.  Free pages are
scattered, so that nearly each page that the TD takes is the first of its 2M region.

What KVM does is seen by the calls that come behind the failed one, by the errors that the VMM gets,
by whether its VM is bugged, and by the pages and page pairs that are left.  It is held against
:mod:`dpamt.boot.kvm.reactions`.  What a life has left is then taken back from the module behind the
kernel's back (:mod:`take_back`), or the kernel, which frees some of it, would trip in a later life.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from dpamt.abi.contention import BUSY_OPERANDS
from dpamt.abi.leaves import (
    RAX_VERSION_SHIFT,
    TDH_MEM_SEPT_ADD,
    TDH_MNG_ADDCX,
    TDH_MNG_RD,
    TDH_PHYMEM_PAMT_ADD,
    TDH_PHYMEM_PAMT_REMOVE,
    TDH_VP_ENTER,
    TDH_VP_FLUSH,
    TDH_VP_RD,
    TDH_VP_WR,
    asked_leaf,
    leaf_name,
)
from dpamt.abi.pages import MAX_PA_LIMIT, PAGE_SHIFT
from dpamt.abi.registers import TdxModuleArgs
from dpamt.abi.status import STATUS_MASK, TDX_OPERAND_BUSY
from dpamt.boot.console import Complaint
from dpamt.boot.forced import Forced, ForcedRule
from dpamt.boot.kvm.guest import ACCEPT, SHARE, UNSHARE, word
from dpamt.boot.kvm.reactions import ERROR, Reaction, may_lose, reaction
from dpamt.boot.kvm.script import Script
from dpamt.boot.kvm.seen import Seen, contradiction
from dpamt.boot.kvm.sweep_words import Swept, parse_swept, rule_of
from dpamt.boot.kvm.take_back import take_back
from dpamt.boot.kvm.told import read_vmm
from dpamt.module.injection import Injector
from dpamt.module.injection_rules import NO_ENTROPY
from dpamt.module.module import TdxModule
from dpamt.module.other_cpu import lock_behind
from dpamt.module.processor import LogicalProcessor
from dpamt.module.view import ModuleView, Use

MOST_LIVES: Final = 2000
_PAGES: Final = 512
_IMAGE: Final = 1
_ALIVE: Final = 9
"""ORDER_ALIVE in ``guest/vmm/vmm.h``: the VMM says whether KVM has given the VM up."""
_SCATTERED: Final = 160
"""2M regions with one free page each: more than a life takes pages, so nearly each get adds a pair
and each put removes one."""
_PATIENCE: Final = 20
"""Times 100 ms: a call into KVM that has not returned by then does not."""
_BEFORE: Final = "boot"
_FOLLOWING: Final = 16
_PHASE: Final = re.compile(r"^dpamt: phase (\d+)$")
_FAILED: Final = re.compile(r"SEAMCALL (TDH_\w+) failed: (0x[0-9a-f]+)")
_ITS_WARNING: Final = re.compile(r"\b(?:vmx/tdx\.c|tdx/tdx\.c|kvm_host\.h|mmu/\w+\.c):\d+ at ")
"""Where KVM and the core WARN of a SEAMCALL that failed: __TDX_BUG_ON, KVM_BUG_ON, get and put."""
_PAGES_OF_VERSION_1: Final = ("R9", "R10", "R11")
"""Of SEPT.ADD: pages for L2 VMs."""
_BETWEEN: Final = (TDH_PHYMEM_PAMT_ADD, TDH_PHYMEM_PAMT_REMOVE, TDH_VP_FLUSH)
"""Calls that may come between a failed call and the same call made again."""
_FIELDS: Final = (TDH_MNG_RD, TDH_VP_RD, TDH_VP_WR)


class Made(NamedTuple):
    """A SEAMCALL of the life in peace: the N-th of its leaf, and the operands that it locks."""

    leaf: int
    nth: int
    locked: frozenset[str]


class Inventory(NamedTuple):
    """What the module has: pages in use, and regions that have a page pair."""

    pages: dict[int, Use]
    pairs: frozenset[int]


_WORDS: Final = (word(ACCEPT, _IMAGE, 2), word(SHARE, _IMAGE, 1), word(UNSHARE, _IMAGE, 1))
LIFE_TD: Final = f"td 0 1 {_PAGES} {_IMAGE}"
"""The TD of a life: one vCPU."""
LIFE: Final = ("build 0", f"words 0 0 {' '.join(map(str, _WORDS))}", "go", "close 0")
"""A life: built, two pages accepted, one converted, closed."""


@dataclass(slots=True)
class Life:
    """A life in which the rule ``line`` holds."""

    number: int
    line: str
    leaf: int
    nth: int
    at_the_end: bool = False
    """Whether the guest had been entered for the last time: a failure reaches nobody then."""
    came: bool = False
    """Whether the call was made: a page pair may be there already."""
    status: int = 0
    """What it was answered."""
    where: str = ""
    """The function of KVM's that made it."""
    tries: int = 0
    """How many tries of it failed."""
    again: bool = False
    """Whether it was made again after them."""
    reactions: list[str] = field(default_factory=list)
    """What the VMM got and the kernel said."""
    seen: Seen = field(default_factory=Seen)
    expected: Reaction | None = None
    contradicts: str = ""
    """What is not as the kernel's source says; empty: nothing is."""
    met: int = 0
    """A page (its address) that an earlier life had lost, and that this one met; 0: none."""
    tds: int = 0
    kept: tuple[tuple[int, int], ...] = ()
    """(Address, page type) of pages that this life left with the module."""
    pairs: tuple[int, ...] = ()
    """Addresses of the 2M regions whose page pairs it left."""
    counts: dict[int, int] = field(default_factory=dict)
    """By address of a 2M region: how much the kernel counts too many since this life."""
    freed: tuple[int, ...] = ()
    """Addresses of pages that the kernel has freed while the module has them."""


class Sweep:
    """Which call fails, and the lives so far."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.wanted: tuple[Swept, ...] = tuple(map(parse_swept, lines))
        self.calls: list[Made] = []
        """Of the life in peace."""
        self.lives: list[Life] = []
        self.done = False
        self._began = False
        self._of_leaf: Counter[int] = Counter()
        self._planned: list[tuple[int, str]] = []
        """(Index of a call, rule) of each life there is to be."""
        self._before = Inventory({}, frozenset())
        self._surplus: Mapping[int, int] = {}
        self._lost: set[int] = set()
        self._rule: LifeRule | None = None
        self._behind: list[tuple[int, tuple[int, int], bool]] = []
        """(Leaf, operands, whether it failed) of the calls from the first that failed on."""

    def seamcall(
        self,
        lp: LogicalProcessor,
        rax: int,
        args: TdxModuleArgs,
        where: Callable[[], str] = lambda: "",
    ) -> int:
        """The answer to a SEAMCALL; ``where`` names the function of KVM's that makes it."""
        if not self._began or self.done:
            return lp.seamcall(rax, args)
        leaf = asked_leaf(rax)
        self._of_leaf[leaf] += 1
        if not self.lives:
            operands = BUSY_OPERANDS.get(leaf, ())
            if leaf == TDH_MEM_SEPT_ADD and not rax >> RAX_VERSION_SHIFT & 0xFF:
                operands = tuple(o for o in operands if o not in _PAGES_OF_VERSION_1)
            locked = frozenset(o for o in operands if lock_behind(lp, leaf, o, args) is not None)
            self.calls.append(Made(leaf, self._of_leaf[leaf], locked))
            return lp.seamcall(rax, args)
        life, rule = self.lives[-1], self._rule
        assert rule is not None
        key = args.rcx, args.rdx if leaf in _FIELDS else 0
        pages = [page_at(value) for value in (args.rcx, args.rdx, args.r8)]
        status, hit = rule.seamcall(lp, leaf, rax, args)
        if hit and not life.came:
            life.came, life.status, life.where = True, status, where()
            entered = max((one.nth for one in self.calls if one.leaf == TDH_VP_ENTER), default=0)
            life.at_the_end = self._of_leaf[TDH_VP_ENTER] >= entered
        if life.came and len(self._behind) < _FOLLOWING:
            self._behind.append((leaf, key, hit))
        wrong = status & ERROR and status & STATUS_MASK != TDX_OPERAND_BUSY
        if wrong and not hit and not life.met:
            life.met = next((page << PAGE_SHIFT for page in pages if page in self._lost), 0)
        return status

    def next_life(
        self,
        module: TdxModule | None,
        surplus: Callable[[], Mapping[int, int]] = dict,
        freed: Callable[[], Sequence[int]] = tuple,
    ) -> bool:
        """A life has ended, or boot has; False: there is nothing more to fail.

        ``surplus``: by region, how many pages more than TDX uses the kernel counts; ``freed``:
        pages that the kernel has freed and the module has.
        """
        self._of_leaf.clear()
        now = inventory(module)
        if not self._began:
            self._began = True
            self._before = now
            return True
        if self.lives:
            counted = surplus()
            self.lives[-1].counts = {
                region << 21: count - self._surplus.get(region, 0)
                for region, count in counted.items()
                if count > self._surplus.get(region, 0)
            }
            self.lives[-1].freed = tuple(page << PAGE_SHIFT for page in freed())
            self._end(self.lives[-1], now, module)
        else:
            self._planned = self._plan()
        self._before, self._surplus = inventory(module), surplus()
        if len(self.lives) == len(self._planned):
            self.done = True
            return False
        at, line = self._planned[len(self.lives)]
        call = self.calls[at]
        self.lives.append(Life(len(self.lives) + 1, line, call.leaf, call.nth))
        self._rule = LifeRule(line, module)
        self._behind = []
        return True

    def _plan(self) -> list[tuple[int, str]]:
        """In the order of the calls, but what may lose pages last.

        PAMT.REMOVE comes before that, its last call first: a pair that stays is one call less in
        all lives behind.
        """
        found = [
            (at, line)
            for at, call in enumerate(self.calls)
            for wanted in self.wanted
            if not self._needs_none(wanted, call)
            for line in wanted.lines(call.leaf, call.nth, call.locked)
        ]

        def place(planned: tuple[int, str]) -> tuple[int, int]:
            call = self.calls[planned[0]]
            if call.leaf == TDH_PHYMEM_PAMT_REMOVE:
                return 1, -call.nth
            return (2 if may_lose(call.leaf) else 0), 0

        return sorted(found, key=place)

    def _needs_none(self, wanted: Swept, call: Made) -> bool:
        """Whether a call that may need random numbers does not: ADDCX except of the last page."""
        last = max(one.nth for one in self.calls if one.leaf == call.leaf)
        is_addcx = call.leaf == TDH_MNG_ADDCX
        return wanted.condition == NO_ENTROPY and is_addcx and call.nth < last

    def _end(self, life: Life, now: Inventory, module: TdxModule | None) -> None:
        """What the life has left, and whether its call was made again."""
        left = [page for page in now.pages if page not in self._before.pages]
        life.kept = tuple((page << PAGE_SHIFT, now.pages[page].type) for page in left)
        life.tds = sum(1 for page in left if not now.pages[page].owner)
        life.pairs = tuple(region << 21 for region in sorted(now.pairs - self._before.pairs))
        if module is not None:
            take_back(module)
            self._lost.update(ModuleView(module).used_pages())
        if not life.came:
            return
        first, key, _ = self._behind[0]
        for leaf, operands, hit in self._behind:
            if leaf in _BETWEEN and leaf != first:
                continue
            if (leaf, operands) != (first, key):
                break
            if not hit:
                life.again = True
                break
            life.tries += 1

    def finish(self, console: list[str], tds: tuple[str, ...]) -> None:
        """What was said in each life, and what of it is not as the source says."""
        slices: dict[int, list[str]] = {}
        number = 0
        for line in console:
            found = _PHASE.match(line)
            if found is not None:
                number = int(found[1])
            slices.setdefault(number, []).append(line)
        for life in self.lives:
            lines = slices.get(life.number + 1, [])  # after the phases of boot and of peace
            told = read_vmm([*lines, "dpamt: end passed 0 failed 0"], tds)
            said = dict.fromkeys(
                f"SEAMCALL {found[1]} failed" for line in lines if (found := _FAILED.search(line))
            )
            life.reactions = list(dict.fromkeys([*told.troubles, *said]))
            life.seen = Seen(told.errors, told.ended_by, told.bugged, told.stuck)
        for life in self.lives if self.done else self.lives[:-1]:
            if life.came and not life.met:
                life.expected = reaction(life.leaf, life.status, life.tries, life.where)
                life.contradicts = contradiction(life)

    def findings(self) -> list[str]:
        """Lives in which KVM did not do what its source says."""
        alike: dict[str, list[str]] = {}
        for life in self.lives:
            if life.contradicts and life.expected is not None:
                does = f"the source ({life.expected.function}) {life.expected.does.value}"
                what = f"{leaf_name(life.leaf)}: {life.contradicts}, where {does}"
                alike.setdefault(what, []).append(life.line)
        return [
            f"sweep: {what} ({len(lines)} {'life' if len(lines) == 1 else 'lives'}, first "
            f"{lines[0]})"
            for what, lines in alike.items()
        ]


class LifeRule:
    """The rule of one life, at work."""

    def __init__(self, line: str, module: TdxModule | None) -> None:
        rule = rule_of(line)
        self._forced = Forced((rule,)) if isinstance(rule, ForcedRule) else None
        self._injector = None
        if not isinstance(rule, ForcedRule):
            assert module is not None
            self._injector = Injector(module, (rule,))

    def seamcall(
        self, lp: LogicalProcessor, leaf: int, rax: int, args: TdxModuleArgs
    ) -> tuple[int, bool]:
        """The answer, and whether the rule made it fail."""
        if self._forced is not None:
            status = self._forced.status(leaf)
            return (lp.seamcall(rax, args), False) if status is None else (status, True)
        assert self._injector is not None
        (result,) = self._injector.results
        before = result.hits
        status = self._injector.wrap(lp)(rax, args)
        return status, result.hits > before


def inventory(module: TdxModule | None) -> Inventory:
    """What a module has now."""
    if module is None:
        return Inventory({}, frozenset())
    view = ModuleView(module)
    return Inventory(view.used_pages(), frozenset(view.pairs() if module.pamt.dynamic else ()))


def page_at(value: int) -> int:
    """The frame that an operand may name."""
    return (value & MAX_PA_LIMIT - 1) >> PAGE_SHIFT


def expected_warnings(complaints: list[Complaint]) -> list[Complaint]:
    """The kernel's own words about SEAMCALLs that failed, among all its complaints."""
    return [
        one
        for one in complaints
        if one.kind == "WARNING" and _ITS_WARNING.search(f"{one.text} ") is not None
    ]


def sweep_script(lives: int = MOST_LIVES) -> Script:
    """As many lives of a TD with one vCPU: built, two pages accepted, one converted, closed."""
    life = [*LIFE[:-1], f"order 0 {_ALIVE} 0 0 0", LIFE[-1]]
    lines = [LIFE_TD, f"scatter {_SCATTERED}", f"patience {_PATIENCE}", "phase 1"]
    for number in range(1, lives + 1):
        lines += [*life, f"phase {number + 1}"]
    names = (_BEFORE, "in peace", *(f"life {number}" for number in range(1, lives)))
    return Script("\n".join(lines) + "\n", names, ("the TD",))
