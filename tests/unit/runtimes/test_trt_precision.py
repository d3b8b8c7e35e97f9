"""Precisions are written into the model as TensorRT keeps them: Cast for fp16, symmetric Q/DQ for int8."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import strategies
from hypothesis import given
from onnx import numpy_helper
from trained import residual

from hwnas.errors import GraphError
from hwnas.ir import Graph, GraphBuilder
from hwnas.ir.fold import fold
from hwnas.runtimes.trt_fusion import FUSERS
from hwnas.runtimes.trt_precision import LARGEST, Precisions, activations, counts, quantisable, too_large, write

NETWORK = fold(residual())
RANGES = dict.fromkeys(activations(NETWORK), (-2.0, 3.0))
PRODUCTS = frozenset(quantisable(NETWORK))


def typed(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every value, by ONNX's own inference, which refuses a node whose inputs disagree."""
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    return {info.name: info.type.tensor_type.elem_type for info in (*inferred.graph.value_info, *inferred.graph.output)}


def by_name(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Nodes by name, which are unique."""
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    return {node.name: node for node in model.graph.node}


def test_fp32_is_the_network_itself() -> None:
    """Without other precisions no node is added."""
    model = write(NETWORK, Precisions(), {})
    assert [node.name for node in model.graph.node] == [node.name for node in NETWORK.nodes]


def test_fp16_casts_at_the_ends_only() -> None:
    """All between one Cast behind the input and one before the output is fp16, weights included; what goes in and out is fp32."""
    model = write(NETWORK, Precisions(base="fp16"), {})
    types = typed(model)
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    assert len(casts) == 2
    assert {types[node.output[0]] for node in model.graph.node if node not in casts} == {onnx.TensorProto.FLOAT16}
    assert {tensor.data_type for tensor in model.graph.initializer} == {onnx.TensorProto.FLOAT16}
    assert model.graph.input[0].type.tensor_type.elem_type == model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


@pytest.mark.parametrize("base", ["fp32", "fp16"])
def test_int8_has_the_form_that_the_parser_takes(base: str) -> None:
    """Zero points are int8 zeros, data has one scale and weights one per output channel, biases are floats, a residual comes in 8 bits."""
    model = write(NETWORK, Precisions(base=base, int8=PRODUCTS), RANGES)  # type: ignore[arg-type]
    typed(model)
    nodes, constants = by_name(model), {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    writers = {value: node for node in model.graph.node for value in node.output}
    for name in PRODUCTS:
        data, weight = (writers[value] for value in nodes[name].input[:2])
        assert data.op_type == weight.op_type == "DequantizeLinear"
        assert writers[data.input[0]].op_type == writers[weight.input[0]].op_type == "QuantizeLinear"
        channels = NETWORK.specs[NETWORK.nodes[NETWORK.positions[name]].outputs[0]].shape[1]
        assert constants[weight.input[1]].shape == (channels,)
        assert constants[data.input[1]].shape == ()
        assert nodes[name].input[2] in constants
    zeros = [constants[node.input[2]] for node in model.graph.node if node.op_type.endswith("tizeLinear")]
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zeros)
    add = next(node for node in model.graph.node if node.op_type == "Add")
    assert Counter(writers[value].op_type for value in add.input) == {"Conv": 1, "DequantizeLinear": 1}


def test_scales_cover_the_range_on_both_sides() -> None:
    """The larger end of a range is 127 steps; a channel's largest weight is, too."""
    model = write(NETWORK, Precisions(int8=PRODUCTS), RANGES)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    first = next(node for node in NETWORK.nodes if node.op == "Conv")
    weight = NETWORK.weights[first.inputs[1]].value
    assert weight is not None
    assert constants["image_fp32_scale"] == pytest.approx(3.0 / 127)
    np.testing.assert_allclose(constants[f"{first.name}_weight_scale"], np.abs(weight).max(axis=(1, 2, 3)) / 127, rtol=1e-6)


def test_what_stays_in_fp32_is_cast_around() -> None:
    """A node that is named keeps fp32 in and out, its neighbours fp16."""
    middle = [node for node in NETWORK.nodes if node.op == "Conv"][1]
    model = write(NETWORK, Precisions(base="fp16", fp32=frozenset({middle.name})), {})
    types, node = typed(model), by_name(model)[middle.name]
    assert types[node.output[0]] == onnx.TensorProto.FLOAT
    assert {types[n.output[0]] for n in model.graph.node if n.op_type == "Conv" and n.name != middle.name} == {onnx.TensorProto.FLOAT16}


def test_what_fp16_does_not_hold_is_found() -> None:
    """A node that reads or writes a value beyond fp16 is named, and one whose weights are."""
    value = NETWORK.nodes[2].outputs[0]
    touching = {NETWORK.nodes[2].name, *(node.name for node in NETWORK.consumers[value])}
    assert too_large(NETWORK, {value: (-LARGEST * 1.01, 0.0)}) == touching
    assert too_large(NETWORK, RANGES) == frozenset()


def test_a_missing_or_infinite_range_is_named() -> None:
    """Calibration that is not there, or that blew up, stops the writing."""
    with pytest.raises(GraphError, match="value 'image' of graph 'residual' has no range"):
        write(NETWORK, Precisions(int8=PRODUCTS), {})
    with pytest.raises(GraphError, match="'image' is not finite"):
        write(NETWORK, Precisions(int8=PRODUCTS), {**RANGES, "image": (0.0, float("inf"))})


def test_nodes_are_counted_by_precision() -> None:
    """Every node has one precision."""
    found = counts(NETWORK, Precisions(base="fp16", int8=PRODUCTS))
    assert found == {"int8": len(PRODUCTS), "fp16": len(NETWORK.nodes) - len(PRODUCTS)}


def test_bounds_and_sizes_follow_their_nodes() -> None:
    """Limits of a Clip take the type of the data; sizes of a Resize keep theirs."""
    b = GraphBuilder("ends")
    x = b.op("Clip", [b.input("x", (1, 3, 4, 4))], min=0.0, max=6.0)
    x = b.op("Resize", [x], scales=(1.0, 1.0, 2.0, 2.0), mode="nearest")
    typed(write(b.finish(b.op("Softmax", [x])), Precisions(base="fp16"), {}))


@pytest.mark.parametrize("op", ["Celu", "IsInf"])
def test_what_onnx_has_not_in_fp16_stays(op: str) -> None:
    """Operators that ONNX defines in fp32 alone, in the opset that is written; they are counted and foretold as what they are."""
    b = GraphBuilder("fixed")
    graph, half = b.finish(b.op(op, [b.op("Softmax", [b.input("x", (1, 2, 4))])])), Precisions(base="fp16")
    typed(write(graph, half, {}))
    assert counts(graph, half) == {"fp16": 1, "fp32": 1}
    assert {call.kernel.op: call.kernel.precision for call in FUSERS["fp16"](graph)} == {"Softmax": "fp16", op: "fp32"}


@given(strategies.graphs())
def test_any_network_keeps_valid_types(graph: Graph) -> None:
    """Whatever the operators, the model in fp16 and in int8 passes ONNX's own check, and its ends are what they were."""
    graph = fold(graph.materialize(np.random.default_rng(0)))
    ranges = dict.fromkeys(activations(graph), (-1.0, 1.0))
    for precisions in (Precisions(base="fp16"), Precisions(base="fp16", int8=frozenset(quantisable(graph)))):
        model = write(graph, precisions, ranges)
        onnx.checker.check_model(model, full_check=True)
        assert [value.name for value in model.graph.output] == list(graph.outputs)
