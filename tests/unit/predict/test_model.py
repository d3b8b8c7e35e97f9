"""What was learned of a device on paper: kernels, the correction of networks, figures of quality."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from paper_device import ROOFLINE

from hwnas.ir import Kernel, TensorSpec
from hwnas.predict import Predictor
from hwnas.predict.features import tabulate
from hwnas.predict.fitting import Training, fit_kinds
from hwnas.predict.model import REACH, HeldOut, KindModel, bounded, first_stage, reaching, reaching_up
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
    assert model.covers(np.column_stack([flops, moved])).tolist() == [True, False, True, False, False, True]


@pytest.mark.parametrize(
    ("changed", "covered"),
    [
        ({}, True),
        ({"weight": (32, 16, 1, 1)}, False),  # a window that no kernel of the kind had
        ({"weight": (32, 16, 3, 3), "group": 4, "channels": 64}, True),  # twice the groups are within reach
        ({"weight": (32, 16, 3, 3), "group": 8, "channels": 128}, False),
        ({"layout": "nchw8c"}, False),
        ({"size": 24}, True),  # more places do the same work more often
    ],
)
def test_a_shape_that_was_not_measured_is_not_covered(changed: dict[str, Any], covered: bool) -> None:
    """As much work as was measured, done in another way: with another window, in more groups, in another layout."""

    def grouped(
        weight: tuple[int, ...] = (32, 16, 3, 3), group: int = 2, channels: int = 32, layout: str = "nchw", size: int = 16
    ) -> Kernel:
        images = TensorSpec((1, channels, size, size)), TensorSpec((1, weight[0], size, size))
        attrs = (("group", group), ("kernel_shape", weight[2:]))
        return Kernel(op="Conv", inputs=images[:1], weights=(TensorSpec(weight),), outputs=images[1:], attrs=attrs, layout=layout)

    known = tabulate([[grouped(size=size) for size in (12, 16, 20) for _ in range(10)]])
    (model,) = fit_kinds(known, np.full(30, 1e-4), ROOFLINE).values()
    assert model.covers(tabulate([[grouped(**changed)]]).sizes).tolist() == [covered]


def test_the_width_that_an_interval_needs() -> None:
    """`reaching` is the least width at which `bounded` holds a time, be it above, below or within what is not covered."""
    value, coverage = np.full(5, 1.0), np.array([1.0, 1.0, 0.9, 0.9, 0.9])
    seconds = np.array([1.2, 0.8, 1.9, 0.6, 1.3])
    width = reaching(value, coverage, seconds, 7.0)
    for factor, holds in ((0.999, False), (1.001, True)):
        bounds = bounded(value, coverage, width * factor, width * factor, 7.0)
        assert ((bounds.low <= seconds) & (seconds <= bounds.high))[:4].tolist() == [holds] * 4
    assert width[:2] == pytest.approx([np.log(1.2), -np.log(0.8)])
    assert width[4] == 0  # 0.1 of the prediction may take 0.7, which is enough
    assert reaching_up(value, coverage, seconds, 7.0)[4] < 0


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
