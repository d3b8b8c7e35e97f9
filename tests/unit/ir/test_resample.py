"""The arithmetic of Resize, in every mode."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from hwnas.errors import GraphError
from hwnas.ir import Graph, GraphBuilder
from hwnas.ir.onnx import to_model
from hwnas.ir.torch import lower

# pytorch_half_pixel is compared with ONNX Runtime (test_torch): the reference departs from the specification in outputs of length 1.
COORDINATES = ["half_pixel", "asymmetric", "align_corners", "half_pixel_symmetric"]


def resized(shape: tuple[int, ...], **attrs: object) -> Graph:
    b = GraphBuilder("resized")
    return b.finish(b.op("Resize", [b.input("x", shape)], **attrs))


@settings(max_examples=120, deadline=None)
@given(
    mode=st.sampled_from(["linear", "cubic", "nearest"]),
    coordinates=st.sampled_from(COORDINATES),
    rounding=st.sampled_from(["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]),
    source=st.lists(st.integers(2, 5), min_size=1, max_size=3),
    factors=st.lists(st.sampled_from([0.5, 1.0, 2.0, 3.0, 1.25]), min_size=3, max_size=3),
)
def test_agrees_with_the_reference(mode: str, coordinates: str, rounding: str, source: list[int], factors: list[float]) -> None:
    """ONNX's own reference implementation gives the same values, for any number of resized dimensions."""
    if mode == "nearest":  # by powers of two, so that no rounding decides a tie
        factors = [{3.0: 2.0, 1.25: 1.0}.get(factor, factor) for factor in factors]
    if coordinates == "align_corners":  # the reference takes lengths before they are rounded, unlike runtimes
        factors = [float(round(factor + 0.5)) for factor in factors]
    graph = resized(
        tuple(source),
        mode=mode,
        coordinate_transformation_mode=coordinates,
        nearest_mode=rounding,
        scales=tuple(factors[: len(source)]),
    )
    x = np.random.default_rng(0).standard_normal(source).astype(np.float32)
    expected = ReferenceEvaluator(to_model(graph)).run(None, {"x": x})[0]
    np.testing.assert_allclose(lower(graph)(torch.from_numpy(x)).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("attrs", [{"mode": "area"}, {"coordinate_transformation_mode": "polar"}, {"nearest_mode": "up"}])
def test_unknown_modes_name_the_node(attrs: dict[str, str]) -> None:
    """They are refused when the graph is lowered."""
    with pytest.raises(GraphError, match="node 'resize_0'"):
        lower(resized((1, 1, 2, 2), scales=(1.0, 1.0, 2.0, 2.0), **attrs))


def test_the_opset_that_is_written_knows_every_mode() -> None:
    """half_pixel_symmetric came with opset 19: such a graph is written at it."""
    model = to_model(resized((1, 1, 2, 2), scales=(1.0, 1.0, 2.0, 2.0), coordinate_transformation_mode="half_pixel_symmetric"))
    assert model.opset_import[0].version == 19
    onnx.checker.check_model(model, full_check=True)
