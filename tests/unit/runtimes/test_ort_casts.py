"""Models in fp16 read like the graph in fp32, and each conversion has its owner."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from onnx import ModelProto, TensorProto, helper

from hwnas.errors import GraphError
from hwnas.ir import Graph, GraphBuilder
from hwnas.runtimes.ort_casts import INSERTED, without_casts


def graph() -> Graph:
    """A value that is rounded, with a conversion of its own, and returned twice."""
    b = GraphBuilder("small")
    x = b.op("Relu", [b.input("x", (1, 4))])
    return b.finish(b.op("Tanh", [x]), b.op("Cast", [b.op("Sigmoid", [x])], to="int64"))


def model(*nodes: tuple[str, str, str, str], constants: Sequence[str] = ()) -> ModelProto:
    """Nodes as (operator, name, reads, writes)."""
    found = ModelProto()
    found.graph.node.extend(helper.make_node(op, [reads], [writes], name=name) for op, name, reads, writes in nodes)
    found.graph.initializer.extend(TensorProto(name=name) for name in constants)
    return found


def test_values_have_the_names_of_the_graph() -> None:
    """At both ends, and around an operator that has no kernel in fp16; what the graph itself converts stays."""
    optimized = model(
        ("Cast", "x_fp16_cast", "x", "x_fp16"),
        ("Relu", "relu_0", "x_fp16", "relu_0_out"),
        ("Cast", f"{INSERTED}1", "relu_0_out", f"{INSERTED}relu_0_out"),
        (
            "Sigmoid",
            f"{INSERTED}sigmoid_0",
            f"{INSERTED}relu_0_out",
            f"{INSERTED}sigmoid_0_out",
        ),
        ("Tanh", "tanh_0", "relu_0_out", "tanh_0_out_fp16"),
        ("Cast", "tanh_0_out_cast", "tanh_0_out_fp16", "tanh_0_out"),
        ("Cast", "cast_0", f"{INSERTED}sigmoid_0_out", "cast_0_out"),
        constants=[f"{INSERTED}w"],
    )
    plain = without_casts(graph(), optimized)
    assert [(node.name, *node.input, *node.output) for node in plain.model.graph.node] == [
        ("relu_0", "x", "relu_0_out"),
        ("sigmoid_0", "relu_0_out", "sigmoid_0_out"),
        ("tanh_0", "relu_0_out", "tanh_0_out"),
        ("cast_0", "sigmoid_0_out", "cast_0_out"),
    ]
    assert [tensor.name for tensor in plain.model.graph.initializer] == ["w"]
    assert plain.stays["sigmoid_0"] == f"{INSERTED}sigmoid_0"
    assert plain.serves == {"x_fp16_cast": "relu_0", f"{INSERTED}1": "sigmoid_0", "tanh_0_out_cast": "tanh_0"}


def test_a_conversion_of_nothing() -> None:
    """What neither comes from a node nor goes to one is refused with its name."""
    with pytest.raises(GraphError, match=r"'lost' \(Cast\) does not correspond to a node of graph 'small'"):
        without_casts(graph(), model(("Cast", "lost", "nowhere", "nothing")))
