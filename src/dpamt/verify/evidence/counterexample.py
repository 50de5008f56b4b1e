"""The shortest way to a failure, step by step, with real CPU numbers: a value that can be kept.

The search knows for each state from where it came and which thread moved; from that the way is
walked forwards again, each thread keeping its number, and every step of the functions inside the
blocks is written down with its function, source line, words and results.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Final

from dpamt.abi.leaves import LEAF_NAMES
from dpamt.abi.status import status_name
from dpamt.errors import InputError
from dpamt.sync.observed import Address
from dpamt.sync.steps import PAGE_READS, PAGE_WRITES, READS, SHARES
from dpamt.verify.explore.search import Fault, Search
from dpamt.verify.explore.state import REST, SHARED_BY_ALL
from dpamt.verify.learn.automaton import CHOICE, MARK, MAY_SLEEP, Event, Step
from dpamt.verify.learn.control_point import short_path
from dpamt.verify.learn.values import MISUSED, payload_shift, value_text
from dpamt.verify.programs.problem import ThreadClass

FORMAT: Final = 3
"""Version of the JSON form."""
GHOSTS: Final = "verify."
"""Begins the names of words that stand for what the verifier counts; no machine has them."""


@dataclass(frozen=True, slots=True)
class StepTold:
    """One step of one CPU: where it stands, what it does to which word, and what came of it."""

    cpu: int
    function: str
    file: str
    line: int
    word: str
    method: str
    arguments: tuple[Any, ...]
    result: Any
    seamcall: str
    events: tuple[str, ...]
    switched: bool
    """Whether the CPU was another one before."""
    at: int
    """Its number among all steps of the schedule, those that nobody else can notice included."""
    value: str
    """The word's value after it, where several CPUs touch the word; else empty."""
    address: int = 0
    """Of the instruction, in machine code; else 0."""


@dataclass(frozen=True, slots=True)
class Counterexample:
    """A failure of a property and the schedule to it."""

    problem: str
    broken: str
    """Name of the property that fails."""
    text: str
    granularity: str
    cpus: tuple[str, ...]
    """What each CPU runs."""
    steps: tuple[StepTold, ...]
    shared: tuple[tuple[str, str, str], ...]
    """Words that differ from the start at the end: name, value at the start, value at the end."""
    start: tuple[tuple[str, str], ...]
    """The words that several CPUs touch: name, value at the start."""
    turns: tuple[tuple[int, int], ...]
    """The whole schedule: CPU, and how many steps it does before another has its turn."""
    choices: tuple[int, ...]
    """What was chosen at each choice, in order."""

    @property
    def schedule(self) -> tuple[int, ...]:
        """The CPU of each step."""
        return tuple(step.cpu for step in self.steps)

    @property
    def switches(self) -> int:
        """How often the CPU changes from one step to the next."""
        return sum(before != after for before, after in pairwise(self.schedule))

    @property
    def size(self) -> str:
        """How long it is, the same words and numbers wherever it is shown."""
        steps, switches = len(self.steps), self.switches
        return f"{steps} step{'s' * (steps != 1)}, {switches} switch{'es' * (switches != 1)}"

    def as_json(self) -> dict[str, Any]:
        """The whole as plain values."""
        return {
            "format": FORMAT,
            **_plain(self),
            "steps": tuple(map(_plain, self.steps)),
            "schedule": list(self.schedule),
            "switches": self.switches,
        }


def _plain(record: "Counterexample | StepTold") -> dict[str, Any]:
    """The fields by name.  Nothing is copied, unlike by asdict: they are never changed."""
    return {field.name: getattr(record, field.name) for field in fields(record)}


def from_json(kept: Mapping[str, Any], where: str) -> Counterexample:
    """What :meth:`Counterexample.as_json` gave.  Raises InputError, naming ``where``."""
    try:
        names = [field.name for field in fields(Counterexample)]
        plain = {name: kept[name] for name in names}
        steps = tuple(
            StepTold(
                **{**step, "arguments": tuple(step["arguments"]), "events": tuple(step["events"])}
            )
            for step in plain["steps"]
        )
        for name in ("shared", "start", "turns"):
            plain[name] = tuple(tuple(item) for item in plain[name])
        for name in ("cpus", "choices"):
            plain[name] = tuple(plain[name])
        return Counterexample(**{**plain, "steps": steps})
    except (KeyError, TypeError) as error:
        what = f"{type(error).__name__} {error}"
        raise InputError(f"{where}: counterexamples: {what}; expected the form of --json") from None


