"""What a thread does between two places where CPUs may be switched: a block, worked out once.

A block is known by the values of the words it reads, so the search itself runs no code of the
model.  That the search loses nothing by switching CPUs between blocks only rests on this argument.

Theory.  Take a run of the threads, switched before any step.  A step is a *right mover* if it may
be swapped with the next step of any other thread that follows it at once, a *left mover* if with
one that comes right before it, and both if both (Lipton 1975).  A sequence of one thread that reads
``R* N? L*``, right movers, at most one step that is neither, left movers, can be gathered without a
switch: the others' steps in between move out at its ends, and the state at its end is the same.  So
it is enough to explore each such sequence as one step (reduction: Lipton 1975; transactions:
Flanagan and Qadeer 2003), as long as the left movers never wait.  A block is such a sequence: it
ends before a step that cannot be added to it.  Nobody is put off for ever: every state explores a
block of every thread, so there is no ignoring problem as with ample sets (Peled 1993).  What is a
mover is not assumed.  It is read off the uses of each word by all threads, as the search meets
them, and the search begins again when a use turns up that a decision did not know of
(:class:`Restart`):

* a word that nobody changes, or that one thread alone touches: its steps move both ways;
* a *counter*: all that is done to it is ``add``, and no code looks at a sum (from the bytecode, so
  for every value: :func:`dpamt.verify.learn.waiting.is_dropped`).  Adds commute with each other;
* a *guarded* word: any two uses of it of which one writes hold a common lock, one of them
  exclusively.  The two can never stand side by side, so each moves both ways (lock sets: Savage and
  others 1997, here over all schedules).  Reads and writes of a whole page count for its entries;
* a lock that others only wait for: taking it is a right mover, for nobody can do anything to it
  behind it, and letting go of it a left mover.  A lock that anybody looks at without waiting
  (trylock, is_locked) is none of these: who looks sees it held, so its steps are like any other's;
* all else is neither (``noticed``), and so is a write that a property of every state looks at, so
  that each such write has a state of its own;
* of a thread that a softirq interrupts nothing moves but its own words and those that never change.

Taking a lock that must wait begins a block of its own, so that a deadlock is a state; after a lock
was let go of only left movers may follow.  Inside a SEAMCALL the granularity says what is one step;
that is a bound of the verdict, not a reduction.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from dpamt.errors import Finding
from dpamt.sync.observed import Address
from dpamt.sync.steps import (
    ACQUIRES,
    LOCK_READS,
    LOOKS,
    PAGE_READS,
    PAGE_WRITES,
    READS,
    RELEASES,
    SHARES,
    STORES_AND_RELEASES,
    UNLOCKS,
    WAITS,
)
from dpamt.verify.explore.context import KERNEL_LOCK_STEPS, context_of, where_taken
from dpamt.verify.explore.learned_blocks import Block, Blocks, MicroStep
from dpamt.verify.explore.run import Run, Ways
from dpamt.verify.explore.state import SHARED_BY_ALL, Knowledge, Local, stripped
from dpamt.verify.explore.whole_pages import WholePages
from dpamt.verify.learn.automaton import (
    CHOICE,
    MARK,
    Automaton,
    Event,
    Events,
    Node,
    Step,
)
from dpamt.verify.learn.going_on import STOP
from dpamt.verify.learn.values import BLOCKED, MISUSED
from dpamt.verify.programs.problem import LOCK_STEPS, LOCKS, SEAMCALL, Problem

_SHARED_USES: Final = READS | SHARES
"""Steps that change nothing which another one of them could notice."""
_NO_ACCESS: Final = (frozenset(ACQUIRES) | RELEASES | LOCK_READS) - {STORES_AND_RELEASES}
"""Steps that neither read nor write what a word holds beside its lock."""
_PAGE_STEPS: Final = PAGE_READS | PAGE_WRITES
_OF_ANY_LEAF: Final = LOOKS | WAITS | {MARK, CHOICE}
"""Steps that are the same in a SEAMCALL and outside of one."""
_LONGEST_BLOCK: Final = 100_000
_MAY_GO_ROUND: Final = 64
"""A block of more steps is looked at for going round: a thread that waits for a word to change."""


class Engine(WholePages):
    """The blocks of all threads of a problem, at one granularity; filled while it is searched."""

    def __init__(
        self,
        problem: Problem,
        automata: tuple[Automaton, ...],
        knowledge: Knowledge,
        granularity: str,
    ) -> None:
        super().__init__(problem, automata, knowledge)
        self.granularity = granularity
        self._fixed: dict[Step, Any] = {}
        """Results of steps on words that nobody changes."""
        self._unsafe = {kind.interrupts for kind in problem.classes if kind.interrupts >= 0}
        """Classes that another thread may interrupt while they hold a lock: nothing that they do
        under it is safe from that thread."""
        self._watched = problem.always_arrays
        """Arrays that properties of every state look at: each write there has its own state."""
        self.context = context_of(problem)

    # Blocks.

    def blocks(self, local: int, state: tuple[int, ...], others: tuple[int, ...]) -> Blocks:
        """The blocks that a thread may do in a state; ``others`` are the other threads' locals."""
        values = self.keys[local](state)
        if self.read_pages[local]:
            values = values, self._others_on(self.read_pages[local], others)
        known = self.known[local].get(values)
        return known if known is not None else self._work_out(local, state, others)

    def _work_out(self, local: int, state: tuple[int, ...], others: tuple[int, ...]) -> Blocks:
        start = self.locals[local]
        run = Run(
            start.node,
            {n: value for n, value in enumerate(start.own) if value},
            dict(start.held),
        )
        with self.looked_at_once():
            ends = self._ends(start.kind, run, state, others)
        done = tuple(
            Block(
                self.number(
                    Local(start.kind, end.node, stripped(end.own), tuple(sorted(end.held.items())))
                ),
                tuple(sorted(end.writes.items())),
                tuple(end.events),
                tuple(end.fills),
                tuple(end.steps),
            )
            for end in ends
        )
        slots = tuple(sorted({*self.read_slots[local], *run.reads}))
        pages = tuple(sorted({*self.read_pages[local], *run.others}))
        if slots != self.read_slots[local] or pages != self.read_pages[local]:
            self._read(local, slots, pages)
        values = self.keys[local](state)
        if pages:
            values = values, self._others_on(pages, others)
        self.known[local][values] = done
        return done

    def looked_at_once(self) -> AbstractContextManager[None]:
        """Nothing is made of what is learned inside before the end: one look will do."""
        plain = self.problem.recorder.plain
        return plain.together() if plain is not None else nullcontext()

    def _ends(
        self, kind: int, run: Run, state: tuple[int, ...], others: tuple[int, ...]
    ) -> list[Run]:
        """Every way the block goes; empty when its first step must wait."""
        ways = Ways(kind, state, others)
        result = self._next(ways, run)
        if result is not STOP:
            ways.pending.append((run, result))
        while ways.pending:
            self._go(ways, *ways.pending.pop())
        return ways.ends

    def _go(self, ways: Ways, run: Run, result: Any) -> None:
        """Go one way to its end, from a step that has this result.

        Where an edge is not known, the thread runs, and asks here for the result of each step.
        """
        automaton = self.automata[ways.kind]

        def further(node: int, events: Events) -> Any:
            nonlocal result
            self._done(automaton, ways.kind, run, result, node, events)
            result = self._next(ways, run)
            return result

        nodes = automaton.nodes
        while result is not STOP:
            here = nodes[run.node]
            edge = here.edges.get(None if here.dropped else result)
            if edge is None:
                edge = automaton.go(run.node, result, further)
                if edge is None:
                    return
            self._done(automaton, ways.kind, run, result, *edge)
            result = self._next(ways, run)

    def _done(
        self, automaton: Automaton, kind: int, run: Run, result: Any, node: int, events: Events
    ) -> None:
        """The run's step had this result and led to ``node``."""
        before = automaton.nodes[run.node]
        run.steps.append(MicroStep(run.node, result))
        run.node = node
        step = before.step
        assert step is not None
        if not events and step.method not in KERNEL_LOCK_STEPS:
            return  # nothing that the rules ask for
        where = where_taken(automaton, reversed(run.steps))
        told = self.context.after(kind, step, before.sites, result, run.held, events, where)
        run.misused |= any(event.kind == "misuse" for event in told)
        run.events.extend(told)

    def _next(self, ways: Ways, now: Run) -> Any:
        """The result of the next step, which is done; STOP: the block goes no further."""
        kind = ways.kind
        node = self.automata[kind].nodes[now.node]
        if node.step is None or now.misused:
            ways.ends.append(now)
            return STOP
        step = node.step
        method = step.method
        noticed = self._may_switch(kind, node, now)
        if noticed and now.steps:
            merged = not (now.noticed or method in WAITS or kind in self._unsafe)
            if not merged:
                ways.ends.append(now)
                return STOP
        if method == CHOICE:
            choices = range(step.arguments[1] - 1, 0, -1)
            ways.pending += [(now.copy(), choice) for choice in choices]
            return 0
        if len(now.steps) > _LONGEST_BLOCK:
            site = node.sites[-1]
            raise Finding(
                f"{site.file}:{site.line}: {self.automata[kind].name}: more than "
                f"{_LONGEST_BLOCK:,} steps that no other CPU can notice"
            )
        if len(now.steps) > _MAY_GO_ROUND and now.has_been_here():
            ways.ends.append(now)  # others have to go on first; or nobody ever does: a livelock
            return STOP
        going, result = self._perform(kind, now, step, ways.state, ways.others)
        if not going:
            if now.steps:
                ways.ends.append(now)
            return STOP
        if noticed or method in WAITS or method in UNLOCKS:
            now.noticed += self._commits(step, noticed)
        return result

    def _may_switch(self, kind: int, node: Node, run: Run) -> bool:
        """Whether others can notice the node's step, so that another CPU may come in before it."""
        step = node.step
        assert step is not None
        method = step.method
        if method in _OF_ANY_LEAF:
            if method == MARK:
                return self.granularity == SEAMCALL
            if method == CHOICE:
                return False
            if method in LOOKS:
                self.words.look(step.address)
            if method in WAITS:
                if method not in _SHARED_USES:
                    self.words.vary(step.address)
                return self.words.is_varying(step.address)
        if node.leaf >= 0 and (
            self.granularity == SEAMCALL or (self.granularity == LOCKS and method not in LOCK_STEPS)
        ):
            return False
        if method in UNLOCKS:
            if step.address not in run.held:
                return True  # it ends everything, so it moves nowhere
            if kind not in self._unsafe:
                return not self.words.is_mover(step.address)
        return self._is_noticed(kind, node, run)

    def _commits(self, step: Step, noticed: bool) -> bool:
        """Whether only left movers may follow in the block: no right mover, or a release."""
        if step.method in WAITS:
            return noticed and not self.words.is_mover(step.address)
        return noticed or (step.method in UNLOCKS and self.words.is_varying(step.address))

    def _is_noticed(self, kind: int, node: Node, run: Run) -> bool:
        """Whether the step is on a word that others touch and somebody changes."""
        words, step = self.words, node.step
        assert step is not None
        if step.method in _PAGE_STEPS:
            words.use_page((step.address.array, step.address.number), kind)
            page = words.known.pages[step.address.array, step.address.number]
            return page == SHARED_BY_ALL or self.problem.classes[kind].count > 1
        if step.method not in _SHARED_USES:
            words.vary(step.address)
            if self._watched and step.address.array.startswith(self._watched):
                return True
        if not words.is_varying(step.address):
            return False
        if step.method == "add" and self._is_counting(node, step):
            return False
        if step.method == STORES_AND_RELEASES:
            words.use(step.address, run.held, True)
        elif step.method not in _NO_ACCESS:
            words.use(step.address, run.held, step.method not in READS)
            if kind not in self._unsafe and words.is_guarded(step.address):
                return False
        owner, _ = words.place(step.address, kind)
        if owner == SHARED_BY_ALL:
            return True
        page_of = words.page_of(step.address)
        return page_of in words.known.pages and self.problem.classes[kind].count > 1

    def _is_counting(self, node: Node, step: Step) -> bool:
        """Whether the sum of an add is not looked at, here and wherever the word is touched."""
        if not node.dropped:
            self.words.no_counter(step.address)
        return node.dropped and self.words.is_counter(step.address)

    # Steps.

    def _perform(
        self, kind: int, run: Run, step: Step, state: tuple[int, ...], others: tuple[int, ...]
    ) -> tuple[bool, Any]:
        """Do one step: (whether it could be done, its result)."""
        method, address = step.method, step.address
        if method == MARK:
            return True, None
        if method in _PAGE_STEPS:
            if method in PAGE_READS:
                return True, self._read_page(kind, run, step, state, others)
            self._write_page(kind, run, step, state)
            return True, None
        words = self.words
        known = words.known
        if method in _SHARED_USES and not words.is_varying(address):
            known.taken_as_fixed.add(address)
            return True, self._of_fixed(step)
        if address not in known.varying:
            words.vary(address)
        if method not in _NO_ACCESS:
            words.use(address, run.held, method not in READS)
        value = self._value(kind, run, address, state)
        how, result, after = words.operations(address.array).outcome(step, value)
        if how == BLOCKED:
            return False, None
        if how == MISUSED:
            run.events.append(Event("misuse", result))
            run.misused = True
            result = None
        if after != value:
            self._write(kind, run, address, after)
        if method != "add" and address not in known.no_counters:
            words.no_counter(address)
        if method in ACQUIRES:
            if ACQUIRES[method] is None:
                _hold(run.held, address, result >= 0 and "exclusive" in method, result >= 0)
            else:
                _hold(run.held, address, ACQUIRES[method] is True, result is not False)
        elif method in RELEASES and method not in UNLOCKS:  # those: see Context.after
            run.held.pop(address, None)
        return True, result

    def _of_fixed(self, step: Step) -> Any:
        """The result of a step on a word that nobody changes."""
        if step not in self._fixed:
            value = self.words.start_value(step.address)
            outcome = self.words.operations(step.address.array).outcome(step, value)
            self._fixed[step] = outcome.result
        return self._fixed[step]


def _hold(held: dict[Address, bool], lock: Address, exclusively: bool, taken: bool) -> None:
    if taken:
        held[lock] = exclusively
