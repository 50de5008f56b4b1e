"""The shortest way to a failure, step by step, with real CPU numbers: a value that can be kept.

The search knows for each state from where it came and which thread moved; from that the way is
walked forwards again, each thread keeping its number, and every step of the functions inside the
blocks is written down with its function, source line, words and results.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import dpamt
from dpamt.abi.leaves import LEAF_NAMES
from dpamt.abi.status import status_name
from dpamt.sync.observed import PAGE_READS, PAGE_WRITES, READS, SHARES
from dpamt.verify.automaton import CHOICE, MARK, Event
from dpamt.verify.search import Fault, Search

FORMAT: Final = 1
"""Version of the JSON form."""

_ROOT: Final = Path(dpamt.__file__).parent


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


@dataclass(frozen=True, slots=True)
class Counterexample:
    """A failure of a property and the schedule to it.

    ``schedule`` is the CPU of each step; ``choices`` what was chosen at each choice, in order.
    """

    setting: str
    broken: str
    """Name of the property that fails."""
    text: str
    granularity: str
    cpus: tuple[str, ...]
    """What each CPU runs."""
    steps: tuple[StepTold, ...]
    shared: tuple[tuple[str, str, str], ...]
    """Words that differ from the start at the end: name, value at the start, value at the end."""

    @property
    def schedule(self) -> tuple[int, ...]:
        """The CPU of each step."""
        return tuple(step.cpu for step in self.steps)

    @property
    def switches(self) -> int:
        """How often the CPU changes."""
        return sum(step.switched for step in self.steps)

    def as_json(self) -> dict[str, Any]:
        """The whole as plain values."""
        return {"format": FORMAT, **asdict(self), "schedule": list(self.schedule)}


def counterexample(search: Search, fault: Fault) -> Counterexample:
    """The way to a fault that the search has found."""
    moves = []
    state = fault.state
    while state:
        moves.append(search.moves[state])
        state = search.parents[state]
    moves.reverse()
    if fault.thread >= 0:
        moves.append(fault.thread << 8 | fault.way)
    return walk(search, moves, fault)


def walk(search: Search, moves: list[int], fault: Fault) -> Counterexample:
    """The counterexample of these moves (position in the state << 8 | way)."""
    engine, capacity = search.engine, search.capacity
    state = search.first_state()
    numbers = list(range(search.threads))
    told: list[StepTold] = []
    last = -1
    for move in moves:
        position, way = move >> 8, move & 0xFF
        local = state[capacity + position]
        others = state[capacity : capacity + position] + state[capacity + position + 1 :]
        block = engine.blocks(local, state, others)[way]
        cpu = numbers[position]
        steps = _tell_block(search, local, block, cpu, last)
        told += steps
        if steps:
            last = cpu
        state, numbers = _follow(search, state, position, block, numbers)
    changed = tuple(
        (str(slot.address), _value(slot.values[0]), _value(slot.values[state[n]]))
        for n, slot in enumerate(engine.words.shared)
        if state[n]
    )
    return Counterexample(
        search.setting.name,
        fault.property,
        fault.text,
        search.granularity,
        tuple(kind.name for kind in search.setting.classes for _ in range(kind.count)),
        tuple(told),
        changed,
    )


def _follow(
    search: Search, state: tuple[int, ...], position: int, block: Any, numbers: list[int]
) -> tuple[tuple[int, ...], list[int]]:
    """The next state, and which CPU stands at each of its positions."""
    capacity = search.capacity
    after = search._after(state, position, block)
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
    return after, found


def _tell_block(search: Search, local: int, block: Any, cpu: int, last: int) -> list[StepTold]:
    engine = search.engine
    kind = engine.locals[local].kind
    automaton = search.automata[kind]
    told: list[StepTold] = []
    for node_number, result in block.steps:
        node = automaton.nodes[node_number]
        step = node.step
        assert step is not None
        _, events = automaton.after(node_number, result)
        shown = tuple(text for text in map(event_text, events) if text)
        if not (shown or _is_told(search, step)):
            continue
        site = node.sites[-1]
        for candidate in reversed(node.sites):
            if "/sync/" not in candidate.file and "<" not in candidate.function:
                site = candidate
                break
        told.append(
            StepTold(
                cpu,
                site.function,
                short_path(site.file),
                site.line,
                str(step.address) if step.address.array else "",
                step.method,
                step.arguments,
                result,
                LEAF_NAMES.get(node.leaf, "") if node.leaf >= 0 else "",
                shown,
                not told and cpu != last,
            )
        )
    return told


def _is_told(search: Search, step: Any) -> bool:
    """Whether a step matters to others: on a word that somebody changes."""
    if step.method == MARK:
        return True
    if step.method == CHOICE:
        return True
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
    if event.kind in ("alloc", "free"):
        return ""
    return f"{event.kind}: {event.subject}"


def short_path(file: str) -> str:
    """A source file as people name it: below the package, or as given."""
    path = Path(file)
    return str(path.relative_to(_ROOT)) if path.is_relative_to(_ROOT) else path.name


def _value(value: Any) -> str:
    return hex(value) if isinstance(value, int) and not isinstance(value, bool) else str(value)
