"""Kernels: their text, and how a group of nodes becomes one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import graphs

from hwnas.ir import Graph, GraphBuilder, Kernel, TensorSpec
from hwnas.ir.kernel import copied, make_call, members_of
from hwnas.ir.node import DTYPE_BYTES

specs = st.builds(TensorSpec, st.lists(st.integers(1, 512), max_size=4).map(tuple), st.sampled_from(sorted(DTYPE_BYTES)))
values = st.integers(-(2**40), 2**40) | st.floats(0.1, 0.9) | st.text(max_size=8) | st.lists(st.integers(0, 9), max_size=4).map(tuple)
kernels = st.builds(
    Kernel,
    op=st.sampled_from(["Conv", "Gemm", "ReorderInput", "QuickGelu"]),
    fused=st.lists(st.sampled_from(["Relu", "Add", "Clip"]), max_size=2).map(tuple),
    inputs=st.lists(specs, max_size=3).map(tuple),
    weights=st.lists(specs, max_size=2).map(tuple),
    outputs=st.lists(specs, min_size=1, max_size=2).map(tuple),
    attrs=st.dictionaries(st.text("abc_", min_size=1, max_size=6), values, max_size=4).map(lambda attrs: tuple(sorted(attrs.items()))),
    layout=st.sampled_from(["nchw", "nchwc8"]),
    precision=st.sampled_from(["fp32", "int8"]),
)


@given(kernels)
def test_the_text_keeps_everything(kernel: Kernel) -> None:
    """A kernel read back from its text equals the one that was written, and hashes alike."""
    found = Kernel.from_json(kernel.to_json())
    assert found == kernel
    assert hash(found) == hash(kernel)
    assert found.to_json() == kernel.to_json()


@given(kernels, kernels)
def test_equal_texts_are_equal_kernels(one: Kernel, other: Kernel) -> None:
    """Texts tell kernels apart exactly as equality does."""
    assert (one == other) == (one.to_json() == other.to_json())


@settings(max_examples=50, deadline=None)
@given(graphs())
def test_the_kernels_of_graphs_survive(graph: Graph) -> None:
    """Every operator's canonical attributes come back from the text with their types."""
    for node in graph.nodes:
        kernel = make_call(graph, [node], op=node.op).kernel
        assert Kernel.from_json(kernel.to_json()) == kernel


def test_the_text_is_json_on_one_line() -> None:
    """It goes into a table's cell and a journal's line."""
    x = TensorSpec((1, 8, 4, 4))
    text = Kernel(op="Relu", inputs=(x,), outputs=(x,)).to_json()
    assert "\n" not in text
    assert json.loads(text)["inputs"] == [["float32", 1, 8, 4, 4]]


def test_attributes_by_name() -> None:
    """An attribute that the leading operator has not gives the default."""
    x = TensorSpec((1, 8))
    kernel = Kernel(op="Relu", inputs=(x,), outputs=(x,), attrs=(("axis", 1),))
    assert (kernel.attr("axis"), kernel.attr("group", 1), kernel.attr("group")) == (1, 1, None)


def network() -> Graph:
    """Convolution, batch norm, a copy, a residual Add, Relu; then a fully connected layer."""
    b = GraphBuilder("network")
    x = b.input("x", (1, 8, 4, 4))
    y = b.op("Identity", [b.batch_norm(b.conv(x, 8, kernel=3))])
    y = b.op("Relu", [b.op("Add", [x, y])])
    return b.finish(b.linear(b.op("Flatten", [b.op("GlobalAveragePool", [y])]), 10))


def test_a_group_becomes_a_kernel() -> None:
    """The lead gives operator, attributes and the first input; the others are what it absorbed, without those that were folded."""
    graph = network()
    nodes = {node.op: node for node in graph.nodes}
    call = make_call(
        graph, [nodes[op] for op in ("Conv", "BatchNormalization", "Add", "Relu")], op="Conv", layout="nchwc8", precision="fp16"
    )
    kernel = call.kernel
    assert (kernel.op, kernel.fused, kernel.layout, kernel.precision) == ("Conv", ("Add", "Relu"), "nchwc8", "fp16")
    assert kernel.attrs == nodes["Conv"].attrs
    assert kernel.weights == (TensorSpec((8, 8, 3, 3)),)
    assert kernel.inputs[0] == graph.specs["x"]
    assert call.nodes == ("conv_0", "batchnormalization_0", "add_0", "relu_0")
    assert call.output == "relu_0_out"
    assert kernel.outputs == (graph.specs["relu_0_out"],)