def counterexample(search: Search, fault: Fault) -> Counterexample:
    """The way to a fault that the search has found."""
    moves = search.way_to(fault.state)
    if fault.thread >= 0:
        moves.append(fault.thread << 8 | fault.way)
    return walk(search, moves, fault)


def walk(search: Search, moves: list[int], fault: Fault) -> Counterexample:
    """The counterexample of these moves (position in the state << 8 | way)."""
    engine, capacity = search.engine, search.capacity
    state = search.first_state()
    numbers = list(range(search.threads))
    told: list[StepTold] = []
    turns: list[tuple[int, int]] = []
    choices: list[int] = []
    last = -1
    done = 0
    for move in moves:
        position, way = move >> 8, move & 0xFF
        local = state[capacity + position]
        others = state[capacity : capacity + position] + state[capacity + position + 1 :]
        block = engine.blocks(local, state, others)[way]
        cpu = numbers[position]
        steps = _tell_block(search, state, local, block, cpu, last, done)
        told += steps
        if steps:
            last = cpu
        before = turns.pop()[1] if turns and turns[-1][0] == cpu else 0
        turns.append((cpu, before + len(block.steps)))
        done += len(block.steps)
        choices += choices_of(search, local, block)
        state, numbers = follow(search, state, move, block, numbers)
    slots = [
        (n, slot)
        for n, slot in enumerate(engine.words.shared)
        if not slot.address.array.endswith(REST)
    ]
    text = fault.text
    if fault.thread >= 0:
        text = _own(search, engine.locals[local].kind, cpu).words(text)
    return Counterexample(
        search.problem.name,
        fault.property,
        text,
        search.granularity,
        tuple(kind.name for kind in search.problem.classes for _ in range(kind.count)),
        tuple(told),
        tuple(
            (
                str(slot.address),
                _shown(search, slot.address, slot.values[0]),
                _shown(search, slot.address, slot.values[state[n]]),
            )
            for n, slot in slots
            if state[n]
        ),
        tuple(
            (str(slot.address), _shown(search, slot.address, slot.values[0])) for _, slot in slots
        ),
        tuple(turns),
        tuple(choices),
    )


def _shown(search: Search, address: Address, value: Any) -> str:
    return value_text(search.problem.shared.array(address.array), value)


def choices_of(search: Search, local: int, block: Any) -> list[int]:
    """What was chosen at the choices of a block, in order."""
    nodes = search.automata[search.engine.locals[local].kind].nodes
    return [
        result
        for node, result in block.steps
        if (step := nodes[node].step) is not None and step.method == CHOICE
    ]


def follow(
    search: Search, state: tuple[int, ...], move: int, block: Any, numbers: list[int]
) -> tuple[tuple[int, ...], list[int]]:
    """The next state, and which CPU stands at each of its positions."""
    capacity = search.capacity
    position = move >> 8
    after = next(key for at, way, key, _ in search.moves(state) if at << 8 | way == move)
    unsorted = list(state[capacity:])
    if block.fills:
        unsorted = [
            search.engine.felt(local, block.fills) if n != position else local
            for n, local in enumerate(unsorted)
        ]
    unsorted[position] = block.local
    found = list(numbers)
    for first, end in search._bounds:
        order = sorted(range(first, end), key=lambda n: (unsorted[n], n))
        found[first:end] = [numbers[n] for n in order]
    return search.packing.unpack(after), found


def _tell_block(
    search: Search,
    state: tuple[int, ...],
    local: int,
    block: Any,
    cpu: int,
    last: int,
    done: int,
) -> list[StepTold]:
    kind = search.engine.locals[local].kind
    automaton = search.automata[kind]
    own = _own(search, kind, cpu)
    values = _Values(search, state, local)
    told: list[StepTold] = []
    for number, (node_number, result) in enumerate(block.steps):
        node = automaton.nodes[node_number]
        step = node.step
        assert step is not None
        value = values.after(step)
        _, events = automaton.after(node_number, result)
        if values.misuse:
            events = (Event("misuse", values.misuse), *events)
        shown = tuple(own.words(text) for text in map(event_text, events) if text)
        if not (shown or _is_told(search, step)):
            continue
        site = node.sites[-1]
        for candidate in reversed(node.sites):
            if "/sync/" not in candidate.file and "<" not in candidate.function:
                site = candidate
                break
        array = search.problem.shared.array(step.address.array) if step.address.array else None
        address, arguments, result = own.of(array, step, result)
        told.append(
            StepTold(
                cpu,
                site.function,
                short_path(site.file),
                site.line,
                str(address) if address.array else "",
                step.method,
                arguments,
                result,
                LEAF_NAMES.get(node.leaf, "") if node.leaf >= 0 else "",
                shown,
                not told and cpu != last,
                done + number,
                value,
                site.address,
            )
        )
    return told


