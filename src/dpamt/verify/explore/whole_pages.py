"""Values of words while a block is worked out, and steps that read or write a page whole.

A page of entries is used whole by some threads while others have words of their own in it.  Such
a step touches every entry: those that have a word in the state, and, in one more word (``#rest``),
all that have none.
"""

from collections.abc import Hashable
from typing import Any

from dpamt.errors import Finding
from dpamt.sync.host_priority import EX, PAYLOAD_SHIFT
from dpamt.sync.observed import Address
from dpamt.verify.explore.learned_blocks import LearnedBlocks
from dpamt.verify.explore.run import Run
from dpamt.verify.explore.state import REST, SHARED_BY_ALL, Knowledge, Local, Words, stripped
from dpamt.verify.explore.symmetry import NotAlikeError
from dpamt.verify.learn.automaton import Automaton, Step
from dpamt.verify.learn.values import filled
from dpamt.verify.programs.problem import Problem


class WholePages(LearnedBlocks):
    """The words of a search as the steps of its blocks see them."""

    def __init__(
        self, problem: Problem, automata: tuple[Automaton, ...], knowledge: Knowledge
    ) -> None:
        super().__init__(automata)
        self.problem = problem
        self.words = Words(problem, knowledge)

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
