"""Predictors adapted to another device, on paper: what the other device does is known exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from paper_device import ROOFLINE, measured

from hwnas.assets import Workspace
from hwnas.errors import FormatError, MeasurementError
from hwnas.predict import Predictor, store
from hwnas.predict.adapted import AdaptedModel, adapt, kind_features
from hwnas.predict.features import Table, kind_of, tabulate
from hwnas.predict.predictor import Transferred
from hwnas.profiling import NetworkRecord, Setting

FACTORS = {"Conv-depthwise": 5.0, "Conv-pointwise": 2.0}  # of the other device; 3 for all other kinds
TARGET = Setting(device="cpu", runtime="onnxruntime-cpu", threads=2)


def elsewhere(networks: Sequence[NetworkRecord]) -> list[NetworkRecord]:
    """The networks as the other device takes them."""
    found = []
    for network in networks:
        kernels = tuple(
            replace(record, nanoseconds=round(record.nanoseconds * FACTORS.get(kind_of(record.call.kernel), 3.0)))
            for record in network.kernels
        )
        total_s = (network.call_ns + sum(record.nanoseconds for record in kernels)) * 1e-9
        pooled = network.pooled
        scaled = replace(pooled, samples=type(pooled.samples)(pooled.samples.seconds * total_s / network.latency_s))
        call_ns = round(scaled.latency_s * 1e9) - sum(record.nanoseconds for record in kernels)
        found.append(replace(network, pooled=scaled, kernels=kernels, call_ns=call_ns))
    return found


def table_of(networks: Sequence[NetworkRecord]) -> Table:
    """Their kernels."""
    return tabulate([[record.call.kernel for record in network.kernels] for network in networks])


@pytest.fixture(scope="session")
def others() -> list[NetworkRecord]:
    """60 networks on the other device, none of which the known one was learned from."""
    return elsewhere(measured(60, seed=9))


@pytest.fixture(scope="session")
def adapted(predictor: Predictor, others: list[NetworkRecord]) -> AdaptedModel:
    """From the first ten."""
    return adapt(predictor.model, others[:10], ROOFLINE)


def test_ten_networks_teach_the_factor_of_every_kind(predictor: Predictor, adapted: AdaptedModel, others: list[NetworkRecord]) -> None:
    """Other networks come within a few per cent, where one constant for all does not."""
    table, latency = table_of(others[10:]), np.array([network.latency_s for network in others[10:]])
    bounds = adapted.bounds(table)
    usual = predictor.model.bounds(table).value
    constant = usual * np.median(latency / usual)
    assert np.mean(np.abs(bounds.value / latency - 1)) < 0.05
    assert np.mean(np.abs(constant / latency - 1)) > 2 * np.mean(np.abs(bounds.value / latency - 1))
    assert np.mean((bounds.low <= latency) & (latency <= bounds.high)) > 0.85
    assert (bounds.coverage > 0.95).all()


def test_left_out_figures(adapted: AdaptedModel) -> None:
    """They are of the ten networks, each by the others, and the interval is no narrower than they say."""
    assert adapted.held_out.networks == 10
    assert adapted.half_width > adapted.held_out.mape


def test_a_kind_that_was_not_measured_is_scaled_and_not_covered(adapted: AdaptedModel, others: list[NetworkRecord]) -> None:
    """It takes what the known device would, times the device's factor, and its network's interval is wide."""
    without = replace(adapted, kinds={name: kind for name, kind in adapted.kinds.items() if name != "Conv-depthwise"})
    table = table_of(others[10:12])
    rows = table.kinds == "Conv-depthwise"
    kernels = without.kernels(table)
    assert not kernels.covered[rows].any()
    assert kernels.seconds[rows] == pytest.approx(adapted.scale * adapted.base.kernels(table).seconds[rows])
    few, all_kinds = without.bounds(table), adapted.bounds(table)
    assert (few.coverage < all_kinds.coverage).all()
    assert (few.high / few.low > 1.2 * all_kinds.high / all_kinds.low).all()


def test_two_networks_are_too_few(predictor: Predictor, others: list[NetworkRecord]) -> None:
    """Fewer than three are refused."""
    with pytest.raises(MeasurementError, match="at least 3 measured networks, got 2"):
        adapt(predictor.model, others[:2], ROOFLINE)


def test_shifted(adapted: AdaptedModel, others: list[NetworkRecord]) -> None:
    """A search that measured its finalists moves every prediction alike."""
    table = table_of(others[:3])
    moved = adapted.shifted(0.1, 0.5)
    assert moved.bounds(table).value == pytest.approx(np.exp(0.1) * adapted.bounds(table).value)
    assert moved.half_width == 0.5


def test_kind_features(predictor: Predictor, others: list[NetworkRecord]) -> None:
    """The usual device is the known one: at its weights, features add up to its call and kernels."""
    table = table_of(others)
    features, prior = kind_features(predictor.model, table)
    sums = predictor.model.call_s + table.total(predictor.model.kernels(table).seconds)
    assert prior.usual(features) == pytest.approx(sums)
    assert (np.linalg.eigvalsh(prior.covariance) > 0).all()


def stored(home: Path, predictor: Predictor, adapted: AdaptedModel) -> tuple[Workspace, Path]:
    """The adapted predictor on disk."""
    made = replace(predictor, setting=TARGET, model=adapted, transferred=Transferred(source="paper", digest="d" * 64, networks=10))
    workspace = Workspace(home)
    return workspace, store.save(made, workspace.predictors)


def test_stored_with_all_that_it_needs(tmp_path: Path, predictor: Predictor, adapted: AdaptedModel, others: list[NetworkRecord]) -> None:
    """Its folder holds the known device's models too: moved elsewhere it predicts the same, and says where it comes from."""
    _, folder = stored(tmp_path / "a", predictor, adapted)
    table, before = table_of(others), adapted.bounds(table_of(others))
    found = store.read(folder.rename(tmp_path / "moved"))
    after = found.model.bounds(table)
    for name in ("value", "low", "high", "coverage"):
        assert getattr(after, name) == pytest.approx(getattr(before, name))
    assert found.source == "transferred from paper with 10 networks"
    assert found.transferred is not None
    assert found.transferred.digest == "d" * 64
    assert folder not in store.folders(Workspace(tmp_path / "a"))


def test_saved_again(tmp_path: Path, predictor: Predictor, adapted: AdaptedModel) -> None:
    """What was loaded can be stored: its files and its digest are the same."""
    workspace, folder = stored(tmp_path, predictor, adapted)
    first = store.load(workspace, TARGET)
    again = store.save(first, tmp_path / "again")
    assert store.read(again).digest == first.digest
    assert {path.name for path in again.iterdir()} == {path.name for path in folder.iterdir()}


def test_a_lost_file_of_the_known_device(tmp_path: Path, predictor: Predictor, adapted: AdaptedModel) -> None:
    """Said by name."""
    workspace, folder = stored(tmp_path, predictor, adapted)
    (folder / "base.Conv-depthwise.ubj").unlink()
    with pytest.raises(FormatError, match=r"lacks the model 'base\.Conv-depthwise\.ubj'.*transfer again"):
        store.load(workspace, TARGET)
