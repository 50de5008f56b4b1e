"""How a state is written down: the values of shared words by slot, and a number for each thread.

A word gets a slot when a thread first touches it.  Values are numbered for each slot in the order
they are seen, 0 being the value at the start; so a word that nobody has touched yet is 0 in every
state already found, and slots can be handed out during the search.  What only one thread class can
touch is kept with the thread: a *local* is (class, node, values of its own words).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from dpamt.sync.entry_pages import EntryPages
from dpamt.sync.observed import Address
from dpamt.verify.explore.symmetry import NotAlikeError
from dpamt.verify.learn.values import Operations, read_word
from dpamt.verify.programs.problem import Problem

SPARE_SLOTS: Final = 32
REST: Final = "#rest"
"""Added to an array's name: the word for all entries of a page that have no word yet."""

SHARED_BY_ALL: Final = -1


class Local(NamedTuple):
    """A thread: its class, its node, the values (numbers) of its own words, the locks it holds."""

    kind: int
    node: int
    own: tuple[int, ...]
    held: tuple[tuple[Address, bool], ...] = ()
    """(lock, whether exclusively), sorted."""


@dataclass(slots=True)
class Slot:
    """A word in the state: its values seen so far, by number."""

    address: Address
    values: list[Hashable]
    numbers: dict[Hashable, int]

    def number(self, value: Hashable) -> int:
        """The number of a value."""
        known = self.numbers.setdefault(value, len(self.values))
        if known == len(self.values):
            self.values.append(value)
        return known


class Restart(Exception):  # noqa: N818  (not an error: the search restarts, knowing more)
    """What was taken for granted about a word is not so."""


class Use(NamedTuple):
    """A read or a write of a word, with the locks that the thread holds (whether exclusively)."""

    held: tuple[tuple[Address, bool], ...]
    writes: bool

    def meets(self, other: "Use") -> bool:
        """Whether the two conflict and no lock keeps them apart: one of them held exclusively."""
        if not (self.writes or other.writes):
            return False
        theirs = dict(other.held)
        return not any(lock in theirs and (how or theirs[lock]) for lock, how in self.held)


@dataclass(slots=True)
class Knowledge:
    """What is known about words; it only grows, and outlives a restart of the search."""

    varying: set[Address] = field(default_factory=set)
    """Words that somebody changes or wants for himself; all others are as at the start."""
    taken_as_fixed: set[Address] = field(default_factory=set)
    toucher: dict[Address, int] = field(default_factory=dict)
    """Class of the only thread that touches a word, or SHARED_BY_ALL."""
    pages: dict[tuple[str, int], int] = field(default_factory=dict)
    """Pages that are read or written whole, with the class that does it, or SHARED_BY_ALL."""
    rewritten: set[tuple[str, int]] = field(default_factory=set)
    """Pages that somebody writes whole: every entry in them is changed."""
    entries: dict[tuple[str, int], list[Address]] = field(default_factory=dict)
    """Words of single entries, by page."""
    uses: "dict[Address, set[Use]]" = field(default_factory=dict)
    """How each word is read and written: under which locks."""
    page_uses: "dict[tuple[str, int] | None, set[Use]]" = field(default_factory=dict)
    """The same of pages that are read or written whole."""
    unguarded: set[Address] = field(default_factory=set)
    """Words with two uses, one of them a write, that no lock keeps apart."""
    taken_as_guarded: set[Address] = field(default_factory=set)
    looked_at: set[Address] = field(default_factory=set)
    """Locks that somebody looks at without waiting for them (trylock, is_locked)."""
    taken_as_movers: set[Address] = field(default_factory=set)
    """Locks whose taking and release were taken for movers: nobody looks at them."""
    no_counters: set[Address] = field(default_factory=set)
    """Words that somebody does more to than add, paying no heed to the sum."""
    taken_as_counters: set[Address] = field(default_factory=set)
    slots: int = 0
    reduced: bool = True
    """Whether steps that others cannot notice are taken together with their neighbours."""
    wide: bool = False
    """Whether a state has numbers above 65,535."""

    def is_raced_for(self, address: Address) -> bool:
        """Whether several threads use the word, some change it, and no lock keeps them apart."""
        if address not in self.varying or self.toucher.get(address) != SHARED_BY_ALL:
            return False
        return address in self.unguarded or address in self.looked_at


