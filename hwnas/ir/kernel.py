"""The unit that is measured and the unit that is predicted."""

from __future__ import annotations

from dataclasses import dataclass

from hwnas.ir.node import Attrs, TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One fused group of nodes as a runtime executes it, apart from where it stands in a network.

    Attributes:
        op: the operator that leads the group (`Conv`), or a runtime's own kind of work (`ReorderInput`).
        fused: operators absorbed into it, in order, such as `("Relu",)`; `Add` is a residual added in place.
        inputs: the activations that it reads.
        weights: the constants that it reads.
        outputs: what it writes.
        attrs: the leading operator's canonical attributes.
        layout: `nchw`, or the blocked layout in which a runtime keeps the data, such as `nchwc8`.
        precision: of the arithmetic: `fp32`, `fp16`, `int8`.
    """

    op: str
    fused: tuple[str, ...] = ()
    inputs: tuple[TensorSpec, ...]
    weights: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...]
    attrs: Attrs = ()
    layout: str = "nchw"
    precision: str = "fp32"

    def attr(self, key: str, default: object = None) -> object:
        """An attribute of the leading operator, or the default where it has none."""
        return dict(self.attrs).get(key, default)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelCall:
    """A kernel at its place in a network.

    Attributes:
        kernel: what runs.
        nodes: names of the graph nodes that it computes, or, for a layout reorder, of the node that caused it.
        output: the graph value that it writes (for a reorder: the value it re-arranges).
    """

    kernel: Kernel
    nodes: tuple[str, ...]
    output: str
