"""The operators: their attributes with defaults, and how each infers the shapes of its outputs.

Semantics are those of the ONNX operator specification (https://onnx.ai/onnx/operators), opset 21, with small constant inputs
turned into attributes (see `hwnas.ir.graph`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, prod
from typing import Any

import numpy as np

from hwnas.errors import GraphError, did_you_mean
from hwnas.ir.node import AttrValue, Node, TensorSpec

Shape = tuple[int, ...]
Attributes = dict[str, Any]  # while they are being completed; a node's own are `node.Attrs`
Infer = Callable[[Node, Sequence[TensorSpec]], Sequence[TensorSpec]]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpSchema:
    """What an operator takes.

    Attributes:
        infer: output specs from the canonical node and its input specs.
        arity: fewest and most inputs.
        defaults: every optional attribute with its default; `None` means that `complete` derives it from the inputs.
        required: attributes without a default.
        complete: derives attributes that depend on the inputs' shapes (pads of a given rank, resolved axes).
    """

    infer: Infer
    arity: tuple[int, int]
    defaults: Mapping[str, AttrValue | None]
    required: tuple[str, ...] = ()
    complete: Callable[[Attributes, Sequence[TensorSpec]], None] | None = None


def canonical(node: Node, inputs: Sequence[TensorSpec]) -> Node:
    """The node with every attribute present, axes non-negative and shapes resolved.

    Raises:
        GraphError: for an unknown operator, a missing or unknown attribute, or a wrong number of inputs; names the node.
    """
    schema = OPS.get(node.op)
    if schema is None:
        raise GraphError(
            f"node '{node.name}': operator '{node.op}' is not supported{did_you_mean(node.op, OPS)}; supported: {', '.join(sorted(OPS))}"
        )
    if not schema.arity[0] <= len(inputs) <= schema.arity[1]:
        low, high = schema.arity
        raise GraphError(f"node '{node.name}' ({node.op}) takes {low if low == high else f'{low} to {high}'} inputs, got {len(inputs)}")
    given = dict(node.attrs)
    unknown = sorted(set(given) - set(schema.defaults) - set(schema.required))
    if unknown:
        raise GraphError(f"node '{node.name}' ({node.op}): attribute '{unknown[0]}' is not supported")
    missing = [key for key in schema.required if key not in given]
    if missing:
        raise GraphError(f"node '{node.name}' ({node.op}): attribute '{missing[0]}' is required")
    full: Attributes = {**schema.defaults, **given}
    try:
        for key, default in schema.defaults.items():
            if isinstance(default, float):
                full[key] = float(full[key])
        if schema.complete:
            schema.complete(full, inputs)
    except (GraphError, IndexError, ValueError, TypeError) as error:
        raise GraphError(f"node '{node.name}' ({node.op}): {error}") from error
    return replace(node, attrs=tuple(sorted((key, _exact(value)) for key, value in full.items() if value is not None)))


def single(value: float) -> float:
    """The shortest decimal that names this value in single precision, which is what ONNX stores.

    Through it an attribute given as 1e-5 equals the one read back from a file, so that equal kernels hash equally.

    >>> import numpy as np
    >>> single(float(np.float32(1e-5)))
    1e-05
    """
    return float(str(np.float32(value)))


def _exact(value: AttrValue) -> AttrValue:
    if isinstance(value, float):
        return single(value)
    if isinstance(value, tuple) and any(isinstance(item, float) for item in value):
        return tuple(single(item) for item in value)
    return int(value) if isinstance(value, bool) else value


def infer(node: Node, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """The output specs of a canonical node.

    Raises:
        GraphError: when the inputs do not fit the operator; names the node.
    """
    try:
        outputs = tuple(OPS[node.op].infer(node, inputs))
    except (GraphError, IndexError, ValueError, TypeError) as error:
        shapes = ", ".join(str(list(spec.shape)) for spec in inputs)
        raise GraphError(f"node '{node.name}' ({node.op}) does not accept inputs of shapes {shapes}: {error}") from error
    if len(outputs) < len(node.outputs):
        raise GraphError(f"node '{node.name}' ({node.op}) has {len(node.outputs)} outputs; {len(outputs)} are supported")
    return outputs[: len(node.outputs)]


def broadcast(*shapes: Shape) -> Shape:
    """The shape to which these shapes broadcast, by NumPy's rule.

    >>> broadcast((2, 3, 1), (4,))
    (2, 3, 4)
    """
    rank = max(len(shape) for shape in shapes)
    columns = zip(*[(1,) * (rank - len(shape)) + shape for shape in shapes], strict=True)
    result = []
    for column in columns:
        sizes = {size for size in column if size != 1}
        if len(sizes) > 1:
            raise GraphError(f"shapes {', '.join(str(list(s)) for s in shapes)} do not broadcast")
        result.append(sizes.pop() if sizes else 1)
    return tuple(result)


def axis_of(axis: int, rank: int) -> int:
    """A non-negative axis."""
    if not -rank <= axis < rank:
        raise GraphError(f"axis {axis} is outside a tensor of rank {rank}")
    return axis % rank


def _same(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    return [inputs[0]]


def _elementwise(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    if len({spec.dtype for spec in inputs}) > 1:
        raise GraphError(f"inputs differ in type: {', '.join(spec.dtype for spec in inputs)}")
    return [TensorSpec(broadcast(*(spec.shape for spec in inputs)), inputs[0].dtype)]


def _complete_window(attrs: Attributes, inputs: Sequence[TensorSpec]) -> None:
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


def window_output(size: int, kernel: int, stride: int, dilation: int, pad: int, *, ceil_mode: bool = False) -> int:
    """Length of one spatial dimension after a sliding window (ONNX operator Conv, MaxPool)."""
    span = (size + pad - dilation * (kernel - 1) - 1) / stride
    length = (ceil(span) if ceil_mode else floor(span)) + 1
    if length < 1:
        raise GraphError(f"a window of {kernel} with dilation {dilation} does not fit into {size} + {pad} padding")
    return length


def _conv(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    data, weight = inputs[0].shape, inputs[1].shape
    group = int(node.attr("group"))
    kernel, strides, dilations, pads = node.ints("kernel_shape"), node.ints("strides"), node.ints("dilations"), node.ints("pads")
    rank = len(kernel)
    if len(weight) != len(data) or weight[2:] != kernel:
        raise GraphError(f"kernel_shape {list(kernel)} and weight {list(weight)} do not fit together")
    if data[1] != weight[1] * group or weight[0] % group:
        raise GraphError(f"{data[1]} input channels, {weight[0]} output channels and group {group} do not fit the weight {list(weight)}")
    if len(inputs) > 2 and inputs[2].shape != (weight[0],):
        raise GraphError(f"the bias needs shape [{weight[0]}]")
    spatial = tuple(window_output(data[2 + i], kernel[i], strides[i], dilations[i], pads[i] + pads[i + rank]) for i in range(rank))
    return [TensorSpec((data[0], weight[0], *spatial), inputs[0].dtype)]


def _conv_transpose(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    data, weight = inputs[0].shape, inputs[1].shape
    group = int(node.attr("group"))
    kernel, strides, dilations = node.ints("kernel_shape"), node.ints("strides"), node.ints("dilations")
    pads, extra = node.ints("pads"), node.ints("output_padding")
    rank = len(kernel)
    if data[1] != weight[0] or weight[0] % group or weight[2:] != kernel:
        raise GraphError(f"{data[1]} input channels and group {group} do not fit the weight {list(weight)}")
    spatial = tuple(
        strides[i] * (data[2 + i] - 1) + extra[i] + (kernel[i] - 1) * dilations[i] + 1 - pads[i] - pads[i + rank] for i in range(rank)
    )
    return [TensorSpec((data[0], weight[1] * group, *spatial), inputs[0].dtype)]


def _complete_pool(attrs: Attributes, inputs: Sequence[TensorSpec]) -> None:
    """Turns ceil_mode into pads at the end.

    Before opset 22 ONNX's shape inference counts windows that start in the padding, which every runtime leaves out; stated as
    pads, windows are counted in one way. ceil_mode stays only where pads cannot say the same: in an average that counts pads, but not
    what ceil_mode adds to them, and where a dilated window would need pads as wide as its kernel.
    """
    _complete_window(attrs, inputs)
    if not attrs["ceil_mode"]:
        return
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


def _pool(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    data = inputs[0].shape
    kernel, strides, dilations, pads = node.ints("kernel_shape"), node.ints("strides"), node.ints("dilations"), node.ints("pads")
    rank, ceil_mode = len(kernel), bool(node.attr("ceil_mode"))
    spatial = (
        window_output(data[2 + i], kernel[i], strides[i], dilations[i], pads[i] + pads[i + rank], ceil_mode=ceil_mode) for i in range(rank)
    )
    return [TensorSpec((*data[:2], *spatial), inputs[0].dtype)]


def _per_channel(count: int) -> Infer:
    def check(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
        channels = inputs[0].shape[1]
        for spec in inputs[1 : 1 + count]:
            if spec.shape != (channels,):
                raise GraphError(f"expected parameters of shape [{channels}], got {list(spec.shape)}")
        return [inputs[0]]

    return check


def _group_norm(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    if inputs[0].shape[1] % int(node.attr("num_groups")):
        raise GraphError(f"{inputs[0].shape[1]} channels do not divide into {node.attr('num_groups')} groups")
    return _per_channel(2)(node, inputs)


def _global_pool(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    shape = inputs[0].shape
    return [TensorSpec((*shape[:2], *(1,) * (len(shape) - 2)), inputs[0].dtype)]


def _complete_axes(attrs: Attributes, inputs: Sequence[TensorSpec]) -> None:
    rank = len(inputs[0].shape)
    axes = attrs["axes"] or range(rank)  # ONNX: no axes stand for all axes
    attrs["axes"] = tuple(sorted({axis_of(int(axis), rank) for axis in axes}))


def _reduce(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    axes, keep = set(node.ints("axes")), bool(node.attr("keepdims"))
    shape = tuple(1 if i in axes else size for i, size in enumerate(inputs[0].shape) if keep or i not in axes)
    return [TensorSpec(shape, inputs[0].dtype)]


def _complete_axis(attrs: Attributes, inputs: Sequence[TensorSpec]) -> None:
    attrs["axis"] = axis_of(int(attrs["axis"]), len(inputs[0].shape))


def _concat(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    axis = int(node.attr("axis"))
    rests = {spec.shape[:axis] + spec.shape[axis + 1 :] for spec in inputs}
    if len(rests) != 1:
        raise GraphError(f"all dimensions but axis {axis} must agree")
    shape = list(inputs[0].shape)
    shape[axis] = sum(spec.shape[axis] for spec in inputs)
    return [TensorSpec(tuple(shape), inputs[0].dtype)]


def _split(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    axis, parts, shape = int(node.attr("axis")), node.ints("split"), inputs[0].shape
    if sum(parts) != shape[axis]:
        raise GraphError(f"parts {list(parts)} do not add up to {shape[axis]}")
    if len(parts) != len(node.outputs):
        raise GraphError(f"{len(parts)} parts need as many outputs, got {len(node.outputs)}")
    return [TensorSpec((*shape[:axis], part, *shape[axis + 1 :]), inputs[0].dtype) for part in parts]


def _complete_slice(attrs: Attributes, inputs: Sequence[TensorSpec]) -> None:
    starts, ends = attrs["starts"], attrs["ends"]
    axes = attrs["axes"] if attrs["axes"] is not None else tuple(range(len(starts)))
    steps = attrs["steps"] if attrs["steps"] is not None else (1,) * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise GraphError("starts, ends, axes and steps differ in length")
    shape = inputs[0].shape
    rows = []
    for start, end, axis_, step in zip(starts, ends, axes, steps, strict=True):
        axis = axis_of(int(axis_), len(shape))
        if int(step) < 1:
            raise GraphError(f"a step of {step} is not supported; steps must be positive")
        low, high, _ = slice(int(start), int(end), int(step)).indices(shape[axis])
        rows.append((axis, low, high, int(step)))
    rows.sort()
    attrs["axes"], attrs["starts"], attrs["ends"], attrs["steps"] = zip(*rows, strict=True)


def _slice(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    shape = list(inputs[0].shape)
    for axis, start, end, step in zip(node.ints("axes"), node.ints("starts"), node.ints("ends"), node.ints("steps"), strict=True):
        shape[axis] = len(range(start, end, step))
    return [TensorSpec(tuple(shape), inputs[0].dtype)]


def _flatten(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    axis, shape = int(node.attr("axis")), inputs[0].shape
    return [TensorSpec((prod(shape[:axis]), prod(shape[axis:])), inputs[0].dtype)]


def _complete_flatten(attrs: Attributes, inputs: Sequence[TensorSpec]) -> None:
    axis, rank = int(attrs["axis"]), len(inputs[0].shape)
    attrs["axis"] = axis if axis == rank else axis_of(axis, rank)


def _complete_reshape(attrs: Attributes, inputs: Sequence[TensorSpec]) -> None:
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


def _reshape(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    shape = node.ints("shape")
    if prod(shape) != inputs[0].numel:
        raise GraphError(f"{list(inputs[0].shape)} does not reshape to {list(shape)}")
    return [TensorSpec(shape, inputs[0].dtype)]


def _complete_transpose(attrs: Attributes, inputs: Sequence[TensorSpec]) -> None:
    if attrs["perm"] is None:
        attrs["perm"] = tuple(reversed(range(len(inputs[0].shape))))


def _transpose(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    perm, shape = node.ints("perm"), inputs[0].shape
    if sorted(perm) != list(range(len(shape))):
        raise GraphError(f"perm {list(perm)} is not a permutation of {len(shape)} axes")
    return [TensorSpec(tuple(shape[i] for i in perm), inputs[0].dtype)]


def _gemm(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    a, b = inputs[0].shape, inputs[1].shape
    rows, depth = (a[1], a[0]) if node.attr("transA") else a
    depth_b, columns = (b[1], b[0]) if node.attr("transB") else b
    if depth != depth_b:
        raise GraphError(f"inner dimensions {depth} and {depth_b} differ")
    if len(inputs) > 2:
        broadcast(inputs[2].shape, (rows, columns))
    return [TensorSpec((rows, columns), inputs[0].dtype)]


def _matmul(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    a, b = inputs[0].shape, inputs[1].shape
    if len(a) < 2 or len(b) < 2:
        raise GraphError("inputs of rank 1 are not supported; reshape them to matrices")
    if a[-1] != b[-2]:
        raise GraphError(f"inner dimensions {a[-1]} and {b[-2]} differ")
    return [TensorSpec((*broadcast(a[:-2], b[:-2]), a[-2], b[-1]), inputs[0].dtype)]


def _complete_pad(attrs: Attributes, inputs: Sequence[TensorSpec]) -> None:
    if len(attrs["pads"]) != 2 * len(inputs[0].shape):
        raise GraphError(f"attribute 'pads' needs {2 * len(inputs[0].shape)} values")


def _pad(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    pads, shape = node.ints("pads"), inputs[0].shape
    return [TensorSpec(tuple(size + pads[i] + pads[i + len(shape)] for i, size in enumerate(shape)), inputs[0].dtype)]


def _complete_resize(attrs: Attributes, inputs: Sequence[TensorSpec]) -> None:
    if (attrs["scales"] is None) == (attrs["sizes"] is None):
        raise GraphError("give exactly one of 'scales' and 'sizes'")
    if attrs["scales"] is not None:
        attrs["scales"] = tuple(float(scale) for scale in attrs["scales"])


def _resize(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    shape = inputs[0].shape
    given = dict(node.attrs)
    out = (
        node.ints("sizes")
        if "sizes" in given
        else tuple(floor(size * scale) for size, scale in zip(shape, node.attr("scales"), strict=True))
    )
    if len(out) != len(shape):
        raise GraphError(f"'sizes' needs {len(shape)} values")
    return [TensorSpec(tuple(out), inputs[0].dtype)]


def _cast(node: Node, inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    return [TensorSpec(inputs[0].shape, str(node.attr("to")))]


def _unary(**defaults: AttrValue) -> OpSchema:
    return OpSchema(infer=_same, arity=(1, 1), defaults=defaults)


_BINARY = OpSchema(infer=_elementwise, arity=(2, 2), defaults={})
_WINDOW: Mapping[str, AttrValue | None] = {"strides": None, "dilations": None, "pads": None}
_FLOAT_MAX = single(3.4028234663852886e38)

OPS: Mapping[str, OpSchema] = {
    "Conv": OpSchema(infer=_conv, arity=(2, 3), defaults={**_WINDOW, "kernel_shape": None, "group": 1}, complete=_complete_window),
    "ConvTranspose": OpSchema(
        infer=_conv_transpose,
        arity=(2, 3),
        defaults={**_WINDOW, "kernel_shape": None, "group": 1, "output_padding": None},
        complete=_complete_window,
    ),
    "BatchNormalization": OpSchema(infer=_per_channel(4), arity=(5, 5), defaults={"epsilon": 1e-5}),
    "InstanceNormalization": OpSchema(infer=_per_channel(2), arity=(3, 3), defaults={"epsilon": 1e-5}),
    "GroupNormalization": OpSchema(infer=_group_norm, arity=(3, 3), defaults={"epsilon": 1e-5}, required=("num_groups",)),
    "LayerNormalization": OpSchema(infer=_same, arity=(2, 3), defaults={"axis": -1, "epsilon": 1e-5}, complete=_complete_axis),
    "Relu": _unary(),
    "Sigmoid": _unary(),
    "HardSwish": _unary(),
    "HardSigmoid": _unary(alpha=0.2, beta=0.5),
    "Clip": _unary(min=-_FLOAT_MAX, max=_FLOAT_MAX),
    "Gelu": _unary(approximate="none"),
    "Erf": _unary(),
    "Tanh": _unary(),
    "Sqrt": _unary(),
    "Exp": _unary(),
    "Identity": _unary(),
    "Add": _BINARY,
    "Sub": _BINARY,
    "Mul": _BINARY,
    "Div": _BINARY,
    "Pow": _BINARY,
    "Concat": OpSchema(infer=_concat, arity=(1, 2**31), defaults={}, required=("axis",), complete=_complete_axis),
    "Split": OpSchema(infer=_split, arity=(1, 1), defaults={"axis": 0}, required=("split",), complete=_complete_axis),
    "Slice": OpSchema(
        infer=_slice, arity=(1, 1), defaults={"axes": None, "steps": None}, required=("starts", "ends"), complete=_complete_slice
    ),
    "MaxPool": OpSchema(
        infer=_pool, arity=(1, 1), defaults={**_WINDOW, "ceil_mode": 0}, required=("kernel_shape",), complete=_complete_pool
    ),
    "AveragePool": OpSchema(
        infer=_pool,
        arity=(1, 1),
        defaults={**_WINDOW, "ceil_mode": 0, "count_include_pad": 0},
        required=("kernel_shape",),
        complete=_complete_pool,
    ),
    "GlobalAveragePool": OpSchema(infer=_global_pool, arity=(1, 1), defaults={}),
    "ReduceMean": OpSchema(infer=_reduce, arity=(1, 1), defaults={"axes": None, "keepdims": 1}, complete=_complete_axes),
    "Flatten": OpSchema(infer=_flatten, arity=(1, 1), defaults={"axis": 1}, complete=_complete_flatten),
    "Reshape": OpSchema(infer=_reshape, arity=(1, 1), defaults={}, required=("shape",), complete=_complete_reshape),
    "Transpose": OpSchema(infer=_transpose, arity=(1, 1), defaults={"perm": None}, complete=_complete_transpose),
    "Gemm": OpSchema(infer=_gemm, arity=(2, 3), defaults={"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}),
    "MatMul": OpSchema(infer=_matmul, arity=(2, 2), defaults={}),
    "Softmax": OpSchema(infer=_same, arity=(1, 1), defaults={"axis": -1}, complete=_complete_axis),
    "Pad": OpSchema(infer=_pad, arity=(1, 1), defaults={"mode": "constant", "value": 0.0}, required=("pads",), complete=_complete_pad),
    "Resize": OpSchema(
        infer=_resize,
        arity=(1, 1),
        defaults={
            "mode": "nearest",
            "coordinate_transformation_mode": "half_pixel",
            "nearest_mode": "round_prefer_floor",
            "cubic_coeff_a": -0.75,
            "scales": None,
            "sizes": None,
        },
        complete=_complete_resize,
    ),
    "Cast": OpSchema(infer=_cast, arity=(1, 1), defaults={}, required=("to",)),
}
