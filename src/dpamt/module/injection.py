"""Injection: chosen SEAMCALLs meet a held lock, no entropy, an interrupt, a key engine that fails.

A rule makes the condition true for one call and lets the module answer, so the answer, the operand
and what stays behind (a host-priority flag) are the module's own.  A rule is one line::

    LEAF:CONDITION[:OPTION]...      TDH.MEM.PAGE.AUG:busy=SEPT_TREE:nth=3

    CONDITION  busy=OPERAND    another CPU holds the lock that the operand names
               no-entropy      RDRAND and RDSEED do not deliver
               interrupt       an interrupt is pending
               no-key          the key engine fails
    OPTION     nth=N           only the N-th call of the leaf (counted from 1)
               every=N         every N-th
               share=F         each with probability F (0 to 1), by a seed
               seed=S          of share (0 if not given)
               region=HPA      only calls with an operand in that 2M region of memory
               times=N         at most N times in all

Without nth, every or share: each call.  Several rules may hit one call: all conditions are true.
"""

from dataclasses import dataclass, field
from random import Random
from typing import Final

from dpamt.abi.contention import BUSY_OPERANDS, CONFIGURES_KEYS, DRAWS_ENTROPY, INTERRUPTIBLE
from dpamt.abi.leaf_operands import HPA_LEVEL, LEAF_OPERANDS, PAGE, TDR, TDR_FLAG, TDVPR
from dpamt.abi.leaves import LEAF_NAMES, RAX_LEAF_MASK
from dpamt.abi.registers import SeamCall, TdxModuleArgs
from dpamt.errors import InputError
from dpamt.module.module import TdxModule
from dpamt.module.other_cpu import Lock, lock_behind
from dpamt.module.processor import LogicalProcessor

BUSY: Final = "busy"
NO_ENTROPY: Final = "no-entropy"
INTERRUPT: Final = "interrupt"
NO_KEY: Final = "no-key"

_LEAVES: Final = {name: number for number, name in LEAF_NAMES.items()}
_ABLE: Final = {NO_ENTROPY: DRAWS_ENTROPY, INTERRUPT: INTERRUPTIBLE, NO_KEY: CONFIGURES_KEYS}
_IN_MEMORY: Final = (PAGE, HPA_LEVEL, TDR, TDR_FLAG, TDVPR)
_SIZE_2M_SHIFT: Final = 21
_ADDRESS_MASK: Final = (1 << 52) - 1


@dataclass(frozen=True, slots=True)
class Rule:
    """One line: which calls of which leaf meet what."""

    text: str
    leaf: int
    condition: str
    operand: str = ""
    nth: int = 0
    every: int = 0
    share: float = -1.0
    seed: int = 0
    region: int = -1
    """Number of the 2M region (HPA >> 21); -1: any."""
    times: int = -1


@dataclass(slots=True)
class Injected:
    """What came of a rule: calls of its leaf seen, times it hit, and the statuses of those."""

    rule: Rule
    seen: int = 0
    hits: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    """64-bit status to how often."""


def parse_rule(text: str) -> Rule:
    """The rule that a line says.

    Raises InputError, one line that says what was expected, for a line that is no rule and for a
    condition that the leaf cannot meet.
    """
    name, *parts = text.split(":")
    leaf = _LEAVES.get(name)
    if leaf is None:
        raise InputError(f"{text}: leaf {name!r}; expected a name such as TDH.MEM.PAGE.AUG")
    if not parts:
        raise InputError(f"{text}: no condition; expected {_able(leaf)}")
    condition, _, operand = parts[0].partition("=")
    if condition == BUSY and operand in BUSY_OPERANDS.get(leaf, ()):
        pass
    elif condition not in _ABLE or leaf not in _ABLE[condition] or operand:
        raise InputError(f"{text}: {parts[0]!r}; {name} can meet {_able(leaf)}")
    options: dict[str, float | int] = {}
    for part in parts[1:]:
        key, _, value = part.partition("=")
        if key in options:
            raise InputError(f"{text}: {key} is said twice")
        options[key] = _option(text, key, value)
    chosen = [key for key in ("nth", "every", "share") if key in options]
    if len(chosen) > 1:
        raise InputError(f"{text}: {' and '.join(chosen)}; expected one of nth, every, share")
    if "seed" in options and "share" not in options:
        raise InputError(f"{text}: seed without share; expected share=F:seed=S")
    return Rule(text, leaf, condition, operand, **options)  # type: ignore[arg-type]


