"""Networks in Q/DQ form: valid ONNX that computes nearly the same, with integers where the kernels want them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from hwnas.errors import GraphError
from hwnas.ir import Graph, GraphBuilder
from hwnas.ir.fold import fold
from hwnas.runtimes.ort import OrtRuntime
from hwnas.runtimes.ort_int8 import scheme
from hwnas.runtimes.ort_int8_write import made_up, write

RNG = np.random.default_rng(0)


def quantised(graph: Graph, **ranges: tuple[float, float]) -> onnx.ModelProto:
    """A graph with ranges that are made up, but for those that are given."""
    plan = scheme(fold(graph, drafts=True))
    model = write(plan, {**made_up(graph, plan), **ranges}, np.random.default_rng(0))
    onnx.checker.check_model(model, full_check=True)
    return model


def initializers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def dense(weight: np.ndarray, bias: np.ndarray | None = None, **attrs: object) -> Graph:
    """A fully connected layer."""
    b = GraphBuilder("dense")
    inputs = [b.input("x", (1, weight.shape[0])), b.constant("w", weight)]
    return b.finish(b.op("Gemm", inputs if bias is None else [*inputs, b.constant("b", bias)], **attrs))


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return np.asarray(OrtRuntime(1).build(model.SerializeToString()).run({"x": x})[0])


def test_scale_and_zero_point_follow_from_the_range() -> None:
    """The range spans 255 steps, and 0 is exact; a range on one side of 0 is extended to it."""
    for low, high, step, zero in ((-1.0, 4.1, 0.02, 50), (1.0, 5.1, 0.02, 0), (-5.1, -1.0, 0.02, 255), (0.0, 0.0, 1.0, 0)):
        values = initializers(quantised(dense(np.eye(2, dtype=np.float32)), x=(low, high)))
        assert values["x_scale"] == pytest.approx(step, rel=1e-6)
        assert (values["x_zero_point"], values["x_zero_point"].dtype) == (zero, np.uint8)


def test_weights_have_a_scale_for_each_channel() -> None:
    """The largest of each column becomes 64; a column of zeros stays zeros."""
    weight = np.array([[1.0, -8.0, 0.0], [0.5, 2.0, 0.0]], np.float32)
    values = initializers(quantised(dense(weight)))
    assert values["gemm_0_weight_quantized"].tolist() == [[64, -64, 0], [32, 16, 0]]
    assert values["gemm_0_weight_scale"].tolist() == [1 / 64, 8 / 64, 1.0]


def test_a_bias_has_the_scale_of_the_products() -> None:
    """Its integers add to those of the products; a factor on it goes into them."""
    model = quantised(dense(np.full((1, 1), 64.0, np.float32), np.array([3.0], np.float32), beta=2.0), x=(0.0, 255.0))
    values = initializers(model)
    assert values["gemm_0_bias_quantized"].tolist() == [6]
    assert values["gemm_0_bias_quantized"].dtype == np.int32
    (gemm,) = [node for node in model.graph.node if node.op_type == "Gemm"]
    assert {attribute.name: attribute.f for attribute in gemm.attribute}["beta"] == 1.0


def test_a_large_bias_widens_the_scale_of_its_channel() -> None:
    """Weights next to nothing under a bias that 32 bits could not hold at their scale get a larger one; the answer is right."""
    graph = dense(np.full((1, 2), 1e-12, np.float32), np.array([100.0, 0.0], np.float32))
    model = quantised(graph, x=(0.0, 1.0), gemm_0_out=(0.0, 100.0))
    first, second = initializers(model)["gemm_0_weight_scale"]
    assert first > second
    assert run(model, np.ones((1, 1), np.float32))[0].tolist() == pytest.approx([100.0, 0.0])


def test_the_answer_is_nearly_the_same() -> None:
    """With ranges that hold, the error is that of rounding."""
    weight, x = RNG.standard_normal((16, 4)).astype(np.float32), RNG.random((1, 16)).astype(np.float32)
    exact = x @ weight
    largest = float(np.abs(exact).max())
    model = quantised(dense(weight), x=(0.0, 1.0), gemm_0_out=(-largest, largest))
    assert np.abs(run(model, x) - exact).max() < 0.05 * largest


def test_recipes_are_drawn_as_integers() -> None:
    """Weights that nobody has drawn take any value of 7 bits, the same each time."""
    b = GraphBuilder("recipes")
    graph = b.finish(b.conv(b.input("x", (1, 16, 4, 4)), 32, kernel=3))
    values, again = (initializers(quantised(graph))["conv_0_weight_quantized"] for _ in range(2))
    assert (values.dtype, values.shape) == (np.int8, (32, 16, 3, 3))
    assert values.min() >= -64
    assert values.max() <= 64
    assert np.unique(values).size > 100
    assert np.array_equal(values, again)


def test_inputs_and_outputs_keep_their_names_and_types() -> None:
    """A file is called as before, whether a value is read elsewhere or not."""
    b = GraphBuilder("ends")
    x = b.conv(b.input("image", (1, 3, 4, 4)), 4)
    graph = b.finish(b.op("Sigmoid", [x]), x)
    model = quantised(graph)
    assert [value.name for value in model.graph.input] == ["image"]
    assert [value.name for value in model.graph.output] == list(graph.outputs)
    assert {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)} == {onnx.TensorProto.FLOAT}


def test_made_up_ranges_all_differ() -> None:
    """Scales that agree would be treated as no calibrated network's are; what cannot be negative is not."""
    b = GraphBuilder("many")
    x = b.input("x", (1, 4, 4, 4))
    for _ in range(6):
        x = b.op("Sigmoid", [b.op("Relu", [b.conv(x, 4)])])
    graph = b.finish(x)
    ranges = made_up(graph, scheme(graph))
    assert len(set(ranges.values())) == len(ranges) == 13
    assert all(low == 0 for value, (low, _) in ranges.items() if value.startswith(("sigmoid", "relu")))


