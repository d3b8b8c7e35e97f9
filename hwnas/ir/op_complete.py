"""Canonical attributes: what depends on the inputs' shapes is worked out, so that equal computations have equal attributes.

A function completes the attributes in place, and raises GraphError where they do not fit the inputs; `hwnas.ir.ops.canonical` adds the
node's name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from hwnas.errors import GraphError
from hwnas.ir.einsum import explicit
from hwnas.ir.node import TensorSpec
from hwnas.ir.op_shapes import axis_of, broadcast, window_output

Attributes = dict[str, Any]  # while they are being completed; a node's own are `node.Attrs`
Complete = Callable[[Attributes, Sequence[TensorSpec]], None]


def window(attrs: Attributes, inputs: Sequence[TensorSpec]) -> None:
    """Window attributes for every spatial dimension, the kernel's size from the weight where it is not stated."""
    rank = len(inputs[0].shape) - 2
    if rank < 1:
        raise GraphError("the input needs a batch, a channel and at least one spatial dimension")
    if "kernel_shape" in attrs and attrs["kernel_shape"] is None:
        attrs["kernel_shape"] = inputs[1].shape[2:]
    for key, value in (("strides", (1,) * rank), ("dilations", (1,) * rank), ("pads", (0,) * 2 * rank), ("output_padding", (0,) * rank)):
        if key in attrs and attrs[key] is None:
            attrs[key] = value
    for key, size in (("kernel_shape", rank), ("strides", rank), ("dilations", rank), ("pads", 2 * rank), ("output_padding", rank)):
        if attrs.get(key) is not None and len(attrs[key]) != size:
            raise GraphError(f"attribute '{key}' needs {size} values, got {attrs[key]}")
        if key in ("kernel_shape", "strides", "dilations") and min(attrs.get(key) or (1,)) < 1:
            raise GraphError(f"attribute '{key}' must be positive, got {attrs[key]}")


def col2im(attrs: Attributes, inputs: Sequence[TensorSpec]) -> None:
    """The attributes of the windows, for as many dimensions as the image has."""
    rank = len(attrs["image_shape"])
    for key, value in (("strides", (1,) * rank), ("dilations", (1,) * rank), ("pads", (0,) * 2 * rank)):
        attrs[key] = value if attrs[key] is None else attrs[key]
        if len(attrs[key]) != len(value):
            raise GraphError(f"attribute '{key}' needs {len(value)} values, got {attrs[key]}")


def einsum(attrs: Attributes, inputs: Sequence[TensorSpec]) -> None:
    """The equation without spaces and ellipses, its result stated."""
    attrs["equation"] = explicit(str(attrs["equation"]), [len(spec.shape) for spec in inputs])


def pool(attrs: Attributes, inputs: Sequence[TensorSpec]) -> None:
    """Turns ceil_mode into pads at the end.

    Before opset 22 ONNX's shape inference counts windows that start in the padding, which every runtime leaves out; stated as
    pads, windows are counted in one way. ceil_mode stays only where pads cannot say the same: in an average that counts pads, but not
    what ceil_mode adds to them, and where a dilated window would need pads as wide as its kernel.
    """
    window(attrs, inputs)
    if not attrs["ceil_mode"]:
        return
    _shrink(attrs, inputs[0].shape[2:])
    rank = len(attrs["kernel_shape"])
    begins, ends = attrs["pads"][:rank], attrs["pads"][rank:]
    lasts, adds = [], []  # where the last whole window ends, counted from the input's end; whether another one starts in the input
    for i, size in enumerate(inputs[0].shape[2:]):
        kernel, stride, dilation = attrs["kernel_shape"][i], attrs["strides"][i], attrs["dilations"][i]
        count = window_output(size, kernel, stride, dilation, begins[i] + ends[i])
        lasts.append((count - 1) * stride + dilation * (kernel - 1) + 1 - size - begins[i])
        adds.append(lasts[i] < ends[i] and count * stride < size + begins[i])
    exact = tuple(last + stride if added else end for end, last, stride, added in zip(ends, lasts, attrs["strides"], adds, strict=True))
    too_wide = any(pad >= kernel for pad, kernel in zip(exact, attrs["kernel_shape"], strict=True))  # runtimes refuse such pads
    keep = any(adds) and (attrs.get("count_include_pad") or too_wide)
    if keep:
        exact = tuple(end if added else last for end, last, added in zip(ends, lasts, adds, strict=True))
        if min(exact) < 0:
            raise GraphError("this ceil_mode is not supported: a window would start behind the input; use pads instead")
    attrs["pads"], attrs["ceil_mode"] = (*begins, *exact), int(bool(keep))


def _shrink(attrs: Attributes, sizes: Sequence[int]) -> None:
    """A window larger than what it slides over, of which ceil_mode takes one, becomes as large as that."""
    rank = len(sizes)
    kernel, strides, pads = list(attrs["kernel_shape"]), list(attrs["strides"]), attrs["pads"]
    for i, size in enumerate(sizes):
        padded = size + pads[i] + pads[i + rank]
        if attrs["dilations"][i] == 1 and padded < kernel[i] < padded + strides[i]:
            kernel[i], strides[i] = padded, min(strides[i], padded)
    attrs["kernel_shape"], attrs["strides"] = tuple(kernel), tuple(strides)


