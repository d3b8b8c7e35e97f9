"""What is refused before a launch, and when results are called wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from hwnas.errors import MeasurementError, UsageError
from hwnas.kernels import Case, KernelSource, Tuning, find
from hwnas.kernels.launch import check, prepare, random_tensors, row
from hwnas.kernels.source import Attrs

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


@pytest.mark.parametrize(
    ("kernel", "attrs", "shapes"),
    [
        ("depthwise_conv", {"stride": 1, "pad": 1, "activation": "relu", "add": "after"}, {"residual": (2, 6, 5, 4)}),
        ("depthwise_conv", {"stride": 2, "pad": 1, "activation": "relu", "add": "none"}, {}),
        ("layer_norm_residual", {"epsilon": 1e-5}, None),
    ],
)
@pytest.mark.parametrize("works", [1, 3])
def test_a_row(
    kernel: str, attrs: dict[str, int | float | str], shapes: dict[str, tuple[int, ...]] | None, works: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Launches and products in turn, each reading what the one before wrote; what changes the shape reads the input again."""
    images = {"x": (2, 6, 5, 4), "weight": (6, 1, 3, 3), "bias": (6,)}
    case = NORM if shapes is None else Case(name="", shapes={**images, **shapes}, attrs=attrs)
    launched: list[dict[str, torch.Tensor]] = []

    def by_reference(source: KernelSource, tensors: dict[str, torch.Tensor], attrs: Attrs, tuning: Tuning) -> Callable[[], object]:
        outputs = tuple(torch.full_like(value, torch.nan) for value in source.reference(tensors, attrs))

        def launch() -> object:
            launched.append({name: tensor.clone() for name, tensor in tensors.items()})
            for output, value in zip(outputs, source.reference(tensors, attrs), strict=True):
                output.copy_(value)
            return outputs

        return launch

    monkeypatch.setattr("hwnas.kernels.launch.prepare", by_reference)
    source = find(kernel)
    run = row(source, case, tuning=source.tunings[0], precision="fp32", device="cpu", products=3, works=works)
    launched.clear()
    first, found = run()["value"].clone(), run()
    assert len(launched) == 2 * works
    torch.testing.assert_close(found["value"], first)
    assert torch.isfinite(first).all()
    torch.testing.assert_close(found["y"], source.reference(launched[-1], case.attrs)[-1])
    before, last = launched[-2] if works > 1 else {}, launched[-1]
    if works > 1:
        assert not torch.equal(before["weight"], last["weight"])
        assert torch.equal(before["x"], last["x"]) == (attrs.get("stride") == 2)
    if works > 1 and kernel == "layer_norm_residual":
        torch.testing.assert_close(last["residual"], source.reference(before, case.attrs)[0])
