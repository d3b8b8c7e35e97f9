"""Every operator as a torch function with exactly ONNX's semantics.

`LOWERINGS[op](node, inputs, outputs)` reads the attributes once and returns the function that runs the node on tensors. Sizes of the
leading dimension are read at run time wherever a node leaves it alone, so that a network runs at other batch sizes as well.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from math import prod

import numpy as np

from hwnas.errors import GraphError, require
from hwnas.ir import torch_picks, torch_recurrent
from hwnas.ir.node import Array, Node
from hwnas.ir.ops import OPS
from hwnas.ir.resample import axis_taps
from hwnas.ir.torch_window import Lowering, Run, Specs, average_pool, conv, conv_transpose, max_pool, torch_pads

try:
    import torch
    import torch.nn.functional as F
    from torch import Tensor
except ImportError:
    require("torch")

_NO_LIMIT = float(str(OPS["Clip"].defaults["max"]))


def _plain(function: Callable[..., Tensor]) -> Lowering:
    """A function that no attribute changes."""
    return lambda node, inputs, outputs: function


def _variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Lowering:
    return lambda node, inputs, outputs: lambda *parts: functools.reduce(function, parts)


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


def _elu(node: Node, inputs: Specs, outputs: Specs) -> Run:
    alpha = float(node.attr("alpha"))
    return lambda x: F.elu(x, alpha)


def _leaky_relu(node: Node, inputs: Specs, outputs: Specs) -> Run:
    alpha = float(node.attr("alpha"))
    return lambda x: F.leaky_relu(x, alpha)


def _selu(node: Node, inputs: Specs, outputs: Specs) -> Run:
    alpha, gamma = float(node.attr("alpha")), float(node.attr("gamma"))
    return lambda x: gamma * F.elu(x, alpha)


def _lrn(node: Node, inputs: Specs, outputs: Specs) -> Run:
    size, alpha, beta, bias = (float(node.attr(key)) for key in ("size", "alpha", "beta", "bias"))
    before, after = int((size - 1) // 2), int(size // 2)
    rest = (0, 0) * (len(inputs[0].shape) - 2)

    def run(x: Tensor) -> Tensor:
        squares = F.pad(x * x, (*rest, before, after))
        total = functools.reduce(torch.add, (squares[:, i : i + x.shape[1]] for i in range(int(size))))
        return x / (bias + alpha / size * total) ** beta

    return run


def _div(node: Node, inputs: Specs, outputs: Specs) -> Run:
    return torch.div if inputs[0].dtype.startswith(("float", "bfloat")) else lambda a, b: torch.div(a, b, rounding_mode="trunc")


def _concat(node: Node, inputs: Specs, outputs: Specs) -> Run:
    axis = int(node.attr("axis"))
    return lambda *parts: torch.cat(parts, axis)


def _split(node: Node, inputs: Specs, outputs: Specs) -> Run:
    parts, axis = list(node.ints("split")), int(node.attr("axis"))
    return lambda x: torch.split(x, parts, axis)


def _slice(node: Node, inputs: Specs, outputs: Specs) -> Run:
    cuts, turned = [slice(None)] * len(inputs[0].shape), []
    for axis, start, end, step in zip(node.ints("axes"), node.ints("starts"), node.ints("ends"), node.ints("steps"), strict=True):
        if step < 0:  # torch steps forwards only: the same elements, then turned
            found = range(*slice(start, end, step).indices(inputs[0].shape[axis]))
            cuts[axis] = slice(found[-1], found[0] + 1, -step)
            turned.append(axis)
        elif (start, end, step) != (0, inputs[0].shape[axis], 1):
            cuts[axis] = slice(start, end, step)
    index = tuple(cuts)
    return lambda x: x[index].flip(turned) if turned else x[index]


def _global_pool(function: Callable[..., Tensor]) -> Lowering:
    def lowering(node: Node, inputs: Specs, outputs: Specs) -> Run:
        axes = tuple(range(2, len(inputs[0].shape)))
        return lambda x: function(x, axes, keepdim=True)

    return lowering


def _reduce(function: Callable[..., Tensor]) -> Lowering:
    def lowering(node: Node, inputs: Specs, outputs: Specs) -> Run:
        axes, keep = node.ints("axes"), bool(node.attr("keepdims"))
        return lambda x: function(x, axes, keepdim=keep)

    return lowering


def _flatten(node: Node, inputs: Specs, outputs: Specs) -> Run:
    axis = int(node.attr("axis"))
    return lambda x: x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


def _reshape(node: Node, inputs: Specs, outputs: Specs) -> Run:
    shape = node.ints("shape")
    if shape and inputs[0].shape[:1] == shape[:1]:
        return lambda x: x.reshape(x.shape[0], *shape[1:])
    return lambda x: x.reshape(shape)


def _tile(node: Node, inputs: Specs, outputs: Specs) -> Run:
    repeats = node.ints("repeats")
    return lambda x: x.repeat(repeats)


def _einsum(node: Node, inputs: Specs, outputs: Specs) -> Run:
    equation = str(node.attr("equation"))
    return lambda *parts: torch.einsum(equation, *parts)


def _col2im(node: Node, inputs: Specs, outputs: Specs) -> Run:
    image, block, dilation, stride = (node.ints(key) for key in ("image_shape", "block_shape", "dilations", "strides"))
    if len(image) != 2:
        raise GraphError(f"Col2Im of {len(image)} dimensions is not supported; torch has it for images of 2")
    begin, end = node.ints("pads")[:2], node.ints("pads")[2:]
    padded = tuple(size + low + high for size, low, high in zip(image, begin, end, strict=True))
    crop = torch_pads([-pad for pad in begin], [-pad for pad in end])
    return lambda x: F.pad(F.fold(x, padded, block, dilation, 0, stride), crop)


def _product(x: Tensor, axes: tuple[int, ...], keepdim: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, axis, keepdim)
    return x


def _expand(node: Node, inputs: Specs, outputs: Specs) -> Run:
    shape, source = node.ints("shape"), inputs[0].shape
    kept = [-1 if len(source) == len(shape) and size == source[i] else size for i, size in enumerate(shape)]
    return lambda x: x.expand(kept)


def _depth_to_space(node: Node, inputs: Specs, outputs: Specs) -> Run:
    block, depth_first = int(node.attr("blocksize")), node.attr("mode") == "DCR"

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        if not depth_first:
            return F.pixel_shuffle(x, block)
        parts = x.reshape(n, block, block, c // block**2, h, w)
        return parts.permute(0, 3, 4, 1, 5, 2).reshape(n, c // block**2, h * block, w * block)

    return run


def _space_to_depth(node: Node, inputs: Specs, outputs: Specs) -> Run:
    block = int(node.attr("blocksize"))

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        parts = x.reshape(n, c, h // block, block, w // block, block)
        return parts.permute(0, 3, 5, 1, 2, 4).reshape(n, c * block**2, h // block, w // block)

    return run


def _cumulative_sum(node: Node, inputs: Specs, outputs: Specs) -> Run:
    axis, exclusive, reverse = int(node.attr("axis")), bool(node.attr("exclusive")), bool(node.attr("reverse"))

    def run(x: Tensor) -> Tensor:
        x = x.flip(axis) if reverse else x
        total = x.cumsum(axis, dtype=x.dtype)
        total = (
            torch.cat([torch.zeros_like(total.narrow(axis, 0, 1)), total.narrow(axis, 0, x.shape[axis] - 1)], axis) if exclusive else total
        )
        return total.flip(axis) if reverse else total

    return run


def _trilu(node: Node, inputs: Specs, outputs: Specs) -> Run:
    keep, k = torch.triu if node.attr("upper") else torch.tril, int(node.attr("k"))
    return lambda x: keep(x, k)


def _hardmax(node: Node, inputs: Specs, outputs: Specs) -> Run:
    axis = int(node.attr("axis"))
    return lambda x: torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1.0)


def _dft(node: Node, inputs: Specs, outputs: Specs) -> Run:
    """Of real numbers, or of complex ones given as pairs."""
    axis, length = int(node.attr("axis")), int(node.attr("dft_length"))
    transform = torch.fft.ifft if node.attr("inverse") else torch.fft.fft
    kept = outputs[0].shape[axis]

    def run(x: Tensor) -> Tensor:
        values = torch.view_as_complex(x.contiguous()) if x.shape[-1] == 2 else x[..., 0]
        return torch.view_as_real(transform(values, length, axis).narrow(axis, 0, kept).resolve_conj())

    return run


def _grid_sample(node: Node, inputs: Specs, outputs: Specs) -> Run:
    mode = {"linear": "bilinear", "nearest": "nearest", "cubic": "bicubic"}[str(node.attr("mode"))]
    padding, corners = str(node.attr("padding_mode")), bool(node.attr("align_corners"))
    return lambda x, grid: F.grid_sample(x, grid.to(x.dtype), mode=mode, padding_mode=padding, align_corners=corners)


def _thresholded(node: Node, inputs: Specs, outputs: Specs) -> Run:
    alpha = float(node.attr("alpha"))
    return lambda x: torch.where(x > alpha, x, torch.zeros_like(x))


def _celu(node: Node, inputs: Specs, outputs: Specs) -> Run:
    alpha = float(node.attr("alpha"))
    return lambda x: F.celu(x, alpha)


def _mod(node: Node, inputs: Specs, outputs: Specs) -> Run:
    return torch.fmod if node.attr("fmod") else torch.remainder


def _is_inf(node: Node, inputs: Specs, outputs: Specs) -> Run:
    signs = [sign for key, sign in (("detect_positive", 1), ("detect_negative", -1)) if node.attr(key)]
    return lambda x: functools.reduce(torch.logical_or, (x == sign * torch.inf for sign in signs), torch.zeros_like(x, dtype=torch.bool))


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


def _softmax(function: Callable[[Tensor, int], Tensor]) -> Lowering:
    def lowering(node: Node, inputs: Specs, outputs: Specs) -> Run:
        axis = int(node.attr("axis"))
        return lambda x: function(x, axis)

    return lowering


def _pad(node: Node, inputs: Specs, outputs: Specs) -> Run:
    rank, mode, value = len(inputs[0].shape), str(node.attr("mode")), node.attr("value")
    begin, end = node.ints("pads")[:rank], node.ints("pads")[rank:]
    if mode == "constant":
        pads = torch_pads(begin, end)
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
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "LayerNormalization": _layer_norm,
    "Relu": _plain(torch.relu),
    "Sigmoid": _plain(torch.sigmoid),
    "HardSwish": _plain(F.hardswish),
    "HardSigmoid": _hard_sigmoid,
    "Clip": _clip,
    "Gelu": _gelu,
    "Erf": _plain(torch.erf),
    "Ceil": _plain(torch.ceil),
    "Floor": _plain(torch.floor),
    "Round": _plain(torch.round),
    "Sign": _plain(torch.sign),
    "IsNaN": _plain(torch.isnan),
    "IsInf": _is_inf,
    "Tanh": _plain(torch.tanh),
    "Acos": _plain(torch.acos),
    "Acosh": _plain(torch.acosh),
    "Asin": _plain(torch.asin),
    "Asinh": _plain(torch.asinh),
    "Atan": _plain(torch.atan),
    "Atanh": _plain(torch.atanh),
    "Cosh": _plain(torch.cosh),
    "Sinh": _plain(torch.sinh),
    "Tan": _plain(torch.tan),
    "Celu": _celu,
    "ThresholdedRelu": _thresholded,
    "Sqrt": _plain(torch.sqrt),
    "Exp": _plain(torch.exp),
    "Abs": _plain(torch.abs),
    "Cos": _plain(torch.cos),
    "Elu": _elu,
    "LeakyRelu": _leaky_relu,
    "Log": _plain(torch.log),
    "Mish": _plain(F.mish),
    "Neg": _plain(torch.neg),
    "Reciprocal": _plain(torch.reciprocal),
    "Selu": _selu,
    "Sin": _plain(torch.sin),
    "Softplus": _plain(F.softplus),
    "Softsign": _plain(F.softsign),
    "PRelu": _plain(lambda x, slope: torch.where(x < 0, slope * x, x)),
    "LRN": _lrn,
    "Identity": _plain(lambda x: x),
    "Add": _plain(torch.add),
    "Sub": _plain(torch.sub),
    "Mul": _plain(torch.mul),
    "Div": _div,
    "Mod": _mod,
    "Pow": _plain(lambda x, y: torch.pow(x, y).to(x.dtype)),
    "Max": _variadic(torch.maximum),
    "Min": _variadic(torch.minimum),
    "Sum": _variadic(torch.add),
    "And": _plain(torch.logical_and),
    "Equal": _plain(torch.eq),
    "Greater": _plain(torch.gt),
    "GreaterOrEqual": _plain(torch.ge),
    "Less": _plain(torch.lt),
    "LessOrEqual": _plain(torch.le),
    "Not": _plain(torch.logical_not),
    "Or": _plain(torch.logical_or),
    "Where": _plain(torch.where),
    "Xor": _plain(torch.logical_xor),
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": _global_pool(torch.mean),
    "GlobalMaxPool": _global_pool(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceSum": _reduce(torch.sum),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMin": _reduce(torch.amin),
    "ReduceProd": _reduce(_product),
    "ReduceL1": _reduce(lambda x, axes, keepdim: torch.sum(torch.abs(x), axes, keepdim)),
    "ReduceSumSquare": _reduce(lambda x, axes, keepdim: torch.sum(x * x, axes, keepdim)),
    "ReduceLogSum": _reduce(lambda x, axes, keepdim: torch.log(torch.sum(x, axes, keepdim))),
    "ReduceLogSumExp": _reduce(torch.logsumexp),
    "ReduceL2": _reduce(lambda x, axes, keepdim: torch.linalg.vector_norm(x, 2, axes, keepdim)),
    **torch_picks.LOWERINGS,
    **torch_recurrent.LOWERINGS,
    "CumSum": _cumulative_sum,
    "DFT": _dft,
    "GridSample": _grid_sample,
    "Hardmax": _hardmax,
    "Trilu": _trilu,
    "Tile": _tile,
    "Col2Im": _col2im,
    "Einsum": _einsum,
    "Expand": _expand,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Gemm": _gemm,
    "MatMul": _plain(torch.matmul),
    "Softmax": _softmax(torch.softmax),
    "LogSoftmax": _softmax(torch.log_softmax),
    "Pad": _pad,
    "Resize": _resize,
    "Cast": _cast,
}
