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

from collections.abc import Hashable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from dpamt.errors import Finding
from dpamt.sync.host_priority import EX, PAYLOAD_SHIFT
from dpamt.sync.observed import (
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
    Address,
)
from dpamt.verify.explore.context import KERNEL_LOCK_STEPS, context_of, where_taken
from dpamt.verify.explore.learned_blocks import Block, Blocks, LearnedBlocks, MicroStep
from dpamt.verify.explore.run import Run, Ways
from dpamt.verify.explore.state import REST, SHARED_BY_ALL, Knowledge, Local, Words, stripped
from dpamt.verify.explore.symmetry import NotAlikeError
from dpamt.verify.learn.automaton import (
    CHOICE,
    MARK,
    STOP,
    Automaton,
    Event,
    Events,
    Node,
    Step,
)
from dpamt.verify.learn.values import BLOCKED, MISUSED, filled
from dpamt.verify.programs.problem import LOCK_STEPS, LOCKS, SEAMCALL, Problem

_SHARED_USES: Final = READS | SHARES
"""Steps that change nothing which another one of them could notice."""
_NO_ACCESS: Final = (frozenset(ACQUIRES) | RELEASES | LOCK_READS) - {STORES_AND_RELEASES}
"""Steps that neither read nor write what a word holds beside its lock."""
_PAGE_STEPS: Final = PAGE_READS | PAGE_WRITES
_LONGEST_BLOCK: Final = 100_000
_MAY_GO_ROUND: Final = 64
"""A block of more steps is looked at for going round: a thread that waits for a word to change."""