class Words:
    """The slots of one search."""

    def __init__(self, problem: Problem, knowledge: Knowledge) -> None:
        self.problem = problem
        self.known = knowledge
        self.shared: list[Slot] = []
        self.own: list[list[Slot]] = [[] for _ in problem.classes]
        self._places: dict[Address, tuple[int, int]] = {}
        self._operations = problem.operations
        self._paged: dict[str, tuple[str, int]] = {}
        self.start_pages: dict[tuple[str, int], Hashable] = {}
        """Contents before anybody ran of the pages that are used whole."""
        self.capacity = knowledge.slots + SPARE_SLOTS
        self._declared = {
            Address(word.array, word.indices[0]): number
            for number, kind in enumerate(problem.classes)
            if kind.count > 1
            for word in kind.own
        }
        self._others = {
            Address(word.array, index): number
            for number, kind in enumerate(problem.classes)
            if kind.count > 1
            for word in kind.own
            for index in word.indices[1:]
        }

    def operations(self, array: str) -> Operations:
        """The operations on words of an array."""
        known = self._operations.get(array)
        if known is None:
            known = self._operations[array] = Operations(self.problem.shared.array(array))
        return known

    def start_value(self, address: Address) -> Hashable:
        """The value of a word before anybody ran."""
        if address.array.endswith(REST):
            return ("start",)
        return read_word(self.problem.shared.array(address.array), address.number)

    def place(self, address: Address, kind: int) -> tuple[int, int]:
        """(owner, slot) of the word that a thread of class ``kind`` touches.

        The owner is SHARED_BY_ALL or that class.  Raises Restart when another class was taken for
        the word's only toucher.
        """
        found = self._places.get(address)
        if found is not None and found[0] in (SHARED_BY_ALL, kind):
            return found
        return self._new_place(address, kind)

    def _new_place(self, address: Address, kind: int) -> tuple[int, int]:
        known = self.known
        declared = self._declared.get(address)
        if declared is not None:
            if declared != kind:
                raise NotAlikeError(declared, f"{address} is touched by another thread class")
            owner = declared
        else:
            if address in self._others:
                whose = self._others[address]
                raise NotAlikeError(whose, f"{address} is touched by another thread than its own")
            alone = kind if self.problem.classes[kind].count == 1 else SHARED_BY_ALL
            owner = known.toucher.setdefault(address, alone)
            if owner != alone:
                known.toucher[address] = owner = SHARED_BY_ALL
            page = self.page_of(address)
            if page is not None:
                if page in known.pages and known.pages[page] != owner:
                    known.toucher[address] = owner = SHARED_BY_ALL
                entries = known.entries.setdefault(page, [])
                if address not in entries:
                    entries.append(address)
                    if page in known.pages and not address.array.endswith(REST):
                        raise Restart(f"{address} lies in a page that is written whole")
        if address in self._places and self._places[address][0] != owner:
            raise Restart(f"{address} is touched by a second thread class")
        slots = self.shared if owner == SHARED_BY_ALL else self.own[owner]
        if owner == SHARED_BY_ALL:
            known.slots = max(known.slots, len(slots) + 1)
            if len(slots) >= self.capacity:
                raise Restart("more words than expected")
        start = self.start_value(address)
        slots.append(Slot(address, [start], {start: 0}))
        self._places[address] = owner, len(slots) - 1
        return self._places[address]

    def put_slot(self, owner: int, address: Address, values: Sequence[Hashable]) -> None:
        """Give a word the next slot of its owner, with the values that were seen."""
        slots = self.shared if owner == SHARED_BY_ALL else self.own[owner]
        slots.append(
            Slot(address, list(values), {value: number for number, value in enumerate(values)})
        )
        self._places[address] = owner, len(slots) - 1

    def is_varying(self, address: Address) -> bool:
        """Whether somebody changes the word, as far as is known."""
        known = self.known
        return address in known.varying or (
            bool(known.rewritten) and self.page_of(address) in known.rewritten
        )

    def rewrite(self, page: tuple[str, int]) -> None:
        """The page is written whole.  Raises Restart when an entry of it was taken as fixed."""
        known = self.known
        if page not in known.rewritten:
            known.rewritten.add(page)
            for address in known.taken_as_fixed:
                if self.page_of(address) == page:
                    raise Restart(f"{address} was taken as fixed")

    def vary(self, address: Address) -> None:
        """The word is changed.  Raises Restart when it was taken as fixed before."""
        if address not in self.known.varying:
            self.known.varying.add(address)
            if address in self.known.taken_as_fixed:
                raise Restart(f"{address} was taken as fixed")

    def use(self, address: Address, held: dict[Address, bool], writes: bool) -> None:
        """A thread reads or writes the word while it holds these locks.

        Raises Restart when the word was taken to be guarded, and this use shows that it is not.
        """
        known = self.known
        use = Use(tuple(sorted(held.items())) if held else (), writes)
        uses = known.uses.get(address)
        if uses is None:
            uses = known.uses[address] = set()
        elif use in uses:
            return
        uses.add(use)
        whole = known.page_uses.get(self.page_of(address), set()) if known.page_uses else set()
        self._hold_against(address, use, uses | whole)

    def use_whole(self, page: tuple[str, int], held: dict[Address, bool], writes: bool) -> None:
        """The same of every entry of a page at once."""
        known = self.known
        use = Use(tuple(sorted(held.items())), writes)
        uses = known.page_uses.setdefault(page, set())
        if use not in uses:
            uses.add(use)
            for address in known.entries.get(page, []):
                self._hold_against(address, use, known.uses.get(address, set()))

    def _hold_against(self, address: Address, use: "Use", others: "set[Use]") -> None:
        known = self.known
        if address not in known.unguarded and any(use.meets(other) for other in others):
            known.unguarded.add(address)
            if address in known.taken_as_guarded:
                raise Restart(f"{address} is not always guarded")

    def is_guarded(self, address: Address) -> bool:
        """Whether locks keep any two uses of the word apart of which one writes, as far as known.

        Then nobody can come in between such a use and another step of the holder's.
        """
        if address not in self.known.uses or address in self.known.unguarded:
            return False
        if not self.known.reduced:
            return False
        self.known.taken_as_guarded.add(address)
        return True

    def look(self, address: Address) -> None:
        """Somebody sees whether the lock is held.  Raises Restart when it was taken for a mover."""
        if address not in self.known.looked_at:
            self.known.looked_at.add(address)
            if address in self.known.taken_as_movers:
                raise Restart(f"{address} is looked at by somebody who does not wait for it")

    def is_mover(self, address: Address) -> bool:
        """Whether all that is done to the lock is to wait for it, take it and release it."""
        if address in self.known.looked_at or not self.known.reduced:
            return False
        self.known.taken_as_movers.add(address)
        return True

    def is_counter(self, address: Address) -> bool:
        """Whether all that is done to the word is adding, and nobody looks at the sum."""
        if address in self.known.no_counters or not self.known.reduced:
            return False
        self.known.taken_as_counters.add(address)
        return True

    def no_counter(self, address: Address) -> None:
        """Somebody looks at the word.  Raises Restart when it was taken for a counter."""
        if address not in self.known.no_counters:
            self.known.no_counters.add(address)
            if address in self.known.taken_as_counters:
                raise Restart(f"{address} was taken for a counter")

    def page_of(self, address: Address) -> tuple[str, int] | None:
        """(array, page) of an entry's word; None for any other word."""
        name = address.array
        how = self._paged.get(name)
        if how is None:
            how = self._paged[name] = self._how_paged(name)
        array, shift = how
        return (array, address.number >> shift) if array else None

    def _how_paged(self, name: str) -> tuple[str, int]:
        """Of the words of an array: the array of their pages, and the bits of an entry's number."""
        array = name.removesuffix(REST)
        if array != name:
            return array, 0
        return (name, 9) if isinstance(self.problem.shared.array(name), EntryPages) else ("", 0)

    def use_page(self, page: tuple[str, int], kind: int) -> list[Address]:
        """A thread of class ``kind`` reads or writes the page whole: its words, the rest last."""
        known = self.known
        alone = kind if self.problem.classes[kind].count == 1 else SHARED_BY_ALL
        if page not in self.start_pages:
            self.start_pages[page] = self.problem.shared.array(page[0]).at(page[1]).capture()
        rest = Address(page[0] + REST, page[1])
        before = known.pages.get(page)
        entries = known.entries.setdefault(page, [])
        if before is None:
            known.pages[page] = alone
            if entries:
                self._share_entries(page, alone)
                raise Restart(f"page {page} is used whole")
        elif before != alone and before != SHARED_BY_ALL:
            known.pages[page] = SHARED_BY_ALL
            self._share_entries(page, SHARED_BY_ALL)
            raise Restart(f"page {page} is used whole by a second thread class")
        return [*(entry for entry in entries if entry != rest), rest]

    def _share_entries(self, page: tuple[str, int], owner: int) -> None:
        for entry in self.known.entries[page]:
            if self.known.toucher.get(entry, owner) != owner:
                self.known.toucher[entry] = SHARED_BY_ALL


def stripped(own: dict[int, int]) -> tuple[int, ...]:
    """Own values by slot, without the zeros at the end."""
    last = max((slot for slot, value in own.items() if value), default=-1)
    return tuple(own.get(slot, 0) for slot in range(last + 1))
