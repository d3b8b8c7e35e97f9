"""Every operator as a torch function with exactly ONNX's semantics.

`LOWERINGS[op](node, inputs, outputs)` reads the attributes once and returns the function that runs the node on tensors. Sizes of the
leading dimension are read at run time wherever a node leaves it alone, so that a network runs at other batch sizes as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

import numpy as np

from hwnas.errors import GraphError, require
from hwnas.ir.node import Array, Node, TensorSpec
from hwnas.ir.ops import OPS
from hwnas.ir.resample import axis_taps

try:
    import torch
    import torch.nn.functional as F
    from torch import Tensor
except ImportError:
    require("torch")

Run = Callable[..., Tensor | Sequence[Tensor]]
Specs = Sequence[TensorSpec]
Lowering = Callable[[Node, Specs, Specs], Run]

_NO_LIMIT = float(str(OPS["Clip"].defaults["max"]))


def _unary(function: Callable[[Tensor], Tensor]) -> Lowering:
    return lambda node, inputs, outputs: function


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Lowering:
    return lambda node, inputs, outputs: function


def _pairs(begin: Sequence[int], end: Sequence[int]) -> list[int]:
    """Pads in torch's order: the last axis first, each as begin, end."""
    return [pad for both in reversed(list(zip(begin, end, strict=True))) for pad in both]


def _by_rank(rank: int, *functions: Callable[..., Tensor]) -> Callable[..., Tensor]:
    if not 1 <= rank <= len(functions):
        raise GraphError(f"{rank} spatial dimensions are not supported; torch has 1 to {len(functions)}")
    return functions[rank - 1]


def _conv(node: Node, inputs: Specs, outputs: Specs) -> Run:
    rank = len(node.ints("kernel_shape"))
    function = _by_rank(rank, F.conv1d, F.conv2d, F.conv3d)
    stride, dilation, groups = node.ints("strides"), node.ints("dilations"), int(node.attr("group"))
    begin, end = node.ints("pads")[:rank], node.ints("pads")[rank:]
    if begin == end:
        return lambda x, w, b=None: function(x, w, b, stride, begin, dilation, groups)
    pads = _pairs(begin, end)
    return lambda x, w, b=None: function(F.pad(x, pads), w, b, stride, 0, dilation, groups)


