"""Learning the times of a device on paper back from its networks."""

from __future__ import annotations

from dataclasses import replace
from math import isinf

import numpy as np
import pytest
from paper_device import CALL_S, ROOFLINE, measured

from hwnas.errors import MeasurementError
from hwnas.predict import Predictor
from hwnas.predict.features import kind_of
from hwnas.predict.model import REACH, Correction, HeldOut, KindModel, Training, first_stage, fit, fit_kinds, judge
from hwnas.profiling import NetworkRecord


@pytest.fixture(scope="module")
def unseen() -> Training:
    """Networks of the same space that nobody has learned from."""
    return Training.of(measured(150, seed=5))


# ---- the whole


def test_it_learns_the_formula(predictor: Predictor, unseen: Training) -> None:
    """The error on new networks is about that of the chance in the formula, which nobody can predict."""
    error = np.abs(predictor.model.bounds(unseen.table).value / unseen.latency - 1)
    assert error.mean() < 0.02
    assert (error < 0.1).all()


def test_the_interval_covers_new_networks(predictor: Predictor, unseen: Training) -> None:
    """About 90 % of new networks lie in the interval, which is not much wider than their errors."""
    bounds = predictor.model.bounds(unseen.table)
    assert 0.82 <= np.mean((bounds.low <= unseen.latency) & (unseen.latency <= bounds.high)) <= 0.98
    assert predictor.model.half_width < 0.05


def test_the_upper_bound_covers_the_median() -> None:
    """Where the machine's median lies a fifth above its p10, so does the bound: it holds about 95 % of new networks' medians."""
    model, unseen = fit(measured(60, median=1.2), ROOFLINE), Training.of(measured(100, seed=5, median=1.2))
    np.testing.assert_allclose(unseen.median, 1.2 * unseen.latency)
    assert np.log(1.2) < model.median_width < np.log(1.2) + 0.05
    above = unseen.median > model.bounds(unseen.table).high
    assert above.mean() <= 0.12
    assert model.half_width < 0.05


def test_the_stated_error_is_honest(predictor: Predictor, unseen: Training) -> None:
    """What the card says of networks that were held out agrees with what happens on new ones."""
    held_out = predictor.model.held_out
    error = np.abs(predictor.model.bounds(unseen.table).value / unseen.latency - 1)
    assert held_out.networks == 100
    assert error.mean() / 1.5 < held_out.mape < error.mean() * 1.5
    assert held_out.within_10 == 1.0
    assert held_out.within_5 <= held_out.within_10
    assert 0.8 <= held_out.coverage <= 1.0


def test_learning_is_deterministic(networks: list[NetworkRecord]) -> None:
    """The same profile gives the same predictor."""
    first, second = (fit(networks[:30], ROOFLINE) for _ in range(2))
    table = Training.of(networks[30:40]).table
    np.testing.assert_array_equal(first.bounds(table).high, second.bounds(table).high)
    assert first.half_width == second.half_width


def test_more_networks_make_it_better(networks: list[NetworkRecord], unseen: Training) -> None:
    """Four times the networks give a smaller error on new ones."""
    few, many = (np.abs(fit(networks[:count], ROOFLINE).bounds(unseen.table).value / unseen.latency - 1).mean() for count in (25, 100))
    assert many < few


def test_too_few_networks(networks: list[NetworkRecord]) -> None:
    """A handful of networks is refused with the number that is needed."""
    with pytest.raises(MeasurementError, match="at least 20 measured networks, the profile has 19; profile longer"):
        fit(networks[:19], ROOFLINE)


def test_the_fewest_networks_give_an_interval(networks: list[NetworkRecord]) -> None:
    """The fewest that are accepted are enough for a finite interval."""
    model = fit(networks[:20], ROOFLINE)
    assert not isinf(model.half_width)


def test_a_quick_look_agrees(networks: list[NetworkRecord]) -> None:
    """The judge that watches over profiling gives about the error that new networks will have, rather more than less."""
    found, _ = judge(networks[:60], networks[60:], ROOFLINE)
    truth = np.abs(
        fit(networks[:60], ROOFLINE).bounds(Training.of(networks[60:]).table).value / Training.of(networks[60:]).latency - 1
    ).mean()
    assert found.networks == 40
    assert 0.8 * truth < found.mape < 3 * truth


# ---- the first stage


def test_kernels_are_told_one_by_one(networks: list[NetworkRecord], unseen: Training) -> None:
    """Every kernel of the new networks is covered, and its time is near the formula's."""
    data = Training.of(networks)
    found = first_stage(fit_kinds(data.table, data.seconds, ROOFLINE), ROOFLINE, 1.0, unseen.table)
    times, covered = found.seconds, found.covered
    assert covered.mean() > 0.99
    assert np.median(np.abs(times / unseen.seconds - 1)) < 0.06


