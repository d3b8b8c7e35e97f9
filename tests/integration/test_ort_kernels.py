"""The kernels that are told from a graph alone are those that ONNX Runtime makes of it, on networks of every kind."""

from __future__ import annotations

import numpy as np
import pytest
from cnns import networks
from foretold import assert_foretold
from hypothesis import given, settings
from strategies import graphs

from hwnas import spaces
from hwnas.ir import Graph
from hwnas.runtimes.ort import OrtRuntime

RUNTIME = OrtRuntime(1)


@pytest.mark.parametrize(
    ("name", "count"), [("mobilenet-small", 8), ("resnet-small", 8), ("mobilenet", 2), ("resnet", 2)], ids=lambda value: str(value)
)
def test_networks_of_the_spaces(name: str, count: int) -> None:
    """Random networks of every space of convolutional ones."""
    space = spaces.load(name)
    for index in range(count):
        assert_foretold(space.graph(space.sample(np.random.default_rng([17, index]))), RUNTIME)


@pytest.mark.parametrize("seed", range(40))
def test_networks_of_every_family(seed: int) -> None:
    """Transformers, mixers, hybrids and convolutional networks of many families, as exporters spell them."""
    space = spaces.load("generic")
    assert_foretold(space.graph(space.sample(np.random.default_rng([19, seed]))), RUNTIME)


def test_a_batch_of_several() -> None:
    """The batch does not change what is fused."""
    space = spaces.load("mobilenet-small")
    assert_foretold(space.graph(space.reference(), batch=4), RUNTIME)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(networks())
def test_convolutional_networks(graph: Graph) -> None:
    """Branches, residuals, gates, groups, odd channel counts, several outputs, copies and every activation."""
    assert_foretold(graph, RUNTIME)


def told(graph: Graph) -> bool:
    """Whether the rules cover a graph: not where a Transpose meets a GroupNormalization, which is spelled out once it has moved."""
    return not {"GroupNormalization", "Transpose"} <= {node.op for node in graph.nodes}


@settings(max_examples=100, deadline=None, derandomize=True)
@given(graphs(max_steps=6).filter(told))
def test_all_operators(graph: Graph) -> None:
    """Any operators after one another."""
    assert_foretold(graph, RUNTIME)
