"""The handful of calls behind the names at the top of the package."""

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Literal

from dpamt.run.facts import RunFacts
from dpamt.run.scenario import Scenario, load_scenario, scenario_from_text
from dpamt.run.story import Watch, run


def default_scenario() -> Scenario:
    """The scenario that comes with dpamt: a 1 TiB host, static against Dynamic PAMT."""
    return packaged_scenario("default")


def packaged_scenarios() -> tuple[str, ...]:
    """Names of the scenarios that come with dpamt."""
    names = (file.name for file in (files("dpamt.run") / "scenarios").iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


def packaged_scenario(name: str) -> Scenario:
    """The scenario of that name, one of :func:`packaged_scenarios`."""
    resource = files("dpamt.run") / "scenarios" / f"{name}.toml"
    return scenario_from_text(resource.read_text(encoding="utf-8"), f"{name}.toml")


def run_scenario(
    scenario: str | Path | Scenario | None = None,
    *,
    host: str | None = None,
    design: str | None = None,
    pamt: Literal["static", "dynamic"] | None = None,
    seed: int | None = None,
    inject: Iterable[str] = (),
    watch: Watch | None = None,
) -> RunFacts:
    """Run a scenario and return what it found out.

    ``scenario`` is a path, the text of one (anything with a line break in it), a Scenario, or None
    for the default.  ``host``, ``design``, ``pamt`` and ``seed`` stand in for what it says, and the
    rules of ``inject`` are added, as the options of ``dpamt run`` do.
    ``watch(phase, side, what, done, total)`` is called with the progress.

    Raises what :func:`dpamt.run.story.run` raises; audits that find something raise nothing, see
    ``facts.clean``.
    """
    if scenario is None:
        chosen = default_scenario()
    elif isinstance(scenario, Scenario):
        chosen = scenario
    elif isinstance(scenario, str) and "\n" in scenario:
        chosen = scenario_from_text(scenario, "scenario")
    else:
        chosen = load_scenario(str(scenario))
    return run(chosen.with_options(host, design, pamt, seed, tuple(inject)), watch)