def _conv_transpose(node: Node, inputs: Specs, outputs: Specs) -> Run:
    rank = len(node.ints("kernel_shape"))
    function = _by_rank(rank, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
    stride, dilation, groups = node.ints("strides"), node.ints("dilations"), int(node.attr("group"))
    begin, end, extra = node.ints("pads")[:rank], node.ints("pads")[rank:], node.ints("output_padding")
    if begin == end and all(more < max(s, d) for more, s, d in zip(extra, stride, dilation, strict=True)):
        return lambda x, w, b=None: function(x, w, b, stride, begin, extra, groups, dilation)
    crop = _pairs([-size for size in begin], [more - size for more, size in zip(extra, end, strict=True)])

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


def _max_pool(node: Node, inputs: Specs, outputs: Specs) -> Run:
    kernel, stride, dilation = node.ints("kernel_shape"), node.ints("strides"), node.ints("dilations")
    function = _by_rank(len(kernel), F.max_pool1d, F.max_pool2d, F.max_pool3d)
    begin, end = node.ints("pads")[: len(kernel)], node.ints("pads")[len(kernel) :]
    if begin == end and not node.attr("ceil_mode") and all(pad <= k // 2 for pad, k in zip(begin, kernel, strict=True)):
        return lambda x: function(x, kernel, stride, begin, dilation)
    pads = _pairs(*_window_pads(node, inputs, outputs))
    return lambda x: function(F.pad(x, pads, value=-torch.inf), kernel, stride, 0, dilation)


def _average_pool(node: Node, inputs: Specs, outputs: Specs) -> Run:
    kernel, stride, dilation = node.ints("kernel_shape"), node.ints("strides"), node.ints("dilations")
    rank = len(kernel)
    begin, end = _window_pads(node, inputs, outputs)
    pads = _pairs(begin, end)
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


def _instance_norm(node: Node, inputs: Specs, outputs: Specs) -> Run:
    epsilon = float(node.attr("epsilon"))
    return lambda x, scale, shift: torch.group_norm(x, x.shape[1], scale, shift, epsilon)


def _group_norm(node: Node, inputs: Specs, outputs: Specs) -> Run:
    groups, epsilon = int(node.attr("num_groups")), float(node.attr("epsilon"))
    return lambda x, scale, shift: torch.group_norm(x, groups, scale, shift, epsilon)


def _layer_norm(node: Node, inputs: Specs, outputs: Specs) -> Run:
    shape, epsilon = inputs[0].shape[int(node.attr("axis")) :], float(node.attr("epsilon"))
    if all(spec.shape == shape for spec in inputs[1:]):
        return lambda x, scale, shift=None: F.layer_norm(x, shape, scale, shift, epsilon)

    def run(x: Tensor, scale: Tensor, shift: Tensor | None = None) -> Tensor:
        y = F.layer_norm(x, shape, None, None, epsilon) * scale
        return y if shift is None else y + shift

    return run


def _hard_sigmoid(node: Node, inputs: Specs, outputs: Specs) -> Run:
    alpha, beta = float(node.attr("alpha")), float(node.attr("beta"))
    return lambda x: torch.clamp(x * alpha + beta, 0, 1)


def _clip(node: Node, inputs: Specs, outputs: Specs) -> Run:
    low = None if node.attr("min") <= -_NO_LIMIT else node.attr("min")
    high = None if node.attr("max") >= _NO_LIMIT else node.attr("max")
    return (lambda x: x) if low is None and high is None else lambda x: torch.clamp(x, low, high)


def _gelu(node: Node, inputs: Specs, outputs: Specs) -> Run:
    approximate = str(node.attr("approximate"))
    return lambda x: F.gelu(x, approximate=approximate)


def _div(node: Node, inputs: Specs, outputs: Specs) -> Run:
    return torch.div if inputs[0].dtype.startswith(("float", "bfloat")) else lambda a, b: torch.div(a, b, rounding_mode="trunc")


def _concat(node: Node, inputs: Specs, outputs: Specs) -> Run:
    axis = int(node.attr("axis"))
    return lambda *parts: torch.cat(parts, axis)


def _split(node: Node, inputs: Specs, outputs: Specs) -> Run:
    parts, axis = list(node.ints("split")), int(node.attr("axis"))
    return lambda x: torch.split(x, parts, axis)


def _slice(node: Node, inputs: Specs, outputs: Specs) -> Run:
    cuts = [slice(None)] * len(inputs[0].shape)
    for axis, start, end, step in zip(node.ints("axes"), node.ints("starts"), node.ints("ends"), node.ints("steps"), strict=True):
        if (start, end, step) != (0, inputs[0].shape[axis], 1):
            cuts[axis] = slice(start, end, step)
    index = tuple(cuts)
    return lambda x: x[index]


def _global_average_pool(node: Node, inputs: Specs, outputs: Specs) -> Run:
    axes = tuple(range(2, len(inputs[0].shape)))
    return lambda x: x.mean(axes, keepdim=True)


def _reduce_mean(node: Node, inputs: Specs, outputs: Specs) -> Run:
    axes, keep = node.ints("axes"), bool(node.attr("keepdims"))
    return lambda x: x.mean(axes, keepdim=keep)


def _flatten(node: Node, inputs: Specs, outputs: Specs) -> Run:
    axis = int(node.attr("axis"))
    return lambda x: x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


def _reshape(node: Node, inputs: Specs, outputs: Specs) -> Run:
    shape = node.ints("shape")
    if shape and inputs[0].shape[:1] == shape[:1]:
        return lambda x: x.reshape(x.shape[0], *shape[1:])
    return lambda x: x.reshape(shape)


def _transpose(node: Node, inputs: Specs, outputs: Specs) -> Run:
    perm = node.ints("perm")
    return lambda x: x.permute(perm)


def _gemm(node: Node, inputs: Specs, outputs: Specs) -> Run:
    alpha, beta = float(node.attr("alpha")), float(node.attr("beta"))
    turn_a, turn_b = bool(node.attr("transA")), bool(node.attr("transB"))
    if (alpha, beta, turn_a, turn_b) == (1.0, 1.0, False, True) and all(len(spec.shape) == 1 for spec in inputs[2:]):
        return F.linear

    def run(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        y = alpha * torch.matmul(a.T if turn_a else a, b.T if turn_b else b)
        return y if c is None else y + beta * c

    return run


def _softmax(node: Node, inputs: Specs, outputs: Specs) -> Run:
    axis = int(node.attr("axis"))
    return lambda x: torch.softmax(x, axis)


def _pad(node: Node, inputs: Specs, outputs: Specs) -> Run:
    rank, mode, value = len(inputs[0].shape), str(node.attr("mode")), node.attr("value")
    begin, end = node.ints("pads")[:rank], node.ints("pads")[rank:]
    if mode == "constant":
        pads = _pairs(begin, end)
        return lambda x: F.pad(x, pads, value=value)
    if mode not in ("reflect", "edge", "wrap"):
        raise GraphError(f"mode '{mode}' does not exist; use constant, reflect, edge or wrap")
    if min(begin + end) < 0:
        raise GraphError(f"mode '{mode}' with negative pads is not supported")
    sources: dict[int, Array] = {}
    for axis, (size, low, high) in enumerate(zip(inputs[0].shape, begin, end, strict=True)):
        if low or high:
            indices = np.arange(size)
            sources[axis] = np.pad(indices, (low, high), mode=mode)  # type: ignore[call-overload]  # the mode is checked above

    def run(x: Tensor) -> Tensor:
        for axis, source in sources.items():
            x = x.index_select(axis, torch.as_tensor(source, device=x.device))
        return x

    return run


def _resize(node: Node, inputs: Specs, outputs: Specs) -> Run:
    taps = {axis: found for axis in range(len(inputs[0].shape)) if (found := axis_taps(node, axis, inputs[0].shape, outputs[0].shape))}

    def run(x: Tensor) -> Tensor:
        for axis, axis_taps_ in taps.items():
            column = (-1, *(1,) * (x.ndim - 1 - axis))
            terms = []
            for source, share in axis_taps_:
                term = x.index_select(axis, torch.as_tensor(source, device=x.device))
                if share is not None:
                    term = term * torch.as_tensor(share.reshape(column), dtype=x.dtype, device=x.device)
                terms.append(term)
            x = terms[0]
            for term in terms[1:]:
                x = x + term
        return x

    return run


DTYPES: Mapping[str, torch.dtype] = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int64": torch.int64,
    "int32": torch.int32,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "bool": torch.bool,
}


def _cast(node: Node, inputs: Specs, outputs: Specs) -> Run:
    dtype = DTYPES[str(node.attr("to"))]
    return lambda x: x.to(dtype)


# BatchNormalization is missing: it has state, and behaves differently in training (see `hwnas.ir.torch`).
LOWERINGS: Mapping[str, Lowering] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "LayerNormalization": _layer_norm,
    "Relu": _unary(torch.relu),
    "Sigmoid": _unary(torch.sigmoid),
    "HardSwish": _unary(F.hardswish),
    "HardSigmoid": _hard_sigmoid,
    "Clip": _clip,
    "Gelu": _gelu,
    "Erf": _unary(torch.erf),
    "Tanh": _unary(torch.tanh),
    "Sqrt": _unary(torch.sqrt),
    "Exp": _unary(torch.exp),
    "Identity": _unary(lambda x: x),
    "Add": _binary(torch.add),
    "Sub": _binary(torch.sub),
    "Mul": _binary(torch.mul),
    "Div": _div,
    "Pow": _binary(torch.pow),
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average_pool,
    "ReduceMean": _reduce_mean,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Gemm": _gemm,
    "MatMul": _binary(torch.matmul),
    "Softmax": _softmax,
    "Pad": _pad,
    "Resize": _resize,
    "Cast": _cast,
}
