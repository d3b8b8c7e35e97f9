"""int8 networks have the form that the CPU is fast on, and answer nearly as before."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from hwnas.errors import UsageError
from hwnas.export.quantize import int8
from hwnas.ir import Graph, GraphBuilder
from hwnas.ir.onnx import to_model
from hwnas.runtimes.ort import OrtRuntime

Feeds = list[dict[str, np.ndarray]]


def initializers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_the_network_answers_nearly_as_before(graph: Graph, feeds: Feeds) -> None:
    """The error of the quantised network is a small part of its output: the signal stands 15 dB above it."""
    exact, rounded = OrtRuntime().build(graph), OrtRuntime().build(int8(graph, feeds).SerializeToString())
    before, after = (np.concatenate([session.run(feed)[0] for feed in feeds]) for session in (exact, rounded))
    signal = before - before.mean(axis=0)  # what tells inputs apart
    assert 10 * np.log10((signal**2).mean() / ((before - after) ** 2).mean()) > 15


def test_only_standard_operators_are_used(graph: Graph, feeds: Feeds) -> None:
    """The file loads wherever ONNX does, and names who wrote it."""
    model = int8(graph, feeds)
    onnx.checker.check_model(model, full_check=True)
    assert [entry.domain for entry in model.opset_import] == [""]
    assert {node.domain for node in model.graph.node} == {""}
    assert model.producer_name == "hwnas"
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == [*graph.inputs, *graph.outputs]


def test_weights_are_signed_per_channel_and_of_seven_bits(graph: Graph, feeds: Feeds) -> None:
    """Two 7-bit weights cannot overflow the 16 bits in which processors without VNNI add their products."""
    model = int8(graph, feeds)
    values = initializers(model)
    kernels = [value for value in values.values() if value.dtype == np.int8 and value.ndim == 4]
    assert len(kernels) == 3
    for kernel in kernels:
        assert np.abs(kernel.astype(int)).max() == 64
    channels = [node.input[1] for node in model.graph.node if node.op_type == "DequantizeLinear" and values[node.input[1]].size == 16]
    assert channels


def test_activations_are_unsigned(graph: Graph, feeds: Feeds) -> None:
    """Every quantised activation has a uint8 zero point."""
    model = int8(graph, feeds)
    points = [initializers(model)[node.input[2]].dtype for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert points
    assert set(points) == {np.dtype(np.uint8)}


@pytest.mark.parametrize("ends_in_fp32", [True, False])
def test_the_ends_stay_in_floats_where_that_is_asked_for(graph: Graph, feeds: Feeds, *, ends_in_fp32: bool) -> None:
    """What reads the image or writes the scores keeps its weights in fp32 then; everything between is quantised in both forms."""
    model = int8(graph, feeds, ends_in_fp32=ends_in_fp32)
    values = initializers(model)
    in_floats = [node.input[1] in values for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert in_floats == [ends_in_fp32, False, False, ends_in_fp32]


def test_a_model_and_its_graph_give_the_same(graph: Graph, feeds: Feeds) -> None:
    """An ONNX model is folded and quantised like the graph that it came from, and calibration may be consumed only once."""
    assert int8(to_model(graph), iter(feeds)) == int8(graph, feeds)


def test_calibration_must_fit(graph: Graph, feeds: Feeds) -> None:
    """No inputs, wrong names, shapes or types are one line that says what is expected."""
    image = feeds[0]["image"]
    with pytest.raises(UsageError, match="needs calibration data, got none"):
        int8(graph, [])
    for wrong in ({"picture": image}, {"image": image[:, :1]}, {"image": image.astype(np.float64)}, {}):
        with pytest.raises(UsageError, match=r"it reads image float32\[1, 3, 16, 16\], got "):
            int8(graph, [feeds[0], wrong])


def test_nothing_is_left_behind(graph: Graph, feeds: Feeds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No temporary files, no output, and logging is configured as before, also where the quantiser has something to complain about."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    before = (list(root.handlers), root.level, logging.root.manager.disable)
    b = GraphBuilder("zeros")  # scales of zero make the quantiser warn
    x = b.op(
        "Relu", [b.op("Conv", [b.op("Relu", [b.input("image", (1, 3, 16, 16))]), b.constant("w", np.zeros((4, 3, 1, 1), np.float32))])]
    )
    for network in (graph, b.finish(b.op("Sigmoid", [x]))):
        int8(network, feeds)
    assert (list(root.handlers), root.level, logging.root.manager.disable) == before
    assert list(tmp_path.iterdir()) == []
