"""Reading optimised models back, on models written by hand; the real ones are in tests/integration/test_ort_kernels.py."""

from __future__ import annotations

from typing import Any

import pytest
from onnx import helper

from hwnas.errors import GraphError
from hwnas.ir import Graph, GraphBuilder
from hwnas.runtimes.fusions import Fusions
from hwnas.runtimes.ort_kernels import NCHWC_DOMAIN, attribute


def model(*nodes: Any) -> Any:
    return helper.make_model(helper.make_graph(list(nodes), "optimized", [], []))


def node(op: str, reads: str, writes: str, name: str, domain: str = "", **attrs: Any) -> Any:
    return helper.make_node(op, reads.split(), writes.split(), name=name, domain=domain, **attrs)


def swish() -> Graph:
    """A convolution and a HardSwish, read by another convolution."""
    b = GraphBuilder("swish")
    x = b.op("HardSwish", [b.conv(b.input("x", (1, 16, 4, 4)), 16)])
    return b.finish(b.conv(x, 8))


BLOCKED = (
    node("ReorderInput", "x", "t0", "ReorderInput", NCHWC_DOMAIN),
    node("Conv", "t0 w_0 b_0", "t1", "conv_0_out_nchwc", NCHWC_DOMAIN),
    node("HardSigmoid", "t1", "t2", ""),
    node("Mul", "t1 t2", "t3", ""),
    node("Conv", "t3 w_1 b_1", "t4", "conv_1_out_nchwc", NCHWC_DOMAIN),
    node("ReorderOutput", "t4", "conv_1_out", "ReorderOutput", NCHWC_DOMAIN),
)
RAN = {
    "ReorderInput": "ReorderInput",
    "conv_0_out_nchwc": "Conv",
    "HardSigmoid_7": "HardSigmoid",
    "Mul_8": "Mul",
    "conv_1_out_nchwc": "Conv",
    "ReorderOutput": "ReorderOutput",
}


def test_a_definition_is_one_kernel() -> None:
    """The nodes that replace a HardSwish, nameless and blocked, are one kernel of that operator."""
    calls = attribute(swish(), model(*BLOCKED), RAN, 8)
    assert list(calls) != []
    assert calls["HardSigmoid_7"] is calls["Mul_8"]
    assert (calls["Mul_8"].kernel.op, calls["Mul_8"].nodes, calls["Mul_8"].output) == ("HardSwish", ("hardswish_0",), "hardswish_0_out")


def test_reorders_name_who_needs_them() -> None:
    """A re-order carries the graph's value and the nodes of its first reader; that of an output the nodes that wrote it."""
    calls = attribute(swish(), model(*BLOCKED), RAN, 8)
    assert (calls["ReorderInput"].nodes, calls["ReorderInput"].output) == (("conv_0",), "x")
    assert (calls["ReorderOutput"].nodes, calls["ReorderOutput"].output) == (("conv_1",), "conv_1_out")
    assert calls["ReorderInput"].kernel.layout == "nchwc8"


def test_a_residual_and_its_activation() -> None:
    """A blocked convolution's fourth input is an Add, its attribute an activation: both belong to it."""
    b = GraphBuilder("residual")
    x = b.input("x", (1, 16, 4, 4))
    graph = b.finish(b.op("Relu", [b.op("Add", [b.conv(x, 16), b.conv(x, 16)])]))
    optimized = model(
        node("ReorderInput", "x", "t0", "ReorderInput", NCHWC_DOMAIN),
        node("Conv", "t0 w_1 b_1", "t1", "conv_1_out_nchwc", NCHWC_DOMAIN),
        node("Conv", "t0 w_0 b_0 t1", "t2", "conv_0_out_nchwc", NCHWC_DOMAIN, activation="Relu"),
        node("ReorderOutput", "t2", "relu_0_out", "ReorderOutput", NCHWC_DOMAIN),
    )
    calls = attribute(graph, optimized, {item.name: item.op_type for item in optimized.graph.node}, 8)
    assert calls["conv_0_out_nchwc"].kernel.fused == ("Add", "Relu")
    assert calls["conv_0_out_nchwc"].output == "relu_0_out"
    assert calls["ReorderInput"].nodes == calls["conv_0_out_nchwc"].nodes


UNKNOWN = Fusions(patterns=frozenset())  # a runtime whose rules nobody foretells: names alone tell


