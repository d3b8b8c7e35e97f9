"""Convolutions and pools as torch functions, with what torch lacks of ONNX's: asymmetric pads, wide pads, dilated averages.

Each reads a node's attributes once and returns the function that runs it (see `hwnas.ir.torch_ops`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np

from hwnas.errors import GraphError, require
from hwnas.ir.node import Array, Node, TensorSpec

try:
    import torch
    import torch.nn.functional as F
    from torch import Tensor
except ImportError:
    require("torch")

Run = Callable[..., Tensor | Sequence[Tensor]]
Specs = Sequence[TensorSpec]
Lowering = Callable[[Node, Specs, Specs], Run]


def torch_pads(begin: Sequence[int], end: Sequence[int]) -> list[int]:
    """Pads in torch's order: the last axis first, each as begin, end."""
    return [pad for both in reversed(list(zip(begin, end, strict=True))) for pad in both]


def _by_rank(rank: int, *functions: Callable[..., Tensor]) -> Callable[..., Tensor]:
    if not 1 <= rank <= len(functions):
        raise GraphError(f"{rank} spatial dimensions are not supported; torch has 1 to {len(functions)}")
    return functions[rank - 1]


def conv(node: Node, inputs: Specs, outputs: Specs) -> Run:
    """Any pads: those that differ between begin and end are applied first."""
    rank = len(node.ints("kernel_shape"))
    function = _by_rank(rank, F.conv1d, F.conv2d, F.conv3d)
    stride, dilation, groups = node.ints("strides"), node.ints("dilations"), int(node.attr("group"))
    begin, end = node.ints("pads")[:rank], node.ints("pads")[rank:]
    if begin == end:
        return lambda x, w, b=None: function(x, w, b, stride, begin, dilation, groups)
    pads = torch_pads(begin, end)
    return lambda x, w, b=None: function(F.pad(x, pads), w, b, stride, 0, dilation, groups)


def conv_transpose(node: Node, inputs: Specs, outputs: Specs) -> Run:
    """Any pads and output_padding: torch's own where it takes them, else the full result is cut."""
    rank = len(node.ints("kernel_shape"))
    function = _by_rank(rank, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
    stride, dilation, groups = node.ints("strides"), node.ints("dilations"), int(node.attr("group"))
    begin, end, extra = node.ints("pads")[:rank], node.ints("pads")[rank:], node.ints("output_padding")
    if begin == end and all(more < max(s, d) for more, s, d in zip(extra, stride, dilation, strict=True)):
        return lambda x, w, b=None: function(x, w, b, stride, begin, extra, groups, dilation)
    crop = torch_pads([-size for size in begin], [more - size for more, size in zip(extra, end, strict=True)])

    def run(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        y = F.pad(function(x, w, None, stride, 0, 0, groups, dilation), crop)
        return y if b is None else y + b.reshape(-1, *(1,) * rank)

    return run


def _window_pads(node: Node, inputs: Specs, outputs: Specs) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The pads with which sliding windows end exactly at the end: what `ceil_mode` adds and rounding drops is in them."""
    kernel, stride, dilation = node.ints("kernel_shape"), node.ints("strides"), node.ints("dilations")
    begin = node.ints("pads")[: len(kernel)]
    sizes, lengths = inputs[0].shape[2:], outputs[0].shape[2:]
    reach = [s * (length - 1) + d * (k - 1) + 1 for k, s, d, length in zip(kernel, stride, dilation, lengths, strict=True)]
    return begin, tuple(total - size - pad for total, size, pad in zip(reach, sizes, begin, strict=True))


def max_pool(node: Node, inputs: Specs, outputs: Specs) -> Run:
    """Any pads, the padding never winning."""
    kernel, stride, dilation = node.ints("kernel_shape"), node.ints("strides"), node.ints("dilations")
    function = _by_rank(len(kernel), F.max_pool1d, F.max_pool2d, F.max_pool3d)
    begin, end = node.ints("pads")[: len(kernel)], node.ints("pads")[len(kernel) :]
    if begin == end and not node.attr("ceil_mode") and all(pad <= k // 2 for pad, k in zip(begin, kernel, strict=True)):
        return lambda x: function(x, kernel, stride, begin, dilation)
    pads = torch_pads(*_window_pads(node, inputs, outputs))
    return lambda x: function(F.pad(x, pads, value=-torch.inf), kernel, stride, 0, dilation)


def average_pool(node: Node, inputs: Specs, outputs: Specs) -> Run:
    """Any pads and dilations, each window divided by the elements that count."""
    kernel, stride, dilation = node.ints("kernel_shape"), node.ints("strides"), node.ints("dilations")
    rank = len(kernel)
    begin, end = _window_pads(node, inputs, outputs)
    pads = torch_pads(begin, end)
    counted = node.ints("pads") if node.attr("count_include_pad") else (0,) * 2 * rank
    counts: Array = np.ones((1,) * rank)
    for i in range(rank):
        positions = np.arange(outputs[0].shape[2 + i])[:, None] * stride[i] - begin[i] + np.arange(kernel[i]) * dilation[i]
        inside = (positions >= -counted[i]) & (positions < inputs[0].shape[2 + i] + counted[rank + i])
        counts = counts * inside.sum(axis=1).reshape(-1, *(1,) * (rank - 1 - i))
    correction = None if (counts == prod(kernel)).all() else prod(kernel) / counts
    pool = _by_rank(rank, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
    convolve = _by_rank(rank, F.conv1d, F.conv2d, F.conv3d)

    def run(x: Tensor) -> Tensor:
        x = F.pad(x, pads) if any(pads) else x
        if all(step == 1 for step in dilation):
            y = pool(x, kernel, stride)
        else:
            window = torch.full((x.shape[1], 1, *kernel), 1 / prod(kernel), dtype=x.dtype, device=x.device)
            y = convolve(x, window, None, stride, 0, dilation, x.shape[1])
        return y if correction is None else y * torch.as_tensor(correction, dtype=x.dtype, device=x.device)

    return run
