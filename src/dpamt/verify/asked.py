"""What a search is asked, as plain values: enough to ask it again, in another process too."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from dpamt.errors import InputError
from dpamt.host.designs.base import Design
from dpamt.host.designs.load import load_design
from dpamt.verify.programs.get_put import regions
from dpamt.verify.programs.ground import APART, PLACEMENTS, Choices
from dpamt.verify.programs.problem import GRANULARITIES, Problem
from dpamt.verify.programs.suite import SUITE, Trial
from dpamt.verify.properties.from_file import load_properties, properties_of, with_custom
from dpamt.verify.properties.named import Property, properties

MOST_CPUS: Final = 24
MOST_REGIONS: Final = 4
MOST_FAILURES: Final = 4
MOST_STATES: Final = 1 << 32
"""What may be asked at most."""
ALL: Final = "all"
NONE: Final = "none"
_KINDS: Final[dict[str, tuple[type, ...]]] = {
    "design": (str,),
    "trial": (str,),
    "cpus": (list, tuple),
    "pairs": (str,),
    "failures": (int,),
    "granularity": (str,),
    "most_states": (int,),
    "property_file": (str,),
    "image": (str,),
    "reductions": (str,),
    "modules": (list, tuple),
}
"""By field of :class:`Asked`: the types of its plain value."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What one search was asked: enough to ask it again."""

    design: str
    """Name or path, as given."""
    trial: str
    """Name of a trial of the suite; empty: the CPUs that follow."""
    cpus: tuple[int, ...]
    """CPUs by region."""
    pairs: str
    failures: int
    granularity: str
    most_states: int
    property_file: str = ""
    image: str = ""
    """Of a kernel image: memory model and functions (:func:`dpamt.verify.machine_code.design.how`).
    Empty: the design is Python."""
    reductions: str = ALL
    """Whether steps that no other CPU can notice are taken together (see explore/blocks.py)."""
    modules: tuple[str, ...] = ()
    """Of a kernel image: paths of the modules that are linked into it, as given."""

    def trial_of(self) -> Trial:
        """The trial that is meant.  Raises InputError when there is no such trial."""
        if self.trial:
            for trial in SUITE:
                if trial.name == self.trial:
                    return trial
            known = ", ".join(f'"{trial.name}"' for trial in SUITE)
            raise InputError(f"trial {self.trial!r}: expected one of {known}")
        cpus, pairs = self.cpus, self.pairs
        choices = Choices(self.failures) if self.failures else None
        return Trial(
            "+".join(map(str, cpus)) + (" CPUs" if sum(cpus) > 1 else " CPU"),
            "each CPU does get, AUG, REMOVE, put"
            + (f"; the CPUs are in {len(cpus)} regions" if len(cpus) > 1 else ""),
            self.granularity,
            lambda design: regions(design, cpus, pairs, choices),
        )


def prepare(asked: Asked, design: Design) -> tuple[Trial, tuple[Property, ...]]:
    """The trial and the properties of a search, a user's own among them."""
    trial = asked.trial_of()
    judges = properties(design.tolerated)
    if design.code is not None:
        trial = trial._replace(make=_of_code(trial.make))
    if not asked.property_file:
        return trial, judges
    custom = load_properties(asked.property_file)
    make = trial.make
    asking = trial._replace(make=lambda design: with_custom(make(design), custom))
    return asking, (*judges, *properties_of(custom))


def design_of(asked: Asked) -> Design:
    """The design that is asked about.  Raises InputError where there is none such."""
    if not asked.image:
        return load_design(asked.design)

    from dpamt.verify.machine_code.design import machine_design, read_how

    return machine_design(Path(asked.design), *read_how(asked.image), asked.modules)


def _of_code(make: Callable[[Design], Problem]) -> Callable[[Design], Problem]:
    """Problems that say of which code they are."""

    def made(design: Design) -> Problem:
        problem = make(design)
        if design.code is not None:
            problem.bounds.update(design.code.bounds())
        return problem

    return made


def asked_of(kept: Mapping[str, Any]) -> Asked:
    """What was asked, from its plain values.  Raises TypeError, KeyError or ValueError."""
    kept = {"image": "", "reductions": ALL, "modules": (), **kept}  # older documents have none
    kinds = {field.name: _KINDS[field.name] for field in fields(Asked)}
    for name, kind in kinds.items():
        if type(kept[name]) not in kind:
            raise TypeError(f"{name}: {type(kept[name]).__name__}")
    lists = {name: tuple(kept[name]) for name in ("cpus", "modules")}
    asked = Asked(**{**{name: kept[name] for name in kinds}, **lists})
    if asked.granularity not in GRANULARITIES or asked.pairs not in PLACEMENTS:
        raise ValueError("granularity or pairs")
    if asked.reductions not in (ALL, NONE):
        raise ValueError("reductions")
    if not all(type(n) is int and 1 <= n <= MOST_CPUS for n in asked.cpus):
        raise ValueError("cpus")
    if sum(asked.cpus) > MOST_CPUS or len(asked.cpus) > MOST_REGIONS:
        raise ValueError("cpus")
    if not all(type(one) is str for one in asked.modules) or (asked.modules and not asked.image):
        raise ValueError("modules")
    if bool(asked.cpus) == bool(asked.trial):
        raise ValueError("trial and cpus, one of them")
    if not 0 <= asked.failures <= MOST_FAILURES or not 1 <= asked.most_states <= MOST_STATES:
        raise ValueError("failures or most_states")
    if asked.trial and (asked.pairs != APART or asked.failures):
        raise ValueError("pairs or failures of a trial that has its own")
    return asked
