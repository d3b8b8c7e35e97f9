"""Folds what a network no longer needs once it is trained: batch normalisation becomes part of the weights before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from hwnas.errors import GraphError
from hwnas.ir import Graph, Node, Weight
from hwnas.ir.node import Array

# How the weights of an operator are multiplied by one factor per output channel.
_Scale = Callable[[Node, Array, Array], Array]


def fold(graph: Graph, *, drafts: bool = False) -> Graph:
    """The same function in fewer nodes: batch normalisation folded into Conv, ConvTranspose and Gemm, identities removed.

    Only operators and attributes that the graph had before are used, so the result loads wherever the original does. The names of the
    values that remain are kept. A normalisation stays where its input is read elsewhere too, or comes from no such operator.

    Args:
        graph: the network.
        drafts: whether weights may still be recipes; those that take part are folded into recipes, and into no values.

    Raises:
        GraphError: when a weight has no values yet and `drafts` is not set.
    """
    nodes: dict[str, Node] = {}  # by the value written last, in order
    weights = dict(graph.weights)
    renamed: dict[str, str] = {}
    for node in graph.nodes:
        node = replace(node, inputs=tuple(renamed.get(value, value) for value in node.inputs))
        if node.op == "Identity" and node.outputs[0] not in graph.outputs:
            renamed[node.outputs[0]] = node.inputs[0]
            continue
        before = nodes.get(node.inputs[0]) if node.inputs else None
        if node.op == "BatchNormalization" and before is not None and _folds(graph, before, node, weights):
            del nodes[before.outputs[0]]
            node, new = _absorbed(before, node, weights, drafts=drafts)
            weights.update(new)
        nodes[node.outputs[0]] = node
    used = {value for node in nodes.values() for value in node.inputs} | set(graph.outputs)
    return Graph.make(
        name=graph.name,
        inputs=graph.inputs,
        outputs=graph.outputs,
        nodes=nodes.values(),
        weights={name: weight for name, weight in weights.items() if name in used},
    )


def _folds(graph: Graph, before: Node, norm: Node, weights: Mapping[str, Weight]) -> bool:
    """Whether nobody else sees the value between the two nodes, and all parameters are constants."""
    between = before.outputs[0]
    constant = all(value in weights for value in (*before.inputs[1:], *norm.inputs[1:]) if value)
    return before.op in _SCALE and constant and between not in graph.outputs and _readers(graph, between) == 1


def _readers(graph: Graph, value: str) -> int:
    """How many nodes read a value, identities looked through."""
    count = 0
    for node in graph.consumers.get(value, ()):
        through = node.op == "Identity" and node.outputs[0] not in graph.outputs
        count += _readers(graph, node.outputs[0]) if through else 1
    return count


def _absorbed(before: Node, norm: Node, weights: Mapping[str, Weight], *, drafts: bool) -> tuple[Node, dict[str, Weight]]:
    """The operator that does the work of both, and its new weights."""
    attrs = dict(before.attrs)
    if before.op == "Gemm":
        attrs["beta"] = 1.0
    names = [_fresh(f"{before.name}_folded_{part}", weights) for part in ("w", "b")]
    node = replace(before, inputs=(before.inputs[0], *names), outputs=norm.outputs, attrs=tuple(sorted(attrs.items())))
    if drafts and any(weights[value].value is None for value in (*before.inputs[1:], *norm.inputs[1:]) if value):
        kernel, shift = weights[before.inputs[1]].spec, weights[norm.inputs[2]].spec
        new = (Weight(spec=kernel), Weight(spec=replace(shift, dtype=kernel.dtype), init="zeros"))
    else:
        new = _product(before, norm, weights)
    return node, dict(zip(names, new, strict=True))


def _product(before: Node, norm: Node, weights: Mapping[str, Weight]) -> tuple[Weight, Weight]:
    """Kernel and bias of an operator and the normalisation behind it. Computed in float64, stored as before."""
    scale, shift, mean, variance = (_values(weights, value, norm) for value in norm.inputs[1:])
    factor = scale / np.sqrt(variance + norm.attr("epsilon"))
    dtype = weights[before.inputs[1]].spec.dtype
    kernel = _SCALE[before.op](before, _values(weights, before.inputs[1], before), factor)
    bias = _values(weights, before.inputs[2], before) if len(before.inputs) > 2 and before.inputs[2] else np.zeros_like(shift)
    if before.op == "Gemm":
        bias = bias * before.attr("beta")
    return Weight.of(kernel.astype(dtype)), Weight.of(((bias - mean) * factor + shift).astype(dtype))


def _values(weights: Mapping[str, Weight], name: str, node: Node) -> Array:
    value = weights[name].value
    if value is None:
        raise GraphError(f"node '{node.name}' ({node.op}): weight '{name}' has no values yet; call Graph.materialize or train it first")
    return value.astype(np.float64)


def _fresh(name: str, taken: Mapping[str, Weight]) -> str:
    while name in taken:
        name += "_"
    return name


def _conv(node: Node, kernel: Array, factor: Array) -> Array:
    """Kernel of shape [out, in / group, ...]."""
    return kernel * factor.reshape(-1, *(1,) * (kernel.ndim - 1))


def _conv_transpose(node: Node, kernel: Array, factor: Array) -> Array:
    """Kernel of shape [in, out / group, ...]; the output channels of group g are the g-th slice of the factors."""
    group, window = int(node.attr("group")), kernel.shape[2:]
    split = kernel.reshape(group, kernel.shape[0] // group, kernel.shape[1], *window)
    return (split * factor.reshape(group, 1, kernel.shape[1], *(1,) * len(window))).reshape(kernel.shape)


def _gemm(node: Node, matrix: Array, factor: Array) -> Array:
    """Matrix of shape [in, out], or [out, in] where it is transposed."""
    return matrix * (factor[:, None] if node.attr("transB") else factor)


_SCALE: Mapping[str, _Scale] = {"Conv": _conv, "ConvTranspose": _conv_transpose, "Gemm": _gemm}