class Engine(LearnedBlocks):
    """The blocks of all threads of a problem, at one granularity; filled while it is searched."""

    def __init__(
        self,
        problem: Problem,
        automata: tuple[Automaton, ...],
        knowledge: Knowledge,
        granularity: str,
    ) -> None:
        self.problem = problem
        self.granularity = granularity
        self.words = Words(problem, knowledge)
        super().__init__(automata)
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
        with self._looked_at_once():
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

    def _looked_at_once(self) -> AbstractContextManager[None]:
        """Nothing is made of what a block learns before its end: one look will do."""
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

        while result is not STOP:
            edge = automaton.go(run.node, result, further)
            if edge is None:
                return
            further(*edge)

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
        noticed = self._may_switch(kind, node, now)
        waits = node.step.method in WAITS
        merged = not (now.noticed or waits or kind in self._unsafe)
        if now.steps and noticed and not merged:
            ways.ends.append(now)
            return STOP
        if node.step.method == CHOICE:
            choices = range(node.step.arguments[1] - 1, 0, -1)
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
        going, result = self._perform(kind, now, node.step, ways.state, ways.others)
        if not going:
            if now.steps:
                ways.ends.append(now)
            return STOP
        now.noticed += self._commits(node.step, noticed)
        return result

    def _may_switch(self, kind: int, node: Node, run: Run) -> bool:
        """Whether others can notice the node's step, so that another CPU may come in before it."""
        step = node.step
        assert step is not None
        if step.method == MARK:
            return self.granularity == SEAMCALL
        if step.method == CHOICE:
            return False
        if step.method in LOOKS:
            self.words.look(step.address)
        if step.method in WAITS:
            if step.method not in _SHARED_USES:
                self.words.vary(step.address)
            return self.words.is_varying(step.address)
        if node.leaf >= 0 and (
            self.granularity == SEAMCALL
            or (self.granularity == LOCKS and step.method not in LOCK_STEPS)
        ):
            return False
        if step.method in UNLOCKS and kind not in self._unsafe:
            # A release of what the thread does not hold ends everything: it moves nowhere.
            return step.address not in run.held or not self.words.is_mover(step.address)
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
        method = step.method
        if method == MARK:
            return True, None
        if method in PAGE_READS:
            return True, self._read_page(kind, run, step, state, others)
        if method in PAGE_WRITES:
            self._write_page(kind, run, step, state)
            return True, None
        words = self.words
        operations = words.operations(step.address.array)
        if method in _SHARED_USES and not words.is_varying(step.address):
            words.known.taken_as_fixed.add(step.address)
            return True, operations.outcome(step, words.start_value(step.address)).result
        words.vary(step.address)
        if method not in _NO_ACCESS:
            words.use(step.address, run.held, method not in READS)
        value = self._value(kind, run, step.address, state)
        how, result, after = operations.outcome(step, value)
        if how == BLOCKED:
            return False, None
        if how == MISUSED:
            run.events.append(Event("misuse", result))
            run.misused = True
            result = None
        if after != value:
            self._write(kind, run, step.address, after)
        if method != "add":
            words.no_counter(step.address)
        if method in ACQUIRES:
            if ACQUIRES[method] is None:
                _hold(run.held, step.address, result >= 0 and "exclusive" in method, result >= 0)
            else:
                _hold(run.held, step.address, ACQUIRES[method] is True, result is not False)
        elif method in RELEASES and method not in UNLOCKS:  # those: see Context.after
            run.held.pop(step.address, None)
        return True, result

    def _value(self, kind: int, run: Run, address: Address, state: tuple[int, ...]) -> Any:
        owner, slot = self.words.place(address, kind)
        if owner != SHARED_BY_ALL:
            return self.words.own[owner][slot].values[run.own.get(slot, 0)]
        number = run.writes.get(slot)
        if number is None:
            number = run.reads[slot] = state[slot]
        return self.words.shared[slot].values[number]

    def _write(self, kind: int, run: Run, address: Address, value: Hashable) -> None:
        owner, slot = self.words.place(address, kind)
        if owner != SHARED_BY_ALL:
            run.own[slot] = self.words.own[owner][slot].number(value)
        else:
            run.writes[slot] = self.words.shared[slot].number(value)

    def _read_page(
        self, kind: int, run: Run, step: Step, state: tuple[int, ...], others: tuple[int, ...]
    ) -> Any:
        page = step.address.array, step.address.number
        *entries, rest = self.words.use_page(page, kind)
        self.words.use_whole(page, run.held, False)
        values = [self._value(kind, run, entry, state) for entry in entries]
        if self._own_entries(page):
            run.others.add(page)
        if step.method == "any_exclusive":
            values += [value for own in self._others_on((page,), others)[0] for value in own]
            return any(value & EX for value in values)
        payloads = self._rest_of_page(page, self._value(kind, run, rest, state))
        for entry, value in zip(entries, values, strict=True):
            payloads[entry.number & 511] = value >> PAYLOAD_SHIFT
        if step.method == "payloads":
            for number, _ in self._own_entries(page):
                raise NotAlikeError(number, f"page {page} is read entry by entry")
            return tuple(payloads)
        first, end = step.arguments
        seen = {
            own for own in self._own_entries(page) if self._is_all_in(*own, first=first, end=end)
        }
        theirs = any(
            value >> PAYLOAD_SHIFT
            for values in self._others_on((page,), others, seen)[0]
            for value in values
        )
        return any(payloads[first:end]) or theirs

    def _is_all_in(self, number: int, slot: int, first: int, end: int) -> bool:
        """Whether the entry of every thread of a class lies in that part of its page; or of none.

        Raises NotAlikeError where only some do: those threads cannot be interchanged.
        """
        address = self.words.own[number][slot].address
        inside = {
            first <= index & 511 < end
            for word in self.problem.classes[number].own
            if (word.array, word.indices[0]) == address
            for index in word.indices
        }
        if len(inside) > 1:
            raise NotAlikeError(number, f"only some of their pages lie in a part of {address}")
        return inside == {True}

    def _rest_of_page(self, page: tuple[str, int], rest: Any) -> list[int]:
        if rest[0] == "start":
            return list(self.problem.shared.array(page[0]).at(page[1]).payloads())
        if rest[0] == "fill":
            return [rest[1]] * 512
        return [rest[1] + index * rest[2] for index in range(512)]

    def _write_page(self, kind: int, run: Run, step: Step, state: tuple[int, ...]) -> None:
        page = step.address.array, step.address.number
        *entries, rest = self.words.use_page(page, kind)
        self.words.use_whole(page, run.held, True)
        self.words.rewrite(page)
        arguments = step.arguments
        for entry in entries:
            self.words.vary(entry)
            before = self._value(kind, run, entry, state)
            self._write(
                kind, run, entry, filled(entry.number & 511, step.method, arguments, before)
            )
        self.words.vary(rest)
        if step.method == "fill_run":
            self._write(kind, run, rest, ("run", *arguments))
        else:
            self._write(kind, run, rest, ("fill", arguments[0] if arguments else 0))
        if self._own_entries(page):
            if step.method == "fill_run":
                raise Finding(f"page {page} holds words of several threads and is renumbered")
            run.fills.append((*page, step.method, arguments))

    # Own words of threads of one class, seen by another thread that uses their page whole.

    def _own_entries(self, page: tuple[str, int]) -> list[tuple[int, int]]:
        """(class, own slot) of words in the page that are declared as a class's own."""
        return [
            (number, slot)
            for number, kind in enumerate(self.problem.classes)
            if kind.count > 1
            for slot, word in enumerate(self.words.own[number])
            if self.words.page_of(word.address) == page and not word.address.array.endswith(REST)
        ]

    def _others_on(
        self,
        pages: tuple[tuple[str, int], ...],
        others: tuple[int, ...],
        seen: "set[tuple[int, int]] | None" = None,
    ) -> tuple[Any, ...]:
        """The other threads' own values in each page, without their order.

        Of the words (class, own slot) in ``seen`` only, if that is given.
        """
        found: list[Any] = []
        for page in pages:
            slots = [own for own in self._own_entries(page) if seen is None or own in seen]
            values = [self._share(slots, number) for number in others]
            found.append(tuple(sorted(filter(any, values))))
        return tuple(found)

    def _share(self, slots: list[tuple[int, int]], number: int) -> tuple[Any, ...]:
        """What a local has in those of the (class, own slot) that are of its class."""
        local = self.locals[number]
        return tuple(
            self.words.own[kind][slot].values[local.own[slot] if slot < len(local.own) else 0]
            for kind, slot in slots
            if kind == local.kind
        )

    def contributions(
        self, pages: tuple[tuple[str, int], ...], number: int
    ) -> tuple[tuple[Any, ...], ...]:
        """By page, the values that a local's own words in it have; () where all are 0."""
        shares = (self._share(self._own_entries(page), number) for page in pages)
        return tuple(share if any(share) else () for share in shares)

    def felt(self, local: int, fills: tuple[tuple[str, int, str, tuple[Any, ...]], ...]) -> int:
        """The local of a thread after another one has written pages that it has words in."""
        before = self.locals[local]
        own = list(before.own)
        for array, page, method, arguments in fills:
            for kind, slot in self._own_entries((array, page)):
                if kind == before.kind and slot < len(own):
                    word = self.words.own[kind][slot]
                    value = filled(
                        word.address.number & 511, method, arguments, word.values[own[slot]]
                    )
                    own[slot] = word.number(value)
        return self.number(
            Local(before.kind, before.node, stripped(dict(enumerate(own))), before.held)
        )


def _hold(held: dict[Address, bool], lock: Address, exclusively: bool, taken: bool) -> None:
    if taken:
        held[lock] = exclusively
