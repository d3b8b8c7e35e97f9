"""Energy is learned from whole networks, with an interval, and never from two meters at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paper_meter import PER_FLOP_J, joules, measured, network, networks, records

from hwnas.errors import MeasurementError, UsageError
from hwnas.ir import Kernel, TensorSpec
from hwnas.predict.energy import SOURCES, Curve, EnergyModel, EnergyRecord, Loads, Rates, fit, learn, quadratic
from hwnas.predict.features import Matrix, tabulate


@pytest.fixture(scope="module")
def model() -> EnergyModel:
    """Learned from 100 networks, measured to 2 %."""
    return learn(*measured(100), "nvml-counter")


def error(model: EnergyModel, loads: Loads, truth: Matrix) -> float:
    return float(np.abs(model.joules(loads) / truth - 1).mean())


def test_networks_that_were_not_measured(model: EnergyModel) -> None:
    """They are predicted better than one of them is measured."""
    loads, exact = measured(400, seed=1, noise=0.0)
    assert error(model, loads, exact) < 0.018
    assert (model.bounds(loads).coverage == 1).all()
    assert 0.01 < model.held_out.mape < 0.035
    assert 0.8 < model.held_out.coverage < 0.97


def test_interval_holds() -> None:
    """The 90 % interval holds for about nine in ten new networks, as they are measured, over several profiles."""
    loads, noisy = measured(400, seed=99)
    bounds = [learn(*measured(100, seed), "rapl").bounds(loads) for seed in range(1, 5)]
    assert 0.87 < np.mean([(found.low <= noisy) & (noisy <= found.high) for found in bounds]) < 0.97


def test_second_stage_bends_what_no_sum_can() -> None:
    """Power that changes with load is beyond a sum over kernels; the curve makes up for most of it."""
    loads, exact = measured(100, bend=0.4, noise=0.0)
    learned = learn(loads, exact, "rapl")
    unseen, truth = measured(100, seed=1, bend=0.4, noise=0.0)
    alone = np.abs(Rates.fit(loads, exact).joules(unseen)[0] / truth - 1).mean()
    assert error(learned, unseen, truth) < alone / 3


def test_rates() -> None:
    """No rate is negative; the sum of kernels is the sum of its parts; kinds differ, and their own rates say more than those they share."""
    rates = Rates.fit(*measured(200, bend=0.0, noise=0.0))
    assert rates.per_call_j >= 0
    assert all(value >= 0 for own in rates.kinds.values() for value in own)
    one, other = network(3, 64), network(5, 256)
    parts, _ = rates.joules(Loads.of([one, other]))
    (whole,), _ = rates.joules(Loads.of([one + other]))
    assert whole == pytest.approx(parts.sum() - rates.per_call_j)
    assert set(rates.kinds) == set(PER_FLOP_J)
    alike = replace(rates, kinds={})
    unseen, truth = measured(100, seed=1, bend=0.0, noise=0.0)
    own, shared = (np.abs(found.joules(unseen)[0] / truth - 1).mean() for found in (rates, alike))
    assert own < shared / 1.5


WATTS = 40.0
MOMENT_S = 2e-4


def timed(count: int, seed: int, *, error: float, noise: float = 0.01) -> tuple[Loads, Matrix, Matrix]:
    """Networks on a board that draws `WATTS` while it works, whatever it does, and some energy a kernel; with their predicted times.

    Returns:
        Loads with measured times; energies as measured; times as predicted, each off by a normal error so large in the logarithm.
    """
    found, rng = networks(count, seed), np.random.default_rng([seed, 2])
    seconds = MOMENT_S * np.array([len(kernels) for kernels in found]) * np.exp(0.5 * rng.standard_normal(count))
    truth = WATTS * seconds + np.array([joules(kernels) for kernels in found])
    read = truth * np.exp(noise * rng.standard_normal(count))
    return Loads.of(found, seconds), read, seconds * np.exp(error * rng.standard_normal(count))


def test_watts_that_are_always_drawn() -> None:
    """J per second of a call are found beside J of kernels, and energies of calls that take longer are larger by that much."""
    loads, energies, _ = timed(200, 0, error=0.0)
    rates = Rates.fit(loads, energies)
    assert rates.per_second_w == pytest.approx(WATTS, rel=0.05)
    one, later = (Loads.of([network(5, 128)], np.array([seconds])) for seconds in (0.01, 0.03))
    assert rates.joules(later)[0] - rates.joules(one)[0] == pytest.approx(0.02 * rates.per_second_w)
    with pytest.raises(ValueError, match="predicted from times"):
        rates.joules(Loads.of([network(5, 128)]))


def test_no_times_no_watts() -> None:
    """What was learned without times has 0 W for them, and predicts without."""
    rates = Rates.fit(*measured(50))
    assert rates.per_second_w == 0.0
    assert rates.joules(Loads.of([network(5, 128)]))[0] > 0


@pytest.mark.parametrize("error", [0.02, 0.2])
def test_interval_holds_with_predicted_times(error: float) -> None:
    """Energies are predicted from predicted times: calibrated with those, nine intervals in ten hold, however wrong the times are."""
    inside, naive = [], []
    for seed in range(1, 5):
        loads, energies, foretold_s = timed(100, seed, error=error)
        unseen, read, asked_s = timed(300, 50 + seed, error=error)
        asked = replace(unseen, seconds=asked_s)
        for found, told in ((inside, foretold_s), (naive, None)):
            bounds = learn(loads, energies, "rapl", told).bounds(asked)
            found.append(np.mean((bounds.low <= read) & (read <= bounds.high)))
    assert 0.86 < np.mean(inside) < 0.96
    if error > 0.1:
        assert np.mean(naive) < 0.5  # with measured times the interval promises what no user gets


def test_held_out_figures_are_those_of_predicted_times() -> None:
    """What a card says of its own error is what users meet."""
    loads, energies, foretold_s = timed(100, 1, error=0.2)
    told, untold = (learn(loads, energies, "rapl", seconds).held_out for seconds in (foretold_s, None))
    assert told.mape > 3 * untold.mape
    assert 0.85 < told.coverage < 0.95


def test_no_interval_ends_in_infinity(model: EnergyModel) -> None:
    """However large the doubt: a factor of a thousand says that nothing is known, and an interval stays a pair of numbers."""
    loads, _ = measured(10, seed=1)
    for weight in (30.0, 1e3, 1e6):
        doubt = replace(model.doubt, weights=(weight, *model.doubt.weights[1:]))
        bounds = replace(model, doubt=doubt).bounds(loads)
        assert bounds.high == pytest.approx(1000 * bounds.value)
        assert bounds.low == pytest.approx(bounds.value / 1000)
    wild = replace(model, curve=replace(model.curve, weights=(1e6, *model.curve.weights[1:])))
    assert np.isfinite(wild.bounds(loads).high).all()


def test_winners_recalibrate(model: EnergyModel) -> None:
    """Their median error moves every prediction; the interval grows to hold them, and never narrows."""
    loads, _ = measured(5, seed=7)
    shifted = model.recalibrated(loads, 1.3 * model.joules(loads))
    unseen, _ = measured(20, seed=8)
    assert shifted.joules(unseen) == pytest.approx(1.3 * model.joules(unseen))
    assert shifted.half_width == model.half_width
    read = model.joules(loads) * np.array([0.5, 0.9, 1.0, 1.1, 2.0])
    spread = model.recalibrated(loads, read)
    bounds = spread.bounds(loads)
    assert (bounds.low <= read * (1 + 1e-9)).all()
    assert (read <= bounds.high * (1 + 1e-9)).all()
    assert spread.half_width > model.half_width


def test_disturbed_measurements_do_not_bend_it() -> None:
    """Three networks in a hundred that read ten times too much change the predictions of others by less than 1 %."""
    loads, energies = measured(100, noise=0.01)
    disturbed = energies.copy()
    disturbed[[7, 40, 81]] *= 10
    unseen, _ = measured(100, seed=1)
    clean, bent = learn(loads, energies, "rapl").joules(unseen), learn(loads, disturbed, "rapl").joules(unseen)
    assert np.abs(bent / clean - 1).mean() < 0.01


def test_interval_is_wide_where_measurements_are_noisy() -> None:
    """Where errors grow with size, so does the interval."""
    loads, exact = measured(300, noise=0.0)
    size = loads.columns[:, 0]
    large = size > np.median(size)
    energies = exact * np.exp(np.where(large, 0.1, 0.01) * np.random.default_rng(3).standard_normal(len(exact)))
    bounds = learn(loads, energies, "rapl").bounds(loads)
    width = np.log(bounds.high / bounds.low)
    assert np.median(width[large]) > 3 * np.median(width[~large])


def test_kinds_that_were_not_measured(model: EnergyModel) -> None:
    """Their part is said to be uncovered, counts at the rates that all kinds share, and may be three times as much."""
    x = TensorSpec((64, 256))
    strange = (Kernel(op="Erf", inputs=(x,), outputs=(x,)),) * 10
    known, mixed = model.bounds(Loads.of([network(5, 256)])), model.bounds(Loads.of([network(5, 256) + strange]))
    assert known.coverage[0] == 1
    assert 0.3 < mixed.coverage[0] < 1
    assert mixed.value[0] > known.value[0]
    assert mixed.high[0] / mixed.value[0] > known.high[0] / known.value[0]


def test_sizes_that_were_not_measured(model: EnergyModel) -> None:
    """Far outside what was measured nothing is covered; the sum of kernels goes on in proportion, the curve stays at its edge."""
    small, large = model.bounds(Loads.of([network(19, 504)])), model.bounds(Loads.of([network(190, 504)]))
    assert (small.coverage[0], large.coverage[0]) == (1, 0)
    assert 5 < large.value[0] / small.value[0] < 20
    assert large.high[0] == pytest.approx(3 * large.value[0])


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(11)))
def test_order_of_kernels(model: EnergyModel, order: list[int]) -> None:
    """The energy of a network does not depend on the order in which its kernels are given."""
    kernels = network(5, 128)
    one, other = model.joules(Loads.of([kernels, [kernels[i] for i in order]]))
    assert one == pytest.approx(other)


def test_loads_are_sums_over_the_one_table() -> None:
    """Operations, bytes and context are those that the feature extractor's table has."""
    found = networks(10)
    loads, table = Loads.of(found), tabulate(found)
    assert np.allclose(loads.amounts[:, :, 0].sum(axis=1), table.total(table.flops))
    assert np.allclose(loads.amounts[:, :, 1].sum(axis=1), table.total(table.bytes))
    np.testing.assert_allclose(
        np.column_stack([loads.context, loads.amounts[:, :, 2:].sum(axis=1), loads.amounts[:, :, 1:2].sum(axis=1)]), table.context
    )
    part = loads.take(np.array([4, 2]))
    assert len(part) == 2
    assert (part.columns == loads.columns[[4, 2]]).all()


