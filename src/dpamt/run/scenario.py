"""A scenario as the run uses it: frozen, checked, independent of the text it came from."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from dpamt.errors import InputError
from dpamt.inputs import decode, read_bytes
from dpamt.module.injection_rules import parse_rule
from dpamt.module.releases import release_named
from dpamt.platform.read_machine import PACKAGED_HOSTS
from dpamt.run.check import Checker, size_text
from dpamt.run.toml_lines import read_toml

PamtMode = Literal["static", "dynamic", "auto"]

DEFAULT_DESIGN: Final = "merged"
INIT_PHASE: Final = "module init"
END_PHASE: Final = "end"
MAX_SCENARIO_BYTES: Final = 1 << 20
OWN_PHASES: Final = (INIT_PHASE, END_PHASE)
ENDING_STEPS: Final = ("shutdown", "crash")


@dataclass(frozen=True, slots=True)
class HostSpec:
    """The machine, module and kernel of every side; None stands for what the machine has."""

    machine: str
    nodes: int | None
    packages: int | None
    cpus: int | None
    fragmentation: float
    fragmented: Literal["after-boot", "at-boot"]
    seed: int | None
    module: str
    module_dynamic_pamt: bool | None
    max_pa_bits: int | None
    keyid_bits: int | None
    tdmr_holes: Literal["memory-blocks", "cmrs"]
    dynamic_pamt_check: Literal["feature-bit", "feature-bit-and-pa-width"]
    inject: tuple[str, ...] = ()
    """Injection rules, of :mod:`dpamt.module.injection`."""


@dataclass(frozen=True, slots=True)
class Side:
    """One world: PAMT mode and design (a shipped name or a path)."""

    name: str
    pamt: PamtMode
    design: str


@dataclass(frozen=True, slots=True)
class TdGroup:
    """TDs that are alike; ``memory`` and ``image`` in bytes, shares from 0 to 1."""

    name: str
    count: int
    memory: int
    vcpus: int
    share_2m: float
    faulted: float
    image: int


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens to TDs; ``chunk`` in bytes; None stands for all, or the group's."""

    do: str
    td: str
    count: int | None
    share: float | None
    times: int
    chunk: int

    def words(self) -> str:
        """The step as a report tells it: ``convert web: 10 %, 4KiB at once, 3 times``."""
        details = []
        if self.count is not None:
            details.append(f"{self.count} TD" + ("" if self.count == 1 else "s"))
        if self.share is not None and self.do in ("fault", "convert", "balloon", "split"):
            details.append(f"{100 * self.share:g} %")
        if self.do == "convert":
            details.append(f"{size_text(self.chunk)} at once")
        if self.times > 1 and self.do not in ("build", *ENDING_STEPS):
            details.append(f"{self.times} times")
        return f"{self.do} {self.td}" + (f": {', '.join(details)}" if details else "")


