"""Layers of an engine become kernels that name nodes of the graph, in whatever way TensorRT put it."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pytest

from hwnas.errors import GraphError
from hwnas.ir import Graph, GraphBuilder, KernelCall
from hwnas.ir.fold import fold
from hwnas.runtimes.trt_kernels import Written, attribute
from hwnas.runtimes.trt_layers import from_inspector
from hwnas.runtimes.trt_precision import Precisions, quantisable, write

FP16 = "Channel major FP16 format where channel % 8 == 0"
BITS = "Thirty-two wide channel vectorized row major Int8 format"
LINEAR = "Row major linear FP32"


def network() -> Graph:
    """Two convolutions with a normalisation and a residual, a mean, a reshape and a classifier."""
    b = GraphBuilder("network")
    x = b.op("Relu", [b.batch_norm(b.conv(b.input("x", (1, 8, 8, 8)), 8, kernel=3, bias=False))])
    x = b.op("Relu", [b.op("Add", [b.conv(x, 8), x])])
    return b.finish(b.linear(b.op("Flatten", [b.op("GlobalAveragePool", [x])]), 4)).materialize(np.random.default_rng(0))


GRAPH = network()


def tensor(name: str, words: str, *shape: int) -> dict[str, object]:
    """A tensor as the inspector writes it."""
    return {"Name": name, "Location": "Device", "Dimensions": list(shape), "Format/Datatype": words}


def layer(name: str, *nodes: str, kind: str = "CaskConvolution", reads: object = None, writes: object = None) -> dict[str, object]:
    """A layer as the inspector writes it."""
    metadata = "\x1e".join(f"[ONNX Layer: {node}]" for node in nodes)
    return {
        "Name": name,
        "LayerType": kind,
        "Inputs": [reads or tensor("x", LINEAR, 1, 8, 8, 8)],
        "Outputs": [writes or tensor("y", LINEAR, 1, 8, 8, 8)],
        "Metadata": metadata,
    }


def copy(target: str, value: str = "x") -> dict[str, object]:
    """A copy into another layout for a layer."""
    name = f"Reformatting CopyNode for Input Tensor 0 to {target}"
    written = tensor(f"Reformatted Input Tensor 0 to {target}", FP16, 1, 8, 8, 8)
    return layer(name, kind="Reformat", reads=tensor(value, LINEAR, 1, 8, 8, 8), writes=written)


def read(layers: list[object], precision: str = "fp32", names: tuple[str, ...] = (), graph: Graph = GRAPH) -> Mapping[str, KernelCall]:
    """Kernels of these layers, of an engine in that precision."""
    folded = fold(graph)
    int8 = frozenset(quantisable(folded)) if precision == "int8" else frozenset()
    how = Precisions(base="fp32" if precision == "fp32" else "fp16", int8=int8)
    ranges = dict.fromkeys((*folded.inputs, *(value for node in folded.nodes for value in node.outputs)), (-2.0, 2.0))
    written = Written.of(write(folded, how, ranges), graph)
    asked = {node.name: how.of(node) for node in folded.nodes}
    return attribute(graph, written, from_inspector(json.dumps({"Layers": layers})), asked, names)


WHOLE = [
    layer("conv_0 + relu_0", "conv_0", "relu_0"),
    layer("conv_1 + add_0 + relu_1", "conv_1", "add_0", "relu_1"),
    layer("pool", "globalaveragepool_0", kind="Pooling"),
    layer("gemm", "gemm_0", kind="kgen"),
]


def test_every_node_has_its_kernel() -> None:
    """Folded normalisations go with their convolution, reshapes that cost nothing with what reads them."""
    calls = list(read(WHOLE).values())
    assert [(call.kernel.op, call.kernel.fused, call.nodes) for call in calls] == [
        ("Conv", ("Relu",), ("conv_0", "batchnormalization_0", "relu_0")),
        ("Conv", ("Add", "Relu"), ("conv_1", "add_0", "relu_1")),
        ("GlobalAveragePool", (), ("globalaveragepool_0",)),
        ("Gemm", (), ("flatten_0", "gemm_0")),
    ]
    assert [call.output for call in calls] == ["relu_0_out", "relu_1_out", "globalaveragepool_0_out", "gemm_0_out"]


def test_a_copy_names_the_kernel_that_needs_it() -> None:
    """By the layer in its name, and by who reads what it writes where its name says nothing."""
    nameless = layer(
        "__myl_Move_0", kind="Reformat", reads=tensor("relu_0_out", LINEAR, 1, 8, 8, 8), writes=tensor("moved", FP16, 1, 8, 8, 8)
    )
    second = {**WHOLE[1], "Inputs": [tensor("moved", FP16, 1, 8, 8, 8)]}
    calls = list(read([copy("conv_0 + relu_0"), WHOLE[0], nameless, second, *WHOLE[2:]]).values())
    assert [call.kernel.op for call in calls[:4]] == ["Reformat", "Conv", "Reformat", "Conv"]
    assert (calls[0].nodes, calls[0].output) == (calls[1].nodes, "x")
    assert (calls[2].nodes, calls[2].output) == (calls[3].nodes, "relu_0_out")
    assert {call.kernel.precision for call in calls[::2][:2]} == {"fp16"}
    assert calls[0].kernel.inputs == (GRAPH.specs["x"],)


def test_what_is_written_for_a_precision_belongs_to_what_it_serves() -> None:
    """A Cast that runs alone adds to the convolution that reads it, or at the network's end to what it casts."""
    cast, last = layer("cast", "x_fp16_cast", kind="kgen"), layer("last", "gemm_0_out_cast", kind="kgen")
    calls = read([cast, *WHOLE, last], "fp16")
    assert calls["cast"] is calls["conv_0 + relu_0"]
    assert calls["last"] is calls["gemm"]
    assert list(calls)[-2:] == ["cast", "last"]
    assert len(set(calls.values())) == 4


