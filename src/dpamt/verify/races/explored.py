"""Two SEAMCALLs at once on the module itself: every outcome, held against those that were recorded.

A race of a vector file names the outcomes that Intel's module gave on a test bench which switched
CPUs at atomic operations only and at most twice.  Here every schedule is explored, the CPUs
switched at every word that both touch, so each recorded outcome has to come out.  What comes out
beyond them must need a schedule that the bench could not try: more switches, or one elsewhere; it
is found with the fewest.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, cast

from dpamt.abi.registers import REGISTER_NAMES, TdxModuleArgs
from dpamt.errors import DpamtError, Finding, ModelError
from dpamt.module.module import TdxModule
from dpamt.module.pamt import Pamt, PamtBlock, PamtRegion
from dpamt.module.processor import LogicalProcessor
from dpamt.module.td import Td, Tds, Vcpu
from dpamt.platform.physical_memory import PhysicalMemory
from dpamt.sync.observed import ObservedShared
from dpamt.sync.steps import ACQUIRES, RELEASES
from dpamt.trace.vector_file import Json, Race
from dpamt.trace.vector_machine import RecordedMachine, build_module
from dpamt.trace.vectors import SHUTDOWN, Replay, play_before, rax_of, shown_call
from dpamt.verify.evidence.counterexample import Counterexample, walk
from dpamt.verify.explore.learned_blocks import Block
from dpamt.verify.explore.search import BOUND, Fault, Search, search_of
from dpamt.verify.learn.automaton import Body, Recorder, Start
from dpamt.verify.learn.control_point import ControlPoints
from dpamt.verify.programs.problem import WORDS, Problem, ThreadClass
from dpamt.verify.programs.world import told_seamcall
from dpamt.verify.races.outcomes import (
    UNFINISHED,
    End,
    Outcome,
    answered,
    compared_registers,
    inputs_of,
    left_by,
    recorded_outcome,
)

BENCH_SWITCHES: Final = 2
"""Switches between the CPUs that the recording tried at most."""
MOST_STATES: Final = 1_000_000
_ATOMIC: Final = frozenset({*ACQUIRES, *RELEASES, "add", "compare_and_swap", "inc_not_zero"})
"""Steps that the real module does with an atomic instruction; loads and stores are none."""
_CPUS: Final = "ab"


@dataclass(frozen=True, slots=True)
class Beyond:
    """An outcome that was not recorded, and the schedule to it with the fewest switches.

    ``bench_switches`` is the fewest when CPUs are switched at atomic operations only, None when it
    cannot be reached so.
    """

    outcome: Outcome
    switches: int
    bench_switches: int | None
    schedule: Counterexample

    @property
    def within_bench(self) -> bool:
        """Whether the recording tried such a schedule and saw something else."""
        return self.bench_switches is not None and self.bench_switches <= BENCH_SWITCHES


@dataclass(frozen=True, slots=True)
class RaceReplay:
    """The result of one race.

    ``before`` is the replay of the calls that lead there; when it does not agree nothing was
    explored.  ``missed`` are recorded outcomes that no schedule reaches, ``beyond`` those reached
    that were not recorded.
    """

    id: str
    title: str
    calls: tuple[str, str]
    """Both calls in words."""
    before: Replay
    recorded: int
    reached: int
    states: int
    missed: tuple[Outcome, ...] = ()
    beyond: tuple[Beyond, ...] = ()

    @property
    def agrees(self) -> bool:
        """Every recorded outcome is reached, and none that the recording would have seen more."""
        return (
            self.before.agrees
            and not self.missed
            and not any(extra.within_bench for extra in self.beyond)
        )


def replay_races(
    races: tuple[Race, ...],
    release: str,
    watch: Callable[[Race, int, int], None] | None = None,
) -> list[RaceReplay]:
    """Explore every race; ``watch`` gets the race, its index, and how many there are, before each.

    Raises InputError for an unknown release, Finding when a search does not end, and ModelError,
    naming the race, where the model breaks down.
    """
    results = []
    for index, race in enumerate(races):
        if watch is not None:
            watch(race, index, len(races))
        try:
            results.append(replay_race(race, release))
        except DpamtError:
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise ModelError(f"{race.before.place}: {race.before.id}: {what}") from error
    return results


def replay_race(race: Race, release: str) -> RaceReplay:
    """Explore one race; raises as :func:`replay_races`."""
    scenario = race.before
    shared = ObservedShared()
    try:
        module = build_module(scenario, release, shared, cpus=2)
    except Finding as refused:
        return _not_begun(race, Replay(scenario.id, scenario.title, 0, None, (), str(refused)))
    before = play_before(race, module)
    if not before.agrees:
        return _not_begun(race, before)
    search = search_of(race_setting(race, module, shared), (), WORDS, MOST_STATES)
    found = search.explore()
    if found.verdict == BOUND:
        raise Finding(
            f"{scenario.place}: {scenario.id}: more than {MOST_STATES:,} states; not finished"
        )
    compared = compared_registers(race)
    ways = _Ways(search, module, race, compared)
    reached = ways.fewest_switches(atomic_only=False)
    recorded = [recorded_outcome(race, compared, outcome) for outcome in race.outcomes]
    extra = [outcome for outcome in reached if outcome not in recorded]
    on_bench = ways.fewest_switches(atomic_only=True) if extra else {}
    beyond = tuple(
        Beyond(
            outcome,
            reached[outcome].switches,
            on_bench[outcome].switches if outcome in on_bench else None,
            ways.schedule(outcome, reached[outcome]),
        )
        for outcome in extra
    )
    return RaceReplay(
        scenario.id,
        scenario.title,
        _shown_calls(race),
        before,
        len(recorded),
        len(reached),
        found.states,
        tuple(outcome for outcome in recorded if outcome not in reached),
        beyond,
    )


def _not_begun(race: Race, before: Replay) -> RaceReplay:
    calls = _shown_calls(race)
    return RaceReplay(before.id, before.title, calls, before, len(race.outcomes), 0, 0)


def _shown_calls(race: Race) -> tuple[str, str]:
    return shown_call(race.a, inputs_of(race, race.a)), shown_call(race.b, inputs_of(race, race.b))


# The two threads.


def race_setting(race: Race, module: TdxModule, shared: ObservedShared) -> Problem:
    """The two calls as threads, on a module that stands where they begin."""
    fixed = (
        TdxModule,
        Pamt,
        PamtBlock,
        PamtRegion,
        Td,
        Tds,
        Vcpu,
        RecordedMachine,
        PhysicalMemory,
        Recorder,
    )
    places = ControlPoints((), fixed)
    recorder = Recorder(places)
    classes = tuple(
        ThreadClass(f"{name}: {call['leaf']}", _start(race, call, index, module, recorder))
        for index, (name, call) in enumerate(zip(_CPUS, (race.a, race.b), strict=True))
    )
    return Problem(race.before.title, shared, recorder, places, classes, at_rest=list)


def _start(race: Race, call: Json, index: int, module: TdxModule, recorder: Recorder) -> Start:
    inputs = inputs_of(race, call)
    rax = rax_of(call)

    def start() -> Body:
        seamcall = told_seamcall(LogicalProcessor(module, index, 0), recorder)
        args = TdxModuleArgs.of(**inputs)

        def body() -> object:
            status = seamcall(rax, args)
            return status, args.as_tuple()

        return body

    return start


# Outcomes.

_Here = tuple[tuple[int, ...], int, bool]
"""A state, the CPU that moved last (-1: none yet), and whether it may be left at an atomic one:
its next step, or one of its last that nobody else can notice."""
_Came = dict[_Here, tuple[_Here | None, int]]
"""From where a place was reached, and by which move."""


class _Way(NamedTuple):
    """A schedule: how often the CPUs are switched, and its moves (CPU << 8 | way of the block)."""

    switches: int
    moves: tuple[int, ...]


class _Ways:
    """The outcomes of a search that has ended, each by the schedule with the fewest switches.

    A switch is counted when it leaves a call in its middle.
    """

    def __init__(
        self, search: Search, module: TdxModule, race: Race, compared: frozenset[str]
    ) -> None:
        self._search = search
        self._module = module
        self._calls = race.a, race.b
        self._compared = compared

    def fewest_switches(self, atomic_only: bool) -> dict[Outcome, _Way]:
        """By outcome; ``atomic_only``: CPUs are switched before atomic operations only."""
        search = self._search
        first = search.first_state()
        found: dict[Outcome, _Way] = {}
        came: _Came = {}
        start: _Here = first, -1, True
        pending: deque[tuple[_Here, _Here | None, int, int]] = deque([(start, None, 0, 0)])
        while pending:
            here, origin, move, switches = pending.popleft()
            if here in came:
                continue
            came[here] = origin, move
            state, last, atomic = here
            if self._has_ended(state, 0) and self._has_ended(state, 1):
                found.setdefault(self._rest(state), _Way(switches, _moves(came, here)))
                continue
            for cpu, way, after, local in search.successors(state):
                leaves = last >= 0 and cpu != last and not self._has_ended(state, last)
                if leaves and atomic_only and not atomic:
                    continue
                now = switches + leaves
                move = cpu << 8 | way
                block = self._block(local, state, cpu, way)
                if any(event.kind == "raised" for event in block.events):
                    outcome = self._shut_down(state, cpu)
                    known = found.get(outcome)
                    if known is None or now < known.switches:
                        found[outcome] = _Way(now, (*_moves(came, here), move))
                    continue
                there = after, cpu, self._may_be_left(block)
                if leaves:
                    pending.append((there, here, move, now))
                else:
                    pending.appendleft((there, here, move, now))
        return found

    def schedule(self, outcome: Outcome, way: _Way) -> Counterexample:
        """The schedule step by step."""
        fault = Fault("outcome", str(outcome), 0, -1, 0, len(way.moves))
        return walk(self._search, list(way.moves), fault)

    def _has_ended(self, state: tuple[int, ...], cpu: int) -> bool:
        search = self._search
        return search.engine.ended[state[search.capacity + cpu]]

    def _block(self, local: int, state: tuple[int, ...], cpu: int, way: int) -> Block:
        search = self._search
        other = state[search.capacity + 1 - cpu]
        return search.engine.blocks(local, state, (other,))[way]

    def _may_be_left(self, block: Block) -> bool:
        """Whether the CPU can be switched away at an atomic operation, with the same effect."""
        engine = self._search.engine
        nodes = self._search.automata[engine.locals[block.local].kind].nodes
        later = [nodes[node].step for node, _ in block.steps[1:]]
        later.append(engine.node_of(engine.locals[block.local]).step)
        return any(step is not None and step.method in _ATOMIC for step in later)

    def _shut_down(self, state: tuple[int, ...], cpu: int) -> Outcome:
        ends = [self._end(state, 0), self._end(state, 1)]
        ends[cpu] = End(event=SHUTDOWN)
        return Outcome(ends[0], ends[1], None)

    def _end(self, state: tuple[int, ...], cpu: int) -> End:
        """How the call of a CPU ended; it is unfinished when it has not."""
        search = self._search
        end = search.engine.node_of(search.engine.locals[state[search.capacity + cpu]]).end
        if end is None:
            return End(event=UNFINISHED)
        status, values = cast(tuple[int, tuple[int, ...]], end.subject)
        registers = dict(zip(REGISTER_NAMES, values, strict=True))
        return answered(self._calls[cpu], status, registers, self._compared)

    def _rest(self, state: tuple[int, ...]) -> Outcome:
        """Both calls have ended."""
        search = self._search
        search.put_back(state)
        left = left_by(self._module)
        search.put_back(search.first_state())
        return Outcome(self._end(state, 0), self._end(state, 1), left)


def _moves(came: _Came, here: _Here | None) -> tuple[int, ...]:
    """The moves from the first state to a place."""
    moves: list[int] = []
    while here is not None:
        here, move = came[here]
        if here is not None:
            moves.append(move)
    return tuple(reversed(moves))
