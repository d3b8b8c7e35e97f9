"""Networks of the shipped spaces: torch and ONNX Runtime agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import assert_agree

from hwnas import spaces
from hwnas.ir import Graph
from hwnas.ir.onnx import from_model, to_model


def trained_looking(graph: Graph, rng: np.random.Generator) -> Graph:
    """The graph with weights, and batch norms that do something: fresh ones are the identity."""
    graph = graph.materialize(rng)
    drawn = {}
    for node in graph.nodes:
        if node.op == "BatchNormalization":
            scale, shift, mean, var = node.inputs[1:]
            size = graph.specs[scale].shape
            drawn |= {name: rng.uniform(0.5, 1.5, size).astype(np.float32) for name in (scale, var)}
            drawn |= {name: rng.normal(0, 0.2, size).astype(np.float32) for name in (shift, mean)}
    return graph.with_weights(drawn)


@pytest.mark.parametrize("name", ["mobilenet-small", "resnet-small"])
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_random_networks_agree(name: str, seed: int) -> None:
    """Any network of a space gives the same outputs, to 1e-4 of their scale, in both runtimes; and survives the way through ONNX."""
    space, rng = spaces.load(name), np.random.default_rng(seed)
    graph = trained_looking(space.graph(space.sample(rng)), rng)
    assert_agree(graph, seed)
    assert from_model(to_model(graph)).nodes == graph.nodes


@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_full_size_networks_agree(seed: int) -> None:
    """Networks of the space for ImageNet, at its smallest input."""
    space, rng = spaces.load("mobilenet"), np.random.default_rng(seed)
    arch = {**space.decode(space.sample(rng)), "resolution": min(space.genes[0].choices)}
    assert_agree(trained_looking(space.graph(space.encode(arch)), rng), seed)
