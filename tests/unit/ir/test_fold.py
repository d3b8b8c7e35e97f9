"""Folding batch normalisation changes the number of nodes and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import graphs
from trained import residual

from hwnas.errors import GraphError
from hwnas.ir import Graph, GraphBuilder
from hwnas.ir.fold import fold
from hwnas.ir.onnx import to_bytes


def answers(graph: Graph, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(to_bytes(graph), options, providers=["CPUExecutionProvider"]).run(None, feed)


def assert_same_function(graph: Graph, folded: Graph) -> None:
    feed = {key: value * 2 - 1 for key, value in graph.random_inputs(np.random.default_rng(0)).items()}
    assert folded.outputs == graph.outputs
    assert folded.inputs == graph.inputs
    for before, after in zip(answers(graph, feed), answers(folded, feed), strict=True):
        assert before.shape == after.shape
        assert np.abs(before - after).max() <= 1e-4 * max(np.abs(before).max(), 1e-2)


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def affine(b: GraphBuilder, x: str, seed: int = 0, epsilon: float = 1e-3) -> str:
    """A batch normalisation whose parameters all matter."""
    rng, channels = np.random.default_rng(seed), b.shape(x)[1]
    parameters = [rng.uniform(0.5, 2, channels) * np.where(np.arange(channels) % 2, 1, -1), *rng.standard_normal((2, channels))]
    inputs = [b.constant("bn", values.astype(np.float32)) for values in (*parameters, rng.uniform(0.2, 2, channels))]
    return b.op("BatchNormalization", [x, *inputs], epsilon=epsilon)


@pytest.fixture
def graph() -> Graph:
    """A residual network for one image."""
    return residual()


def test_a_network_is_left_without_normalisation(graph: Graph) -> None:
    """Every convolution of a residual network takes its batch normalisation in; names of the values that remain are kept."""
    folded = fold(graph)
    assert ops(folded) == ["Conv", "Relu", "Conv", "Relu", "Conv", "Add", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]
    assert {value for node in folded.nodes for value in node.outputs} <= set(graph.specs)
    assert len(folded.weights) == 2 * 4
    assert_same_function(graph, folded)


def test_a_second_fold_finds_nothing(graph: Graph) -> None:
    """Folding is idempotent."""
    assert fold(fold(graph)).nodes == fold(graph).nodes


@settings(max_examples=25, deadline=None)
@given(data=st.data(), op=st.sampled_from(["BatchNormalization", "Identity", "ConvTranspose", "Gemm"]))
def test_random_graphs_compute_the_same(data: st.DataObject, op: str) -> None:
    """Whatever surrounds a normalisation or an identity, the function stays."""
    graph = data.draw(graphs(containing=op))
    assert_same_function(graph, fold(graph))


def _conv(b: GraphBuilder, x: str) -> str:
    return b.conv(x, 6, kernel=3, groups=2)


def _transposed(b: GraphBuilder, x: str) -> str:
    return b.op("ConvTranspose", [x, b.weight("w", (4, 3, 2, 2))], group=2, strides=(2, 2))


def _gemm(trans: int) -> Callable[[GraphBuilder, str], str]:
    def step(b: GraphBuilder, x: str) -> str:
        x = b.op("Flatten", [x])
        size = b.shape(x)[1]
        return b.op("Gemm", [x, b.weight("w", (5, size) if trans else (size, 5)), b.weight("b", (2, 1))], transB=trans, alpha=0.5, beta=3.0)

    return step


@pytest.mark.parametrize("before", [_conv, _transposed, _gemm(0), _gemm(1)], ids=["conv", "transposed", "gemm", "gemm-turned"])
def test_each_operator_takes_normalisations_in(before: Callable[[GraphBuilder, str], str]) -> None:
    """Two in a row fold into one operator: groups, transposed weights and the scalars of Gemm are respected."""
    b = GraphBuilder("g")
    x = affine(b, b.op("Identity", [affine(b, before(b, b.input("x", (2, 4, 5, 5))), 1)]), 2)
    graph = b.finish(b.op("Relu", [x])).materialize(np.random.default_rng(0))
    folded = fold(graph)
    assert "BatchNormalization" not in ops(folded)
    assert "Identity" not in ops(folded)
    assert_same_function(graph, folded)


def test_a_weight_that_two_convolutions_share_is_not_changed_for_the_other() -> None:
    """Only one of them is normalised, so each ends with weights of its own."""
    b = GraphBuilder("shared")
    x, weight = b.input("x", (1, 4, 6, 6)), b.weight("w", (4, 4, 3, 3))
    plain, other = (b.op("Conv", [x, weight], pads=(1,) * 4) for _ in range(2))
    graph = b.finish(b.op("Add", [plain, affine(b, other)])).materialize(np.random.default_rng(0))
    folded = fold(graph)
    assert ops(folded) == ["Conv", "Conv", "Add"]
    assert_same_function(graph, folded)


@pytest.mark.parametrize("seen", ["output", "reader", "identity"])
def test_a_value_that_others_read_is_kept(seen: str) -> None:
    """Where the un-normalised value is an output or has a second reader, the normalisation stays."""
    b = GraphBuilder("seen")
    conv = b.conv(b.input("x", (1, 3, 6, 6)), 4)
    norm = affine(b, conv)
    if seen == "output":
        graph = b.finish(norm, conv)
    else:
        graph = b.finish(b.op("Add", [norm, b.op("Relu" if seen == "reader" else "Identity", [conv])]))
    graph = graph.materialize(np.random.default_rng(0))
    folded = fold(graph)
    assert "BatchNormalization" in ops(folded)
    assert_same_function(graph, folded)


def test_a_normalisation_without_an_operator_before_it_stays() -> None:
    """At the input, or behind an activation, there is nothing to fold into; an identity that is an output stays too."""
    b = GraphBuilder("first")
    x = affine(b, b.op("Relu", [affine(b, b.input("x", (1, 3, 4, 4)))]))
    graph = b.finish(b.op("Identity", [x]))
    assert ops(fold(graph)) == ["BatchNormalization", "Relu", "BatchNormalization", "Identity"]


def test_weights_without_values_are_refused() -> None:
    """A graph that was neither drawn nor trained says so, naming the node."""
    b = GraphBuilder("recipes")
    graph = b.finish(b.batch_norm(b.conv(b.input("x", (1, 3, 4, 4)), 4)))
    with pytest.raises(GraphError, match=r"node 'batchnormalization_0' .* has no values yet"):
        fold(graph)


def test_recipes_are_folded_into_recipes() -> None:
    """The structure alone is told without drawing a weight; values that are there are still folded exactly."""
    b = GraphBuilder("recipes")
    graph = b.finish(b.batch_norm(b.conv(b.input("x", (1, 3, 4, 4)), 5, kernel=3)))
    (node,) = fold(graph, drafts=True).nodes
    weights = fold(graph, drafts=True).weights
    assert (node.op, node.outputs) == ("Conv", graph.outputs)
    assert [(weights[name].spec.shape, weights[name].value) for name in node.inputs[1:]] == [((5, 3, 3, 3), None), ((5,), None)]
    drawn = graph.materialize(np.random.default_rng(0))
    exact, drafted = fold(drawn), fold(drawn, drafts=True)
    for name, weight in exact.weights.items():
        assert np.array_equal(drafted.weights[name].value, weight.value)
