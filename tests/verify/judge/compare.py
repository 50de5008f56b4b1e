"""One design before the verifier and before the judge: what both say."""

import gc
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from dpamt.errors import Finding, InputError
from dpamt.host.designs.base import Design
from dpamt.host.designs.load import SHIPPED, load_design
from dpamt.verify.explore.search import search_of
from dpamt.verify.programs.get_put import regions
from dpamt.verify.programs.ground import APART, CROSSED, OWN, Choices
from dpamt.verify.programs.problem import GRANULARITIES, SEAMCALL, Problem
from dpamt.verify.properties.named import LIVELOCK, properties
from tests.verify.judge.mutants import DECLARED, GIVEN, SOURCES, Mutant
from tests.verify.judge.problems import one_by_one
from tests.verify.judge.search import Judge

WORKERS: Final = 2
ENGINE_STATES: Final = 300_000
JUDGE_STATES: Final = 1_500_000
"""States after which one side stops unfinished."""
DOES_NOT_RUN: Final = "expected a design that runs"
"""In the line that says that a design's code raised an error of its own."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Get, use and put, as both sides are asked it."""

    name: str
    cpus: tuple[int, ...]
    placement: str = APART
    failures: int = 0

    def for_engine(self, design: Design) -> Problem:
        """With everything that the verifier makes shorter."""
        return regions(design, self.cpus, self.placement, self._choices())

    def for_judge(self, design: Design) -> Problem:
        """Every thread for itself."""
        return one_by_one(design, self.cpus, self.placement, self._choices())

    def _choices(self) -> Choices | None:
        return Choices(self.failures) if self.failures else None


