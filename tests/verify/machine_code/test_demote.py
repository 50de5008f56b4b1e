"""Get and put of an object beside a DEMOTE of dpamt's own, as the same design in Python."""

import pytest

from dpamt.host.designs.load import load_design
from dpamt.verify.machine_code.design import machine_design
from dpamt.verify.programs.suite import trials_of
from dpamt.verify.properties.named import properties
from dpamt.verify.verdict import verify
from tests.kernel_image.compiled import design_object

CASES = (
    ("merged", "demote"),
    ("merged", "demote, no lock"),
    ("merged", "split, same TD"),
    ("v2", "demote"),
    ("v2", "split"),
)
CONTEXT = "context"
"""The C here allocates in every get: it takes no pages from the cache that KVM gives."""


@pytest.mark.parametrize(("name", "trial"), CASES)
def test_as_the_design_in_python(name: str, trial: str) -> None:
    python = load_design(name)
    compiled = machine_design(design_object(name), tolerated=python.tolerated)
    broken = []
    for design in (python, compiled):
        (asked,) = [one for one in trials_of(design, by_name=True) if one.name == trial]
        said = verify(asked.make(design), properties(frozenset()), asked.granularity)
        broken.append({one.broken for one in said.counterexamples})
    assert broken[1] - {CONTEXT} == broken[0]
    assert bool(broken[0]) == (name == "v2" or trial == "demote, no lock")


@pytest.mark.parametrize(
    ("name", "flags", "shares"),
    [
        ("merged", ("-O0",), True),
        ("v2", ("-Os",), True),
        ("merged", ("-O2", "-DLOCKS_ARE_WORDS"), False),  # inlined: nothing to take
        ("per-2m-lock", ("-O2",), False),  # other locks
        ("global-rwlock", ("-O2",), False),
    ],
)
@pytest.mark.parametrize("cc", ["gcc", "clang"])
def test_whether_a_demote_can_take_the_lock(
    name: str, flags: tuple[str, ...], shares: bool, cc: str
) -> None:
    design = machine_design(design_object(name, *flags, cc=cc))
    assert any(trial.demotes for trial in trials_of(design, by_name=True)) == shares
    assert design.code is not None
    said = " ".join(design.code.assumptions())
    assert ("no trial has a DEMOTE" in said) != shares
