"""Steps of operators with weights or windows, and of products."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
from grower import Grower, Step, operand

from hwnas.ir.op_recurrent import GATES, STATES


def _window(g: Grower, x: str, *, dilate: bool = True) -> dict[str, tuple[int, ...]]:
    sizes = g.shape(x)[2:]
    kernel = [g.integer(1, min(3, size)) for size in sizes]
    dilations = [g.integer(1, 2) if dilate and 2 * (k - 1) < size else 1 for k, size in zip(kernel, sizes, strict=True)]
    pads = [g.integer(0, k - 1) if d == 1 else 0 for _ in range(2) for k, d in zip(kernel, dilations, strict=True)]
    return {
        "kernel_shape": tuple(kernel),
        "strides": tuple(g.integer(1, 3) for _ in sizes),
        "dilations": tuple(dilations),
        "pads": tuple(pads),
    }


def _groups(g: Grower, channels: int) -> int:
    return g.choice([n for n in range(1, channels + 1) if channels % n == 0])


def _conv(g: Grower, x: str) -> str:
    x = g.ranked(x, 3, 4)
    channels, window = g.shape(x)[1], _window(g, x)
    group = _groups(g, channels)
    out = group * g.integer(1, 3)
    kernel = window["kernel_shape"]
    inputs = [x, g.normal((out, channels // group, *kernel), fan_in=channels // group * prod(kernel))]
    return g.builder.op("Conv", [*inputs, g.normal((out,))] if g.flag() else inputs, group=group, **window)


def _conv_transpose(g: Grower, x: str) -> str:
    x = g.ranked(x, 3, 4)
    channels, window = g.shape(x)[1], _window(g, x)
    group = _groups(g, channels)
    per_group = g.integer(1, 2)
    window["output_padding"] = tuple(g.integer(0, stride - 1) for stride in window["strides"])
    rank = len(window["strides"])
    for i, (size, k) in enumerate(zip(g.shape(x)[2:], window["kernel_shape"], strict=True)):
        if window["strides"][i] * (size - 1) + window["dilations"][i] * (k - 1) + 1 <= window["pads"][i] + window["pads"][i + rank]:
            window["pads"] = (0,) * 2 * rank  # nothing would be left
    inputs = [x, g.normal((channels, per_group, *window["kernel_shape"]), fan_in=channels)]
    return g.builder.op("ConvTranspose", [*inputs, g.normal((per_group * group,))] if g.flag() else inputs, group=group, **window)


def _pool(op: str) -> Step:
    def step(g: Grower, x: str) -> str:
        x = g.ranked(x, 3, 4)
        attrs = {**_window(g, x), "ceil_mode": g.integer(0, 1)}
        if op == "AveragePool":
            attrs["count_include_pad"] = g.integer(0, 1)
        if any(stride > k for stride, k in zip(attrs["strides"], attrs["kernel_shape"], strict=True)):
            attrs["ceil_mode"] = 0  # a window might start behind the input
        return g.builder.op(op, [x], **attrs)

    return step


def _epsilon(g: Grower) -> float:
    """Large enough that a normalisation of nearly equal values does not blow their rounding up."""
    return g.choice([1e-3, 0.0123])


def _batch_norm(g: Grower, x: str) -> str:
    x = g.ranked(x, 2, 4)
    c = g.shape(x)[1:2]
    return g.builder.op("BatchNormalization", [x, g.normal(c), g.normal(c), g.normal(c), g.positive(c)], epsilon=_epsilon(g))


def _instance_norm(g: Grower, x: str) -> str:
    x = g.ranked(x, 3, 4)
    c = g.shape(x)[1:2]
    return g.builder.op("InstanceNormalization", [x, g.normal(c), g.normal(c)], epsilon=_epsilon(g))


def _group_norm(g: Grower, x: str) -> str:
    x = g.ranked(x, 3, 4)
    c = g.shape(x)[1:2]
    return g.builder.op("GroupNormalization", [x, g.normal(c), g.normal(c)], num_groups=_groups(g, c[0]), epsilon=_epsilon(g))


def _layer_norm(g: Grower, x: str) -> str:
    rank = len(g.shape(x))
    axis = g.integer(-rank, rank - 1)
    shape = g.shape(x)[axis:]
    inputs = [x, g.normal(shape)]
    return g.builder.op("LayerNormalization", [*inputs, g.normal(shape)] if g.flag() else inputs, axis=axis, epsilon=_epsilon(g))


def _global_pool(op: str) -> Step:
    return lambda g, x: g.builder.op(op, [g.ranked(x, 3, 4)])


def _lrn(g: Grower, x: str) -> str:
    """Of odd size: ONNX Runtime takes no other."""
    return g.builder.op("LRN", [g.ranked(x, 4, 4)], size=g.choice([1, 3, 5]), alpha=0.5, beta=0.75, bias=g.choice([1.0, 2.0]))


def _prelu(g: Grower, x: str) -> str:
    return g.builder.op("PRelu", [x, operand(g, x, g.normal)])


def _gemm(g: Grower, x: str) -> str:
    x = g.ranked(x, 2, 2)
    turn_a, turn_b = g.integer(0, 1), g.integer(0, 1)
    depth, rows = g.shape(x) if turn_a else g.shape(x)[::-1]
    columns = g.integer(1, 6)
    inputs = [x, g.normal((columns, depth) if turn_b else (depth, columns), fan_in=depth)]
    bias = g.choice([None, (columns,), (1,), (rows, 1), (1, columns)])
    scales = g.choice([{}, {"alpha": 0.5, "beta": 1.5}])
    return g.builder.op("Gemm", inputs if bias is None else [*inputs, g.normal(bias)], transA=turn_a, transB=turn_b, **scales)


def _matmul(g: Grower, x: str) -> str:
    """A weight, or an attention-like product of two activations."""
    x = g.ranked(x, 2, 4)
    shape = g.shape(x)
    if g.flag():
        return g.builder.op("MatMul", [x, g.normal((shape[-1], g.integer(1, 6)), fan_in=shape[-1])])
    perm = (*range(len(shape) - 2), len(shape) - 1, len(shape) - 2)
    scores = g.builder.op("MatMul", [x, g.builder.op("Transpose", [x], perm=perm)])
    return g.builder.op("MatMul", [g.builder.op("Softmax", [scores]), x])


def _einsum(g: Grower, x: str) -> str:
    """A product with a weight, of two activations, or a sum."""
    x = g.ranked(x, 3, 3)
    width = g.shape(x)[-1]
    kind = g.choice(["weight", "scores", "sum"])
    if kind == "weight":
        return g.builder.op("Einsum", [x, g.normal((3, width), fan_in=width)], equation="...d, ed -> ...e")
    if kind == "scores":
        return g.builder.op("Einsum", [x, g.builder.op("Tanh", [x])], equation="bid,bjd->bij")
    return g.builder.op("Einsum", [x], equation="bid->db")


def _softmax(op: str) -> Step:
    return lambda g, x: g.builder.op(op, [x], axis=g.integer(-len(g.shape(x)), len(g.shape(x)) - 1))


def _resize(g: Grower, x: str) -> str:
    """An image resized in its two spatial dimensions, which is what ONNX Runtime does in all modes."""
    x = g.ranked(x, 4, 4)
    n, c, h, w = g.shape(x)
    mode = g.choice(["nearest", "linear", "cubic"])
    attrs = {"mode": mode, "coordinate_transformation_mode": g.choice(["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"])}
    if mode == "nearest":
        attrs["nearest_mode"] = g.choice(["floor", "round_prefer_floor", "ceil", "round_prefer_ceil"])
        attrs["coordinate_transformation_mode"] = g.choice(["half_pixel", "asymmetric"])
    if g.flag():
        # The nearest neighbour only by factors whose positions are exact: else rounding decides ties, and runtimes differ.
        height, width = (g.integer(1, 2) * size if mode == "nearest" else g.integer(1, 2 * size) for size in (h, w))
        attrs["sizes"] = (n, c, height, width)
    else:
        attrs["scales"] = (1.0, 1.0, g.choice([1.0, 2.0, 1.5]), g.choice([1.0, 2.0, 3.0]))
    return g.builder.op("Resize", [x], **attrs)


def _col2im(g: Grower, x: str) -> str:
    """Windows of 2 x 2 that overlap or not, as many as x has room for."""
    x = g.ranked(x, 2, 4)
    rows, columns, stride, dilation = g.integer(1, 3), g.integer(1, 3), g.integer(1, 2), g.integer(1, 2)
    pads = tuple(g.integer(0, 1) for _ in range(4))
    image = tuple((n - 1) * stride + dilation + 1 - pads[i] - pads[i + 2] for i, n in enumerate((rows, columns)))
    if min(image) < 1:
        pads, image = (0,) * 4, tuple((n - 1) * stride + dilation + 1 for n in (rows, columns))
    x = g.builder.op("ReduceMean", [x], axes=tuple(range(1, len(g.shape(x)))), keepdims=1)
    x = g.builder.op("Mul", [g.builder.op("Reshape", [x], shape=(-1, 1, 1)), g.normal((1, 8, rows * columns))])
    attrs = {"strides": (stride,) * 2, "dilations": (dilation,) * 2, "pads": pads}
    return g.builder.op("Col2Im", [x], image_shape=image, block_shape=(2, 2), **attrs)


def _hardmax(g: Grower, x: str) -> str:
    """Of numbers far enough apart that rounding cannot tip which is the largest, as many as one axis has."""
    axis = g.integer(0, len(g.shape(x)) - 1)
    values = g.rng.permuted(np.arange(prod(g.shape(x)), dtype=np.float32).reshape(g.shape(x)), axis=axis)
    return g.builder.op("Add", [x, g.builder.op("Hardmax", [g.builder.constant("k", values)], axis=axis)])


def _grid_sample(g: Grower, x: str) -> str:
    """Looked up between pixels, inside and outside; far from what rounding could tip, where the nearest is taken."""
    x = g.ranked(x, 4, 4)
    n, _, h, w = g.shape(x)
    rows, columns = g.integer(1, 4), g.integer(1, 4)
    mode = g.choice(["linear", "nearest", "cubic"])
    places = g.rng.uniform(-1.3, 1.3, (n, rows, columns, 2)).astype(np.float32)
    if mode == "nearest":
        whole = np.stack([g.rng.integers(-1, size + 1, places.shape[:-1]) for size in (w, h)], -1) + 0.2
        places = ((2 * whole + 1) / np.array([w, h]) - 1).astype(np.float32)
    attrs = {"mode": mode, "align_corners": 0 if mode == "nearest" else g.integer(0, 1)}
    padding = g.choice(["zeros", "border", "reflection"])
    return g.builder.op("GridSample", [x, g.builder.constant("g", places)], padding_mode=padding, **attrs)


def _dft(g: Grower, x: str) -> str:
    """Of real numbers, their imaginary parts 0 or left out, or back; the squares of both parts are added up."""
    x = g.ranked(x, 2, 3)
    axis = g.integer(0, len(g.shape(x)) - 1)
    parts = [g.builder.op("Reshape", [value], shape=(*g.shape(x), 1)) for value in (x, g.builder.op("Tanh", [x]))]
    given = g.builder.op("Concat", parts, axis=len(g.shape(x))) if g.flag() else parts[0]
    kind = g.choice([{}, {"onesided": 1}, {"inverse": 1}] if given == parts[0] else [{}, {"inverse": 1}])
    length = g.choice([{}, {"dft_length": g.shape(x)[axis] + 1}])
    found = g.builder.op("DFT", [given], axis=axis, **kind, **length)
    return g.builder.op("ReduceL2", [found], axes=(len(g.shape(found)) - 1,), keepdims=0)


def _recurrent(op: str) -> Step:
    """A layer in one direction or both: its states at all steps, or the last ones."""

    def step(g: Grower, x: str) -> str:
        x = g.ranked(x, 3, 3)
        (_, batch, width), hidden = g.shape(x), g.integer(1, 4)
        direction = g.choice(["forward", "reverse", "bidirectional"])
        many = 2 if direction == "bidirectional" else 1
        rows = GATES[op] * hidden
        inputs = [x, g.normal((many, rows, width), fan_in=width), g.normal((many, rows, hidden), fan_in=hidden)]
        if g.flag():
            inputs.append(g.normal((many, 2 * rows)))
            if g.flag():
                inputs += ["", *(g.normal((many, batch, hidden)) for _ in range(STATES[op]))]
        attrs = {"linear_before_reset": g.integer(0, 1)} if op == "GRU" else {}
        outputs = g.builder.ops(op, inputs, outputs=g.integer(1, 1 + STATES[op]), direction=direction, **attrs)
        return outputs[-1]

    return step


STEPS: Mapping[str, Step] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "LayerNormalization": _layer_norm,
    "PRelu": _prelu,
    "LRN": _lrn,
    "MaxPool": _pool("MaxPool"),
    "AveragePool": _pool("AveragePool"),
    "GlobalAveragePool": _global_pool("GlobalAveragePool"),
    "GlobalMaxPool": _global_pool("GlobalMaxPool"),
    "Col2Im": _col2im,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Softmax": _softmax("Softmax"),
    "LogSoftmax": _softmax("LogSoftmax"),
    "Hardmax": _hardmax,
    "Resize": _resize,
    "GridSample": _grid_sample,
    "DFT": _dft,
    **{op: _recurrent(op) for op in GATES},
}