@dataclass(frozen=True, slots=True)
class Phase:
    """Steps in order, under a name."""

    name: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Scenario:
    """What to run.  ``place(path)`` is where a value was written, for messages."""

    title: str
    seed: int
    host: HostSpec
    sides: tuple[Side, ...]
    tds: tuple[TdGroup, ...]
    phases: tuple[Phase, ...]
    place: Callable[[str], str] = field(compare=False, repr=False)

    def with_options(
        self,
        host: str | None = None,
        design: str | None = None,
        pamt: Literal["static", "dynamic"] | None = None,
        seed: int | None = None,
        inject: tuple[str, ...] = (),
        release: str | None = None,
    ) -> "Scenario":
        """The scenario with what a command line says put in its place.

        ``pamt`` keeps the sides of that mode (or makes one); ``design`` is given to every side that
        is not static, and ``static`` itself leaves one static side; ``inject`` adds rules;
        ``release`` is the TDX module's.

        Raises InputError for what cannot be.
        """
        scenario = self
        if release is not None:
            spec = replace(self.host, module=release_named(release).name)
            scenario = replace(self, host=spec, place=_elsewhere(self.place, "host.module"))
        if inject:
            for text in inject:
                parse_rule(text)
            spec = replace(scenario.host, inject=(*self.host.inject, *inject))
            scenario = replace(scenario, host=spec)
        if host is not None:
            # A machine of one's own has its own nodes, CPUs and address width.
            spec = replace(
                scenario.host,
                machine=host,
                nodes=None,
                packages=None,
                cpus=None,
                max_pa_bits=None,
                keyid_bits=None,
            )
            scenario = replace(scenario, host=spec, place=_elsewhere(scenario.place, "host."))
        if seed is not None:
            scenario = replace(scenario, seed=seed, host=replace(scenario.host, seed=None))
        if design == "static":
            if pamt == "dynamic":
                raise InputError(
                    "--design static: never asks for Dynamic PAMT; expected merged, "
                    "v2 or a file with --pamt dynamic"
                )
            pamt, design = "static", None
        if pamt is not None:
            kept = tuple(side for side in scenario.sides if side.pamt == pamt)
            fallback = Side(pamt, pamt, "static" if pamt == "static" else DEFAULT_DESIGN)
            scenario = replace(scenario, sides=kept or (fallback,))
        if design is not None:
            if pamt == "static":
                raise InputError(
                    f"--design {design}: expected --pamt dynamic (or neither), for static PAMT has "
                    "no design"
                )
            sides = tuple(
                side if side.pamt == "static" else replace(side, design=design)
                for side in scenario.sides
            )
            if all(side.pamt == "static" for side in sides):
                sides = (*sides, Side("dynamic", "dynamic", design))
            scenario = replace(scenario, sides=sides)
        return scenario


def _elsewhere(place: Callable[[str], str], prefix: str) -> Callable[[str], str]:
    """Places, less those of values that the command line gave: the empty text."""
    return lambda path: "" if path.startswith(prefix) else place(path)


def load_scenario(path: str) -> Scenario:
    """The scenario in a file.  Raises InputError, one line, for anything wrong with it."""
    data = read_bytes(path, "expected a scenario", MAX_SCENARIO_BYTES + 1)
    if len(data) > MAX_SCENARIO_BYTES:
        raise InputError(f"{path}: larger than 1 MiB; expected a scenario")
    text = decode(data, path, "expected a scenario")
    if all(line.lstrip().startswith("#") for line in text.splitlines() if line.strip()):
        raise InputError(f"{path}: nothing in it; expected a scenario (docs/scenario.md)")
    return scenario_from_text(text, path, Path(path).parent)


def scenario_from_text(text: str, source: str, folder: Path | None = None) -> Scenario:
    """The scenario that a text holds; ``folder`` is what its file names are relative to."""
    document, lines = read_toml(text, source)
    checker = Checker(source, lines)
    top = checker.table("", document, "")
    host = checker.table("host", top["host"], "host")
    if host["nodes"] is not None and "host.machine" not in lines:
        checker.refuse("host.nodes", "expected only with a machine given as a size")
    for index, text in enumerate(host["inject"]):
        try:
            parse_rule(text)
        except InputError as error:
            checker.refuse(f"host.inject[{index}]", str(error))
    host["inject"] = tuple(host["inject"])
    host["machine"] = _file(host["machine"], folder, PACKAGED_HOSTS)
    sides = _array(checker, "side", top["side"], lambda values: _side(values, folder))
    tds = _array(checker, "td", top["td"], lambda values: TdGroup(**values))
    for index, td in enumerate(tds):
        if td.image > td.memory:
            checker.refuse(f"td[{index}].image", "expected at most the TD's memory")
    phases = tuple(
        _phase(checker, raw, f"phase[{index}]")
        for index, raw in enumerate(checker.tables(top["phase"], "phase"))
    )
    _check_names(checker, phases)
    _check_order(checker, tds, phases)
    return Scenario(
        title=top["title"] or Path(source).stem,
        seed=top["seed"],
        host=HostSpec(**host),
        sides=sides or (Side("static", "static", "static"), _dynamic()),
        tds=tds,
        phases=phases,
        place=checker.place,
    )


