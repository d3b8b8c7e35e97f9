"""The accuracy surrogate: a prior of ranks that trainings correct."""

from __future__ import annotations

import numpy as np
import pytest

from hwnas.accuracy.quality import spearman
from hwnas.accuracy.ranks import ProxyRanks
from hwnas.accuracy.surrogate import AccuracySurrogate, Row
from hwnas.errors import UsageError

pytest.importorskip("xgboost")


def networks(n: int, seed: int, *, noise: float = 0.003) -> list[Row]:
    """Made-up networks whose accuracy depends on two genes and, less, on size; `blind` is a proxy that knows nothing."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        genes = tuple(rng.integers(0, 4, 6).tolist())
        size = 1e4 * (1 + genes[0] + genes[1]) * rng.uniform(0.9, 1.1)
        accuracy = 0.85 + 0.02 * genes[0] + 0.03 * (genes[2] == 1) + noise * rng.standard_normal()
        proxies = {
            "params": size,
            "flops": size * 50 * rng.uniform(0.9, 1.1),
            "hint": accuracy + 0.02 * rng.standard_normal(),
            "blind": rng.standard_normal(),
        }
        rows.append(Row(genotype=genes, proxies=proxies, accuracy=float(accuracy)))
    return rows


@pytest.fixture(scope="module")
def ranks() -> ProxyRanks:
    return ProxyRanks.fit([row.proxies for row in networks(100, seed=1)])


def truth(rows: list[Row]) -> np.ndarray:
    return np.array([row.accuracy for row in rows])


def test_without_trainings_it_orders_by_mean_rank_and_says_that_it_does_not_know(ranks: ProxyRanks) -> None:
    """Usable from the first generation on: an order in 0..1 with the deviation of a uniform variable."""
    rows = networks(30, seed=2)
    mean, sd = AccuracySurrogate(ranks).predict(rows)
    np.testing.assert_allclose(mean, ranks.mean([row.proxies for row in rows]))
    np.testing.assert_allclose(sd, 12**-0.5)


@pytest.mark.parametrize("trained", [1, 2, 5])
def test_few_trainings_move_the_level_and_keep_an_order(ranks: ProxyRanks, trained: int) -> None:
    """Predictions land near the accuracies seen, still tell networks apart, and are less unsure than before."""
    surrogate = AccuracySurrogate(ranks).fit(networks(trained, seed=3))
    mean, sd = surrogate.predict(networks(50, seed=4))
    assert 0.8 < mean.min() < mean.max() < 1.0
    assert np.ptp(mean) > 0.01
    assert sd.max() < 12**-0.5


def test_sixty_trainings_beat_every_proxy(ranks: ProxyRanks) -> None:
    """On networks that it never saw it ranks better than the prior and the best proxy, and is off by little."""
    surrogate = AccuracySurrogate(ranks).fit(networks(60, seed=5))
    rows = networks(200, seed=6)
    mean, _ = surrogate.predict(rows)
    rho = spearman(mean, truth(rows))
    best = max(spearman(np.array([row.proxies[name] for row in rows]), truth(rows)) or 0 for name in ranks.names)
    assert rho is not None
    assert rho > 0.9 > best
    assert np.abs(mean - truth(rows)).mean() < 0.01


def test_stated_deviation_covers_the_error(ranks: ProxyRanks) -> None:
    """About 95 % of unseen networks lie within two standard deviations, and the deviation is not absurdly wide."""
    rows = networks(300, seed=7)
    mean, sd = AccuracySurrogate(ranks).fit(networks(40, seed=8)).predict(rows)
    assert np.mean(np.abs(mean - truth(rows)) < 2 * sd) > 0.9
    assert sd.mean() < 3 * np.std(mean - truth(rows)) + 0.02


def test_same_seed_predicts_the_same(ranks: ProxyRanks) -> None:
    """Bootstrap and trees follow the seed."""
    rows = networks(20, seed=9)
    one, two, other = (AccuracySurrogate(ranks, seed=seed).fit(rows).predict(networks(10, seed=10))[0] for seed in (4, 4, 5))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_repeated_trainings_of_a_network_count_once_with_their_mean(ranks: ProxyRanks) -> None:
    """Seeds of one network are not evidence about several networks."""
    row = networks(1, seed=11)[0]
    pair = [Row(genotype=row.genotype, proxies=row.proxies, accuracy=accuracy) for accuracy in (0.8, 0.9)]
    mean = Row(genotype=row.genotype, proxies=row.proxies, accuracy=float(np.mean([0.8, 0.9])))
    surrogate = AccuracySurrogate(ranks).fit(pair)
    assert surrogate.trainings == 1
    np.testing.assert_array_equal(surrogate.predict([row]), AccuracySurrogate(ranks).fit([mean]).predict([row]))


def test_rows_without_accuracy_are_not_learned_from(ranks: ProxyRanks) -> None:
    """Candidates and trainings may come in one list."""
    row = networks(1, seed=12)[0]
    surrogate = AccuracySurrogate(ranks).fit([Row(genotype=row.genotype, proxies=row.proxies)])
    assert surrogate.trainings == 0
    assert surrogate.predict([])[0].shape == (0,)


def test_one_diverged_training_does_not_turn_the_order_round(ranks: ProxyRanks) -> None:
    """An accuracy of 0 on the largest network is an outlier, not a slope."""
    rows = networks(16, seed=13)
    largest = max(rows, key=lambda row: ranks.mean([row.proxies])[0])
    broken = [Row(genotype=row.genotype, proxies=row.proxies, accuracy=0.0) if row is largest else row for row in rows]
    others = networks(60, seed=14)
    mean, _ = AccuracySurrogate(ranks).fit(broken).predict(others)
    rho = spearman(mean, truth(others))
    assert rho is not None
    assert rho > 0.3


def test_proxy_that_failed_is_a_missing_feature(ranks: ProxyRanks) -> None:
    """A score that is not a number neither stops a fit nor a prediction."""
    rows = networks(20, seed=15)
    failed = Row(genotype=rows[0].genotype, proxies={**rows[0].proxies, "hint": float("nan")}, accuracy=0.0)
    mean, sd = AccuracySurrogate(ranks).fit([failed, *rows[1:]]).predict([failed])
    assert np.isfinite(mean).all()
    assert np.isfinite(sd).all()


def test_quality_is_judged_on_networks_held_out(ranks: ProxyRanks) -> None:
    """The surrogate's figures are cross-validated; proxies that do not beat the counts do not count."""
    judged = AccuracySurrogate(ranks).fit(networks(50, seed=16)).quality()
    assert [ranking.name for ranking in judged.rankings] == ["surrogate", "prior", "params", "flops", "hint", "blind"]
    assert judged.trained == 50
    assert "surrogate" in judged.counting
    assert "hint" in judged.counting
    assert "blind" not in judged.counting
    noise = [
        Row(genotype=row.genotype, proxies=row.proxies, accuracy=float(a))
        for row, a in zip(networks(50, seed=16), np.random.default_rng(0).uniform(0.8, 0.9, 50), strict=True)
    ]
    rho = AccuracySurrogate(ranks).fit(noise).quality()["surrogate"].spearman
    assert rho is not None
    assert abs(rho) < 0.4, "a cross-validated surrogate cannot rank noise"


def test_quality_without_trainings_claims_nothing(ranks: ProxyRanks) -> None:
    """No trained network: no figures, nothing counts."""
    judged = AccuracySurrogate(ranks).quality()
    assert judged.trained == 0
    assert judged.counting == ()
    assert all(ranking.spearman is None and ranking.regret is None for ranking in judged.rankings)


def test_prior_drops_proxies_that_fail_to_beat_the_counts(ranks: ProxyRanks) -> None:
    """With enough trainings the mean rank is taken over the counts and what beats them."""
    assert AccuracySurrogate(ranks).fit(networks(9, seed=17)).prior_names == ranks.names
    assert AccuracySurrogate(ranks).fit(networks(40, seed=17)).prior_names == ("params", "flops", "hint")


def test_missing_proxies_are_named(ranks: ProxyRanks) -> None:
    """A population without the counts, or a row without a proxy."""
    with pytest.raises(UsageError, match="needs the proxy 'params'"):
        AccuracySurrogate(ProxyRanks.fit([{"hint": 1.0}]))
    with pytest.raises(UsageError, match="no score for proxy 'flops'"):
        AccuracySurrogate(ranks).predict([Row(genotype=(1,), proxies={"params": 1.0})])
