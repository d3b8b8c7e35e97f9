"""TensorRT's kernels are foretold from the graph alone, as far as there are rules."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hwnas import spaces
from hwnas.ir import Graph, GraphBuilder, KernelCall
from hwnas.ir.kernel import FREE
from hwnas.runtimes.trt_fusion import FUSERS, fuse
from hwnas.testing.conformance import GRAPHS


def check(graph: Graph, calls: tuple[KernelCall, ...]) -> None:
    """Every node in one kernel, every kernel after those that it reads from."""
    nodes = {node.name: node for node in graph.nodes}
    times = Counter(name for call in calls for name in call.nodes)
    assert max(times.values()) == 1
    missing = {node.op for node in graph.nodes if node.name not in times and not graph.constants.issuperset(node.outputs)}
    assert missing <= FREE
    free = (value for node in graph.nodes if node.op in FREE for value in node.outputs)
    written = {*graph.inputs, *graph.constants, *free}
    for call in calls:
        members = [nodes[name] for name in call.nodes]
        written.update(value for node in members for value in node.outputs)
        assert {value for node in members for value in node.inputs if value} <= written


@given(st.sampled_from(["generic", "mobilenet", "resnet-small"]), st.integers(0, 2**16))
@example("generic", 784)  # an LSTM of which one output is not read
def test_no_network_loses_a_node(space: str, seed: int) -> None:
    """Whatever a space holds is told as kernels that can run in their order."""
    found = spaces.load(space)
    graph = found.graph(found.sample(np.random.default_rng(seed)))
    check(graph, fuse(graph))


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_the_graphs_of_the_suite(name: str) -> None:
    """Residuals, gates, branches and dense layers."""
    check(GRAPHS[name](), fuse(GRAPHS[name]()))


def test_what_is_fused() -> None:
    """A convolution takes its normalisation, a residual of its own shape and what follows; a gate is broadcast, and stays apart."""
    calls = fuse(GRAPHS["residual"]())
    assert [(call.kernel.op, *call.kernel.fused) for call in calls] == [
        ("Conv", "Relu"),
        ("Conv", "HardSwish"),
        ("Conv", "Clip"),
        ("GlobalAveragePool",),
        ("Conv", "Relu"),
        ("Conv", "HardSigmoid"),
        ("Mul",),
        ("Conv", "Add"),
        ("GlobalAveragePool",),
        ("Gemm",),
    ]


def test_what_is_read_elsewhere_is_not_fused() -> None:
    """A value with two readers, or one that the network returns, is written, so what follows is another kernel."""
    b = GraphBuilder("shared")
    x = b.conv(b.input("x", (1, 4, 8, 8)), 4)
    y = b.op("Relu", [x])
    graph = b.finish(x, b.op("Sigmoid", [y]), b.op("Tanh", [y]))
    assert [(call.kernel.op, *call.kernel.fused) for call in fuse(graph)] == [("Conv",), ("Relu",), ("Sigmoid",), ("Tanh",)]


def test_precisions() -> None:
    """In int8 products with weights are narrow and the rest is fp16; the structure is the same in all."""
    graph = GRAPHS["residual"]()
    found = {precision: one(graph, 0) for precision, one in FUSERS.items()}
    assert len({tuple(call.nodes for call in calls) for calls in found.values()}) == 1
    for precision in ("fp32", "fp16"):
        assert {call.kernel.precision for call in found[precision]} == {precision}
    assert {call.kernel.precision for call in found["int8"] if call.kernel.op in ("Conv", "Gemm")} == {"int8"}
    assert {call.kernel.precision for call in found["int8"] if call.kernel.op not in ("Conv", "Gemm")} == {"fp16"}
