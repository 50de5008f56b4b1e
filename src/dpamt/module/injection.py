"""Injection: chosen SEAMCALLs meet a held lock, no entropy, an interrupt, a key engine that fails.

A rule (:mod:`dpamt.module.injection_rules`) makes the condition true for one call and lets the
module answer, so the answer, the operand and what stays behind (a host-priority flag) are the
module's own.  Several rules may hit one call: all their conditions are true.
"""

from dataclasses import dataclass, field
from random import Random
from typing import Final, NamedTuple

from dpamt.abi.leaves import RAX_LEAF_MASK
from dpamt.abi.pages import MAX_PA_LIMIT, PAGE_SHIFT
from dpamt.abi.registers import SeamCall, TdxModuleArgs
from dpamt.module.injection_rules import (
    INTERRUPT,
    NO_ENTROPY,
    NO_KEY,
    Rule,
    guest_operands,
    memory_operands,
)
from dpamt.module.module import TdxModule
from dpamt.module.other_cpu import Lock, lock_behind, page_of
from dpamt.module.processor import LogicalProcessor

_GPA_MASK: Final = MAX_PA_LIMIT - 1


class Hit(NamedTuple):
    """A call that a rule (by index) hit: its leaf, its number among those looked at, its answer."""

    rule: int
    leaf: int
    call: int
    status: int


@dataclass(slots=True)
class Injected:
    """What came of a rule: calls looked at, calls hit, and what those answered."""

    rule: Rule
    seen: int = 0
    hits: int = 0
    statuses: dict[tuple[int, int], int] = field(default_factory=dict)
    """(Leaf, 64-bit status) to how often."""


class Injector:
    """The rules of one module, and what came of them; wraps the walls of its processors."""

    def __init__(self, module: TdxModule, rules: tuple[Rule, ...]) -> None:
        self._module = module
        self.results = tuple(Injected(rule) for rule in rules)
        self.hits: list[Hit] = []
        """Every hit, oldest first; a call that two rules hit is there twice."""
        self._picks = tuple(Random(rule.seed) for rule in rules)
        self._by_leaf: dict[int, list[int]] = {}
        for index, rule in enumerate(rules):
            for leaf in rule.leaves:
                self._by_leaf.setdefault(leaf, []).append(index)

    def wrap(self, lp: LogicalProcessor) -> SeamCall:
        """The wall of a processor, with the rules in it; without any, the wall itself."""
        plain = lp.seamcall
        if not self.results:
            return plain
        by_leaf = self._by_leaf

        def seamcall(rax: int, args: TdxModuleArgs) -> int:
            leaf = rax & RAX_LEAF_MASK
            rules = by_leaf.get(leaf)
            if rules is None:
                return plain(rax, args)
            hits = [index for index in rules if self._picked(index, lp, leaf, args)]
            if not hits:
                return plain(rax, args)
            return self._inject(lp, hits, rax, args)

        return seamcall

    def _picked(self, index: int, lp: LogicalProcessor, leaf: int, args: TdxModuleArgs) -> bool:
        """Whether the rule hits this call; counts those in its ranges."""
        result = self.results[index]
        rule = result.rule
        if not _in_ranges(rule, lp, leaf, args):
            return False
        result.seen += 1
        if rule.times == result.hits:
            return False
        if rule.nth:
            return rule.nth <= result.seen < rule.nth + rule.row
        if rule.every:
            return result.seen % rule.every == 0
        return rule.share == 1 or self._picks[index].random() < rule.share

    def _inject(self, lp: LogicalProcessor, hits: list[int], rax: int, args: TdxModuleArgs) -> int:
        """The call, with the conditions of these rules true while it runs."""
        module = self._module
        leaf = rax & RAX_LEAF_MASK
        rules = [self.results[index].rule for index in hits]
        conditions = [rule.condition for rule in rules]
        before = module.interrupt_pending, module.entropy_available, module.key_engine_works
        module.interrupt_pending |= INTERRUPT in conditions
        module.entropy_available &= NO_ENTROPY not in conditions
        module.key_engine_works &= NO_KEY not in conditions
        held = _hold(lp, leaf, rules, args)
        try:
            status = lp.seamcall(rax, args)
        finally:
            _release(held)
            module.interrupt_pending, module.entropy_available, module.key_engine_works = before
        for index in hits:
            result = self.results[index]
            result.hits += 1
            result.statuses[leaf, status] = result.statuses.get((leaf, status), 0) + 1
            self.hits.append(Hit(index, leaf, result.seen, status))
        return status


def _hold(lp: LogicalProcessor, leaf: int, rules: list[Rule], args: TdxModuleArgs) -> list[Lock]:
    """The locks that these rules name, each once, held from now on."""
    held: list[Lock] = []
    for index in range(len(rules)):
        operand = rules[index].operand
        if not operand:
            continue
        lock = lock_behind(lp, leaf, operand, args)
        if lock is None or lock in held:
            continue
        taken = lock.try_exclusive()
        if taken >= 0:
            held.append(lock)
    return held


def _release(held: list[Lock]) -> None:
    for index in range(len(held)):
        held[index].release_exclusive()


def _in_ranges(rule: Rule, lp: LogicalProcessor, leaf: int, args: TdxModuleArgs) -> bool:
    """Whether operands of the call lie where the rule looks."""
    memory, guest = rule.memory, rule.guest
    if memory is not None:
        pages = [page_of(lp, getattr(args, register)) for register in memory_operands(leaf)]
        if not any(page << PAGE_SHIFT in memory for page in pages):
            return False
    if guest is not None:
        addresses = [getattr(args, register) & _GPA_MASK for register in guest_operands(leaf)]
        return any(address in guest for address in addresses)
    return True