def _own(search: Search, kind: int, cpu: int) -> "_Own":
    return _Own(search.problem.classes[kind], cpu - search._bounds[kind][0])


class _Own:
    """Steps of one instance of a class, which are known as the first instance's."""

    def __init__(self, kind: ThreadClass, instance: int) -> None:
        self._kind = kind
        self._instance = instance
        self._words = {Address(word.array, word.indices[0]): word for word in kind.own}

    def of(self, array: Any, step: Step, result: Any) -> tuple[Address, tuple[Any, ...], Any]:
        """(address, arguments, result) as this instance has them."""
        word = self._words.get(step.address)
        if word is None or not self._instance:
            return step.address, step.arguments, result
        address = Address(word.array, word.indices[self._instance])
        if word.shift < 0:
            return address, step.arguments, result
        shift = word.shift - payload_shift(array)
        mine, other = self._kind.pages[0], self._kind.pages[self._instance]

        def renamed(value: Any) -> Any:
            if isinstance(value, int) and value > 0 and value >> shift == mine:
                return other << shift | value & (1 << shift) - 1
            return value

        return address, tuple(renamed(value) for value in step.arguments), renamed(result)

    def words(self, text: str) -> str:
        """A text with this instance's page in place of the first one's."""
        if not self._instance or not self._kind.pages:
            return text
        mine, other = self._kind.pages[0], self._kind.pages[self._instance]
        return re.sub(rf"\b{mine:#x}\b", f"{other:#x}", text)


class _Values:
    """The values of the words that a CPU touches, step by step through one block."""

    def __init__(self, search: Search, state: tuple[int, ...], local: int) -> None:
        self._search = search
        self._state = state
        self._own = search.engine.locals[local].own
        self._now: dict[tuple[int, int], Any] = {}
        self.misuse = ""
        """What the last step did that no lock allows; empty: nothing."""
        self._rewritten: set[str] = set()

    def after(self, step: Step) -> str:
        """The value of the step's word after it; empty where it is not known or not shared."""
        words, address = self._search.engine.words, step.address
        if step.method in PAGE_WRITES:
            self._rewritten.add(address.array)
        self.misuse = ""
        place = words._places.get(address)
        if place is None or address.array in self._rewritten or step.method in PAGE_READS:
            return ""
        outcome = words.operations(address.array).outcome(step, self._value(*place))
        if outcome.how == MISUSED:
            self.misuse = str(outcome.result)
        self._now[place] = outcome.value
        return _shown(self._search, address, outcome.value) if place[0] == SHARED_BY_ALL else ""

    def _value(self, owner: int, slot: int) -> Any:
        if (owner, slot) in self._now:
            return self._now[owner, slot]
        words = self._search.engine.words
        if owner == SHARED_BY_ALL:
            return words.shared[slot].values[self._state[slot]]
        number = self._own[slot] if slot < len(self._own) else 0
        return words.own[owner][slot].values[number]


def _is_told(search: Search, step: Any) -> bool:
    """Whether a step matters to others: on a word that somebody changes."""
    if step.method == MARK:
        return True
    if step.method == CHOICE:
        return True
    if step.address.array.startswith(GHOSTS):
        return False
    if step.method in PAGE_READS or step.method in PAGE_WRITES:
        return False
    words = search.engine.words
    if not words.is_varying(step.address):
        return False
    if step.method in READS or step.method in SHARES:
        return bool(words.known.toucher.get(step.address, 0) == -1)
    return True


def event_text(event: Event) -> str:
    """An event in words; empty for those that say nothing new."""
    if event.kind == "seamcall":
        leaf, status = event.subject, event.detail[-1]
        assert isinstance(leaf, int)
        assert isinstance(status, int)
        return f"{LEAF_NAMES[leaf]} -> {status_name(status)}"
    if event.kind == "returned":
        return f"ends with {event.subject}"
    if event.kind == "raised":
        return str(event.detail[0])
    if event.kind in ("alloc", "free", MAY_SLEEP):
        return ""
    return f"{event.kind}: {event.subject}"
