"""Torch functions of what picks elements by their places, puts them back there, or tells the places.

Conventions are those of `hwnas.ir.torch_ops`. ONNX counts negative indices from the end, which torch's own functions do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hwnas.errors import require
from hwnas.ir.node import Node
from hwnas.ir.torch_window import Lowering, Run, Specs

try:
    import torch
    from torch import Tensor
except ImportError:
    require("torch")

_REDUCTIONS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "mul": torch.mul,
    "min": torch.minimum,
    "max": torch.maximum,
}


def _forward(indices: Tensor, size: int) -> Tensor:
    """Indices counted from the start, as int64."""
    return torch.where(indices < 0, indices + size, indices).long()


def gather(node: Node, inputs: Specs, outputs: Specs) -> Run:
    """Picks along the axis, at any shape of indices."""
    axis, size = int(node.attr("axis")), inputs[0].shape[int(node.attr("axis"))]

    def run(x: Tensor, indices: Tensor) -> Tensor:
        found = x.index_select(axis, _forward(indices, size).reshape(-1))
        return found.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])

    return run


def gather_elements(node: Node, inputs: Specs, outputs: Specs) -> Run:
    """Picks single elements along the axis."""
    axis, size = int(node.attr("axis")), inputs[0].shape[int(node.attr("axis"))]
    return lambda x, indices: torch.gather(x, axis, _forward(indices, size))


def _places(indices: Tensor, sizes: tuple[int, ...]) -> list[Tensor]:
    """What the last dimension of indices picks along each of the axes."""
    return [_forward(column, size) for column, size in zip(indices.unbind(-1), sizes, strict=True)]


def gather_nd(node: Node, inputs: Specs, outputs: Specs) -> Run:
    """Picks slices behind the shared dimensions."""
    batch, depth = int(node.attr("batch_dims")), inputs[1].shape[-1]
    sizes = inputs[0].shape[batch : batch + depth]
    rest = len(inputs[1].shape) - 1 - batch  # dimensions of the indices behind the shared ones

    def run(x: Tensor, indices: Tensor) -> Tensor:
        shared = [torch.arange(x.shape[i], device=x.device).reshape(-1, *(1,) * (batch - i - 1 + rest)) for i in range(batch)]
        return x[tuple(shared + _places(indices, sizes))]

    return run


def scatter_elements(node: Node, inputs: Specs, outputs: Specs) -> Run:
    """Puts single elements back along the axis."""
    axis, size, reduction = int(node.attr("axis")), inputs[0].shape[int(node.attr("axis"))], str(node.attr("reduction"))
    if reduction == "none":
        return lambda x, indices, updates: x.scatter(axis, _forward(indices, size), updates)
    how = {"add": "sum", "mul": "prod", "min": "amin", "max": "amax"}[reduction]
    return lambda x, indices, updates: x.scatter_reduce(axis, _forward(indices, size), updates, how)


def scatter_nd(node: Node, inputs: Specs, outputs: Specs) -> Run:
    """Slices are put back one after another where they are combined, since several may meet at one place."""
    depth, reduction = inputs[1].shape[-1], str(node.attr("reduction"))
    sizes = inputs[0].shape[:depth]

    def run(x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        places = _places(indices, sizes)
        if reduction == "none":
            return x.index_put(tuple(places), updates)
        columns = torch.stack([place.reshape(-1) for place in places], -1).tolist()
        for column, update in zip(columns, updates.reshape(len(columns), *inputs[0].shape[depth:]), strict=True):
            place = tuple(torch.tensor(i, device=x.device) for i in column)
            x = x.index_put(place, _REDUCTIONS[reduction](x[tuple(column)], update))
        return x

    return run


def one_hot(node: Node, inputs: Specs, outputs: Specs) -> Run:
    """Compares the indices with every place of the new axis."""
    axis, depth = int(node.attr("axis")), int(node.attr("depth"))

    def run(indices: Tensor, values: Tensor) -> Tensor:
        column = torch.arange(depth, device=indices.device).reshape(-1, *(1,) * (indices.ndim - axis))
        return torch.where(_forward(indices, depth).unsqueeze(axis) == column, values[1], values[0])

    return run


def top_k(node: Node, inputs: Specs, outputs: Specs) -> Run:
    """Among equal ones ONNX takes the first, which is what a stable sort does."""
    axis, many, largest = int(node.attr("axis")), int(node.attr("k")), bool(node.attr("largest"))

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        values, places = torch.sort(x, dim=axis, descending=largest, stable=True)
        return values.narrow(axis, 0, many), places.narrow(axis, 0, many)

    return run


def extreme(function: Callable[..., Tensor]) -> Lowering:
    """The first place of the largest or smallest, or the last one."""

    def lowering(node: Node, inputs: Specs, outputs: Specs) -> Run:
        axis, keep, last = int(node.attr("axis")), bool(node.attr("keepdims")), bool(node.attr("select_last_index"))
        size = inputs[0].shape[axis]

        def run(x: Tensor) -> Tensor:
            found = function(x.flip(axis) if last else x, axis, keep)
            return size - 1 - found if last else found

        return run

    return lowering


LOWERINGS: Mapping[str, Lowering] = {
    "ArgMax": extreme(torch.argmax),
    "ArgMin": extreme(torch.argmin),
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "OneHot": one_hot,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "TopK": top_k,
}