def test_int8_is_told_by_what_is_read_or_dequantised() -> None:
    """A convolution that reads 8 bits, and one whose own layer dequantises, compute in int8; the rest of the network in fp16."""
    bits = {**WHOLE[0], "Inputs": [tensor("q", BITS, 1, 8, 8, 8)], "Outputs": [tensor("y", FP16, 1, 8, 8, 8)]}
    inside = layer("conv_1", "relu_0_out_fp16_QuantizeLinear", "conv_1_weight_DequantizeLinear", "conv_1", "add_0", "relu_1")
    inside["Outputs"] = [tensor("z", FP16, 1, 8, 8, 8)]
    pool = {**WHOLE[2], "Outputs": [tensor("p", "Half", 1, 8, 1, 1)]}
    calls = list(read([bits, inside, pool, {**WHOLE[3], "Outputs": []}], "int8").values())
    assert [call.kernel.precision for call in calls] == ["int8", "int8", "fp16", "int8"]


def test_an_engine_that_widened_a_product_says_so() -> None:
    """A convolution that was asked for in int8 and neither reads 8 bits nor dequantises computes in what it writes."""
    wide = {**WHOLE[0], "Inputs": [tensor("x", FP16, 1, 8, 8, 8)], "Outputs": [tensor("y", FP16, 1, 8, 8, 8)]}
    assert read([wide, *WHOLE[1:]], "int8")["conv_0 + relu_0"].kernel.precision == "fp16"


@pytest.mark.parametrize("metadata", [True, False])
def test_a_block_is_one_kernel_that_names_its_members(metadata: bool) -> None:
    """With its metadata, and with nothing but the names of its ends."""
    inner = ("conv_1", "add_0", "relu_1", "globalaveragepool_0", "gemm_0") if metadata else ()
    block = layer("{ForeignNode[conv_1...gemm_0]}", *inner, kind="Myelin")
    first, call = read([WHOLE[0], block]).values()
    assert first.nodes == ("conv_0", "batchnormalization_0", "relu_0")
    assert call.nodes == ("conv_1", "add_0", "relu_1", "globalaveragepool_0", "flatten_0", "gemm_0")
    assert call.kernel.op == "ForeignNode"
    assert call.kernel.fused == ("Conv", "Add", "Relu", "GlobalAveragePool", "Flatten", "Gemm")
    assert len(call.kernel.weights) == 2
    assert call.output == "gemm_0_out"


def test_names_alone_are_enough() -> None:
    """An engine without details names layers after the nodes that it fused."""
    names = ["conv_0 + relu_0", "PWN(conv_1 + add_0, relu_1)", "globalaveragepool_0", "gemm_0"]
    calls = read(list(names))
    assert [call.nodes for call in calls.values()] == [call.nodes for call in read(WHOLE).values()]


def test_a_node_in_two_layers_belongs_to_the_first() -> None:
    """A layer with nothing of its own adds to the kernel of its nodes; one with something takes that alone."""
    again, more = layer("again", "conv_0"), layer("more", "relu_0", "conv_1", "add_0", "relu_1")
    calls = read([WHOLE[0], again, more, *WHOLE[2:]])
    assert calls["again"] is calls["conv_0 + relu_0"]
    assert calls["more"].nodes == ("conv_1", "add_0", "relu_1")


def test_layers_of_which_nothing_is_known_add_to_the_one_before() -> None:
    """Those of the inspector, and those that only the profiler tells."""
    calls = read([WHOLE[0], layer("[NoOp]", kind="NoOp"), *WHOLE[1:]], names=("gemm", "Wait"))
    assert calls["[NoOp]"] is calls["conv_0 + relu_0"]
    assert calls["Wait"] is calls["gemm"]


def test_an_engine_without_any_name_is_refused() -> None:
    """With what to do."""
    with pytest.raises(GraphError, match="no layer of TensorRT's engine names a node of graph 'network'; build it with detailed"):
        read([layer("one"), layer("two")])


def test_hidden_sizes_of_blocks_tell_them_apart() -> None:
    """Two blocks with the same ends and operators, and other weights inside, are two kernels."""

    def block(hidden: int) -> KernelCall:
        b = GraphBuilder("block")
        graph = b.finish(b.linear(b.op("Relu", [b.linear(b.input("x", (1, 8)), hidden)]), 8)).materialize(np.random.default_rng(0))
        one = layer("{ForeignNode[gemm_0...gemm_1]}", "gemm_0", "relu_0", "gemm_1", kind="Myelin")
        (call,) = read([one], graph=graph).values()
        return call

    assert block(16).kernel != block(32).kernel