def _dynamic() -> Side:
    return Side("dynamic", "dynamic", DEFAULT_DESIGN)


def _array(
    checker: Checker, table: str, raw: object, make: Callable[[dict[str, Any]], Any]
) -> tuple[Any, ...]:
    """An array of named tables, no two of one name."""
    made: list[Any] = []
    for index, element in enumerate(checker.tables(raw, table)):
        path = f"{table}[{index}]"
        values = checker.table(table, element, path)
        if any(other.name == values["name"] for other in made):
            checker.refuse(f"{path}.name", f'"{values["name"]}" is taken; expected another name')
        if table == "td" and values["name"] == "all":
            checker.refuse(f"{path}.name", '"all" means every group; expected another name')
        if (
            table == "side"
            and values["pamt"] == "static"
            and values["design"]
            not in (
                None,
                "static",
            )
        ):
            checker.refuse(f"{path}.design", 'expected "static" or none, as pamt is "static"')
        if table == "side" and values["pamt"] == "dynamic" and values["design"] == "static":
            checker.refuse(f"{path}.design", "static never asks for Dynamic PAMT; expected another")
        made.append(make(values))
    return tuple(made)


def _side(values: dict[str, Any], folder: Path | None) -> Side:
    design = values["design"] or ("static" if values["pamt"] == "static" else DEFAULT_DESIGN)
    if design.endswith(".py"):
        design = _file(design, folder, ())
    return Side(values["name"], values["pamt"], design)


def _file(name: str, folder: Path | None, packaged: tuple[str, ...]) -> str:
    """A file beside the scenario, if there is one of that name."""
    if folder is None or name in packaged:
        return name
    beside = folder / name
    try:
        return str(beside) if beside.exists() else name
    except (OSError, ValueError):
        return name


def _phase(checker: Checker, raw: object, path: str) -> Phase:
    values = checker.table("phase", raw, path)
    steps = []
    for index, element in enumerate(checker.tables(values["steps"], f"{path}.steps")):
        steps.append(Step(**checker.table("step", element, f"{path}.steps[{index}]")))
    return Phase(values["name"], tuple(steps))


def _check_names(checker: Checker, phases: tuple[Phase, ...]) -> None:
    taken = set(OWN_PHASES)
    for index, phase in enumerate(phases):
        if phase.name in taken:
            checker.refuse(
                f"phase[{index}].name", f'"{phase.name}" is taken; expected another name'
            )
        taken.add(phase.name)


def _check_order(checker: Checker, tds: tuple[TdGroup, ...], phases: tuple[Phase, ...]) -> None:
    """Every step finds the TDs it needs: walks through the phases counting who is alive."""
    counts = {td.name: td.count for td in tds}
    alive = dict.fromkeys(counts, 0)
    for number, phase in enumerate(phases):
        for index, step in enumerate(phase.steps):
            path = f"phase[{number}].steps[{index}]"
            if step.td != "all" and step.td not in counts:
                known = ", ".join((*counts, "all"))
                checker.refuse(f"{path}.td", f'no group "{step.td}"; expected one of {known}')
            names = [name for name in counts if step.td in ("all", name)]
            if step.do == "build":
                for name in names:
                    alive[name] += counts[name] - alive[name] if step.count is None else step.count
                    if alive[name] > counts[name]:
                        checker.refuse(
                            f"{path}.count",
                            f'more TDs than "{name}" has; expected at most {counts[name]} alive',
                        )
                continue
            if not any(alive[name] for name in names):
                checker.refuse(
                    path, f'{step.do} finds no TD of "{step.td}" alive; expected a build before it'
                )
            if step.do in ENDING_STEPS:
                for name in names:
                    alive[name] -= alive[name] if step.count is None else step.count
                    alive[name] = max(alive[name], 0)
    if tds and not any(step.do == "build" for phase in phases for step in phase.steps):
        checker.refuse("td[0]", 'no phase builds a TD; expected a step with do = "build"')
