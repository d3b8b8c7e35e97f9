"""What a network does to its kernels: the correction of their sum, and the second opinion by exposure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from paper_device import ROOFLINE, kernel_s, measured

from hwnas.ir import Kernel
from hwnas.predict import Predictor, fitting, second_stage
from hwnas.predict.features import describe, tabulate
from hwnas.predict.fitting import Training, fit
from hwnas.predict.model import LatencyModel
from hwnas.predict.second_stage import EXPOSURES, Correction, Reuse, between, exposure, reuse_distance, spread

# ---- the correction


def context(rng: np.random.Generator, n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Made-up context of networks and the sums of their kernels."""
    weights, activations, kernels = rng.uniform(1e5, 1e7, n), rng.uniform(1e4, 1e6, n), rng.integers(20, 200, n)
    return np.column_stack([weights, activations, kernels, 3 * (weights + activations)]).astype(float), rng.uniform(1e-4, 1e-2, n)


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


# ---- exposures


def test_the_distance_of_a_network() -> None:
    """Between what a network holds and what it moves: the geometric mean."""
    assert reuse_distance(np.array([[3e6, 1e6, 9.0, 16e6]])).tolist() == [8e6]


def test_the_exposure_of_a_network() -> None:
    """Its distance for as long as it takes; in format 3, by distance alone."""
    context, first = np.array([[3e6, 1e6, 9.0, 16e6]]), np.array([2e-3])
    assert exposure(context, first) == pytest.approx([16e3])
    timed = Reuse(exposures=(1.0,), correction=Correction.fit(np.ones((3, 4)), np.ones(3), np.ones(3)), weight=1.0)
    assert timed.where(context, first) == pytest.approx([16e3])
    assert replace(timed, timed=False).where(context, first) == pytest.approx([8e6])


def test_exposures_are_spread_over_those_of_the_networks() -> None:
    """From the least to the greatest by equal factors; networks that are all alike have one."""
    found = spread(np.array([4e6, 1e6, 1024e6, 8e6]))
    assert len(found) == EXPOSURES
    assert (found[0], found[-1]) == pytest.approx((1e6, 1024e6))
    np.testing.assert_allclose(np.diff(np.log(found)), np.log(1024) / (EXPOSURES - 1))
    assert spread(np.repeat(1e6, 5)) == pytest.approx((1e6,))


def test_times_between_exposures() -> None:
    """Told at 1, 4 and 16: at an exposure half way by its logarithm the mean of both neighbours, beyond the ends as there."""
    told, where = np.tile([1.0, 2.0, 6.0], (7, 1)), 2.0 ** np.arange(7)
    assert between((1.0, 4.0, 16.0), where, told) == pytest.approx([1.0, 1.5, 2.0, 4.0, 6.0, 6.0, 6.0])
    assert between((4.0,), where, told[:, 1:2]).tolist() == [2.0] * 7


@pytest.mark.parametrize(("true", "weight"), [("first", 0.0), ("second", 1.0), ("between", 0.5)])
def test_the_better_opinion_counts(true: str, weight: float) -> None:
    """An opinion that is right counts alone; where the truth lies half way between both, so does the weight."""
    rng = np.random.default_rng(5)
    columns, sums = context(rng)
    first = sums * np.exp(0.1 * rng.standard_normal(len(sums)))
    latency = {"first": first, "second": sums, "between": np.sqrt(first * sums)}[true]
    by_exposure = np.repeat(sums[:, None], 2, axis=1)
    reuse = Reuse.fit((1e5, 1e8), columns, 0.0, by_exposure, first, latency)
    assert reuse.weight == pytest.approx(weight, abs=0.051)
    np.testing.assert_allclose(reuse.apply(first, columns, 0.0, by_exposure), latency, rtol=0.03)


# ---- on a device with a cache


CACHE = 1e6  # bytes; a network that touches more finds its weights gone
LOST_S = 6e-4  # after which neighbours have taken the cache


def from_memory(kernels: Sequence[Kernel]) -> list[float]:
    """What kernels take beyond their usual time: where the network does not fit into the cache, their weights come from memory."""
    gone = reuse_distance(tabulate([kernels]).context)[0] > CACHE
    return [describe(kernel).weight_bytes / 1e9 if gone else 0.0 for kernel in kernels]


def test_a_cache_is_learned() -> None:
    """The second opinion knows in which networks weights come from memory, which no correction of a whole network does."""
    learned, unseen = fit(measured(100, beyond=from_memory), ROOFLINE), Training.of(measured(100, seed=5, beyond=from_memory))
    assert 0.2 < np.mean(reuse_distance(unseen.table.context) > CACHE) < 0.8
    assert learned.reuse is not None
    assert learned.reuse.weight > 0.5
    both, first = (
        np.abs(model.bounds(unseen.table).value / unseen.latency - 1).mean() for model in (learned, replace(learned, reuse=None))
    )
    assert both < 0.8 * first


def lost_with_time(kernels: Sequence[Kernel]) -> list[float]:
    """As if neighbours used the cache as well: what a network holds is gone after a while, however little it touched meanwhile."""
    gone = sum(map(kernel_s, kernels)) > LOST_S
    return [describe(kernel).weight_bytes / 1e9 if gone else 0.0 for kernel in kernels]


def test_a_shared_cache_is_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time counts as well: what reuse distance alone does not tell."""
    known, unseen = measured(100, beyond=lost_with_time), Training.of(measured(100, seed=5, beyond=lost_with_time))

    def error(model: LatencyModel) -> float:
        return float(np.abs(model.bounds(unseen.table).value / unseen.latency - 1).mean())

    learned = fit(known, ROOFLINE)
    with monkeypatch.context() as patch:
        for module in (fitting, second_stage):
            patch.setattr(module, "exposure", lambda context, _: reuse_distance(context))
        by_distance = fit(known, ROOFLINE)
    assert by_distance.reuse is not None
    by_distance = replace(by_distance, reuse=replace(by_distance.reuse, timed=False))
    assert error(learned) < 0.8 * error(by_distance)
    assert error(learned) < 0.8 * error(replace(learned, reuse=None))


def test_where_there_is_no_cache_nothing_is_learned(predictor: Predictor, unseen: Training) -> None:
    """On a device without a cache a kernel takes the same in every network, but for what trees make of chance."""
    found = predictor.model.kernels(unseen.table).by_exposure
    assert found.shape == (len(unseen.seconds), EXPOSURES)
    assert np.median(found.max(axis=1) / found.min(axis=1)) < 1.1


def test_parts_add_up_to_the_network(predictor: Predictor, unseen: Training) -> None:
    """In its place each kernel takes something else than by itself, all kernels of a network take the same."""
    table = unseen.table
    assert isinstance(predictor.model, LatencyModel)
    assert predictor.model.reuse is not None
    model = replace(predictor.model, reuse=replace(predictor.model.reuse, weight=0.5))
    alone, placed = model.kernels(table).seconds, model.in_place(table)
    np.testing.assert_allclose(table.total(placed), table.total(alone))
    assert np.ptp(placed / alone) > 0
    np.testing.assert_array_equal(replace(model, reuse=None).in_place(table), alone)
