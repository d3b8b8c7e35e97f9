"""Small graphs for the rules of fusion, and what is left of them in words."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hwnas.ir import Graph, GraphBuilder
from hwnas.runtimes.ort_draft import Draft

Build = Callable[[GraphBuilder, str], str]

ENDS = ("Softsign", "Abs")  # fuse with nothing


def enclosed(build: Build, shape: tuple[int, ...]) -> Graph:
    """A graph between two operators that fuse with nothing, since some rules spare what a network is given and returns."""
    b = GraphBuilder("enclosed")
    return b.finish(b.op(ENDS[1], [build(b, b.op(ENDS[0], [b.input("x", shape)]))]))


def drafted(build: Build, shape: tuple[int, ...] = (1, 4, 8)) -> Draft:
    """A draft of such a graph."""
    return Draft(enclosed(build, shape))


def ops(draft: Draft) -> list[str]:
    """The operators left between the ends, in an order in which they can run; every node of the graph must still have a step."""
    steps = draft.ordered()
    held = [name for step in steps for name in step.nodes]
    assert sorted(held) == sorted(node.name for node in draft.graph.nodes if node.outputs[0] not in draft.constants)
    return [step.op for step in steps if step.op not in ENDS]


def number(b: GraphBuilder, value: float) -> str:
    """A constant without axes."""
    return b.constant("number", np.array(value, np.float32))


def vector(b: GraphBuilder, x: str) -> str:
    """Weights along the last axis of a value."""
    return b.weight("vector", b.shape(x)[-1:])