def axes(attrs: Attributes, inputs: Sequence[TensorSpec]) -> None:
    """Axes non-negative and sorted; none stand for all, as in ONNX."""
    rank = len(inputs[0].shape)
    axes = attrs["axes"] or range(rank)  # ONNX: no axes stand for all axes
    attrs["axes"] = tuple(sorted({axis_of(int(axis), rank) for axis in axes}))


def axis(attrs: Attributes, inputs: Sequence[TensorSpec]) -> None:
    """A non-negative axis."""
    attrs["axis"] = axis_of(int(attrs["axis"]), len(inputs[0].shape))


def cut(attrs: Attributes, inputs: Sequence[TensorSpec]) -> None:
    """Bounds inside the tensor, steps stated, in the order of the axes."""
    starts, ends = attrs["starts"], attrs["ends"]
    axes = attrs["axes"] if attrs["axes"] is not None else tuple(range(len(starts)))
    steps = attrs["steps"] if attrs["steps"] is not None else (1,) * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise GraphError("starts, ends, axes and steps differ in length")
    shape = inputs[0].shape
    rows = []
    for start, end, axis_, step in zip(starts, ends, axes, steps, strict=True):
        axis = axis_of(int(axis_), len(shape))
        low, high, _ = slice(int(start), int(end), int(step)).indices(shape[axis])
        if high < 0:  # backwards through the first element, which -1 does not say: it is the last
            high = -shape[axis] - 1
        rows.append((axis, low, high, int(step)))
    rows.sort()
    attrs["axes"], attrs["starts"], attrs["ends"], attrs["steps"] = zip(*rows, strict=True)


def flatten(attrs: Attributes, inputs: Sequence[TensorSpec]) -> None:
    """A non-negative axis, which may be the rank itself."""
    axis, rank = int(attrs["axis"]), len(inputs[0].shape)
    attrs["axis"] = axis if axis == rank else axis_of(axis, rank)


def reshape(attrs: Attributes, inputs: Sequence[TensorSpec]) -> None:
    """Every dimension as a number: 0 copies the input's, -1 takes what is left."""
    source = inputs[0].shape
    shape = [int(source[i] if size == 0 else size) for i, size in enumerate(attrs["shape"])]
    if shape.count(-1) > 1:
        raise GraphError("at most one dimension may be -1")
    if -1 in shape:
        known = prod(size for size in shape if size != -1)
        if prod(source) % known:
            raise GraphError(f"{list(source)} does not reshape to {attrs['shape']}")
        shape[shape.index(-1)] = prod(source) // known
    attrs["shape"] = tuple(shape)


def transpose(attrs: Attributes, inputs: Sequence[TensorSpec]) -> None:
    """All axes, reversed where nothing is stated."""
    if attrs["perm"] is None:
        attrs["perm"] = tuple(reversed(range(len(inputs[0].shape))))


def pad(attrs: Attributes, inputs: Sequence[TensorSpec]) -> None:
    """Two pads an axis: all begins, then all ends."""
    if len(attrs["pads"]) != 2 * len(inputs[0].shape):
        raise GraphError(f"attribute 'pads' needs {2 * len(inputs[0].shape)} values")


def resize(attrs: Attributes, inputs: Sequence[TensorSpec]) -> None:
    """Exactly one of scales and sizes."""
    if (attrs["scales"] is None) == (attrs["sizes"] is None):
        raise GraphError("give exactly one of 'scales' and 'sizes'")
    if attrs["scales"] is not None:
        attrs["scales"] = tuple(float(scale) for scale in attrs["scales"])


def expand(attrs: Attributes, inputs: Sequence[TensorSpec]) -> None:
    """The whole shape: the one asked for and the input's, broadcast."""
    attrs["shape"] = broadcast(inputs[0].shape, tuple(int(size) for size in attrs["shape"]))


def rows(attrs: Attributes, inputs: Sequence[TensorSpec]) -> None:
    """A diagonal within reach: all further ones leave the same."""
    shape = inputs[0].shape
    if len(shape) > 1:
        attrs["k"] = max(-shape[-2], min(int(attrs["k"]), shape[-1]))


def one_hot(attrs: Attributes, inputs: Sequence[TensorSpec]) -> None:
    """A non-negative axis among those of the result."""
    attrs["axis"] = axis_of(int(attrs["axis"]), len(inputs[0].shape) + 1)


def dft(attrs: Attributes, inputs: Sequence[TensorSpec]) -> None:
    """A non-negative axis, and its length."""
    axis(attrs, inputs)
    attrs["dft_length"] = int(inputs[0].shape[attrs["axis"]] if attrs["dft_length"] is None else attrs["dft_length"])
