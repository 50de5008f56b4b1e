"""What the suite cannot find is written down, and nothing else is."""

import pytest

from tests.verify.judge.bounds import BEYOND, Beyond, verdicts


@pytest.mark.parametrize("beyond", BEYOND, ids=lambda beyond: beyond.name)
def test_only_the_bound_excuses_it(beyond: Beyond) -> None:
    within, outside = verdicts(beyond)
    assert not within
    assert outside