def test_sums_and_scales_of_blocked_data() -> None:
    """A Sum of two is a residual like an Add; a scale by channel, which runs as a convolution, stays a Mul."""
    b = GraphBuilder("scaled")
    x = b.conv(b.input("x", (1, 16, 4, 4)), 16)
    total = b.op("Sum", [b.conv(x, 16), x])
    graph = b.finish(b.conv(b.op("Mul", [total, b.weight("scale", (16, 1, 1))]), 16))
    optimized = model(
        node("ReorderInput", "x", "t0", "ReorderInput", NCHWC_DOMAIN),
        node("Conv", "t0 w_0 b_0", "t1", "conv_0_out_nchwc", NCHWC_DOMAIN),
        node("Conv", "t1 w_1 b_1 t1", "t2", "conv_1_out_nchwc", NCHWC_DOMAIN),
        node("Conv", "t2 scale_0", "t3", "mul_0_out_mul_nchwc", NCHWC_DOMAIN),
        node("Conv", "t3 w_2 b_2", "t4", "conv_2_out_nchwc", NCHWC_DOMAIN),
        node("ReorderOutput", "t4", "conv_2_out", "ReorderOutput", NCHWC_DOMAIN),
    )
    calls = attribute(graph, optimized, {item.name: item.op_type for item in optimized.graph.node}, UNKNOWN)
    assert (calls["conv_1_out_nchwc"].kernel.op, calls["conv_1_out_nchwc"].kernel.fused) == ("Conv", ("Sum",))
    assert (calls["mul_0_out_mul_nchwc"].kernel.op, calls["mul_0_out_mul_nchwc"].nodes) == ("Mul", ("mul_0",))
    assert calls["mul_0_out_mul_nchwc"].kernel.layout == "nchwc8"


def test_a_product_and_its_bias_are_one_gemm() -> None:
    """With the reshapes around it, which write a value of the graph, or nothing that the graph knows."""
    b = GraphBuilder("tokens")
    x = b.input("x", (1, 4, 8))
    added = b.op("Add", [b.op("MatMul", [x, b.weight("w", (8, 6))]), b.weight("bias", (6,))])
    graph = b.finish(b.op("Relu", [added]))
    optimized = model(
        node("Reshape", "x s", "t0", "gemm_input_reshape"),
        node("Gemm", "t0 w_0 bias_0", "t1", "matmul_0/MatMulAddFusion"),
        node("Reshape", "t1 s", "add_0_out", "gemm_output_reshape"),
        node("Relu", "add_0_out", "relu_0_out", "relu_0"),
    )
    calls = attribute(graph, optimized, {item.name: item.op_type for item in optimized.graph.node}, UNKNOWN)
    gemm = calls["matmul_0/MatMulAddFusion"]
    assert (gemm.kernel.op, gemm.nodes, gemm.output) == ("Gemm", ("matmul_0", "add_0"), "add_0_out")
    assert calls["gemm_input_reshape"] == calls["gemm_output_reshape"] == gemm


def test_values_called_after_the_nodes_that_wrote_them() -> None:
    """A moved node writes values of other shapes under the name of the node, made unique by a number; each output is followed."""
    b = GraphBuilder("parts")
    left, right = b.ops("Split", [b.op("Transpose", [b.input("x", (1, 4, 8))], perm=(0, 2, 1))], outputs=2, split=(4, 4), axis=1)
    graph = b.finish(b.op("Relu", [left]), b.op("Abs", [right]))
    optimized = model(
        node("Split", "x s", "split_0_token_3 split_0_token_4", "moved", axis=2),
        node("Transpose", "split_0_token_3", "split_0_out0", "turned"),
        node("Relu", "split_0_out0", "relu_0_out", "relu_0"),
        node("Abs", "split_0_token_4", "t0", "abs_0"),
        node("Transpose", "t0", "abs_0_out", "turned_too"),
    )
    calls = attribute(graph, optimized, {item.name: item.op_type for item in optimized.graph.node}, UNKNOWN)
    assert (calls["moved"].kernel.op, calls["moved"].nodes) == ("Split", ("transpose_0", "split_0"))
    assert calls["turned"] == calls["moved"]
    assert calls["turned_too"] == calls["abs_0"]


def test_what_is_done_twice_belongs_to_one_kernel() -> None:
    """A node that computes again what another one did adds to that one's kernel."""
    b = GraphBuilder("twice")
    graph = b.finish(b.op("Relu", [b.input("x", (1, 4))]))
    calls = attribute(
        graph,
        model(node("Relu", "x", "relu_0_out", "relu_0"), node("Relu", "x", "t", "relu_0/again")),
        {"relu_0": "Relu", "relu_0/again": "Relu"},
        8,
    )
    assert calls["relu_0"] == calls["relu_0/again"]


def test_a_stray_node_is_refused() -> None:
    """A node that leads to no value of the graph is named: its time would be lost."""
    stray = node("Softmax", "conv_1_out", "t9", "mystery")
    with pytest.raises(GraphError, match=r"node 'mystery' \(Softmax\) does not correspond to a node of graph 'swish'"):
        attribute(swish(), model(*BLOCKED, stray), {**RAN, "mystery": "Softmax"}, 8)


def test_a_node_that_did_not_run_is_refused() -> None:
    """The profiler must show every node of the optimised graph."""
    ran = {name: op for name, op in RAN.items() if name != "Mul_8"}
    with pytest.raises(GraphError, match=r"shows no run of node '' \(Mul\)"):
        attribute(swish(), model(*BLOCKED), ran, 8)
