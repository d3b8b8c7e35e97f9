"""The kernels that `fuse` tells from a graph alone are those that ONNX Runtime makes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from cnns import networks, repeats
from hypothesis import given, settings
from strategies import graphs

from hwnas import spaces
from hwnas.ir import Graph, KernelCall
from hwnas.ir.kernel import FREE, copied
from hwnas.runtimes.ort import OrtRuntime
from hwnas.runtimes.ort_fusion import fuse

RUNTIME = OrtRuntime(1)


def listed(calls: Iterator[KernelCall] | tuple[KernelCall, ...]) -> list[tuple[object, ...]]:
    """What a failure should show."""
    return sorted((call.nodes, call.kernel.op, call.kernel.fused, call.kernel.layout, call.output) for call in calls)


def assert_told(graph: Graph) -> None:
    """The runtime's list and ours agree in every kernel, and every node is in exactly one of them."""
    runs = Counter(RUNTIME.build(graph).kernels())
    told = Counter(fuse(graph, RUNTIME.block))
    assert listed((told - runs).elements()) == listed((runs - told).elements())
    assert told == runs
    nodes = Counter(name for call in told.elements() if not call.kernel.op.startswith("Reorder") for name in call.nodes)
    missing = [node.op for node in graph.nodes if node.name not in nodes and node.outputs[0] not in graph.constants]
    assert set(missing) <= FREE
    assert set(nodes.values()) <= {1}
    assert_runs_in_order(graph)


def assert_runs_in_order(graph: Graph) -> None:
    """Our list is in an order in which it can run: whatever a kernel reads was written before."""
    nodes = {node.name: node for node in graph.nodes}
    written = set(graph.inputs)
    for call in fuse(graph, RUNTIME.block):
        members = [nodes[name] for name in call.nodes]
        if not call.kernel.op.startswith("Reorder"):
            written.update(value for node in members for value in node.outputs)
            assert {copied(graph, value) for node in members for value in node.inputs} <= written | graph.constants
        assert call.output in written


@pytest.mark.parametrize(
    ("name", "networks"), [("mobilenet-small", 12), ("resnet-small", 12), ("mobilenet", 3), ("resnet", 3)], ids=lambda value: str(value)
)
def test_networks_of_the_spaces(name: str, networks: int) -> None:
    """Random networks of every shipped space."""
    space = spaces.load(name)
    for index in range(networks):
        assert_told(space.graph(space.sample(np.random.default_rng([17, index]))))


def test_a_batch_of_several() -> None:
    """The batch does not change what is fused."""
    space = spaces.load("mobilenet-small")
    assert_told(space.graph(space.reference(), batch=4))


# ---- what the rules claim: convolutional networks of any channel counts, branches and activations


@settings(max_examples=150, deadline=None)
@given(networks().filter(lambda graph: not repeats(graph)))
def test_convolutional_networks(graph: Graph) -> None:
    """Branches, residuals, gates, groups, odd channel counts, several outputs, copies and every activation."""
    assert_told(graph)


# ---- all other operators

LEFT_OUT = {"Cast", "LayerNormalization", "MatMul", "Reshape", "Resize", "Transpose"}  # as ort_fusion's docstring says


def claimed(graph: Graph) -> bool:
    """Whether the rules cover a graph; ort_fusion's docstring lists what they leave out."""
    for node in graph.nodes:
        constants = [value for value in node.inputs if value in graph.weights]
        writers = [graph.producers.get(copied(graph, value)) for value in node.inputs]
        if node.op in LEFT_OUT:
            return False
        if node.op in ("Add", "Sub", "Mul", "Div") and constants and any(writer is not None and writer.op == "Conv" for writer in writers):
            return False
    return not repeats(graph)


@settings(max_examples=100, deadline=None)
@given(graphs(max_steps=3).filter(claimed))
def test_other_operators(graph: Graph) -> None:
    """Small graphs of all operators that the rules do not leave out."""
    assert_told(graph)
