"""What the host does about SEAMCALLs that injection made fail, seen at the wall and in its log.

In a run one CPU acts at a time, so what comes next is the answer: a WARN before any other SEAMCALL
is about the failed one, and the next call of the same leaf on the same CPU shows whether it was
made again.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Final

from dpamt.abi.exits import EXIT_REASON_EXTERNAL_INTERRUPT
from dpamt.abi.leaf_table import LEAF_OPERANDS, PAGE
from dpamt.abi.leaves import LEAF_NAMES, RAX_LEAF_MASK, TDH_PHYMEM_CACHE_WB, TDH_VP_ENTER
from dpamt.abi.registers import SeamCall, TdxModuleArgs
from dpamt.abi.status import STATUS_MASK, status_name
from dpamt.errors import Finding
from dpamt.module.injection import Injector
from dpamt.module.injection_rules import guest_operands

LIVELOCK: Final = 20_000
"""So often the same call may fail in a row; Linux resumes CACHE.WB 10,000 times, by intention."""

_BUG: Final = "KVM_BUG_ON"


@dataclass(slots=True)
class Reactions:
    """How often, after a hit of one rule, the call went through, was made again, or was given up.

    Given up with the VM bugged, with another WARN, or silently: an error to whoever asked.
    """

    through: int = 0
    again: int = 0
    bugged: int = 0
    warned: int = 0
    silent: int = 0


@dataclass(slots=True)
class _Failed:
    """A call that failed, whose sequel is not known yet; ``fresh`` until another SEAMCALL."""

    rules: tuple[int, ...]
    inputs: tuple[int, ...]
    warnings: int
    row: int
    fresh: bool = True


class Sequel:
    """Follows what the host of one world does; ``warnings`` is the list its kernel log grows."""

    def __init__(self, injector: Injector) -> None:
        self._injector = injector
        self.warnings: list[str] = []
        self.reactions = tuple(Reactions() for _ in injector.results)
        self._refused: Counter[tuple[int, int]] = Counter()
        self._failed: dict[tuple[int, int], _Failed] = {}
        """By CPU and leaf."""

    def wrap(self, seamcall: SeamCall, cpu: int) -> SeamCall:
        """The wall of a CPU, watched; without rules, the wall itself."""
        if not self.reactions:
            return seamcall
        hits = self._injector.hits

        def watched(rax: int, args: TdxModuleArgs) -> int:
            leaf = rax & RAX_LEAF_MASK
            inputs = _purpose(leaf, args)
            row = self._settle(cpu, leaf, inputs) if self._failed else 0
            known = len(hits)
            status = seamcall(rax, args)
            if len(hits) > known:
                rules = tuple(hit.rule for hit in hits[known:])
                self._note(cpu, leaf, _Failed(rules, inputs, len(self.warnings), row), status)
            return status

        return watched

    def take_refused(self) -> Counter[tuple[int, int]]:
        """(Leaf, status code) to how often, of calls that were hit since the last time."""
        refused, self._refused = self._refused, Counter()
        return refused

    def finish(self) -> None:
        """Nothing comes any more: what was not made again until now never will be."""
        self._settle(-1, -1, ())
        for failed in self._failed.values():
            self._count(failed, "silent")
        self._failed.clear()

    def _note(self, cpu: int, leaf: int, failed: _Failed, status: int) -> None:
        """A call was hit: it went through nevertheless, or its sequel is to be seen.

        A VCPU that an interrupt made leave is as good as a call that failed: it is entered again.
        """
        if not status & STATUS_MASK and status != EXIT_REASON_EXTERNAL_INTERRUPT:
            self._count(failed, "through")
            return
        if status & STATUS_MASK:
            self._refused[leaf, status & STATUS_MASK] += 1
        if failed.row >= LIVELOCK:
            rules = [self._injector.results[index].rule.text for index in failed.rules]
            raise Finding(
                f"livelock: {LEAF_NAMES[leaf]} failed {failed.row + 1} times in a row with "
                f"{status_name(status)}, and the host tries for ever; injected by "
                f"{' and '.join(rules)}"
            )
        self._failed[cpu, leaf] = failed

    def _settle(self, cpu: int, leaf: int, inputs: tuple[int, ...]) -> int:
        """A SEAMCALL is about to be made: what it tells.  How often it has failed in a row."""
        row = 0
        for key, failed in list(self._failed.items()):
            news = self.warnings[failed.warnings :] if failed.fresh else []
            failed.fresh = False
            if news:
                bugged = any(text.startswith(_BUG) for text in news)
                self._count(failed, "bugged" if bugged else "warned")
            elif key == (cpu, leaf):
                again = inputs == failed.inputs
                row = failed.row + 1 if again else 0
                self._count(failed, "again" if again else "silent")
            else:
                continue
            del self._failed[key]
        return row

    def _count(self, failed: _Failed, what: str) -> None:
        for rule in failed.rules:
            reactions = self.reactions[rule]
            setattr(reactions, what, getattr(reactions, what) + 1)


def _purpose(leaf: int, args: TdxModuleArgs) -> tuple[int, ...]:
    """What a call is about: what stays when the host makes it again.

    That is not the page for a guest address, which may come from a pool, nor whether CACHE.WB
    begins or resumes, nor what a VCPU finds in its registers.
    """
    if leaf == TDH_PHYMEM_CACHE_WB:
        return ()
    if leaf == TDH_VP_ENTER:
        return (args.rcx,)
    if guest_operands(leaf):
        formats = LEAF_OPERANDS[leaf]
        return tuple(getattr(args, name) for name, kind in formats.items() if kind != PAGE)
    return args.as_tuple()
