"""The operators: their attributes with defaults, and how each infers the shapes of its outputs.

Semantics are those of the ONNX operator specification (https://onnx.ai/onnx/operators), opset 21, with small constant inputs
turned into attributes (see `hwnas.ir.graph`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from hwnas.errors import GraphError, did_you_mean
from hwnas.ir import op_complete as complete
from hwnas.ir import op_picks as picks
from hwnas.ir import op_recurrent as recurrent
from hwnas.ir import op_shapes as shapes
from hwnas.ir.node import Attrs, AttrValue, Node, TensorSpec
from hwnas.ir.op_complete import Attributes, Complete
from hwnas.ir.op_shapes import Infer


@dataclass(frozen=True, slots=True, kw_only=True)
class OpSchema:
    """What an operator takes.

    Attributes:
        infer: output specs from the canonical node and its input specs.
        arity: fewest and most inputs.
        defaults: every optional attribute with its default; `None` means that `complete` derives it from the inputs.
        required: attributes without a default.
        complete: derives attributes that depend on the inputs' shapes (pads of a given rank, resolved axes).
        mixed_types: whether the inputs may differ in element type.
    """

    infer: Infer
    arity: tuple[int, int]
    defaults: Mapping[str, AttrValue | None]
    required: tuple[str, ...] = ()
    complete: Complete | None = None
    mixed_types: bool = False


_MISFITS = (GraphError, ArithmeticError, LookupError, TypeError, ValueError)  # what odd shapes and attributes raise on their way


def canonical(node: Node, inputs: Sequence[TensorSpec]) -> Node:
    """The node with every attribute present, axes non-negative and shapes resolved.

    Raises:
        GraphError: for an unknown operator, a missing or unknown attribute, or a wrong number of inputs; names the node.
    """
    try:
        return replace(node, attrs=_canonical_attrs(node.op, node.attrs, tuple(inputs)))
    except _MISFITS as error:
        raise GraphError(f"node '{node.name}' ({node.op}): {error}") from error


@lru_cache(maxsize=65_536)
def _canonical_attrs(op: str, attrs: Attrs, inputs: tuple[TensorSpec, ...]) -> Attrs:
    """Canonical attributes; remembered, since the networks of a space are made of the same few layers."""
    schema = OPS.get(op)
    if schema is None:
        raise GraphError(f"operator '{op}' is not supported{did_you_mean(op, OPS)}; supported: {', '.join(sorted(OPS))}")
    if not schema.arity[0] <= len(inputs) <= schema.arity[1]:
        low, high = schema.arity
        raise GraphError(f"it takes {low if low == high else f'{low} to {high}'} inputs, got {len(inputs)}")
    given = dict(attrs)
    unknown = sorted(set(given) - set(schema.defaults) - set(schema.required))
    if unknown:
        raise GraphError(f"attribute '{unknown[0]}' is not supported")
    missing = [key for key in schema.required if key not in given]
    if missing:
        raise GraphError(f"attribute '{missing[0]}' is required")
    full: Attributes = {**schema.defaults, **given}
    for key, default in schema.defaults.items():
        if isinstance(default, float):
            full[key] = float(full[key])
    if schema.complete:
        schema.complete(full, inputs)
    return tuple(sorted((key, _exact(value)) for key, value in full.items() if value is not None))


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
        outputs = _output_specs(node.op, node.attrs, tuple(inputs), len(node.outputs))
    except _MISFITS as error:
        shapes = ", ".join(str(list(spec.shape)) for spec in inputs)
        raise GraphError(f"node '{node.name}' ({node.op}) does not accept inputs of shapes {shapes}: {error}") from error
    if len(outputs) < len(node.outputs):
        raise GraphError(f"node '{node.name}' ({node.op}) has {len(node.outputs)} outputs; {len(outputs)} are supported")
    return outputs[: len(node.outputs)]


def make_node(
    name: str, op: str, inputs: tuple[str, ...], outputs: tuple[str, ...], attrs: Attrs, specs: Sequence[TensorSpec]
) -> tuple[Node, tuple[TensorSpec, ...]]:
    """A canonical node and the specs of its outputs: `canonical` and `infer` in one look-up, for those who build many networks.

    Raises:
        GraphError: as `canonical` and `infer`.
    """
    try:
        full, written = _completed(op, attrs, tuple(specs), len(outputs))
    except _MISFITS:  # again, so that the message names the node
        node = canonical(Node(name=name, op=op, inputs=inputs, outputs=outputs, attrs=attrs), specs)
        return node, infer(node, specs)
    return Node(name=name, op=op, inputs=inputs, outputs=outputs, attrs=full), written


@lru_cache(maxsize=65_536)
def _completed(op: str, attrs: Attrs, inputs: tuple[TensorSpec, ...], outputs: int) -> tuple[Attrs, tuple[TensorSpec, ...]]:
    node = canonical(Node(name="", op=op, inputs=(), outputs=("",) * outputs, attrs=attrs), inputs)
    return node.attrs, infer(node, inputs)


@lru_cache(maxsize=65_536)
def _output_specs(op: str, attrs: Attrs, inputs: tuple[TensorSpec, ...], outputs: int) -> tuple[TensorSpec, ...]:
    schema = OPS[op]
    if not schema.mixed_types and len({spec.dtype for spec in inputs}) > 1:
        raise GraphError(f"their types differ: {', '.join(spec.dtype for spec in inputs)}")
    return tuple(schema.infer(Node(name="", op=op, inputs=(), outputs=("",) * outputs, attrs=attrs), inputs))


def _unary(**defaults: AttrValue) -> OpSchema:
    return OpSchema(infer=shapes.same, arity=(1, 1), defaults=defaults)


_MANY = 2**31  # inputs, as ONNX bounds them
_BINARY = OpSchema(infer=shapes.elementwise, arity=(2, 2), defaults={})
_COMPARISON = OpSchema(infer=shapes.comparison, arity=(2, 2), defaults={})
_VARIADIC = OpSchema(infer=shapes.elementwise, arity=(1, _MANY), defaults={})
_ALONG_AXIS = OpSchema(infer=shapes.same, arity=(1, 1), defaults={"axis": -1}, complete=complete.axis)
_REDUCE = OpSchema(infer=shapes.reduce, arity=(1, 1), defaults={"axes": None, "keepdims": 1}, complete=complete.axes)
_GLOBAL_POOL = OpSchema(infer=shapes.global_pool, arity=(1, 1), defaults={})
_EXTREME = OpSchema(infer=picks.extreme, arity=(1, 1), defaults={"axis": 0, "keepdims": 1, "select_last_index": 0}, complete=complete.axis)
_RECURRENT = OpSchema(
    infer=recurrent.infer, arity=(3, 7), defaults={"direction": "forward", "hidden_size": None}, complete=recurrent.complete
)
_WINDOW: Mapping[str, AttrValue | None] = {"strides": None, "dilations": None, "pads": None}
_FLOAT_MAX = single(3.4028234663852886e38)

OPS: Mapping[str, OpSchema] = {
    "Conv": OpSchema(infer=shapes.conv, arity=(2, 3), defaults={**_WINDOW, "kernel_shape": None, "group": 1}, complete=complete.window),
    "ConvTranspose": OpSchema(
        infer=shapes.conv_transpose,
        arity=(2, 3),
        defaults={**_WINDOW, "kernel_shape": None, "group": 1, "output_padding": None},
        complete=complete.window,
    ),
    "BatchNormalization": OpSchema(infer=shapes.per_channel(4), arity=(5, 5), defaults={"epsilon": 1e-5}),
    "InstanceNormalization": OpSchema(infer=shapes.per_channel(2), arity=(3, 3), defaults={"epsilon": 1e-5}),
    "GroupNormalization": OpSchema(infer=shapes.group_norm, arity=(3, 3), defaults={"epsilon": 1e-5}, required=("num_groups",)),
    "LayerNormalization": OpSchema(infer=shapes.onto_first, arity=(2, 3), defaults={"axis": -1, "epsilon": 1e-5}, complete=complete.axis),
    "Relu": _unary(),
    "Sigmoid": _unary(),
    "HardSwish": _unary(),
    "HardSigmoid": _unary(alpha=0.2, beta=0.5),
    "Clip": _unary(min=-_FLOAT_MAX, max=_FLOAT_MAX),
    "Gelu": _unary(approximate="none"),
    "Erf": _unary(),
    "Ceil": _unary(),
    "Floor": _unary(),
    "Round": _unary(),
    "Sign": _unary(),
    "IsNaN": OpSchema(infer=shapes.comparison, arity=(1, 1), defaults={}),
    "IsInf": OpSchema(infer=shapes.comparison, arity=(1, 1), defaults={"detect_negative": 1, "detect_positive": 1}),
    "Tanh": _unary(),
    **{name: _unary() for name in ("Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cosh", "Sinh", "Tan")},
    "Celu": _unary(alpha=1.0),
    "ThresholdedRelu": _unary(alpha=1.0),
    "Sqrt": _unary(),
    "Exp": _unary(),
    "Abs": _unary(),
    "Cos": _unary(),
    "Elu": _unary(alpha=1.0),
    "LeakyRelu": _unary(alpha=0.01),
    "Log": _unary(),
    "Mish": _unary(),
    "Neg": _unary(),
    "Reciprocal": _unary(),
    "Selu": _unary(alpha=1.6732632, gamma=1.050701),
    "Sin": _unary(),
    "Softplus": _unary(),
    "Softsign": _unary(),
    "PRelu": OpSchema(infer=shapes.onto_first, arity=(2, 2), defaults={}),
    "LRN": OpSchema(infer=shapes.same, arity=(1, 1), defaults={"alpha": 1e-4, "beta": 0.75, "bias": 1.0}, required=("size",)),
    "Identity": _unary(),
    "Add": _BINARY,
    "Sub": _BINARY,
    "Mul": _BINARY,
    "Div": _BINARY,
    "Mod": replace(_BINARY, defaults={"fmod": 0}),
    "Pow": replace(_BINARY, mixed_types=True),
    "Max": _VARIADIC,
    "Min": _VARIADIC,
    "Sum": _VARIADIC,
    "And": _COMPARISON,
    "Equal": _COMPARISON,
    "Greater": _COMPARISON,
    "GreaterOrEqual": _COMPARISON,
    "Less": _COMPARISON,
    "LessOrEqual": _COMPARISON,
    "Not": _unary(),
    "Or": _COMPARISON,
    "Xor": _COMPARISON,
    "Where": OpSchema(infer=shapes.where, arity=(3, 3), defaults={}, mixed_types=True),
    "Concat": OpSchema(infer=shapes.concat, arity=(1, _MANY), defaults={}, required=("axis",), complete=complete.axis),
    "Split": OpSchema(infer=shapes.split, arity=(1, 1), defaults={"axis": 0}, required=("split",), complete=complete.axis),
    "Slice": OpSchema(
        infer=shapes.cut, arity=(1, 1), defaults={"axes": None, "steps": None}, required=("starts", "ends"), complete=complete.cut
    ),
    "MaxPool": OpSchema(
        infer=shapes.pool, arity=(1, 1), defaults={**_WINDOW, "ceil_mode": 0}, required=("kernel_shape",), complete=complete.pool
    ),
    "AveragePool": OpSchema(
        infer=shapes.pool,
        arity=(1, 1),
        defaults={**_WINDOW, "ceil_mode": 0, "count_include_pad": 0},
        required=("kernel_shape",),
        complete=complete.pool,
    ),
    "GlobalAveragePool": _GLOBAL_POOL,
    "GlobalMaxPool": _GLOBAL_POOL,
    "ReduceMean": _REDUCE,
    "ReduceSum": _REDUCE,
    "ReduceMax": _REDUCE,
    "ReduceMin": _REDUCE,
    "ReduceProd": _REDUCE,
    "ReduceL1": _REDUCE,
    "ReduceL2": _REDUCE,
    "ReduceSumSquare": _REDUCE,
    "ReduceLogSum": _REDUCE,
    "ReduceLogSumExp": _REDUCE,
    "ArgMax": _EXTREME,
    "ArgMin": _EXTREME,
    "CumSum": OpSchema(
        infer=shapes.same, arity=(1, 1), defaults={"exclusive": 0, "reverse": 0}, required=("axis",), complete=complete.axis
    ),
    "TopK": OpSchema(
        infer=picks.top_k, arity=(1, 1), defaults={"axis": -1, "largest": 1, "sorted": 1}, required=("k",), complete=complete.axis
    ),
    "Gather": OpSchema(infer=picks.gather, arity=(2, 2), defaults={"axis": 0}, complete=complete.axis, mixed_types=True),
    "GatherElements": OpSchema(infer=picks.gather_elements, arity=(2, 2), defaults={"axis": 0}, complete=complete.axis, mixed_types=True),
    "GatherND": OpSchema(infer=picks.gather_nd, arity=(2, 2), defaults={"batch_dims": 0}, mixed_types=True),
    "ScatterElements": OpSchema(
        infer=picks.scatter_elements, arity=(3, 3), defaults={"axis": 0, "reduction": "none"}, complete=complete.axis, mixed_types=True
    ),
    "ScatterND": OpSchema(infer=picks.scatter_nd, arity=(3, 3), defaults={"reduction": "none"}, mixed_types=True),
    "OneHot": OpSchema(
        infer=picks.one_hot, arity=(2, 2), defaults={"axis": -1}, required=("depth",), complete=complete.one_hot, mixed_types=True
    ),
    "Trilu": OpSchema(infer=shapes.matrices, arity=(1, 1), defaults={"k": 0, "upper": 1}, complete=complete.rows),
    "Tile": OpSchema(infer=shapes.tile, arity=(1, 1), defaults={}, required=("repeats",)),
    "Expand": OpSchema(infer=shapes.expand, arity=(1, 1), defaults={}, required=("shape",), complete=complete.expand),
    "DepthToSpace": OpSchema(infer=shapes.depth_to_space, arity=(1, 1), defaults={"mode": "DCR"}, required=("blocksize",)),
    "SpaceToDepth": OpSchema(infer=shapes.space_to_depth, arity=(1, 1), defaults={}, required=("blocksize",)),
    "Col2Im": OpSchema(
        infer=shapes.col2im, arity=(1, 1), defaults=_WINDOW, required=("image_shape", "block_shape"), complete=complete.col2im
    ),
    "Flatten": OpSchema(infer=shapes.flatten, arity=(1, 1), defaults={"axis": 1}, complete=complete.flatten),
    "Reshape": OpSchema(infer=shapes.reshape, arity=(1, 1), defaults={}, required=("shape",), complete=complete.reshape),
    "Transpose": OpSchema(infer=shapes.transpose, arity=(1, 1), defaults={"perm": None}, complete=complete.transpose),
    "Gemm": OpSchema(infer=shapes.gemm, arity=(2, 3), defaults={"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}),
    "MatMul": OpSchema(infer=shapes.matmul, arity=(2, 2), defaults={}),
    "Einsum": OpSchema(infer=shapes.einsum, arity=(1, _MANY), defaults={}, required=("equation",), complete=complete.einsum),
    "RNN": _RECURRENT,
    "GRU": replace(_RECURRENT, defaults={**_RECURRENT.defaults, "linear_before_reset": 0}),
    "LSTM": replace(_RECURRENT, arity=(3, 8)),
    "DFT": OpSchema(
        infer=shapes.dft, arity=(1, 1), defaults={"axis": -2, "dft_length": None, "inverse": 0, "onesided": 0}, complete=complete.dft
    ),
    "Softmax": _ALONG_AXIS,
    "LogSoftmax": _ALONG_AXIS,
    "Hardmax": _ALONG_AXIS,
    "Pad": OpSchema(infer=shapes.pad, arity=(1, 1), defaults={"mode": "constant", "value": 0.0}, required=("pads",), complete=complete.pad),
    "Resize": OpSchema(
        infer=shapes.resize,
        arity=(1, 1),
        defaults={
            "mode": "nearest",
            "coordinate_transformation_mode": "half_pixel",
            "nearest_mode": "round_prefer_floor",
            "cubic_coeff_a": -0.75,
            "scales": None,
            "sizes": None,
        },
        complete=complete.resize,
    ),
    "GridSample": OpSchema(
        infer=shapes.grid_sample,
        arity=(2, 2),
        defaults={"align_corners": 0, "mode": "linear", "padding_mode": "zeros"},
        mixed_types=True,
    ),
    "Cast": OpSchema(infer=shapes.cast, arity=(1, 1), defaults={}, required=("to",)),
}
