"""Finding a foretold graph in one that the runtime made, on graphs written by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnx import helper

from hwnas.ir import Graph, GraphBuilder
from hwnas.runtimes.ort_fusion import plan
from hwnas.runtimes.ort_kernels import NCHWC_DOMAIN
from hwnas.runtimes.ort_match import Found, match

PLAIN = 1  # channels per block


def node(op: str, reads: str, writes: str, domain: str = "") -> Any:
    return helper.make_node(op, reads.split(), writes.split(), domain=domain)


def matched(graph: Graph, nodes: Mapping[str, Any], *constants: str, block: int = PLAIN) -> Found:
    return match(plan(graph, block), nodes, constants)


def branches() -> Graph:
    """Two branches that begin with the same operator on the same value, of other sizes."""
    b = GraphBuilder("branches")
    x = b.input("x", (1, 4, 6, 6))
    return b.finish(b.op("Elu", [b.conv(x, 4)]), b.op("Neg", [b.conv(x, 8)]))


def test_every_node_finds_its_own() -> None:
    """Names of inner values and of nodes do not matter: among equal operators the readers tell, down to a value that kept its name."""
    nodes = {
        "one": node("Conv", "x wb bb", "t1"),
        "two": node("Conv", "x wa ba", "t2"),
        "three": node("Neg", "t1", "neg_0_out"),
        "four": node("Elu", "t2", "elu_0_out"),
    }
    found = matched(branches(), nodes, "wa", "ba", "wb", "bb")
    assert found.whole
    assert found.calls["one"].nodes == ("conv_1",)
    assert found.calls["two"].nodes == ("conv_0",)
    assert found.calls["four"].kernel.op == "Elu"


def test_what_is_missing_and_what_is_left_over() -> None:
    """A node of another operator, or that reads something else, is missing here; ours that nobody asked for are surplus."""
    other = {
        "one": node("Conv", "x wb bb", "t1"),
        "two": node("Conv", "x wa ba", "t2"),
        "three": node("Neg", "t2", "neg_0_out"),
        "four": node("Selu", "t1", "elu_0_out"),
    }
    found = matched(branches(), other, "wa", "ba", "wb", "bb")
    assert not found.whole
    assert "Selu" in found.missing
    assert "Elu" in {planned.op for planned in found.surplus}
    fewer = {name: other[name] for name in ("one", "two")}
    assert not matched(branches(), fewer, "wa", "ba", "wb", "bb").whole


def test_operators_under_other_names() -> None:
    """A convolution that absorbed an activation has a name of its own in the runtime."""
    b = GraphBuilder("fused")
    graph = b.finish(b.op("Relu", [b.conv(b.input("x", (1, 4, 6, 6)), 4)]))
    found = matched(graph, {"fused": node("FusedConv", "x w b", "relu_0_out", "com.microsoft")}, "w", "b")
    assert found.whole
    assert found.calls["fused"].kernel.fused == ("Relu",)


def test_blocks_are_told_apart() -> None:
    """The same operator in another layout is another node."""
    b = GraphBuilder("blocked")
    graph = b.finish(b.conv(b.input("x", (1, 16, 6, 6)), 16))
    nodes = {
        "in": node("ReorderInput", "x", "t0", NCHWC_DOMAIN),
        "conv": node("Conv", "t0 w b", "t1", NCHWC_DOMAIN),
        "out": node("ReorderOutput", "t1", "conv_0_out", NCHWC_DOMAIN),
    }
    assert matched(graph, nodes, "w", "b", block=8).whole
    plain = {**nodes, "conv": node("Conv", "t0 w b", "t1")}
    assert "Conv" in matched(graph, plain, "w", "b", block=8).missing


def test_a_definition_is_one_node() -> None:
    """Nodes inside an operator that the runtime replaced by its definition stand for that operator, all of them."""
    b = GraphBuilder("defined")
    x = b.op("Neg", [b.input("x", (1, 4))])
    x = b.op("Reshape", [x], shape=(1, 4, 1))
    graph = b.finish(b.op("GroupNormalization", [x, b.weight("s", (4,)), b.weight("z", (4,))], num_groups=2))
    call = next(planned.call for planned in plan(graph, PLAIN) if planned.op == "GroupNormalization")
    inner = "_inlfunc_GroupNormalization_"
    nodes = {
        "neg": node("Neg", "x", "neg_0_out"),
        "reshape": node("Reshape", "neg_0_out shape", "reshape_0_out"),
        "a": node("InstanceNormalization", "reshape_0_out s", f"{inner}a"),
        "b": node("Mul", f"{inner}a s", f"{inner}b"),
        "c": node("Add", f"{inner}b z", call.output),
    }
    found = matched(graph, nodes, "s", "z", "shape")
    assert found.whole
    assert found.calls["a"] is found.calls["b"] is found.calls["c"]
    assert found.calls["c"].nodes == call.nodes


def test_definitions_behind_one_another() -> None:
    """What the first writes is no part of it: the second, which reads it, is a node of its own."""
    b = GraphBuilder("norms")
    x = b.input("x", (1, 4, 3))
    for _ in range(2):
        x = b.op("GroupNormalization", [x, b.weight("s", (4,)), b.weight("b", (4,))], num_groups=2)
    found = matched(
        b.finish(x),
        {
            "one": node("Sub", "x", "_inlfunc_GroupNormalization_a"),
            "two": node("Mul", "_inlfunc_GroupNormalization_a", "groupnormalization_0_out"),
            "three": node("Sub", "groupnormalization_0_out", "_inlfunc_GroupNormalization_token_0_a"),
            "four": node("Mul", "_inlfunc_GroupNormalization_token_0_a", "groupnormalization_1_out"),
        },
    )
    assert found.whole
    assert [found.calls[name].nodes[0][-1] for name in ("one", "two", "three", "four")] == ["0", "0", "1", "1"]
