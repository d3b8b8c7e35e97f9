"""What a kernel's work costs where it stands: a row of products with the work before each of them, and the same row with it once.

A runtime says what a network takes. What one of its kernels takes it says with a profiler, which slows what it watches most where kernels
are shortest, and a network of that kernel alone is mostly its ends: copies in, copies out, conversions, a launch. So two networks are built
that differ by so many places of the work and by nothing else, with the ends, the launch and the first place in both: the difference of
their times, by place, is what the work adds. Between two places stands what stands there in a network, a product with weights (a 1x1
convolution for images, a matrix for rows), so that no runtime can fuse places with each other, and each may choose its layout as it would.

The work reads what the product before it wrote. Where it changes the shape, it reads the input again, and the products add its results up;
those without work add what was there before the value that they read, so that they too read two values, one of them for the last time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from hwnas.ir import Graph, GraphBuilder
from hwnas.kernels.source import Case

LINKS = 8  # places by which the two networks differ
_ROWS = frozenset({"layer_norm_residual"})  # work on rows; all other is on images
_PARAMETERS_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Two networks whose times differ by what some work takes.

    Attributes:
        whole: the work stands before each product.
        bare: it stands before the first product alone.
        places: names of the nodes of `whole` that do the work, for each place.
    """

    whole: Graph
    bare: Graph
    places: tuple[frozenset[str], ...]

    @property
    def links(self) -> int:
        """By how many places they differ."""
        return len(self.places) - 1


def on_rows(kernel: str) -> bool:
    """Whether a kernel works on rows, so that a product takes the last axis; it takes the channels of images otherwise."""
    return kernel in _ROWS


def chain(kernel: str, case: Case, links: int = LINKS) -> Chain:
    """The two networks for a case of a kernel, in fp32.

    Args:
        kernel: its name.
        case: its sizes and attributes.
        links: places by which they differ.
    """
    whole, spans = _row(kernel, case, links + 1, works=links + 1)
    bare, _ = _row(kernel, case, links + 1, works=1)
    places = tuple(frozenset(node.name for node in whole.nodes[begin:end]) for begin, end in spans)
    return Chain(whole=whole, bare=bare, places=places)


def _row(kernel: str, case: Case, products: int, *, works: int) -> tuple[Graph, list[tuple[int, int]]]:
    """So many products, the first `works` of them behind the work; with the nodes, from and to, of each place."""
    b = GraphBuilder(f"{kernel}, {works} of {products}")
    work = _Work(b, case, np.random.default_rng(_PARAMETERS_SEED))
    value = before = x = b.input("x", case.shapes["x"])
    residual = b.input("residual", case.shapes["residual"]) if "residual" in case.shapes else ""
    spans: list[tuple[int, int]] = []
    for i in range(products):
        source = value
        if i < works:
            begin = b.nodes
            source, residual = _WORK[kernel](work, value if b.shape(value) == b.shape(x) else x, residual)
            spans.append((begin, b.nodes))
        width = b.shape(source)[-1]
        product = b.op("MatMul", [source, b.weight("w", (width, width))]) if on_rows(kernel) else b.conv(source, b.shape(source)[1])
        if b.shape(source) != b.shape(x):
            summed = b.input("sum", b.shape(source)) if i == 0 else value if i < works else before
            product = b.op("Add", [product, summed])
            before = summed if i == 0 else value
        value = b.op("Relu", [product])
    ends = [value, residual] if residual and residual != "residual" else [value]
    return b.finish(*ends), spans


class _Work:
    """Writes the work of a case into a network, with parameters that no runtime can leave out, as it could ones and zeros."""

    def __init__(self, builder: GraphBuilder, case: Case, rng: np.random.Generator) -> None:
        self.b, self.case, self._rng = builder, case, rng

    def vector(self, stem: str, size: int, around: float = 0.0) -> str:
        """Parameters that scatter around a value."""
        return self.b.constant(stem, (around + 0.1 * self._rng.standard_normal(size)).astype(np.float32))

    def activated(self, value: str, name: object) -> str:
        """An activation by the name that the kernels give it."""
        b = self.b
        if name == "silu":
            return b.op("Mul", [value, b.op("Sigmoid", [value])])
        if name == "hardsigmoid":
            return b.op("HardSigmoid", [value], alpha=1 / 6, beta=0.5)
        if name == "relu6":
            return b.op("Clip", [value], min=0.0, max=6.0)
        ops = {"relu": "Relu", "hardswish": "HardSwish", "sigmoid": "Sigmoid"}
        return value if name == "none" else b.op(ops[str(name)], [value])

    def dense(self, value: str, width: int) -> str:
        """A fully connected layer over the channels of [N, C, 1, 1]."""
        weight = self.b.weight("w", (width, self.b.shape(value)[1], 1, 1))
        return self.b.op("Conv", [value, weight, self.vector("b", width)])


def _depthwise(work: _Work, x: str, residual: str) -> tuple[str, str]:
    b, attrs = work.b, work.case.attrs
    channels, stride, pad = b.shape(x)[1], int(attrs["stride"]), int(attrs["pad"])
    weight = b.weight("w", work.case.shapes["weight"])
    y = b.op("Conv", [x, weight], strides=(stride,) * 2, pads=(pad,) * 4, group=channels)
    norm = [work.vector(stem, channels, around) for stem, around in (("scale", 1.0), ("shift", 0.5), ("mean", 0.0), ("var", 1.0))]
    y = b.op("BatchNormalization", [y, *norm])
    if attrs["add"] == "before":
        y = b.op("Add", [y, residual])
    y = work.activated(y, attrs["activation"])
    return b.op("Add", [y, residual]) if attrs["add"] == "after" else y, residual


def _squeeze_excite(work: _Work, x: str, residual: str) -> tuple[str, str]:
    b, attrs = work.b, work.case.attrs
    hidden = work.activated(work.dense(b.op("GlobalAveragePool", [x]), work.case.shapes["reduce"][0]), attrs["activation"])
    gate = work.activated(work.dense(hidden, b.shape(x)[1]), attrs["gate"])
    return b.op("Mul", [x, gate]), residual


def _layer_norm(work: _Work, x: str, residual: str) -> tuple[str, str]:
    b, width = work.b, work.b.shape(x)[-1]
    total = b.op("Add", [x, residual])
    norm = [work.vector("scale", width, 1.0), work.vector("shift", width)]
    return b.op("LayerNormalization", [total, *norm], axis=-1, epsilon=float(work.case.attrs["epsilon"])), total


_WORK: Mapping[str, Callable[[_Work, str, str], tuple[str, str]]] = {
    "depthwise_conv": _depthwise,
    "squeeze_excite": _squeeze_excite,
    "layer_norm_residual": _layer_norm,
}
