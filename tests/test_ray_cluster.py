"""A Ray cluster that is not there."""

import sys

import pytest

from dpamt.errors import InputError
from dpamt.ray_cluster import connect


def test_a_cluster_that_does_not_answer_is_one_line() -> None:
    pytest.importorskip("ray")
    with pytest.raises(
        InputError, match=r"^--ray 127.0.0.1:1: .*; expected a running Ray cluster$"
    ):
        connect("127.0.0.1:1")


def test_without_ray_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"^--ray: Ray is not installed; expected dpamt\[ray\]$"):
        connect("auto")
