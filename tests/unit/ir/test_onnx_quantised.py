"""Files in Q/DQ form as the networks in floats that they stand for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from hwnas import spaces
from hwnas.errors import GraphError
from hwnas.export.quantize import int8
from hwnas.ir import Graph, GraphBuilder, Kernel
from hwnas.ir.fold import fold
from hwnas.ir.onnx import load, load_shipped, to_bytes, to_model
from hwnas.ir.onnx_quantised import in_floats
from hwnas.runtimes.ort_int8_fusion import fuse


def plain() -> Graph:
    """A network without limits: all that quantising it does is rounding."""
    b = GraphBuilder("plain")
    x = b.conv(b.input("x", (1, 3, 16, 16)), 16, kernel=3, stride=2)
    x = b.op("Add", [x, b.conv(x, 16, kernel=3, groups=16)])
    x = b.op("Flatten", [b.op("GlobalAveragePool", [x])])
    return b.finish(b.linear(x, 10)).materialize(np.random.default_rng(0))


def calibration(graph: Graph) -> list[dict[str, np.ndarray]]:
    """Inputs like those that the networks of these tests see."""
    rng = np.random.default_rng(1)
    return [{name: rng.normal(size=spec.shape).astype(np.float32) for name, spec in graph.inputs.items()} for _ in range(8)]


def answers(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, feed)
    return np.asarray(found)


@pytest.mark.parametrize("ends_in_fp32", [False, True])
def test_a_quantised_network_is_the_network_but_for_rounding(ends_in_fp32: bool) -> None:
    """The same nodes and names; the constants are those of the 8-bit file, so that answers differ by the rounding of activations alone."""
    graph = plain()
    shipped = int8(graph, calibration(graph), ends_in_fp32=ends_in_fp32)
    found = in_floats(shipped)
    assert [(node.op_type, node.name) for node in found.graph.node] == [(node.op, node.name) for node in graph.nodes]
    assert [output.name for output in found.graph.output] == list(graph.outputs)
    onnx.checker.check_model(found)
    feed = calibration(graph)[0]
    exact, rounded, read = (answers(model, feed) for model in (to_model(graph), shipped, found))
    assert 0 < np.abs(read - exact).max() < 0.1 * np.abs(exact).max()
    assert 0 < np.abs(read - rounded).max() < 0.1 * np.abs(exact).max()


@pytest.mark.parametrize("space", ["mobilenet-small", "resnet-small"])
@pytest.mark.parametrize("ends_in_fp32", [False, True])
def test_kernels_of_a_file_are_those_of_the_network_that_was_quantised(space: str, ends_in_fp32: bool, tmp_path: Path) -> None:
    """Also where limits were left to the range of integers, and where the ends were left in floats; the runtime has the same kernels."""
    found = spaces.load(space)
    for i in range(4):
        graph = found.graph(found.sample(np.random.default_rng([7, i]))).materialize(np.random.default_rng(0))
        path = tmp_path / f"{i}.onnx"
        path.write_bytes(int8(graph, calibration(graph), ends_in_fp32=ends_in_fp32).SerializeToString())
        network = load_shipped(path)
        assert network.precision == "int8"
        outside = {*graph.inputs, *graph.outputs}
        ends = frozenset(node.name for node in graph.nodes if outside & {*node.inputs, *node.outputs})
        told = Counter(shape_of(call.kernel) for call in fuse(network.graph, left=network.left))
        assert told == Counter(shape_of(call.kernel) for call in fuse(graph, left=ends if ends_in_fp32 else frozenset()))
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        ran = Counter(node.op_type.removeprefix("QLinear") for node in onnx.load(options.optimized_model_filepath).graph.node)
        blocks = ran["ReorderInput"] + ran["ReorderOutput"]  # of a convolution in floats at an end, which are not told
        assert blocks <= 2 * ends_in_fp32
        assert told.total() == ran.total() - blocks
        assert sum(n for (op, *_), n in told.items() if op == "Conv") == ran["Conv"] + ran["FusedConv"]


class Calibration(CalibrationDataReader):
    """The same inputs for ONNX Runtime's own tool."""

    def __init__(self, graph: Graph) -> None:
        self._feeds = iter(calibration(graph))

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