def test_a_value_inside_is_no_input() -> None:
    """What one member writes and another reads stays inside; what comes from elsewhere is read once, however many read it."""
    b = GraphBuilder("swish")
    x = b.input("x", (1, 4))
    graph = b.finish(b.op("Mul", [x, b.op("Sigmoid", [x])]))
    call = make_call(graph, graph.nodes, op="QuickGelu")
    assert call.kernel.inputs == (graph.specs["x"],)
    assert (call.kernel.op, call.kernel.fused) == ("QuickGelu", ("Mul",))


def test_the_leads_inputs_come_first() -> None:
    """What the leading operator reads is described first, wherever it stands in the group."""
    b = GraphBuilder("late")
    x, y, z = (b.input(name, (1, size, 4)) for name, size in (("x", 2), ("y", 2), ("z", 3)))
    graph = b.finish(b.op("MatMul", [z, b.op("Transpose", [b.op("Add", [x, y])], perm=(0, 2, 1))]))
    call = make_call(graph, graph.nodes, op="MatMul")
    assert call.kernel.inputs == tuple(graph.specs[name] for name in "zxy")
    assert call.kernel.fused == ("Add", "Transpose")


@pytest.mark.parametrize("bias", [True, False])
def test_biases_do_not_count(bias: bool) -> None:
    """A layer's kernel has one weight, with a bias or without: a bias rides along."""
    b = GraphBuilder("dense")
    graph = b.finish(b.linear(b.input("x", (1, 4)), 3, bias=bias))
    assert make_call(graph, graph.nodes, op="Gemm").kernel.weights == (TensorSpec((3, 4)),)


def test_other_constants_count() -> None:
    """The constant operand of an element-wise operator is a weight of its kernel, not an input."""
    b = GraphBuilder("scale")
    graph = b.finish(b.op("Mul", [b.input("x", (1, 4)), b.weight("s", (4,))]))
    kernel = make_call(graph, graph.nodes, op="Mul").kernel
    assert (kernel.inputs, kernel.weights) == ((TensorSpec((1, 4)),), (TensorSpec((4,)),))


def test_members_lead_to_a_value() -> None:
    """The members of a value are the nodes on the way to it that nobody owns, in the graph's order, copies left out."""
    graph = network()
    assert [node.op for node in members_of(graph, "relu_0_out", set())] == ["Conv", "BatchNormalization", "Add", "Relu"]
    assert [node.op for node in members_of(graph, "relu_0_out", {"batchnormalization_0"})] == ["Add", "Relu"]
    assert members_of(graph, "relu_0_out", {"relu_0"}) == []
    assert members_of(graph, "x", set()) == []


def test_a_copy_that_stands_alone_is_a_member() -> None:
    """Where a runtime runs a copy, the copy is the kernel."""
    graph = network()
    assert [node.op for node in members_of(graph, "identity_0_out", {"batchnormalization_0"})] == ["Identity"]


def test_what_a_copy_copies() -> None:
    """Copies of copies lead back to the value that was computed."""
    b = GraphBuilder("copies")
    x = b.op("Relu", [b.input("x", (1, 4))])
    graph = b.finish(b.op("Identity", [b.op("Identity", [x])]))
    assert copied(graph, "identity_1_out") == copied(graph, "identity_0_out") == copied(graph, x) == x
    assert copied(graph, "x") == "x"


def test_constants_are_folded() -> None:
    """What is computed from weights alone is computed when a network is built: no member, but a weight of the kernel that reads it."""
    b = GraphBuilder("folded")
    weight = b.op("Transpose", [b.weight("w", (3, 4))], perm=(1, 0))
    graph = b.finish(b.op("MatMul", [b.input("x", (1, 4)), weight]))
    assert graph.constants == {"w_0", weight}
    assert [node.op for node in members_of(graph, "matmul_0_out", set())] == ["MatMul"]
    kernel = make_call(graph, graph.nodes[1:], op="MatMul").kernel
    assert (kernel.inputs, kernel.weights) == ((TensorSpec((1, 4)),), (TensorSpec((4, 3)),))
