"""Holds the kernels that are told from a graph alone against those that ONNX Runtime makes of it."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from hwnas.ir import Graph, KernelCall
from hwnas.ir.kernel import FREE
from hwnas.ir.onnx import to_bytes
from hwnas.runtimes.fusions import Fusions
from hwnas.runtimes.ort import OrtRuntime
from hwnas.runtimes.ort_fusion import PlannedNode, fuse, plan
from hwnas.runtimes.ort_kernels import named
from hwnas.runtimes.ort_match import FUSED_NAMES, Found, match
from hwnas.runtimes.ort_probe import optimized
from hwnas.runtimes.ort_watch import EVENT, kernel_events

Shape = tuple[int, ...]


def agreed(graph: Graph, runtime: OrtRuntime) -> list[str]:
    """The kernels in words, `Conv+Relu`, once the runtime has been seen to optimise the graph as foretold."""
    assert_told(graph, runtime)
    return ["+".join((call.kernel.op, *call.kernel.fused)) for call in fuse(graph, runtime.fusions)]


def assert_told(graph: Graph, runtime: OrtRuntime) -> None:
    """The runtime's nodes are those foretold, in operators and data flow; our kernels hold every node exactly once. Nothing is run."""
    found = optimized(runtime, graph)
    nodes = {node.name or f"#{index}": node for index, node in enumerate(found.node)}
    assert_kernels(graph, runtime.fusions, match(plan(graph, runtime.fusions), nodes, [tensor.name for tensor in found.initializer]))


def assert_kernels(graph: Graph, fusions: Fusions, found: Found) -> None:
    """Kernels and nodes are as many as the runtime has, in an order in which they can run, and hold every node of the graph."""
    assert_whole(found)
    calls = fuse(graph, fusions)
    assert Counter(calls) == Counter(dict.fromkeys(found.calls.values()).keys())
    assert_every_node_once(graph, calls)
    assert_runs_in_order(graph, plan(graph, fusions))


def assert_whole(found: Found) -> None:
    """Each node of the runtime's has its counterpart among ours."""
    assert (sorted(found.missing), sorted(node.op for node in found.surplus)) == ([], [])


def assert_foretold(graph: Graph, runtime: OrtRuntime) -> None:
    """As `assert_told`, and a run of the network shows the shapes foretold."""
    with tempfile.TemporaryDirectory(prefix="hwnas-") as folder:
        path = Path(folder, "optimized.onnx")
        drawn = graph.materialize(np.random.default_rng(0))
        session = runtime.open(to_bytes(drawn), profile=Path(folder, "profile"), optimized=path)
        session.run(None, drawn.random_inputs(np.random.default_rng(0)))
        events = {event["name"].removesuffix(EVENT): event["args"] for event in kernel_events(Path(session.end_profiling()))}
        model = onnx.load(path)
    theirs = named(model, {name: event["op_name"] for name, event in events.items()})
    found = match(plan(graph, runtime.fusions), theirs, [tensor.name for tensor in model.graph.initializer])
    assert_kernels(graph, runtime.fusions, found)
    for name, event in events.items():
        assert_shapes(found.calls[name], event, runtime.fusions.block)


def assert_shapes(call: KernelCall, event: dict[str, Any], block: int) -> None:
    """A kernel reads and writes the shapes that the profiler saw, whose channels may be padded to whole blocks."""
    kernel = call.kernel
    if FUSED_NAMES.get(event["op_name"], event["op_name"]) != kernel.op:
        return  # one of several nodes that the kernel stands for

    def seen(key: str) -> list[Shape]:
        return [tuple(next(iter(tensor.values()))) for tensor in event[key]]

    def either(shape: Shape) -> tuple[Shape, Shape]:
        return shape, (shape[0], -(-shape[1] // block) * block, *shape[2:]) if len(shape) == 4 else shape

    assert all(shape in either(spec.shape) for spec, shape in zip(kernel.outputs, seen("output_type_shape"), strict=False))
    assert all(not set(either(spec.shape)).isdisjoint(seen("input_type_shape")) for spec in kernel.inputs)


def is_move(graph: Graph, call: KernelCall) -> bool:
    """Whether a kernel only brings a value into the layout that its nodes' kernel wants: a re-order, a Transpose that came from nowhere."""
    ops = {node.op for node in graph.nodes if node.name in call.nodes}
    return call.kernel.op.startswith("Reorder") or (call.kernel.op == "Transpose" and "Transpose" not in ops)


def assert_every_node_once(graph: Graph, calls: Iterable[KernelCall]) -> None:
    """Every node is in one kernel, but for what computes constants and what costs nothing."""
    counts = Counter(name for call in calls if not is_move(graph, call) for name in call.nodes)
    missing = {node.op for node in graph.nodes if node.name not in counts and node.outputs[0] not in graph.constants}
    assert missing <= FREE
    assert set(counts.values()) <= {1}


def assert_runs_in_order(graph: Graph, nodes: Iterable[PlannedNode]) -> None:
    """Whatever a node reads was written before."""
    written = set(graph.inputs)
    for node in nodes:
        assert set(node.inputs) <= written
        written.update(node.outputs)
    assert set(graph.outputs) <= written
