"""A device from a handful of measurements."""

from __future__ import annotations

import numpy as np
import pytest

from hwnas.predict.transfer import Prior

WEIGHTS = np.array([1.0, 2.0, 0.5])


@pytest.fixture
def features() -> np.ndarray:
    """100 items of three features."""
    return np.random.default_rng(0).uniform(0.2, 2.0, (100, 3))


@pytest.fixture
def prior() -> Prior:
    """Of devices whose first two weights vary together."""
    rng = np.random.default_rng(1)
    together = rng.normal(0, 0.5, (30, 1))
    weights = WEIGHTS + np.hstack([together, together, np.zeros((30, 1))]) + rng.normal(0, 0.02, (30, 3))
    return Prior.among(weights, np.exp(rng.normal(np.log(0.01), 0.3, 30)), doubt=1e-4)


def test_prior_among_devices(prior: Prior) -> None:
    """The mean, the covariance and the noise are those of the known devices."""
    assert prior.mean == pytest.approx(WEIGHTS, abs=0.3)
    correlation = prior.covariance[0, 1] / np.sqrt(prior.covariance[0, 0] * prior.covariance[1, 1])
    assert correlation > 0.95
    assert prior.covariance[2, 2] < 0.01
    assert prior.noise == pytest.approx(0.01, rel=0.3)


def test_two_measurements_and_a_prior_give_three_weights(prior: Prior, features: np.ndarray) -> None:
    """Weights that vary together are told by one of them, and the scale is found whatever it is."""
    for scale in (1e-6, 1.0, 4e3):
        truth = scale * features @ (WEIGHTS + np.array([0.6, 0.6, 0.0]))
        chosen = prior.choose(features, 3, "ratios")
        error = prior.learn(features[chosen], truth[chosen]).value(features) / truth - 1
        assert np.abs(error).mean() < 0.04


def test_scale_is_the_units(prior: Prior, features: np.ndarray) -> None:
    """Seconds or milliseconds make no difference but of the unit."""
    truth = features @ WEIGHTS
    once, thousand = prior.learn(features[:5], truth[:5]), prior.learn(features[:5], 1e3 * truth[:5])
    assert thousand.value(features) == pytest.approx(1e3 * once.value(features), rel=1e-9)
    assert thousand.deviation(features) == pytest.approx(1e3 * once.deviation(features), rel=1e-6)


def test_intervals_hold(prior: Prior, features: np.ndarray) -> None:
    """About 90 of 100 measurements lie within 1.645 deviations, over devices from the prior."""
    rng, inside = np.random.default_rng(2), []
    for _ in range(40):
        weights = rng.multivariate_normal(prior.mean, prior.covariance)
        usual = prior.usual(features)
        truth = features @ weights + 0.01 * usual * rng.normal(size=len(features))
        posterior = prior.learn(features[:6], truth[:6])
        inside.append(np.abs(truth - posterior.value(features))[6:] <= 1.645 * posterior.deviation(features)[6:])
    assert 0.82 < np.mean(inside) < 0.98


def test_more_is_known_after_more_measurements(prior: Prior, features: np.ndarray) -> None:
    """Deviations shrink."""
    truth = features @ WEIGHTS
    few, many = prior.learn(features[:3], truth[:3]), prior.learn(features[:30], truth[:30])
    assert many.deviation(features).mean() < few.deviation(features).mean()


def test_a_bad_measurement_counts_less(prior: Prior, features: np.ndarray) -> None:
    """One of twelve that is twice too high stands out, and moves the rest by a few per cent."""
    truth = features @ WEIGHTS
    seen = truth[:12].copy()
    seen[4] *= 2
    posterior = prior.learn(features[:12], seen)
    assert int(np.argmax(np.abs(posterior.surprise))) == 4
    assert np.abs(posterior.value(features)[12:] / truth[12:] - 1).mean() < 0.05


def test_evidence_prefers_the_prior_that_fits(prior: Prior, features: np.ndarray) -> None:
    """Measurements are likelier under the prior of similar devices."""
    other = Prior(mean=WEIGHTS[::-1].copy(), covariance=0.01 * np.eye(3), noise=0.01, noise_spread=0.3)
    truth = features @ WEIGHTS
    assert prior.learn(features[:8], truth[:8]).evidence > other.learn(features[:8], truth[:8]).evidence


def test_chosen_items_are_different_and_better_than_the_first(prior: Prior, features: np.ndarray) -> None:
    """The choice has no item twice, does not change, and leaves less uncertainty than items by chance."""
    chosen = prior.choose(features, 5, "ranks")
    assert len(set(chosen.tolist())) == 5
    assert prior.choose(features, 5, "ranks").tolist() == chosen.tolist()
    truth = features @ WEIGHTS
    best = prior.learn(features[chosen], truth[chosen]).deviation(features).mean()
    rng = np.random.default_rng(3)
    chance = [rng.choice(100, 5, replace=False) for _ in range(10)]
    assert best < np.mean([prior.learn(features[some], truth[some]).deviation(features).mean() for some in chance])


def test_no_more_items_than_there_are(prior: Prior, features: np.ndarray) -> None:
    """Who asks for more gets all."""
    assert sorted(prior.choose(features[:4], 9, "ratios").tolist()) == [0, 1, 2, 3]


def test_values_are_positive(prior: Prior, features: np.ndarray) -> None:
    """No item takes less than a part of what it usually takes, however the line runs."""
    posterior = prior.learn(features[:3], np.array([1e-6, 5.0, 1e-6]))
    assert (posterior.value(features) > 0).all()
