"""What is refused before a launch, and when results are called wrong."""

from __future__ import annotations

import pytest
import torch

from hwnas.errors import MeasurementError, UsageError
from hwnas.kernels import Case, find
from hwnas.kernels.launch import check, prepare, random_tensors

NORM = Case(name="", shapes={"x": (4, 8), "residual": (4, 8), "weight": (8,), "bias": (8,)}, attrs={"epsilon": 1e-5})


def test_results_are_checked() -> None:
    """The reference in the network's own precision passes; twice the tolerance, or NaN, in one element of one output does not."""
    source, tensors = find("layer_norm_residual"), random_tensors(NORM, "fp32", "cpu")
    total, y = source.reference(tensors, NORM.attrs)
    assert 0 < check(source, (total, y), tensors, NORM.attrs, "fp32") <= 1
    for wrong in (y[1, 2] + 2e-5 * (1 + abs(y[1, 2])), torch.nan):
        bad = y.clone()
        bad[1, 2] = wrong
        with pytest.raises(MeasurementError, match="output 'y' is off by"):
            check(source, (total, bad), tensors, NORM.attrs, "fp32")


def test_inputs_are_the_same_each_time() -> None:
    """And of the precision asked for."""
    first, second = (random_tensors(NORM, "bf16", "cpu") for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in NORM.shapes)
    assert {tensor.dtype for tensor in first.values()} == {torch.bfloat16}


def test_what_is_not_launched() -> None:
    """Strided tensors, and images of more tiles than a grid holds."""
    source, tensors = find("layer_norm_residual"), random_tensors(NORM, "fp32", "cpu")
    with pytest.raises(UsageError, match=r"takes contiguous tensors .* 'x' is not one"):
        prepare(source, {**tensors, "x": tensors["x"].T}, NORM.attrs, source.tunings[0])
    conv = find("depthwise_conv")
    large = {"x": torch.empty(1, 2, 8192, 4200), "weight": torch.empty(2, 1, 3, 3), "bias": torch.empty(2)}
    with pytest.raises(UsageError, match="programs along an axis that holds 65535"):
        prepare(conv, large, {"stride": 1, "pad": 1, "activation": "none", "add": "none"}, conv.tunings[0])