def test_sources_never_mix() -> None:
    """Energies of two meters are different quantities: one line says how many of each there are."""
    mixed = records(30) + records(20, "nvml-power")
    with pytest.raises(UsageError, match=r"^energies .* one way, got 30 by 'nvml-counter' and 20 by 'nvml-power'; train one for each$"):
        fit(mixed)
    with pytest.raises(UsageError, match="got none"):
        fit([])
    assert fit(mixed[:30]).source == "nvml-counter"


def test_too_few() -> None:
    """A 90 % interval and two stages need 20 networks."""
    with pytest.raises(MeasurementError, match="at least 20 networks with measured energy, got 19; profile longer"):
        fit(records(19))


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_no_reading_is_not_an_energy(value: float) -> None:
    """What is not a positive number of joules is refused: an energy that is not known is never 0 J."""
    with pytest.raises(UsageError, match="a measured energy is positive"):
        EnergyRecord(kernels=network(2, 8), joules=value, source="rapl")


def test_what_is_not_a_record() -> None:
    """An unknown source names those there are, and the one that was meant; a network needs a kernel."""
    with pytest.raises(UsageError, match=r"'nvml-count' is not .*did you mean 'nvml-counter'.*" + ", ".join(SOURCES)):
        EnergyRecord(kernels=network(2, 8), joules=1.0, source="nvml-count")
    with pytest.raises(UsageError, match="at least one kernel"):
        EnergyRecord(kernels=(), joules=1.0, source="rapl")


def test_curve_is_held_at_the_edge() -> None:
    """Outside the range of a column the curve goes on level; a flat curve is level everywhere."""
    rng = np.random.default_rng(0)
    columns = rng.uniform(-1, 1, (50, 2))
    curve = Curve.fit(columns, 0.3 * columns[:, 0] + 0.2 * columns[:, 1] ** 2)
    edge = columns.max(axis=0)
    assert np.log(curve.factor(columns)) == pytest.approx(0.3 * columns[:, 0] + 0.2 * columns[:, 1] ** 2, abs=1e-2)
    assert curve.factor((edge + 5)[None]) == pytest.approx(curve.factor(edge[None]))
    assert Curve.flat(columns, 0.5).factor(columns * 9) == pytest.approx(np.exp(0.5))
    assert quadratic(np.array([[2.0, 3.0]])).tolist() == [[1, 2, 3, 4, 6, 9]]


def test_the_meter_on_paper_is_not_a_sum() -> None:
    """What the tests learn from really is bent: otherwise they would prove nothing about the second stage."""
    assert joules(network(19, 504), bend=0.4) / joules(network(19, 504), bend=0.0) > 1.2
