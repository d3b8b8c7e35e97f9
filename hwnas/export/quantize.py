"""int8 in the form that ONNX Runtime's CPU kernels are fast on: Q/DQ, unsigned activations, signed weights per channel.

What was tried, and the figures behind each choice below, stand in docs/adr/0002-int8-on-the-cpu.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from hwnas.errors import UsageError
from hwnas.ir import Graph, Node
from hwnas.ir.fold import fold
from hwnas.ir.node import Array
from hwnas.ir.onnx import from_model
from hwnas.runtimes.ort import OrtRuntime
from hwnas.runtimes.ort_int8 import Range, scheme
from hwnas.runtimes.ort_int8_write import write

if TYPE_CHECKING:
    import onnx

Feed = Mapping[str, Array]


def int8(model: Graph | onnx.ModelProto, calibration: Iterable[Feed], *, ends_in_fp32: bool = False) -> onnx.ModelProto:
    """A network with its arithmetic in 8 bits, calibrated on examples of what it will see.

    Activations are uint8 per tensor, between the smallest and the largest value that calibration saw. Weights are int8 per output
    channel, held to 7 bits: processors without VNNI add two products in 16 saturating bits, and full weights overflow there.
    What is quantised, and how, is what a profile in int8 measures: `hwnas.runtimes.ort_int8`.

    Args:
        model: in fp32; batch normalisation is folded first.
        calibration: inputs by name, shaped as the network declares them; training data, never test data. A hundred will do.
        ends_in_fp32: leaves alone the nodes that read an input of the network or write an output. They are the most sensitive; whether
            the network is faster or slower so depends on what follows the first of them, and has to be measured.

    Raises:
        UsageError: when calibration is empty or does not fit the network's inputs.
        GraphError: when the network gives values that are not finite; names the first of them.
    """
    graph = fold(model if isinstance(model, Graph) else from_model(model))
    plan = scheme(graph, leave=_ends(graph) if ends_in_fp32 else frozenset())
    seen = {value for value in plan.ranged.values() if value not in graph.weights}
    return write(plan, ranges(graph, sorted(seen), calibration), np.random.default_rng(0))


def ranges(graph: Graph, values: Iterable[str], calibration: Iterable[Feed]) -> dict[str, Range]:
    """The smallest and the largest that values of a network take on some inputs.

    Raises:
        UsageError: when there are no inputs, or they do not fit the network's.
    """
    values = list(values)
    nodes = [
        Node(name=f"{value}.{op}", op=op, inputs=(value,), outputs=(f"{value}.{op}",), attrs=(("keepdims", 0),))
        for value in values
        for op in ("ReduceMin", "ReduceMax")
    ]
    outputs = [node.outputs[0] for node in nodes]
    watched = Graph.make(
        name=graph.name,
        inputs=graph.inputs,
        outputs=outputs or graph.outputs,
        nodes=(*graph.nodes, *nodes),
        weights=graph.weights,
    )
    session = OrtRuntime().build(watched)
    low, high = np.full(len(values), np.inf), np.full(len(values), -np.inf)
    any_feed = False
    for feed in calibration:
        any_feed = True
        _check(graph, feed)
        found = np.array(session.run(feed)).reshape(-1, 2) if values else np.empty((0, 2))
        low, high = np.minimum(low, found[:, 0]), np.maximum(high, found[:, 1])
    if not any_feed:
        raise UsageError("int8 needs calibration data, got none; give inputs from the training split")
    return {value: (float(least), float(most)) for value, least, most in zip(values, low, high, strict=True)}


def _ends(graph: Graph) -> frozenset[str]:
    outside = {*graph.inputs, *graph.outputs}
    return frozenset(node.name for node in graph.nodes if outside & {*node.inputs, *node.outputs})


def _check(graph: Graph, feed: Feed) -> None:
    expected = {name: (spec.shape, spec.dtype) for name, spec in graph.inputs.items()}
    given = {name: (value.shape, str(value.dtype)) for name, value in feed.items()}
    if given != expected:
        raise UsageError(f"calibration does not fit graph '{graph.name}': it reads {_listed(expected)}, got {_listed(given)}")


def _listed(inputs: Mapping[str, tuple[tuple[int, ...], str]]) -> str:
    return ", ".join(f"{name} {dtype}{list(shape)}" for name, (shape, dtype) in inputs.items()) or "nothing"
