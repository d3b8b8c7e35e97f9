"""The Hypothesis vocabulary of the tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from hypothesis import strategies as st

from hwnas.ir import Graph, GraphBuilder
from hwnas.ir.ops import OPS
from hwnas.spaces import Genotype, SearchSpace

MAX_ELEMENTS = 1500  # of one activation: tests run on small tensors


@dataclass
class Grower:
    """Grows a random graph step by step; every step takes a value of any shape and brings it to the rank that it needs."""

    draw: st.DrawFn
    rng: np.random.Generator
    builder: GraphBuilder

    def integer(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def choice(self, options: Sequence) -> object:
        return self.draw(st.sampled_from(options))

    def flag(self) -> bool:
        return self.draw(st.booleans())

    def shape(self, value: str) -> tuple[int, ...]:
        return self.builder.shape(value)

    def normal(self, shape: Sequence[int], *, fan_in: int = 1) -> str:
        values = self.rng.standard_normal(tuple(shape)) / np.sqrt(fan_in)
        return self.builder.constant("c", values.astype(np.float32))

    def positive(self, shape: Sequence[int]) -> str:
        return self.builder.constant("p", self.rng.uniform(0.5, 2, tuple(shape)).astype(np.float32))

    def ranked(self, value: str, low: int, high: int) -> str:
        """The value reshaped to a rank between `low` and `high`."""
        shape = self.shape(value)
        if len(shape) > high:
            shape = (*shape[: high - 1], prod(shape[high - 1 :]))
        if len(shape) < low:
            missing = (1,) * (low - len(shape))
            shape = (*missing, *shape) if self.flag() else (*shape, *missing)
        return value if shape == self.shape(value) else self.builder.op("Reshape", [value], shape=shape)

    def shrunk(self, value: str) -> str:
        """The value with its largest dimension averaged away while it is too large."""
        while prod(self.shape(value)) > MAX_ELEMENTS:
            axis = int(np.argmax(self.shape(value)))
            value = self.builder.op("ReduceMean", [value], axes=(axis,), keepdims=1)
        return value


Step = Callable[[Grower, str], str]


def _unary(op: str) -> Step:
    return lambda g, x: g.builder.op(op, [x])


def _after(op: str, *before: str) -> Step:
    """An operator whose domain or growth wants an input from others: Tanh bounds, Exp of that is positive."""

    def step(g: Grower, x: str) -> str:
        for name in (*before, op):
            x = g.builder.op(name, [x])
        return x

    return step


def _operand(g: Grower, x: str, make: Callable[[Sequence[int]], str]) -> str:
    """A constant that broadcasts with x."""
    shape = [size if g.flag() else 1 for size in g.shape(x)]
    return make(shape[g.integer(0, len(shape)) :])


def _binary(op: str) -> Step:
    def step(g: Grower, x: str) -> str:
        kind = g.choice(["constant", "first", "self"])
        if kind == "self":
            return g.builder.op(op, [x, g.builder.op("Tanh", [x])])
        other = _operand(g, x, g.normal)
        return g.builder.op(op, [x, other] if kind == "constant" else [other, x])

    return step


def _div(g: Grower, x: str) -> str:
    return g.builder.op("Div", [x, _operand(g, x, g.positive)])


def _pow(g: Grower, x: str) -> str:
    return g.builder.op("Pow", [g.builder.op("Sigmoid", [x]), _operand(g, x, g.positive)])


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


def _hard_sigmoid(g: Grower, x: str) -> str:
    return g.builder.op("HardSigmoid", [x], alpha=g.choice([0.2, 1 / 6]), beta=0.5)


def _clip(g: Grower, x: str) -> str:
    limits = g.choice([{}, {"min": 0.0, "max": 6.0}, {"min": -0.7}, {"max": 0.9}])
    return g.builder.op("Clip", [x], **limits)


def _gelu(g: Grower, x: str) -> str:
    return g.builder.op("Gelu", [x], approximate=g.choice(["none", "tanh"]))


def _concat(g: Grower, x: str) -> str:
    parts = [x, g.builder.op("Relu", [x]), g.normal(g.shape(x))][: g.integer(1, 3)]
    return g.builder.op("Concat", parts, axis=g.integer(-len(g.shape(x)), len(g.shape(x)) - 1))


def _split(g: Grower, x: str) -> str:
    axis = g.integer(0, len(g.shape(x)) - 1)
    size = g.shape(x)[axis]
    cut = g.integer(1, size - 1) if size > 1 else 0
    parts = (cut, size - cut) if cut else (size,)
    values = g.builder.ops("Split", [x], outputs=len(parts), split=parts, axis=axis)
    return values[g.integer(0, len(parts) - 1)]


def _slice(g: Grower, x: str) -> str:
    axes = g.draw(st.lists(st.integers(0, len(g.shape(x)) - 1), unique=True, min_size=1))
    starts = [g.integer(0, g.shape(x)[axis] - 1) for axis in axes]
    ends = [g.integer(start + 1, g.shape(x)[axis]) for start, axis in zip(starts, axes, strict=True)]
    steps = [g.integer(1, 2) for _ in axes]
    return g.builder.op("Slice", [x], starts=tuple(starts), ends=tuple(ends), axes=tuple(axes), steps=tuple(steps))


def _global_pool(op: str) -> Step:
    return lambda g, x: g.builder.op(op, [g.ranked(x, 3, 4)])


def _alpha(op: str) -> Step:
    return lambda g, x: g.builder.op(op, [x], **g.choice([{}, {"alpha": 0.3}]))


def _prelu(g: Grower, x: str) -> str:
    return g.builder.op("PRelu", [x, _operand(g, x, g.normal)])


def _lrn(g: Grower, x: str) -> str:
    """Of odd size: ONNX Runtime takes no other."""
    return g.builder.op("LRN", [g.ranked(x, 4, 4)], size=g.choice([1, 3, 5]), alpha=0.5, beta=0.75, bias=g.choice([1.0, 2.0]))


def _variadic(op: str) -> Step:
    def step(g: Grower, x: str) -> str:
        return g.builder.op(op, [x, g.builder.op("Tanh", [x]), _operand(g, x, g.normal)][: g.integer(1, 3)])

    return step


def _comparison(op: str) -> Step:
    """The greater of x and a constant, or the lesser: continuous, so that rounding cannot tip a choice."""

    def step(g: Grower, x: str) -> str:
        other = _operand(g, x, g.normal)
        condition = g.builder.op("Greater" if op == "Where" else op, [x, other])
        return g.builder.op("Where", [condition, x, other] if g.flag() else [condition, other, x])

    return step


def _equal(g: Grower, x: str) -> str:
    """Where a Relu gave exactly 0, a constant 0; elsewhere x."""
    x = g.builder.op("Relu", [x])
    zero = g.builder.constant("z", np.zeros(1, np.float32))
    return g.builder.op("Where", [g.builder.op("Equal", [x, zero]), zero, x])


def _logic(op: str) -> Step:
    """Lets x through where a condition on constants holds."""

    def step(g: Grower, x: str) -> str:
        masks = [g.builder.constant("m", g.rng.integers(0, 2, g.shape(x)).astype(bool)) for _ in range(1 if op == "Not" else 2)]
        return g.builder.op("Where", [g.builder.op(op, masks), x, g.builder.op("Tanh", [x])])

    return step


def _gather(g: Grower, x: str) -> str:
    """By one index, which drops the axis while another is left, or by several."""
    axis = g.integer(-len(g.shape(x)), len(g.shape(x)) - 1)
    size = g.shape(x)[axis]
    shape = g.choice([(), (3,), (2, 1)] if len(g.shape(x)) > 1 else [(3,), (2, 1)])
    indices = g.builder.constant("i", g.rng.integers(-size, size, shape) if shape else np.asarray(g.integer(-size, size - 1)))
    return g.builder.op("Gather", [x, indices], axis=axis)


def _gather_elements(g: Grower, x: str) -> str:
    """Any number of elements along one axis, and not all of the others."""
    x = g.ranked(x, 1, 4)
    axis = g.integer(-len(g.shape(x)), len(g.shape(x)) - 1)
    shape = [g.integer(1, size) for size in g.shape(x)]
    shape[axis] = g.integer(1, 4)
    indices = g.rng.integers(-g.shape(x)[axis], g.shape(x)[axis], shape)
    return g.builder.op("GatherElements", [x, g.builder.constant("i", indices)], axis=axis)


def _gather_nd(g: Grower, x: str) -> str:
    """Picks along one axis or two, behind no shared dimension or the first one."""
    x = g.ranked(x, 2, 4)
    shape = g.shape(x)
    batch = g.integer(0, 1)
    depth = g.integer(1, len(shape) - batch)
    lead = (*shape[:batch], 2)
    columns = [g.rng.integers(-size, size, lead) for size in shape[batch : batch + depth]]
    return g.builder.op("GatherND", [x, g.builder.constant("i", np.stack(columns, -1))], batch_dims=batch)


def _tile(g: Grower, x: str) -> str:
    x = g.ranked(x, 1, 4)
    return g.builder.op("Tile", [x], repeats=tuple(g.integer(1, 2) for _ in g.shape(x)))


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


def _jumps(op: str) -> Step:
    """A function with jumps, of constants away from them: more than one, since single numbers are folded when a file is read."""

    def step(g: Grower, x: str) -> str:
        x = g.ranked(x, 1, 3)
        values = g.rng.integers(-3, 3, (2, *g.shape(x))) + np.float32(0.3)
        return g.builder.op("Add", [x, g.builder.op(op, [g.builder.constant("k", values.astype(np.float32))])])

    return step


def _is_nan(g: Grower, x: str) -> str:
    """A Relu by way of a root that is no number."""
    zero = g.builder.constant("z", np.zeros(1, np.float32))
    return g.builder.op("Where", [g.builder.op("IsNaN", [g.builder.op("Sqrt", [x])]), zero, g.builder.op("Relu", [x])])


def _expand(g: Grower, x: str) -> str:
    x = g.ranked(x, 1, 4)
    return g.builder.op("Expand", [x], shape=g.choice([(1,), (2, *g.shape(x)), tuple(2 if size == 1 else size for size in g.shape(x))]))


def _depth_to_space(g: Grower, x: str) -> str:
    x = g.ranked(x, 4, 4)
    x = g.builder.op("Concat", [x] * 4, axis=1)
    return g.builder.op("DepthToSpace", [x], blocksize=2, mode=g.choice(["DCR", "CRD"]))


def _space_to_depth(g: Grower, x: str) -> str:
    x = g.ranked(x, 4, 4)
    x = g.builder.op("Pad", [x], pads=(0, 0, 0, 0, 0, 0, g.shape(x)[2] % 2, g.shape(x)[3] % 2))
    return g.builder.op("SpaceToDepth", [x], blocksize=2)


def _reduce(op: str) -> Step:
    def step(g: Grower, x: str) -> str:
        axes = g.draw(st.lists(st.integers(0, len(g.shape(x)) - 1), unique=True, min_size=1))
        keep = 1 if len(axes) == len(g.shape(x)) else g.integer(0, 1)  # scalars end every walk
        return g.builder.op(op, [x], axes=tuple(axes), keepdims=keep)

    return step


def _flatten(g: Grower, x: str) -> str:
    return g.builder.op("Flatten", [x], axis=g.integer(-len(g.shape(x)), len(g.shape(x))))


def _reshape(g: Grower, x: str) -> str:
    shape = g.shape(x)
    return g.builder.op("Reshape", [x], shape=g.choice([(-1,), (*shape, 1), (0, -1), (1, *shape)]))


def _transpose(g: Grower, x: str) -> str:
    return g.builder.op("Transpose", [x], perm=tuple(g.draw(st.permutations(range(len(g.shape(x)))))))


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


def _softmax(op: str) -> Step:
    return lambda g, x: g.builder.op(op, [x], axis=g.integer(-len(g.shape(x)), len(g.shape(x)) - 1))


def _pad(g: Grower, x: str) -> str:
    mode = g.choice(["constant", "reflect", "edge"])
    pads = [g.integer(0, min(2, size - 1)) for _ in range(2) for size in g.shape(x)]
    value = {"value": g.choice([0.0, 0.5])} if mode == "constant" else {}
    return g.builder.op("Pad", [x], pads=tuple(pads), mode=mode, **value)


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


def _cast(g: Grower, x: str) -> str:
    return g.builder.op("Cast", [g.builder.op("Cast", [x], to="float64")], to="float32")


STEPS: Mapping[str, Step] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "LayerNormalization": _layer_norm,
    "HardSigmoid": _hard_sigmoid,
    "Clip": _clip,
    "Gelu": _gelu,
    "Sqrt": _after("Sqrt", "Sigmoid"),
    "Exp": _after("Exp", "Tanh"),
    "Log": _after("Log", "Tanh", "Exp"),
    "Reciprocal": _after("Reciprocal", "Tanh", "Exp"),
    **{op: _jumps(op) for op in ("Ceil", "Floor", "Round", "Sign")},
    "IsNaN": _is_nan,
    **{op: _unary(op) for op in ("Relu", "Sigmoid", "HardSwish", "Erf", "Tanh", "Identity", "Abs", "Cos", "Mish", "Neg", "Sin")},
    **{op: _unary(op) for op in ("Softplus", "Softsign")},
    **{op: _alpha(op) for op in ("Elu", "LeakyRelu", "Selu")},
    "PRelu": _prelu,
    "LRN": _lrn,
    **{op: _binary(op) for op in ("Add", "Sub", "Mul")},
    "Div": _div,
    "Pow": _pow,
    **{op: _comparison(op) for op in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Where")},
    "Equal": _equal,
    **{op: _logic(op) for op in ("And", "Or", "Not")},
    **{op: _variadic(op) for op in ("Max", "Min", "Sum")},
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "MaxPool": _pool("MaxPool"),
    "AveragePool": _pool("AveragePool"),
    "GlobalAveragePool": _global_pool("GlobalAveragePool"),
    "GlobalMaxPool": _global_pool("GlobalMaxPool"),
    **{
        op: _reduce(op)
        for op in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceProd", "ReduceSumSquare")
    },
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
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
    "MatMul": _matmul,
    "Softmax": _softmax("Softmax"),
    "LogSoftmax": _softmax("LogSoftmax"),
    "Pad": _pad,
    "Resize": _resize,
    "Cast": _cast,
}
assert set(STEPS) == set(OPS), set(STEPS) ^ set(OPS)

CNN = (
    "Conv",
    "ConvTranspose",
    "BatchNormalization",
    "Relu",
    "Clip",
    "HardSwish",
    "MaxPool",
    "AveragePool",
    "Add",
    "Mul",
    "Concat",
    "Resize",
)
TRANSFORMER = (
    "MatMul",
    "Gemm",
    "LayerNormalization",
    "Softmax",
    "Gelu",
    "Transpose",
    "Reshape",
    "Split",
    "Add",
    "Erf",
    "ReduceMean",
    "Slice",
)


@st.composite
def graphs(draw: st.DrawFn, *, containing: str | None = None, max_steps: int = 5) -> Graph:
    """Small valid graphs with weights: images through CNN-like operators, or sequences through transformer-like ones, at times mixed.

    Args:
        draw: supplied by Hypothesis.
        containing: an operator that is among the steps.
        max_steps: most steps; a step is one operator of interest, at times with a helper before it.
    """
    builder = GraphBuilder("random")
    grower = Grower(draw, np.random.default_rng(draw(st.integers(0, 2**32 - 1))), builder)
    image = grower.flag()
    if image:
        shape = (grower.integer(1, 2), grower.integer(1, 6), grower.integer(3, 8), grower.integer(3, 8))
    else:
        shape = (grower.integer(1, 2), grower.integer(2, 5), grower.choice([4, 6, 8]))
    value = builder.input("x", shape)
    family = st.sampled_from(CNN if image else TRANSFORMER)
    steps = draw(st.lists(family | st.sampled_from(sorted(STEPS)), max_size=max_steps - 1, min_size=0 if containing else 1))
    if containing is not None:
        steps.insert(grower.integer(0, len(steps)), containing)
    for op in steps:
        value = grower.shrunk(STEPS[op](grower, value))
    return builder.finish(value)


def archs(space: SearchSpace) -> st.SearchStrategy[Genotype]:
    """Any genotype of a space; shrinks towards the first choice of every gene."""
    return st.tuples(*(st.integers(0, len(gene.choices) - 1) for gene in space.genes))