def test_a_kind_has_a_model_of_its_own(networks: list[NetworkRecord]) -> None:
    """There is a model for each kind that was measured, which knows the sizes that it saw."""
    data = Training.of(networks)
    models = fit_kinds(data.table, data.seconds, ROOFLINE)
    kinds = {kind_of(record.call.kernel) for network in networks for record in network.kernels}
    assert set(models) == kinds
    assert sum(model.rows for model in models.values()) == len(data.seconds)
    for kind, model in models.items():
        rows = data.table.kinds == kind
        assert model.low == (data.table.flops[rows].min(), data.table.bytes[rows].min())
        assert model.high == (data.table.flops[rows].max(), data.table.bytes[rows].max())


def test_what_is_covered() -> None:
    """Sizes count as measured up to a factor beyond what was, in work and in bytes alike."""
    model = KindModel(booster=None, rows=9, low=(100.0, 1000.0), high=(200.0, 2000.0))
    flops = np.array([100 / REACH, 99 / REACH, 200 * REACH, 201 * REACH, 150.0, 150.0])
    moved = np.array([1000.0, 1000.0, 2000.0, 2000.0, 999 / REACH, 2000 * REACH])
    assert model.covers(flops, moved).tolist() == [True, False, True, False, False, True]


def test_an_unknown_kind_follows_the_roofline(predictor: Predictor, unseen: Training) -> None:
    """A kind without a model is not covered, and its time is the roofline's times what kernels usually take of it."""
    model = replace(predictor.model, kinds={kind: part for kind, part in predictor.model.kinds.items() if kind != "Conv-depthwise"})
    times, covered = model.kernels(unseen.table).seconds, model.kernels(unseen.table).covered
    unknown = unseen.table.kinds == "Conv-depthwise"
    assert not covered[unknown].any()
    assert covered[~unknown].mean() > 0.99
    bound = ROOFLINE.time_s(unseen.table.flops, unseen.table.bytes)
    np.testing.assert_allclose(times[unknown], bound[unknown] * model.typical)


def test_the_training_set(networks: list[NetworkRecord]) -> None:
    """A profile as arrays: the attributed times in s, the latencies, the median cost of a call."""
    data = Training.of(networks[:3])
    assert data.call_s == pytest.approx(CALL_S)
    np.testing.assert_allclose(data.latency, [network.latency_s for network in networks[:3]])
    np.testing.assert_allclose(data.table.total(data.seconds) + CALL_S, data.latency, atol=1e-9)
    part = data.take(np.array([0, 2]))
    np.testing.assert_allclose(part.table.total(part.seconds) + CALL_S, data.latency[[0, 2]], atol=1e-9)


# ---- the second stage


def context(rng: np.random.Generator, n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Made-up context of networks and the sums of their kernels."""
    weights, activations, kernels = rng.uniform(1e5, 1e7, n), rng.uniform(1e4, 1e6, n), rng.integers(20, 200, n)
    return np.column_stack([weights, activations, kernels]).astype(float), rng.uniform(1e-4, 1e-2, n)


def test_the_correction_is_found() -> None:
    """A factor that is a power of the context comes back."""
    rng = np.random.default_rng(2)
    columns, sums = context(rng)
    latency = sums * 1.1 * (columns[:, 0] / 1e6) ** 0.05 * (columns[:, 2] / 100) ** -0.02
    found = Correction.fit(columns, sums, latency).apply(columns, sums)
    np.testing.assert_allclose(found, latency, rtol=0.003)


def test_the_correction_ignores_outliers() -> None:
    """A tenth of the networks at twice their time, which would bend least squares by 7 %, leaves the others' predictions within 1 %."""
    rng = np.random.default_rng(3)
    columns, sums = context(rng)
    latency = sums * 1.1 * np.exp(0.005 * rng.standard_normal(len(sums)))
    disturbed = latency.copy()
    disturbed[:20] *= 2
    found = Correction.fit(columns, sums, disturbed).apply(columns, sums)
    assert np.abs(found[20:] / latency[20:] - 1).mean() < 0.01


def test_outside_its_range_the_correction_stays_at_the_edge() -> None:
    """A context beyond what was seen corrects like the nearest that was; the sum itself still scales."""
    rng = np.random.default_rng(4)
    columns, sums = context(rng)
    correction = Correction.fit(columns, sums, sums * (columns[:, 0] / 1e6) ** 0.1)
    edge, far = columns[:1].copy(), columns[:1].copy()
    edge[0, 0], far[0, 0] = columns[:, 0].max(), 1e12
    np.testing.assert_allclose(correction.apply(far, sums[:1]), correction.apply(edge, sums[:1]))
    largest = np.array([sums.max()])
    np.testing.assert_allclose(correction.apply(edge, 10 * largest), 10 * correction.apply(edge, largest))


# ---- figures of quality


def test_figures_of_held_out_networks() -> None:
    """Errors are relative to the measurement, shares count the networks within, and the interval of each comes from the others."""
    latency = np.ones(20)
    predicted = np.array([1.0] * 10 + [1.04] * 6 + [1.08] * 3 + [1.5])
    found = HeldOut.of(predicted, latency)
    assert found.networks == 20
    assert found.mape == pytest.approx((6 * 0.04 + 3 * 0.08 + 0.5) / 20)
    assert found.within_5 == 0.8
    assert found.within_10 == 0.95
    assert found.coverage == 0.95
