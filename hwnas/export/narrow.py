"""Chooses the precision of every operator for an engine, and measures what that does to the answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from hwnas.errors import GraphError, UsageError
from hwnas.export.numerics import Numerics, answers, output_error
from hwnas.export.quantize import Feed, ranges
from hwnas.ir import Graph
from hwnas.ir.fold import fold
from hwnas.ir.node import Array
from hwnas.runtimes.trt_precision import Precisions, Ranges, activations, quantisable, too_large, write

if TYPE_CHECKING:
    from onnx import ModelProto

EnginePrecision = Literal["fp32", "fp16", "int8", "mixed"]

MOST_ERROR = 0.1  # of the answers' variation between inputs: noise at 20 dB, which rarely moves the largest score
SAMPLES = 16  # calibration inputs on which errors are measured
RANKING_SAMPLES = 4  # of them, on which products are compared with each other


@dataclass(frozen=True, slots=True, kw_only=True)
class Narrowed:
    """A network with the precision of every operator written into it.

    Attributes:
        graph: the folded network in fp32.
        model: in these precisions.
        precisions: of the nodes of `graph`.
        error: of the answers on calibration inputs (`hwnas.export.numerics.output_error`).
        alone: the error that each product brings when only it is in int8; empty unless they were compared.
    """

    graph: Graph
    model: ModelProto
    precisions: Precisions
    error: float
    alone: Mapping[str, float]


def narrow(graph: Graph, precision: EnginePrecision, calibration: Iterable[Feed], *, most_error: float = MOST_ERROR) -> Narrowed:
    """Writes a network in a precision.

    `fp16` keeps in fp32 what goes beyond fp16's range. `int8` has every product with weights in int8 and the rest in fp16. `mixed` starts
    there and takes products back to fp16, the one that brings the largest error first, until the answers are off by no more than
    `most_error`; a network that fp16 itself leaves further off stays in fp32.

    Args:
        graph: with the values of its weights.
        precision: as above, or `fp32`.
        calibration: inputs from the training split, shaped as the network declares them.
        most_error: for `mixed`.

    Raises:
        UsageError: an unknown precision, or calibration is empty or does not fit.
        GraphError: the network gives values that are not finite; names the first of them.
    """
    if precision not in get_args(EnginePrecision):
        raise UsageError(f"precision of an engine is {', '.join(get_args(EnginePrecision))}; got '{precision}'")
    feeds = tuple(calibration)
    graph = fold(graph)
    search = _Search(graph, feeds)
    half = Precisions(base="fp16", fp32=too_large(graph, search.ranges))
    products = frozenset(quantisable(graph)) - half.fp32
    alone: Mapping[str, float] = {}
    chosen = {"fp32": Precisions(), "fp16": half, "int8": replace(half, int8=products)}.get(precision)
    if chosen is None:
        chosen, alone = search.mixed(half, products, most_error)
    return Narrowed(graph=graph, model=search.write(chosen), precisions=chosen, error=search.error(chosen), alone=alone)


class _Search:
    """Measures precisions of one network against its answers in fp32."""

    def __init__(self, graph: Graph, feeds: tuple[Feed, ...]) -> None:
        self.ranges: Ranges = ranges(graph, activations(graph), feeds)
        for value, (low, high) in self.ranges.items():
            if not (np.isfinite(low) and np.isfinite(high)):
                raise GraphError(f"graph '{graph.name}' cannot be exported: value '{value}' is not finite ({low:g} to {high:g})")
        self._graph = graph
        self._feeds = feeds[:SAMPLES]
        self._expected: Array = answers(Numerics(self.write(Precisions()).SerializeToString()), self._feeds)

    def write(self, precisions: Precisions) -> ModelProto:
        """The network in these precisions."""
        return write(self._graph, precisions, self.ranges)

    def error(self, precisions: Precisions, samples: int = SAMPLES) -> float:
        """How far its answers are off."""
        found = answers(Numerics(self.write(precisions).SerializeToString()), self._feeds[:samples])
        return output_error(self._expected[: len(found)], found)

    def mixed(self, half: Precisions, products: frozenset[str], most_error: float) -> tuple[Precisions, Mapping[str, float]]:
        """As few products as possible above int8, by bisection over the order of their errors; each step is measured."""
        products_in_order = sorted(products, key=self._graph.positions.__getitem__)
        alone = {name: self.error(Precisions(int8=frozenset({name})), RANKING_SAMPLES) for name in products_in_order}
        order = sorted(alone, key=alone.__getitem__)  # the least sensitive first

        def first(count: int) -> Precisions:
            return replace(half, int8=frozenset(order[:count]))

        if self.error(half) > most_error:
            return Precisions(), alone
        if self.error(first(len(order))) <= most_error:
            return first(len(order)), alone
        keeps, breaks = 0, len(order)  # as many in int8 keep the error, as many break it
        while breaks - keeps > 1:
            middle = (keeps + breaks) // 2
            if self.error(first(middle)) <= most_error:
                keeps = middle
            else:
                breaks = middle
        return first(keeps), alone
