"""Kernels of eager execution."""

from __future__ import annotations

from hypothesis import given, settings
from strategies import graphs

from hwnas.ir import Graph, GraphBuilder
from hwnas.runtimes import registry
from hwnas.runtimes.eager import fuse


def ops(graph: Graph) -> list[str]:
    return [call.kernel.op for call in fuse(graph, 1)]


def test_nothing_is_fused() -> None:
    """Convolution, normalisation, activation and residual are four kernels."""
    b = GraphBuilder("block")
    x = b.input("x", (1, 8, 4, 4))
    y = b.op("Relu", [b.batch_norm(b.conv(x, 8))])
    graph = b.finish(b.op("Add", [x, y]))
    assert ops(graph) == ["Conv", "BatchNormalization", "Relu", "Add"]
    assert all(call.kernel.fused == () and len(call.nodes) == 1 for call in fuse(graph, 1))


def test_views_launch_nothing() -> None:
    """Reshapes of contiguous values and transposes only change how their input is seen."""
    b = GraphBuilder("views")
    x = b.op("Reshape", [b.op("Relu", [b.input("x", (2, 3, 4))])], shape=(2, 12))
    graph = b.finish(b.op("Relu", [b.op("Transpose", [x], perm=(1, 0))]))
    assert ops(graph) == ["Relu", "Relu"]


def test_a_reshape_of_what_is_strided_copies() -> None:
    """After a transpose the elements are not where the new shape wants them, even behind a copy by name."""
    b = GraphBuilder("copies")
    x = b.op("Identity", [b.op("Transpose", [b.input("x", (2, 3, 4))], perm=(0, 2, 1))])
    graph = b.finish(b.op("Relu", [b.op("Reshape", [x], shape=(2, 12))]))
    assert ops(graph) == ["Reshape", "Relu"]


@settings(max_examples=60, deadline=None)
@given(graphs(max_steps=5))
def test_no_node_runs_twice(graph: Graph) -> None:
    """Whatever the operators: at least one kernel, in the order of the graph, and each node in at most one."""
    order = {node.name: i for i, node in enumerate(graph.nodes)}
    positions = [order[name] for call in fuse(graph, 1) for name in call.nodes]
    assert positions
    assert positions == sorted(set(positions))


def test_the_registry_knows_it() -> None:
    """It is found by name, in float32 alone."""
    assert registry.fuser(registry.EAGER) is fuse