def test_a_missing_range_is_named() -> None:
    """A scheme that was not calibrated says which value lacks a range."""
    plan = scheme(dense(np.eye(2, dtype=np.float32)))
    with pytest.raises(GraphError, match="value 'gemm_0_out' of graph 'dense' has no range; calibrate it first"):
        write(plan, {"x": (0.0, 1.0)}, RNG)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named(bad: float) -> None:
    """They have no 8-bit form."""
    with pytest.raises(GraphError, match="graph 'dense' cannot be quantised: value 'x' is not finite"):
        quantised(dense(np.eye(2, dtype=np.float32)), x=(0.0, bad))


def test_names_that_are_taken_are_avoided() -> None:
    """A network may have values that are called like ours."""
    b = GraphBuilder("taken")
    x = b.conv(b.input("x", (1, 3, 4, 4)), 4)
    graph = b.finish(b.op("Relu", [b.op("Add", [x, b.input("conv_0_out_quantized", (1, 4, 4, 4))])]))
    model = quantised(graph)
    assert len({value for node in model.graph.node for value in node.output}) == sum(len(node.output) for node in model.graph.node)


def test_average_pools_load_under_new_opsets() -> None:
    """An attribute that says nothing, and that ONNX Runtime's 8-bit kernel does not know, is left out."""
    b = GraphBuilder("pools")
    x = b.op("AveragePool", [b.conv(b.input("x", (1, 8, 6, 6)), 8)], kernel_shape=(2, 2))
    graph = b.finish(b.op("Gelu", [x]))  # brings opset 20
    model = quantised(graph)
    assert model.opset_import[0].version >= 20
    assert np.isfinite(run(model, np.ones((1, 8, 6, 6), np.float32))).all()


def test_a_value_that_nobody_reads_is_not_turned_back() -> None:
    """A branch without an end does no more than it must."""
    b = GraphBuilder("dead")
    x = b.input("x", (1, 8, 6, 6))
    b.conv(x, 4)
    model = quantised(b.finish(b.conv(x, 8)))
    assert [node.name for node in model.graph.node if node.op_type == "QuantizeLinear"] == [
        f"{value}_QuantizeLinear" for value in ("x", "conv_0_out", "conv_1_out")
    ]
    assert "conv_0_out_DequantizeLinear" not in {node.name for node in model.graph.node}


def test_a_conversion_limits() -> None:
    """A Relu whose input is needed as well is done by the range behind it: what is negative becomes 0, and only for who reads the Relu."""
    b = GraphBuilder("both")
    x = b.op("Elu", [b.input("x", (1, 4))])
    graph = b.finish(b.op("Sigmoid", [b.op("Relu", [x])]), x)
    model = quantised(graph, relu_0_out=(0.0, 4.0), sigmoid_0_out=(0.0, 1.0))
    assert "Relu" not in {node.op_type for node in model.graph.node}
    limited, plain = OrtRuntime(1).build(model.SerializeToString()).run({"x": np.array([[-3.0, -0.5, 0.0, 2.0]], np.float32)})
    assert limited[0].tolist() == pytest.approx([0.5, 0.5, 0.5, 0.88], abs=0.01)
    assert plain[0].tolist() == pytest.approx([-0.950, -0.393, 0.0, 2.0], abs=0.001)
