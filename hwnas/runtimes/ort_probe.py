"""Small networks that make ONNX Runtime show how it works on this processor."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hwnas.ir import Graph, GraphBuilder
from hwnas.ir.onnx import to_bytes
from hwnas.ir.ops import OPS
from hwnas.runtimes.fusions import Fusions
from hwnas.runtimes.ort_habits import HABITS, IMAGE, MATRIX, PLAIN_CHANNELS, Build
from hwnas.runtimes.samples import StoppingRule

if TYPE_CHECKING:
    from hwnas.runtimes.base import Runtime

BLOCKED_CHANNELS = 16  # whole blocks of every size in use
PADDED_CHANNELS = 20  # divides by no block size in use, so that padding shows
_APART = frozenset(
    {
        *("GlobalAveragePool", "GlobalMaxPool", "HardSwish", "Identity", "IsInf", "IsNaN", "Mish", "Not"),
        *("Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cosh", "Sinh", "Tan"),
    }
)
"""Unary operators that are no activations, or that the runtime writes in others before it fuses."""
ACTIVATIONS = tuple(
    op for op, schema in OPS.items() if schema.arity == (1, 1) and not schema.required and schema.complete is None and op not in _APART
)


class Opens(Protocol):
    """ONNX Runtime on some device."""

    def open(self, model: bytes, *, optimized: Path) -> Any:
        """A session, and the graph as it was optimised for it in a file; `GraphError` where the runtime refuses the model."""
        ...


def fusions(runtime: Opens) -> Fusions:
    """What a runtime fuses on this machine: 140 networks of a few nodes are opened, in a fraction of a second.

    Raises:
        GraphError: the runtime refuses a network that every version should take.
    """
    block = _block(runtime)
    return Fusions(
        block=block,
        conv_activations=_absorbed(runtime, ACTIVATIONS, _plain, (1, PLAIN_CHANNELS, 4, 4)),
        blocked_activations=_absorbed(runtime, (*ACTIVATIONS, "HardSwish"), _residual, IMAGE) if block > 1 else frozenset(),
        gemm_activations=_absorbed(runtime, ACTIVATIONS, lambda b, x: b.linear(x, 4), MATRIX),
        blocked_unary=_staying(runtime) if block > 1 else frozenset(),
        patterns=frozenset(
            name
            for name, habit in HABITS.items()
            if (block > 1 or not habit.blocks) and _left(runtime, habit.graph())[habit.op] == habit.left
        ),
    )


def call_overhead_s(runtime: Runtime) -> float:
    """What a call costs that computes next to nothing: p10 of one Identity on one element, in s."""
    builder = GraphBuilder("empty")
    graph = builder.finish(builder.op("Relu", [builder.input("x", (1, 1))]))
    session = runtime.build(graph)
    rule = StoppingRule(relative_error=0.01, min_samples=200, max_seconds=0.5)
    return session.time(graph.random_inputs(np.random.default_rng(0)), rule).p10_s


def optimized(runtime: Opens, graph: Graph) -> Any:
    """The graph as the runtime optimises it, an `onnx.GraphProto`."""
    import onnx

    with tempfile.TemporaryDirectory(prefix="hwnas-") as folder:
        path = Path(folder, "optimized.onnx")
        runtime.open(to_bytes(graph.materialize(np.random.default_rng(0))), optimized=path)
        return onnx.load(path).graph


def _left(runtime: Opens, graph: Graph) -> Counter[str]:
    return Counter(node.op_type.removeprefix("Fused") for node in optimized(runtime, graph).node)


def _block(runtime: Opens) -> int:
    """Channels per block of the NCHWc layout, as the padding of a convolution's weights shows."""
    b = GraphBuilder("block")
    found = optimized(runtime, b.finish(b.conv(b.input("x", IMAGE), PADDED_CHANNELS)))
    conv = next(node for node in found.node if node.op_type.removeprefix("Fused") == "Conv")
    padded = next(tensor.dims[0] for tensor in found.initializer if tensor.name == conv.input[1])
    return 1 if padded == PADDED_CHANNELS else 8 if padded % 16 else 16


def _plain(b: GraphBuilder, x: str) -> str:
    return b.conv(x, PLAIN_CHANNELS)


def _pooled(b: GraphBuilder, x: str) -> str:
    return b.op("MaxPool", [x], kernel_shape=(1, 1))


def _residual(b: GraphBuilder, x: str) -> str:
    return b.op("Add", [b.conv(x, BLOCKED_CHANNELS), _pooled(b, x)])


def _absorbed(runtime: Opens, ops: Iterable[str], before: Build, shape: tuple[int, ...]) -> frozenset[str]:
    """The activations of which nothing is left behind a network with an input of that shape."""

    def network(activation: str | None) -> Graph:
        b = GraphBuilder("absorbed")
        y = before(b, b.input("x", shape))
        return b.finish(b.op("Erf", [y if activation is None else b.op(activation, [y])]))

    alone = _left(runtime, network(None))
    return frozenset(activation for activation in ops if activation != "Erf" and _left(runtime, network(activation)) == alone)


def _staying(runtime: Opens) -> frozenset[str]:
    """The activations that keep the blocked layout between two steps that work in it, a swish among them."""

    def stays(op: str) -> bool:
        b = GraphBuilder("staying")
        x = _pooled(b, b.input("x", IMAGE))
        y = b.op("Mul", [x, b.op("Sigmoid", [x])]) if op == "QuickGelu" else b.op(op, [x])
        left = _left(runtime, b.finish(b.conv(y, BLOCKED_CHANNELS)))
        return left[op] == 1 and left["ReorderOutput"] == 1

    return frozenset(op for op in (*ACTIVATIONS, "QuickGelu") if stays(op))
