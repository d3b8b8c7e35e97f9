"""What was learned of a device on paper: kernels, the correction of networks, figures of quality."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from paper_device import ROOFLINE

from hwnas.predict import Predictor
from hwnas.predict.fitting import Training, fit_kinds
from hwnas.predict.model import REACH, HeldOut, KindModel, first_stage
from hwnas.profiling import NetworkRecord

# ---- the first stage


def test_kernels_are_told_one_by_one(networks: list[NetworkRecord], unseen: Training) -> None:
    """Every kernel of the new networks is covered, and its time is near the formula's."""
    data = Training.of(networks)
    found = first_stage(fit_kinds(data.table, data.seconds, ROOFLINE), ROOFLINE, 1.0, unseen.table)
    times, covered = found.seconds, found.covered
    assert covered.mean() > 0.99
    assert np.median(np.abs(times / unseen.seconds - 1)) < 0.06


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
