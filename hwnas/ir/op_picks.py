"""Shape inference of what picks elements by their places, puts them back there, or tells the places.

Conventions are those of `hwnas.ir.op_shapes`.
"""

from __future__ import annotations

from collections.abc import Sequence

from hwnas.errors import GraphError
from hwnas.ir.node import Node, TensorSpec


def _integers(indices: TensorSpec) -> None:
    if not indices.dtype.startswith("int"):
        raise GraphError(f"indices must be integers, got {indices.dtype}")


def gather(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """The axis is replaced by the dimensions of the indices."""
    shape, axis = inputs[0].shape, int(node.attr("axis"))
    _integers(inputs[1])
    return [TensorSpec((*shape[:axis], *inputs[1].shape, *shape[axis + 1 :]), inputs[0].dtype)]


def gather_elements(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """One element for each index, found along the axis at the index's own place in all others."""
    data, indices, axis = inputs[0].shape, inputs[1].shape, int(node.attr("axis"))
    _integers(inputs[1])
    if len(data) != len(indices) or any(many > size for i, (many, size) in enumerate(zip(indices, data, strict=True)) if i != axis):
        raise GraphError(f"indices of shape {list(indices)} reach outside {list(data)}")
    return [TensorSpec(indices, inputs[0].dtype)]


def gather_nd(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """The last dimension of the indices picks along as many axes, behind the leading dimensions that both share."""
    shape, (*rest, depth), batch = inputs[0].shape, inputs[1].shape, int(node.attr("batch_dims"))
    if inputs[1].dtype != "int64":
        raise GraphError(f"indices must be int64, got {inputs[1].dtype}")
    if shape[:batch] != tuple(rest[:batch]) or batch + depth > len(shape):
        raise GraphError(f"{depth} indices and {batch} shared dimensions do not fit")
    return [TensorSpec((*rest, *shape[batch + depth :]), inputs[0].dtype)]


def scatter_elements(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """The data as it was, with one element put back for each index, as `gather_elements` finds them."""
    gather_elements(node, inputs)
    if inputs[1].shape != inputs[2].shape or inputs[0].dtype != inputs[2].dtype:
        raise GraphError(f"updates of shape {list(inputs[2].shape)} and type {inputs[2].dtype} do not fit the indices or the data")
    return [inputs[0]]


def scatter_nd(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """The data as it was, with slices put back at places, as GatherND finds them."""
    shape, (*rest, depth) = inputs[0].shape, inputs[1].shape
    if inputs[1].dtype != "int64":
        raise GraphError(f"indices must be int64, got {inputs[1].dtype}")
    if depth > len(shape) or inputs[2] != TensorSpec((*rest, *shape[depth:]), inputs[0].dtype):
        raise GraphError(f"updates of shape {list(inputs[2].shape)} and type {inputs[2].dtype} do not fit the indices or the data")
    return [inputs[0]]


def top_k(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """The k largest or smallest along the axis, and where they were."""
    shape, axis, many = inputs[0].shape, int(node.attr("axis")), int(node.attr("k"))
    if many > shape[axis]:
        raise GraphError(f"k = {many} is more than the {shape[axis]} there are")
    found = (*shape[:axis], many, *shape[axis + 1 :])
    return [TensorSpec(found, inputs[0].dtype), TensorSpec(found, "int64")]


def extreme(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """The place of the largest or smallest along the axis, which becomes 1 or vanishes."""
    shape, axis = inputs[0].shape, int(node.attr("axis"))
    return [TensorSpec((*shape[:axis], *((1,) if node.attr("keepdims") else ()), *shape[axis + 1 :]), "int64")]


def one_hot(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    """A new axis on which each index is one of two values at its place, the other elsewhere."""
    shape, axis = inputs[0].shape, int(node.attr("axis"))
    if inputs[1].shape != (2,):
        raise GraphError(f"needs two values, off and on, got {list(inputs[1].shape)}")
    return [TensorSpec((*shape[:axis], int(node.attr("depth")), *shape[axis:]), inputs[1].dtype)]
