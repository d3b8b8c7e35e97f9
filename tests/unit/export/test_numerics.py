"""A model is run as its types state, and its answers are compared by what distinguishes inputs."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwnas.errors import GraphError
from hwnas.export.narrow import narrow
from hwnas.export.numerics import Numerics, answers, output_error
from hwnas.export.quantize import Feed
from hwnas.ir import Graph
from hwnas.ir.fold import fold
from hwnas.ir.onnx import to_bytes
from hwnas.runtimes.ort import OrtRuntime


def test_fp32_answers_are_those_of_the_runtime(graph: Graph, feeds: list[Feed]) -> None:
    """Without narrow types nothing changes but the order of sums."""
    model = to_bytes(fold(graph))
    np.testing.assert_allclose(answers(Numerics(model), feeds), answers(OrtRuntime().build(model), feeds), atol=1e-4)


def test_int8_is_what_rounding_makes_of_it(graph: Graph, feeds: list[Feed]) -> None:
    """The first convolution's answer is that of NumPy on operands that were rounded to their scales."""
    narrowed = narrow(graph, "int8", feeds)
    first = next(node for node in narrowed.model.graph.node if node.op_type == "Conv")
    narrowed.model.graph.output.append(helper.make_tensor_value_info(first.output[0], TensorProto.FLOAT16, None))
    found = Numerics(narrowed.model.SerializeToString()).run(feeds[0])[1].astype(np.float64)
    constants = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in narrowed.model.graph.initializer}
    writers = {node.output[0]: node for node in narrowed.model.graph.node}
    data, weight = (writers[name] for name in first.input[:2])
    step, steps = constants[data.input[1]], constants[weight.input[1]]
    image = np.clip(np.rint(feeds[0]["image"].astype(np.float16).astype(np.float64) / step), -128, 127) * step
    kernel = narrowed.graph.weights[narrowed.graph.nodes[0].inputs[1]].value
    assert kernel is not None
    rounded = (
        np.clip(np.rint(kernel.astype(np.float16).astype(np.float64) / steps[:, None, None, None]), -128, 127) * steps[:, None, None, None]
    )
    padded = np.pad(image[0], ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::2, ::2]
    expected = np.einsum("cyxij,ocij->oyx", windows, rounded) + constants[first.input[2]][:, None, None]
    assert np.abs(found[0] - expected).max() < 2e-2 * np.abs(expected).max()


def test_what_does_not_load_or_run_is_one_line(graph: Graph, feeds: list[Feed]) -> None:
    """Damage and inputs that do not fit are errors of ours."""
    with pytest.raises(GraphError, match="ONNX Runtime does not load the model"):
        Numerics(b"damaged")
    with pytest.raises(GraphError, match="ONNX Runtime does not run the model") as caught:
        Numerics(to_bytes(fold(graph))).run({"image": np.zeros((1, 3, 4), np.float32)})
    assert "\n" not in str(caught.value)


def test_errors_are_relative_to_what_differs_between_inputs() -> None:
    """A constant that all answers share does not hide an error; a single answer is taken relative to its size."""
    expected = np.array([[100.0, 1.0], [100.0, -1.0]])
    found = expected + np.array([[0.0, 0.1], [0.0, -0.1]])
    assert output_error(expected, found) == pytest.approx(0.1)
    assert output_error(expected[:1], expected[:1] + 1.0) == pytest.approx(np.sqrt(2) / np.sqrt(100**2 + 1))
    assert output_error(np.zeros((2, 2)), np.zeros((2, 2))) == 0.0
    assert output_error(expected, found * np.nan) == np.inf