@pytest.mark.parametrize("space", ["mobilenet-small", "resnet-small"])
def test_a_file_that_onnx_runtime_quantised(space: str, tmp_path: Path) -> None:
    """Its kernels are those that the runtime runs of it."""
    found = spaces.load(space)
    graph = fold(found.graph(found.sample(np.random.default_rng([9, 0]))).materialize(np.random.default_rng(0)))
    plain, quantised, optimised = (str(tmp_path / f"{name}.onnx") for name in ("plain", "quantised", "optimised"))
    Path(plain).write_bytes(to_bytes(graph))
    form = {"quant_format": QuantFormat.QDQ, "per_channel": True, "weight_type": QuantType.QInt8}
    quantize_static(plain, quantised, Calibration(graph), activation_type=QuantType.QInt8, **form)
    with pytest.raises(GraphError, match="values other than weights are read in uint8 only; give the network in fp32"):
        load_shipped(quantised)  # the runtime leaves most of it in floats
    quantize_static(plain, quantised, Calibration(graph), activation_type=QuantType.QUInt8, **form)
    network = load_shipped(quantised)
    told = Counter(call.kernel.op for call in fuse(network.graph, left=network.left))
    moved = told.pop("ReorderInput", 0) + told.pop("ReorderOutput", 0)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = optimised, 3
    onnxruntime.InferenceSession(quantised, options, providers=["CPUExecutionProvider"])
    ran = Counter(
        node.op_type.removeprefix("QLinear").removeprefix("Nhwc").replace("QGemm", "Gemm") for node in onnx.load(optimised).graph.node
    )
    assert moved == ran.pop("Transpose", 0)
    assert told == ran


def shape_of(kernel: Kernel) -> tuple[object, ...]:
    """A kernel but for what type it reads: whether a limit behind a node in floats reads bytes or floats is not told alike."""
    shapes = [tuple(spec.shape for spec in specs) for specs in (kernel.inputs, kernel.weights, kernel.outputs)]
    return kernel.op, kernel.layout, kernel.precision, *shapes


def test_a_file_in_floats_stays_what_it_is(tmp_path: Path) -> None:
    """Nothing is left, and nothing is taken out."""
    (tmp_path / "plain.onnx").write_bytes(to_bytes(plain()))
    network = load_shipped(tmp_path / "plain.onnx")
    assert (network.precision, network.left) == ("fp32", frozenset())
    assert network.graph.nodes == load(tmp_path / "plain.onnx").nodes


def quantised(change: Callable[[onnx.ModelProto], None]) -> onnx.ModelProto:
    """`Relu(DQ(weights) + DQ(Q(x)))`, changed."""
    constants = {
        "scale": np.array([0.5, 0.25], np.float32),
        "zero": np.array([3, 0], np.int8),
        "weights": np.array([[4, -2], [1, 7]], np.int8),
        "step": np.float32(0.1),
        "middle": np.uint8(128),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["weights", "scale", "zero"], ["w"], name="dq_w", axis=0),
        helper.make_node("QuantizeLinear", ["x", "step", "middle"], ["held"], name="q_x"),
        helper.make_node("DequantizeLinear", ["held", "step", "middle"], ["back"], name="dq_x"),
        helper.make_node("Add", ["back", "w"], ["sum"], name="add"),
        helper.make_node("Relu", ["sum"], ["y"], name="relu"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (2, 2)) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    model = helper.make_model(helper.make_graph(nodes, "q", ends[:1], ends[1:], tensors), opset_imports=[helper.make_opsetid("", 17)])
    change(model)
    return model


def test_constants_are_made_by_the_definition_of_onnx() -> None:
    """(integers - zero point) x scale, along the axis."""
    model = in_floats(quantised(lambda model: None))
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert {name: value.tolist() for name, value in constants.items()} == {"w": [[0.5, -2.5], [0.25, 1.75]]}
    assert [list(node.input) for node in model.graph.node] == [["x", "w"], ["sum"]]


def enters_in_integers(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("held", TensorProto.UINT8, (2, 2)))
    del model.graph.node[1]


def in_blocks(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((2, 1), np.float32), "scale"))


def scaled_by_an_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("scale", TensorProto.FLOAT, (2,)))
    del model.graph.initializer[0]


def nothing_between(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "back"


def without_inputs(model: onnx.ModelProto) -> None:
    del model.graph.node[0].input[:]


def along_no_axis(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute[0].i = 7


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_inputs, "is damaged: "),
        (along_no_axis, "is damaged: "),
        (enters_in_integers, "node 'dq_x' .DequantizeLinear.: 'held' enters in integers; give the network in fp32"),
        (in_blocks, "node 'dq_w' .DequantizeLinear.: is quantised in blocks"),
        (scaled_by_an_input, "node 'dq_w' .DequantizeLinear.: its scale is no constant"),
        (nothing_between, "output 'back' is input 'x' but for rounding"),
    ],
)
def test_what_is_refused(change: Callable[[onnx.ModelProto], None], said: str, tmp_path: Path) -> None:
    """With the file, the node and the remedy."""
    path = tmp_path / "odd.onnx"
    path.write_bytes(quantised(change).SerializeToString())
    with pytest.raises(GraphError, match=f"odd.onnx: {said}"):
        load_shipped(path)


def test_where_a_network_in_floats_is_wanted(tmp_path: Path) -> None:
    """A quantised file is refused for what it is."""
    path = tmp_path / "q.onnx"
    path.write_bytes(quantised(lambda model: None).SerializeToString())
    with pytest.raises(GraphError, match=r"node 'dq_w' .DequantizeLinear.: the file is quantised; give the network in fp32"):
        load(path)
