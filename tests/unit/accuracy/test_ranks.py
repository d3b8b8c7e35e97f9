"""Ranks against a frozen population."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.accuracy.ranks import ProxyRanks
from hwnas.errors import UsageError

scores = st.floats(-1e6, 1e6)


def frozen(values: list[float]) -> ProxyRanks:
    return ProxyRanks.fit([{"p": value} for value in values])


@given(st.lists(scores, min_size=1, max_size=30), scores, scores)
def test_rank_keeps_the_order_of_scores(population: list[float], a: float, b: float) -> None:
    """A higher score never ranks lower, and every rank lies strictly between 0 and 1."""
    ranks = frozen(population)
    low, high = (ranks.rank({"p": value})["p"] for value in sorted((a, b)))
    assert 0 < low <= high < 1


def test_population_ranks_itself_uniformly() -> None:
    """Each member of a population without ties has its own, evenly spaced rank."""
    values = np.random.default_rng(0).standard_normal(99)
    ranks = frozen(values.tolist()).ranks("p", np.sort(values))
    np.testing.assert_allclose(ranks, np.arange(1, 100) / 100)


def test_ties_count_half() -> None:
    """A score equal to all of the population is in its middle."""
    assert frozen([3.0, 3.0, 3.0]).rank({"p": 3.0}) == {"p": 0.5}


def test_rank_does_not_depend_on_the_candidates() -> None:
    """The same score has the same rank whoever is ranked beside it."""
    ranks = frozen([1.0, 2.0, 5.0])
    alone = ranks.ranks("p", np.array([3.0]))[0]
    assert ranks.ranks("p", np.array([9.0, 3.0, -1.0]))[1] == alone


@pytest.mark.parametrize("unknown", [math.nan, math.inf, -math.inf])
def test_score_that_is_no_number_ranks_below_everything(unknown: float) -> None:
    """A proxy that failed on a network is not a good sign, whichever way it overflowed; in the population it is left out."""
    ranks = frozen([1.0, 2.0, unknown])
    assert ranks.rank({"p": unknown})["p"] == ranks.rank({"p": 0.5})["p"] == 0.5 / 3


def test_mean_rank_averages_the_chosen_proxies() -> None:
    """Over all proxies or some of them."""
    ranks = ProxyRanks.fit([{"p": 1.0, "q": 9.0}, {"p": 2.0, "q": 8.0}, {"p": 3.0, "q": 7.0}])
    rows = [{"p": 1.0, "q": 9.0}, {"p": 3.0, "q": 9.0}]
    np.testing.assert_allclose(ranks.mean(rows), [0.5, 0.75])
    np.testing.assert_allclose(ranks.mean(rows, ["p"]), [0.25, 0.75])


def test_round_trip_through_json() -> None:
    """The frozen population is stored as plain numbers."""
    ranks = ProxyRanks.fit([{"p": 1.5, "q": 2.0}, {"p": -3.0, "q": 0.0}])
    again = ProxyRanks.from_dict(json.loads(json.dumps(ranks.to_dict())))
    assert again.rank({"p": 0.0, "q": 1.0}) == ranks.rank({"p": 0.0, "q": 1.0})


def test_unusable_populations_are_refused() -> None:
    """Nobody, or networks with different proxies."""
    with pytest.raises(UsageError, match="at least one network"):
        ProxyRanks.fit([])
    with pytest.raises(UsageError, match="the same proxies"):
        ProxyRanks.fit([{"p": 1.0}, {"q": 1.0}])
