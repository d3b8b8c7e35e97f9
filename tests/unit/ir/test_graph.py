"""The graph and its weights."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from hwnas.errors import GraphError
from hwnas.ir import Graph, GraphBuilder, Node, TensorSpec, Weight


def residual() -> Graph:
    b = GraphBuilder("residual")
    x = b.op("Relu", [b.input("x", (1, 4, 6, 6))])
    return b.finish(b.op("Add", [x, b.batch_norm(b.conv(x, 4, kernel=3))]))


def make(*nodes: Node, outputs: tuple[str, ...] = ("y",)) -> Graph:
    return Graph.make(name="g", inputs={"x": TensorSpec((2,))}, outputs=outputs, nodes=nodes, weights={})


def relu(name: str, source: str, target: str) -> Node:
    return Node(name=name, op="Relu", inputs=(source,), outputs=(target,))


def test_producers_and_consumers() -> None:
    """Who writes a value and who reads it, in order."""
    graph = residual()
    assert graph.producers["relu_0_out"].name == "relu_0"
    assert [node.name for node in graph.consumers["relu_0_out"]] == ["conv_0", "add_0"]
    assert "add_0_out" not in graph.consumers


@pytest.mark.parametrize(
    ("nodes", "outputs", "match"),
    [
        ([relu("a", "x", "y"), relu("a", "y", "z")], ("y",), "node 'a': the name is used twice"),
        ([relu("a", "nowhere", "y")], ("y",), "node 'a' .* reads 'nowhere'"),
        ([relu("a", "x", "y"), relu("b", "x", "y")], ("y",), "node 'b' .* writes 'y', which exists"),
        ([relu("a", "x", "y")], ("z",), "output 'z'"),
        ([relu("a", "x", "y")], (), "no output"),
    ],
)
def test_inconsistent_parts_are_refused(nodes: list[Node], outputs: tuple[str, ...], match: str) -> None:
    """A graph is checked when it is made."""
    with pytest.raises(GraphError, match=match):
        make(*nodes, outputs=outputs)


def test_weights_are_drawn_on_demand() -> None:
    """The same generator gives the same weights; known values are kept; structure is shared."""
    graph = residual()
    assert graph.weights["w_0"].value is None
    first, second = (graph.materialize(np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first.weights["w_0"].value, second.weights["w_0"].value)
    assert first.materialize(np.random.default_rng(4)) is first
    assert first.nodes is graph.nodes


def test_initial_weights_follow_their_recipe() -> None:
    """He initialisation has variance 2 / fan-in; batch norms start as the identity."""
    weight = Weight(spec=TensorSpec((400, 10, 3, 3))).draw(np.random.default_rng(0))
    assert np.var(weight) == pytest.approx(2 / 90, rel=0.05)
    graph = residual().materialize(np.random.default_rng(0))
    for name, expected in (("bn_scale_0", 1), ("bn_shift_0", 0), ("bn_mean_0", 0), ("bn_var_0", 1)):
        np.testing.assert_array_equal(graph.weights[name].value, np.full(4, expected, np.float32))


def test_weights_are_replaced() -> None:
    """By name, of the same shape."""
    graph = residual().materialize(np.random.default_rng(0))
    changed = graph.with_weights({"b_0": np.ones(4, np.float32)})
    assert changed.weights["b_0"].value.sum() == 4
    assert graph.weights["b_0"].value.sum() == 0
    with pytest.raises(GraphError, match="no weight 'b_9'"):
        graph.with_weights({"b_9": np.ones(4, np.float32)})
    with pytest.raises(GraphError, match="given values of shape"):
        graph.with_weights({"b_0": np.ones(5, np.float32)})


def test_fixed_weights_need_values() -> None:
    """There is no recipe to draw them by."""
    with pytest.raises(GraphError, match="needs its values"):
        Weight(spec=TensorSpec((1,)), init="fixed")


def test_random_inputs_are_not_zeros() -> None:
    """Floats in [0, 1), integers 0 or 1, in the type asked for."""
    b = GraphBuilder("inputs")
    graph = b.finish(b.input("x", (50,), "float16"), b.input("i", (50,), "int32"))
    feed = graph.random_inputs(np.random.default_rng(0))
    assert (feed["x"].dtype, feed["i"].dtype) == (np.float16, np.int32)
    assert 0 < feed["x"].mean() < 1
    assert set(feed["i"]) == {0, 1}


def test_a_graph_cannot_change_and_is_its_own_copy() -> None:
    """Its mappings are read-only, so that copies are needless."""
    graph = residual()
    with pytest.raises(TypeError):
        graph.weights["w_0"] = None
    assert copy.deepcopy(graph) is graph


def test_unknown_attributes_are_key_errors() -> None:
    """The message names the node, its operator and the attribute."""
    with pytest.raises(KeyError, match=r"node 'relu_0' .Relu. has no attribute 'alpha'"):
        residual().nodes[0].attr("alpha")
