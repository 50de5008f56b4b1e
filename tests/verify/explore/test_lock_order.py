"""Lock classes over several trials."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpamt.host.designs.load import load_design
from dpamt.verify.explore.lock_order import Edge, LockOrder, Taken, joined, taken_up
from dpamt.verify.programs.suite import SUITE
from dpamt.verify.properties.named import properties
from dpamt.verify.verdict import verify

DESIGNS = Path(__file__).parents[2] / "data" / "designs" / "over_trials"
TRIALS = {trial.name: trial for trial in SUITE}


@pytest.mark.parametrize("name", ["wrong_demote_softirqs_on", "right_demote_softirqs_off"])
def test_a_softirq_of_one_trial_meets_a_task_of_another(name: str) -> None:
    """Each trial alone holds."""
    design = load_design(str(DESIGNS / f"{name}.py"))
    orders = []
    for trial in (TRIALS["softirq"], TRIALS["split, pairs"]):
        said = verify(trial.make(design), properties(), trial.granularity)
        assert said.verdict == "holds"
        orders.append(said.lock_order)
    told = joined(orders)
    assert bool(told) == name.startswith("wrong")
    for text in told:
        assert "is taken in a softirq in tdx_pamt_put (wrong_demote_softirqs_on.py:" in text
        assert "with softirqs on in tdx_pamt_demote (host/core/demote.py:" in text


def order_of(
    edges: list[tuple[str, str]], in_softirq: str = "", with_softirqs: str = ""
) -> LockOrder:
    order = LockOrder()
    for held, taken in edges:
        order.edges[held, taken] = Edge(Taken(held, f"at {held}"), Taken(taken, f"at {taken}"))
    for name in in_softirq:
        order.use(name, True, True, "a softirq")
    for name in with_softirqs:
        order.use(name, False, True, "a task")
    return order


def test_what_only_the_whole_breaks_is_told() -> None:
    ab, bc, ca = (order_of([edge]) for edge in (("a", "b"), ("b", "c"), ("c", "a")))
    assert not joined([ab, bc])
    (cycle,) = joined([ab, bc, ca])
    assert cycle.count("is taken in") == 3
    below = joined([order_of([("a", "b")], "a"), order_of([("b", "c")], "", "c")])
    assert any("a, which a softirq takes" in text and "c is taken" in text for text in below)


def test_what_one_has_told_is_not_told_again() -> None:
    alone = order_of([("a", "b"), ("b", "a")], "x", "x")
    assert not joined([alone, alone, order_of([("a", "c")])])


names = st.sampled_from("abcd")
orders = st.builds(
    order_of, st.lists(st.tuples(names, names).filter(lambda e: e[0] != e[1])), names, names
)


@given(st.lists(orders, max_size=4))
def test_joined_tells_just_what_the_union_adds(every: list[LockOrder]) -> None:
    """Against the breaches of one order that has seen all: the same, without those seen alone."""
    whole = LockOrder()
    for order in every:
        whole.take_in(order)
    said = {(rule, classes) for rule, classes, _ in whole.breaches()}
    alone = {(r, c) for order in every for r, c, _ in order.breaches()}
    assert bool(joined(every)) == bool(said - alone)


@given(orders)
def test_a_kept_one_is_taken_up_as_it_was(order: LockOrder) -> None:
    assert taken_up(order.kept()) == order
