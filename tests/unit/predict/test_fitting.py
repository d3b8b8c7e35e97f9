"""Learning the times of a device on paper from its networks."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from math import isinf

import numpy as np
import paper_device
import pytest
from paper_device import CALL_S, ROOFLINE, measured

from hwnas.errors import MeasurementError
from hwnas.ir import Graph, KernelCall
from hwnas.predict import Predictor
from hwnas.predict.features import kind_of
from hwnas.predict.fitting import Training, fit, fit_kinds, foretold_s, judge
from hwnas.profiling import NetworkRecord
from hwnas.runtimes.fusions import Fusions

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


# ---- families


FAMILIES = 6
STRANGE = "Erf"  # a kind that takes a hundred times what its roofline suggests, and that only one family has


@pytest.fixture
def one_strange_family(monkeypatch: pytest.MonkeyPatch) -> list[NetworkRecord]:
    """Networks of six families in turn; those of the first begin with a kernel of a kind that the others lack."""
    fuse, kernel_s, order = paper_device.fuse, paper_device.kernel_s, count()

    def with_strange(graph: Graph, fusions: Fusions | int) -> list[KernelCall]:
        calls = list(fuse(graph, fusions))
        if next(order) % FAMILIES == 0:
            calls.insert(0, replace(calls[0], kernel=replace(calls[0].kernel, op=STRANGE)))
        return calls

    monkeypatch.setattr(paper_device, "fuse", with_strange)
    monkeypatch.setattr(paper_device, "kernel_s", lambda kernel: kernel_s(kernel) * (100 if kernel.op == STRANGE else 1))
    return measured(90)


def test_networks_are_foretold_from_each_other(networks: list[NetworkRecord]) -> None:
    """No prediction stands on the network itself: what was measured of it alone does not change it, but changes others."""
    some = networks[:40]
    found = foretold_s(some, ROOFLINE)
    true = np.array([network.latency_s for network in some])
    assert 0.005 < np.abs(found / true - 1).mean() < 0.12
    told = reversed([kernel.nanoseconds for kernel in some[0].kernels])
    other = replace(some[0], kernels=tuple(replace(kernel, nanoseconds=ns) for kernel, ns in zip(some[0].kernels, told, strict=True)))
    changed = foretold_s([other, *some[1:]], ROOFLINE) != found
    assert not changed[0]
    assert changed.any()
    with pytest.raises(MeasurementError, match="at least 20, got 19"):
        foretold_s(networks[:19], ROOFLINE)


def test_a_kind_of_one_family_does_not_widen_the_interval(one_strange_family: list[NetworkRecord]) -> None:
    """Held out, that family is off by a multiple; the interval of networks that stand on what was measured does not pay for it."""
    model = fit(one_strange_family, ROOFLINE, [str(i % FAMILIES) for i in range(len(one_strange_family))])
    assert model.half_width < 0.1
    assert model.held_out.within_10 < 0.9  # which says what becomes of a family with a kind that is new to the models


def test_a_kind_of_one_family_is_known(one_strange_family: list[NetworkRecord]) -> None:
    """The predictor learned it from that family, and doubts it no more than networks held out one by one give reason to."""
    model = fit(one_strange_family, ROOFLINE, [str(i % FAMILIES) for i in range(len(one_strange_family))])
    table = Training.of(one_strange_family).table
    found, strange = model.kernels(table), table.kinds == STRANGE
    assert found.covered[strange].all()
    assert found.doubt[strange].max() < 0.5


# ---- its parts


def test_a_kind_has_a_model_of_its_own(networks: list[NetworkRecord]) -> None:
    """There is a model for each kind that was measured, which knows the sizes that it saw."""
    data = Training.of(networks)
    models = fit_kinds(data.table, data.seconds, ROOFLINE)
    kinds = {kind_of(record.call.kernel) for network in networks for record in network.kernels}
    assert set(models) == kinds
    assert sum(model.rows for model in models.values()) == len(data.seconds)
    for kind, model in models.items():
        rows = data.table.kinds == kind
        sizes = data.table.sizes[rows]
        assert (model.low, model.high) == (tuple(sizes.min(axis=0)), tuple(sizes.max(axis=0)))
        assert sizes[:, :2].tolist() == np.column_stack([data.table.flops[rows], data.table.bytes[rows]]).tolist()


def test_the_training_set(networks: list[NetworkRecord]) -> None:
    """A profile as arrays: the attributed times in s, the latencies, the median cost of a call."""
    data = Training.of(networks[:3])
    assert data.call_s == pytest.approx(CALL_S)
    np.testing.assert_allclose(data.latency, [network.latency_s for network in networks[:3]])
    np.testing.assert_allclose(data.table.total(data.seconds) + CALL_S, data.latency, atol=1e-9)
    part = data.take(np.array([0, 2]))
    np.testing.assert_allclose(part.table.total(part.seconds) + CALL_S, data.latency[[0, 2]], atol=1e-9)
