"""The unit that is measured and the unit that is predicted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hwnas.ir.graph import Graph
from hwnas.ir.node import Attrs, Node, TensorSpec


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

    def attr(self, key: str, default: Any = None) -> Any:
        """An attribute of the leading operator, or the default where it has none."""
        return dict(self.attrs).get(key, default)

    def to_json(self) -> str:
        """A canonical text: equal kernels have equal texts."""
        tensors = {key: [[spec.dtype, *spec.shape] for spec in getattr(self, key)] for key in ("inputs", "weights", "outputs")}
        plain = {
            "op": self.op,
            "fused": self.fused,
            **tensors,
            "attrs": dict(self.attrs),
            "layout": self.layout,
            "precision": self.precision,
        }
        return json.dumps(plain, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Kernel:
        """The kernel that `to_json` wrote."""
        plain = json.loads(text)
        tensors = {key: tuple(TensorSpec(tuple(shape), dtype) for dtype, *shape in plain[key]) for key in ("inputs", "weights", "outputs")}
        attrs = tuple((key, tuple(value) if isinstance(value, list) else value) for key, value in plain["attrs"].items())
        return cls(
            op=plain["op"], fused=tuple(plain["fused"]), **tensors, attrs=attrs, layout=plain["layout"], precision=plain["precision"]
        )


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


FREE = frozenset({"BatchNormalization", "Identity"})  # folded into their neighbours when a network is built: they cost nothing
COUNTED_WEIGHTS = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1}  # constants that count, first to last; biases ride along


def make_call(graph: Graph, members: Sequence[Node], *, op: str, layout: str = "nchw", precision: str = "fp32") -> KernelCall:
    """The kernel that computes a group of nodes.

    Args:
        graph: where the nodes stand.
        members: the nodes of the group in graph order; the last one writes what the kernel writes.
        op: the kind of kernel: the operator that leads the group, or a runtime's own name for the fusion of all of it.
        layout: of the data.
        precision: of the arithmetic.
    """
    lead = next((node for node in members if node.op == op), members[0])
    inside = {value for node in members for value in node.outputs}
    reads = dict.fromkeys(value for node in (lead, *members) for value in node.inputs if value and value not in inside)
    constants = [value for value in lead.inputs if value in graph.constants]
    kernel = Kernel(
        op=op,
        fused=tuple(node.op for node in members if node is not lead and node.op not in FREE),
        inputs=tuple(graph.specs[value] for value in reads if value not in graph.constants),
        weights=tuple(graph.specs[value] for value in constants[: COUNTED_WEIGHTS.get(lead.op)]),
        outputs=tuple(graph.specs[value] for value in members[-1].outputs),
        attrs=lead.attrs,
        layout=layout,
        precision=precision,
    )
    return KernelCall(kernel=kernel, nodes=tuple(node.name for node in members), output=members[-1].outputs[0])


def members_of(graph: Graph, value: str, owned: set[str]) -> list[Node]:
    """The nodes that lead to a value and belong to no kernel yet, in graph order: no constants, a copy only where there is nothing else."""
    found: dict[str, Node] = {}
    pending = [value]
    while pending:
        value = pending.pop()
        node = graph.producers.get(value) if value not in graph.constants else None
        if node is not None and node.name not in owned and node.name not in found:
            found[node.name] = node
            pending.extend(node.inputs)
    nodes = sorted(found.values(), key=lambda node: graph.positions[node.name])
    return [node for node in nodes if node.op != "Identity"] or nodes[-1:]


def copied(graph: Graph, value: str) -> str:
    """The value that a chain of Identities copies; the value itself where no Identity writes it."""
    while (node := graph.producers.get(value)) is not None and node.op == "Identity":
        value = node.inputs[0]
    return value
