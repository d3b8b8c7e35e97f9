"""Judging what claims to rank networks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.accuracy import quality
from hwnas.accuracy.quality import assess

vectors = st.integers(4, 25).flatmap(lambda n: st.tuples(*[st.lists(st.integers(-5, 5).map(float), min_size=n, max_size=n)] * 2))


@given(vectors)
def test_correlations_agree_with_scipy(pair: tuple[list[float], list[float]]) -> None:
    """Ties included; a constant side has no correlation."""
    stats = pytest.importorskip("scipy.stats")
    a, b = (np.array(side) for side in pair)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert quality.spearman(a, b) is None
        assert quality.kendall(a, b) is None
    else:
        assert quality.spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-9)
        assert quality.kendall(a, b) == pytest.approx(stats.kendalltau(a, b).statistic, abs=1e-9)


def test_too_few_networks_have_no_correlation() -> None:
    """Three points are no evidence."""
    three = np.array([1.0, 2.0, 3.0])
    assert quality.spearman(three, three) is None
    assert quality.kendall(three, three) is None
    assert quality.regret(three, three, top=1) is None


def test_regret_is_what_the_pick_misses() -> None:
    """The best of all less the best of the picked."""
    truth = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    assert quality.regret(truth, truth, top=1) == 0
    assert quality.regret(-truth, truth, top=2) == pytest.approx(0.3)


def test_regret_resolves_ties_against_the_predictor() -> None:
    """A predictor that says nothing is not credited with luck."""
    truth = np.array([0.9, 0.8, 0.7, 0.6])
    assert quality.regret(np.zeros(4), truth, top=2) == pytest.approx(0.2)


def test_predictor_that_merely_tracks_cost_loses_its_correlation_within_bands() -> None:
    """Cost explains accuracy; within bands of equal cost a cost-tracking predictor is noise and a real one is not."""
    rng = np.random.default_rng(3)
    cost = np.repeat([1.0, 2.0, 3.0, 4.0], 12) * 1e6
    skill = rng.standard_normal(48)
    truth = cost / 1e6 + 0.2 * skill
    tracking = cost / 1e6 + 0.01 * rng.standard_normal(48)
    overall = quality.spearman(tracking, truth)
    within = quality.within_bands(tracking, truth, cost)
    assert overall is not None
    assert overall > 0.9
    assert within is not None
    assert abs(within) < 0.4
    assert quality.within_bands(truth, truth, cost) == pytest.approx(1)
    assert quality.within_bands(truth[:9], truth[:9], cost[:9]) is None


def test_scores_that_are_no_numbers_rank_last() -> None:
    """A proxy that failed on the worst networks is right about them."""
    truth = np.array([0.1, 0.2, 0.7, 0.8])
    assert quality.spearman(np.array([np.nan, np.inf, 7.0, 8.0]), truth) == pytest.approx(quality.spearman(np.array([0.0, 0, 7, 8]), truth))


def test_proxy_counts_only_while_it_beats_params_and_flops() -> None:
    """The bar is the better of the two counts, and never below chance."""
    truth = np.array([1.0, 2, 3, 4, 5, 6])
    predictions = {
        "better": truth,
        "worse": np.array([1.0, 2, 6, 5, 4, 3]),
        "params": np.array([1.0, 2, 3, 4, 6, 5]),
        "flops": -truth,
    }
    judged = assess(predictions, truth, predictions["params"])
    assert judged.counting == ("better",)
    assert judged["params"].counts
    assert judged["flops"].counts
    assert not judged["worse"].counts
    hopeless = assess({"anti": -truth, "params": -truth, "flops": -truth}, truth, truth)
    assert hopeless.counting == ()
    assert judged.trained == 6