def _able(leaf: int) -> str:
    """What a leaf can meet, in words."""
    able = [f"busy={operand}" for operand in BUSY_OPERANDS.get(leaf, ())]
    able += [condition for condition, leaves in _ABLE.items() if leaf in leaves]
    return ", ".join(able) if able else "nothing"


def _option(text: str, key: str, value: str) -> float | int:
    """The value of an option."""
    expected = {
        "nth": "a whole number from 1",
        "every": "a whole number from 1",
        "times": "a whole number from 1",
        "seed": "a whole number from 0",
        "share": "a share from 0 to 1",
        "region": "an address, such as 0x40000000",
    }
    if key not in expected:
        raise InputError(f"{text}: option {key!r}; expected one of {', '.join(expected)}")
    try:
        if key == "share":
            share = float(value)
            if 0 <= share <= 1:
                return share
        else:
            number = int(value, 0)
            if key == "region":
                if 0 <= number <= _ADDRESS_MASK:
                    return number >> _SIZE_2M_SHIFT
            elif number >= (key != "seed"):
                return number
    except ValueError:
        pass
    raise InputError(f"{text}: {key}={value}; expected {expected[key]}")


class Injector:
    """The rules of one module, and what came of them; wraps the walls of its processors."""

    def __init__(self, module: TdxModule, rules: tuple[Rule, ...]) -> None:
        self._module = module
        self.results = tuple(Injected(rule) for rule in rules)
        self._picks = tuple(Random(rule.seed) for rule in rules)
        self._by_leaf: dict[int, list[int]] = {}
        for index, rule in enumerate(rules):
            self._by_leaf.setdefault(rule.leaf, []).append(index)

    def wrap(self, lp: LogicalProcessor) -> SeamCall:
        """The wall of a processor, with the rules in it; without any, the wall itself."""
        plain = lp.seamcall
        if not self.results:
            return plain
        by_leaf = self._by_leaf

        def seamcall(rax: int, args: TdxModuleArgs) -> int:
            rules = by_leaf.get(rax & RAX_LEAF_MASK)
            if rules is None:
                return plain(rax, args)
            hits = [index for index in rules if self._hits(index, args)]
            if not hits:
                return plain(rax, args)
            return self._inject(lp, hits, rax, args)

        return seamcall

    def _hits(self, index: int, args: TdxModuleArgs) -> bool:
        """Whether the rule hits this call of its leaf."""
        result = self.results[index]
        rule = result.rule
        if rule.region >= 0 and not _names_region(rule.leaf, args, rule.region):
            return False
        result.seen += 1
        if rule.times >= 0 and result.hits >= rule.times:
            return False
        if rule.nth:
            return result.seen == rule.nth
        if rule.every:
            return result.seen % rule.every == 0
        return rule.share < 0 or self._picks[index].random() < rule.share

    def _inject(self, lp: LogicalProcessor, hits: list[int], rax: int, args: TdxModuleArgs) -> int:
        """The call, with the conditions of these rules true while it runs."""
        module = self._module
        before = module.interrupt_pending, module.entropy_available, module.key_engine_works
        held: list[Lock] = []
        for index in hits:
            rule = self.results[index].rule
            if rule.condition == INTERRUPT:
                module.interrupt_pending = True
            elif rule.condition == NO_ENTROPY:
                module.entropy_available = False
            elif rule.condition == NO_KEY:
                module.key_engine_works = False
            else:
                lock = lock_behind(lp, rule.leaf, rule.operand, args)
                if lock is not None and lock.try_exclusive() >= 0:
                    held.append(lock)
        try:
            status = lp.seamcall(rax, args)
        finally:
            for lock in held:
                lock.release_exclusive()
            (
                module.interrupt_pending,
                module.entropy_available,
                module.key_engine_works,
            ) = before
        for index in hits:
            result = self.results[index]
            result.hits += 1
            result.statuses[status] = result.statuses.get(status, 0) + 1
        return status


def _names_region(leaf: int, args: TdxModuleArgs, region: int) -> bool:
    """Whether an operand of the call is an address in a 2M region of memory."""
    return any(
        (getattr(args, register) & _ADDRESS_MASK) >> _SIZE_2M_SHIFT == region
        for register, kind in LEAF_OPERANDS[leaf].items()
        if kind in _IN_MEMORY
    )
