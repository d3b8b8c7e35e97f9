"""The kernels that are told from a graph alone are those that ONNX Runtime makes of it, on networks of every kind."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import numpy as np
import onnx.backend.test
import pytest
from cnns import networks
from foretold import assert_foretold, assert_told
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import graphs

from hwnas import spaces
from hwnas.ir import Graph
from hwnas.ir.onnx import load
from hwnas.ir.ops import OPS
from hwnas.runtimes.ort import OrtRuntime

RUNTIME = OrtRuntime(1)


COUNTS = {"generic": 140, "mobilenet-small": 20, "resnet-small": 20, "mobilenet": 10, "resnet": 10}
SPACES = {name: spaces.load(name) for name in COUNTS}
LARGEST_BYTES = 12e6  # of weights: drawing them and writing them down twice is what takes time


def drawn(name: str, seed: int) -> Graph:
    """A random network of a space, the first that is not too large."""
    space = SPACES[name]
    graphs = (space.graph(space.sample(np.random.default_rng([19, seed, i]))) for i in count())
    return next(graph for graph in graphs if sum(weight.spec.nbytes for weight in graph.weights.values()) < LARGEST_BYTES)


@pytest.mark.parametrize(("name", "seed"), [(name, seed) for name, many in COUNTS.items() for seed in range(many)])
def test_two_hundred_random_networks(name: str, seed: int) -> None:
    """Of every space: transformers, mixers, hybrids and convolutional networks of many families, as exporters spell them."""
    assert sum(COUNTS.values()) == 200
    assert_told(drawn(name, seed), RUNTIME)


@pytest.mark.parametrize("name", COUNTS)
def test_networks_that_run(name: str) -> None:
    """Every kernel reads and writes what was foretold."""
    for seed in range(1000, 1004):
        assert_foretold(drawn(name, seed), RUNTIME)


@pytest.mark.parametrize("name", ["densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet"])
def test_networks_of_the_onnx_wheel(name: str) -> None:
    """Files that nobody here wrote; those of the wheel whose weights are not hundreds of megabytes."""
    assert_told(load(Path(onnx.backend.test.__file__).parent / f"data/light/light_{name}.onnx"), RUNTIME)


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


@pytest.mark.parametrize("op", sorted(OPS))
@settings(max_examples=4, deadline=None, derandomize=True)
@given(data=st.data())
def test_every_operator(op: str, data: st.DataObject) -> None:
    """Among any others."""
    assert_told(data.draw(graphs(containing=op, max_steps=4).filter(told)), RUNTIME)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(graphs(max_steps=6).filter(told))
def test_all_operators(graph: Graph) -> None:
    """Any operators after one another."""
    assert_foretold(graph, RUNTIME)