ONE_REGION: Final = Trial("2 CPUs in one region", (2,))
TRIALS: Final = (
    ONE_REGION,
    Trial("1 CPU", (1,)),
    Trial("1 + 1 CPUs", (1, 1)),
    Trial("1 + 1 CPUs, crossed pairs", (1, 1), CROSSED),
    Trial("2 CPUs, own pair", (2,), OWN),
    Trial("2 CPUs, an allocation fails", (2,), APART, 1),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one side says of a design in a trial at a granularity."""

    broken: tuple[str, ...]
    """Properties that fail, sorted."""
    whole: bool = True
    """Whether all was seen."""
    refused: str = ""
    """Why it says nothing: the line that a user is shown."""

    def __str__(self) -> str:
        if self.refused:
            return f"refused: {self.refused}"
        said = "fails: " + ", ".join(self.broken) if self.broken else "holds"
        return said if self.whole else f"{said} (not all was seen)"


@dataclass(frozen=True, slots=True)
class Compared:
    """Both answers."""

    name: str
    trial: str
    granularity: str
    engine: Answer
    judge: Answer

    @property
    def counts(self) -> bool:
        """Whether both sides have judged it."""
        return not self.engine.refused and not self.judge.refused

    @property
    def agree(self) -> bool:
        """Whether the verifier says no less and no more than the judge.

        It may refuse code whose steps could not be seen; code that does not run both refuse.
        Where the judge has cut histories it may have missed what the verifier found, so the
        verifier has to say at least the same.
        """
        if self.engine.refused:
            return DOES_NOT_RUN not in self.engine.refused or bool(self.judge.refused)
        if self.judge.refused:
            return False
        if self.judge.whole and self.engine.whole:
            return self.engine.broken == self.judge.broken
        if not self.engine.whole:
            return set(self.engine.broken) <= set(self.judge.broken) or not self.judge.whole
        return set(self.judge.broken) - {LIVELOCK} <= set(self.engine.broken)

    def __str__(self) -> str:
        return (
            f"{self.name}, {self.trial}, {self.granularity}: "
            f"verifier {self.engine}; judge {self.judge}"
        )


def compared(
    name: str,
    design: Design,
    trials: Iterable[Trial] = (ONE_REGION,),
    granularities: Iterable[str] = GRANULARITIES,
    built_by: Design | None = None,
) -> list[Compared]:
    """What both sides say of a design; ``built_by`` is the design that the machine is set up with,
    when it is not the design itself.
    """
    found = []
    gc.disable()  # nothing here makes circles, and there are many tuples
    try:
        for trial in trials:
            judge = _judge(trial.for_judge, design, built_by)
            for granularity in granularities:
                engine = _engine(trial.for_engine, design, built_by, granularity)
                said = judge(granularity)
                found.append(Compared(name, trial.name, granularity, engine, said))
    finally:
        gc.enable()
    return found


def problem_of(
    make: Callable[[Design], Problem], design: Design, built_by: Design | None
) -> Problem:
    problem = make(built_by or design)
    world = problem.world
    assert world is not None
    if built_by is not None:
        kernel = world.kernel
        kernel.tdx_pamt_get, kernel.tdx_pamt_put = design.tdx_pamt_get, design.tdx_pamt_put
    return problem


def _engine(
    make: Callable[[Design], Problem], design: Design, built_by: Design | None, granularity: str
) -> Answer:
    try:
        problem = problem_of(make, design, built_by)
        search = search_of(problem, properties(design.tolerated), granularity, ENGINE_STATES)
        found = search.explore()
    except InputError as error:
        return Answer((), refused=str(error))
    except Finding as finding:
        return Answer((f"finding: {finding}",))
    return Answer(tuple(sorted(found.faults)), not found.stopped)


def _judge(
    make: Callable[[Design], Problem], design: Design, built_by: Design | None
) -> Callable[[str], Answer]:
    """The judge of a problem, to be asked at each granularity."""
    try:
        judge = Judge(problem_of(make, design, built_by), properties(design.tolerated))
    except InputError as error:
        refused = Answer((), refused=str(error))
        return lambda granularity: refused
    except Finding as finding:
        found = Answer((f"finding: {finding}",))
        return lambda granularity: found

    def asked(granularity: str) -> Answer:
        try:
            said = judge.explore(granularity, JUDGE_STATES)
        except InputError as error:
            return Answer((), refused=str(error))
        return Answer(tuple(sorted(said.broken)), not said.cut)

    return asked


# Many designs.


@dataclass(frozen=True, slots=True)
class Case:
    """A design to ask both sides about: one that is given by name or path, or a mutant."""

    name: str
    design: str = ""
    mutant: Mutant | None = None


@dataclass(frozen=True, slots=True)
class Tried:
    """A case that was tried: what both sides say, or why it does not load."""

    case: Case
    compared: tuple[Compared, ...]
    not_loaded: str = ""

    @property
    def counts(self) -> bool:
        """Whether both sides have judged it."""
        return bool(self.compared) and all(one.counts for one in self.compared)

    @property
    def refused(self) -> str:
        """Why a side does not judge it; empty: both do."""
        refusals = [one.engine.refused or one.judge.refused for one in self.compared]
        return self.not_loaded or next((line for line in refusals if line), "")

    def disagreements(self) -> str:
        """Where the sides differ, with what was changed; empty: nowhere."""
        lines = [str(one) for one in self.compared if not one.agree]
        if lines and self.case.mutant is not None:
            lines.append(self.case.mutant.diff())
        return "\n".join(lines)


def cases_of_mutants(mutants: Iterable[Mutant]) -> list[Case]:
    """Mutants to be tried."""
    return [Case(mutant.name, mutant=mutant) for mutant in mutants]


def cases_of_designs() -> list[Case]:
    """Every shipped design that asks for Dynamic PAMT, and every one that was given."""
    shipped = [Case(name, name) for name in SHIPPED if load_design(name).dynamic_pamt]
    given = [Case(path.stem, str(path)) for path in sorted(GIVEN.glob("*.py"))]
    declared = [Case(f"declared {one.stem}", str(one)) for one in sorted(DECLARED.glob("*.py"))]
    return shipped + given + declared


def try_case(case: Case) -> Tried:
    """Ask both sides.

    A mutant is tried in one region at every granularity, on a machine that is set up with the
    design it was made from; a design in the other trials too, by SEAMCALLs.
    """
    if case.mutant is None:
        try:
            design = load_design(case.design)
        except InputError as error:
            return Tried(case, (), str(error))
        worker = design.removal != "at-once"  # two more threads: too many histories at the finest
        finest = compared(case.name, design, granularities=(SEAMCALL,) if worker else GRANULARITIES)
        return Tried(case, (*finest, *compared(case.name, design, TRIALS[1:], (SEAMCALL,))))
    mutant = case.mutant
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "mutant.py"
        file.write_text(mutant.text, encoding="utf-8")
        try:
            design = load_design(str(file))
        except InputError as error:
            return Tried(case, (), str(error))
        return Tried(case, tuple(compared(case.name, design, built_by=original(mutant.design))))


def original(name: str) -> Design:
    """The design that mutants of that name are made from."""
    source = SOURCES[name]
    return load_design(str(source) if GIVEN in source.parents else name)


def try_all(cases: Iterable[Case]) -> Iterator[Tried]:
    """Try cases on all CPUs, in their order."""
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
        yield from pool.map(try_case, cases, chunksize=2)
