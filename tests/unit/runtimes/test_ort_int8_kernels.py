"""An optimised int8 model is read back in terms of the graph that went in."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import helper

from hwnas.errors import GraphError
from hwnas.ir import Graph, GraphBuilder, KernelCall
from hwnas.runtimes.ort import OrtRuntime
from hwnas.runtimes.ort_int8 import scheme
from hwnas.runtimes.ort_int8_kernels import attribute


def kernels(runtime: OrtRuntime, graph: Graph) -> list[KernelCall]:
    """The kernels that the runtime runs."""
    return list(runtime.build(graph, precision="int8").kernels())


def between(name: str, **attrs: object) -> Graph:
    """An operator between two convolutions."""
    b = GraphBuilder("between")
    x = b.conv(b.input("x", (1, 8, 5, 5)), 8)
    return b.finish(b.conv(b.op(name, [x], **attrs), 8))


@pytest.mark.parametrize("name", ["HardSwish", "Mish"])
def test_an_operator_that_runs_as_several_is_one_kernel(ort_runtime: OrtRuntime, name: str) -> None:
    """All parts of its definition count as it."""
    (call,) = [call for call in kernels(ort_runtime, between(name)) if call.kernel.op == name]
    assert (call.nodes, call.kernel.precision, call.kernel.layout) == ((f"{name.lower()}_0",), "fp32", "nhwc")


def test_weights_that_are_turned_back_belong_to_their_operator(ort_runtime: OrtRuntime) -> None:
    """A transposed convolution computes in fp32, whatever the runtime does to its weights before."""
    b = GraphBuilder("up")
    x = b.conv(b.input("x", (1, 8, 5, 5)), 8)
    graph = b.finish(b.conv(b.op("ConvTranspose", [x, b.weight("w", (8, 8, 2, 2))], strides=(2, 2)), 8))
    ops = Counter(call.kernel.op for call in kernels(ort_runtime, graph))
    assert ops == {"QuantizeLinear": 2, "DequantizeLinear": 2, "Conv": 2, "ConvTranspose": 1, "ReorderInput": 2, "ReorderOutput": 2}


def test_folded_nodes_are_told(ort_runtime: OrtRuntime) -> None:
    """Normalisation and limit are nodes of the convolution's kernel, of which nothing else shows them."""
    b = GraphBuilder("folded")
    graph = b.finish(b.op("Relu", [b.batch_norm(b.conv(b.input("x", (1, 8, 5, 5)), 8, bias=False))]))
    (call,) = [call for call in kernels(ort_runtime, graph) if call.kernel.op == "Conv"]
    assert call.nodes == ("conv_0", "batchnormalization_0", "relu_0")
    assert (call.output, call.kernel.fused) == (graph.outputs[0], ())


def test_times_are_those_of_the_kernels(ort_runtime: OrtRuntime) -> None:
    """Every kernel has a time, and the list is the same."""
    graph = between("HardSwish")
    session = ort_runtime.build(graph, precision="int8")
    times = session.kernel_times(graph.random_inputs(np.random.default_rng(0)), runs=3)
    assert Counter(row.call for row in times) == Counter(session.kernels())
    assert all(row.seconds > 0 for row in times)


def test_a_model_is_built_from_bytes_and_files_too(ort_runtime: OrtRuntime, tmp_path) -> None:
    """Serialised ONNX in fp32 is quantised like the graph that it holds."""
    from hwnas.ir.onnx import save, to_bytes

    graph = between("Tanh").materialize(np.random.default_rng(0))
    expected = Counter(call.kernel for call in kernels(ort_runtime, graph))
    for model in (to_bytes(graph), save(graph, tmp_path / "model.onnx")):
        assert Counter(call.kernel for call in ort_runtime.build(model, precision="int8").kernels()) == expected


def test_a_node_from_nowhere_is_named() -> None:
    """What corresponds to nothing in the graph is an error that names it."""
    b = GraphBuilder("small")
    graph = b.finish(b.op("Tanh", [b.input("x", (1, 4))]))
    value = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 4])
    stray = helper.make_node("Swirl", ["elsewhere"], ["y"], name="stray")
    optimized = helper.make_model(helper.make_graph([stray], "g", [], [value]))
    with pytest.raises(GraphError, match="node 'stray' does not correspond to a node of graph 'small'"):
        attribute(graph, scheme(graph), optimized, {"stray": "Swirl"})
