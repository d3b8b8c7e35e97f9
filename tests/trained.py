"""Small networks with weights as training leaves them."""

from __future__ import annotations

import numpy as np

from hwnas.ir import Graph, GraphBuilder


def normalised(graph: Graph, seed: int = 3) -> Graph:
    """The graph with drawn weights, and statistics in its batch normalisations that are not those it starts with."""
    rng = np.random.default_rng(seed)
    drawn = graph.materialize(rng)
    new = {}
    for node in drawn.nodes:
        if node.op == "BatchNormalization":
            for name, low, high in zip(node.inputs[1:], (0.5, -0.3, -0.2, 0.4), (1.5, 0.3, 0.2, 1.6), strict=True):
                new[name] = rng.uniform(low, high, drawn.specs[name].shape).astype(np.float32)
    return drawn.with_weights(new)


def residual(batch: int = 1, activation: str = "Relu") -> Graph:
    """A stem, a residual block and a classifier on images of 16 pixels."""
    b = GraphBuilder("residual")

    def unit(x: str, channels: int, stride: int = 1) -> str:
        return b.batch_norm(b.conv(x, channels, kernel=3, stride=stride, bias=False))

    x = b.op(activation, [unit(b.input("image", (batch, 3, 16, 16)), 16, 2)])
    x = b.op(activation, [b.op("Add", [unit(b.op(activation, [unit(x, 16)]), 16), x])])
    x = b.op("Flatten", [b.op("GlobalAveragePool", [x])])
    return normalised(b.finish(b.linear(x, 10)))
