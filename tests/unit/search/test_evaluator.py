"""Values with intervals."""

from __future__ import annotations

from math import inf, nan

import pytest

from hwnas.search.evaluator import Bounded


@pytest.mark.parametrize("ends", [(1.0, 2.0, 3.0), (3.0, 1.0, 2.0), (nan, 0.0, 1.0), (1.0, nan, 2.0), (1.0, 0.0, inf)])
def test_a_value_lies_within_a_finite_interval(ends):
    """An estimate outside its own interval, or one that is no number, never enters a search."""
    with pytest.raises(ValueError, match="within its finite interval"):
        Bounded(*ends)


def test_an_exact_value_is_its_own_interval():
    """A parameter count has no uncertainty."""
    assert Bounded.exact(7.0) == Bounded(7.0, 7.0, 7.0)
