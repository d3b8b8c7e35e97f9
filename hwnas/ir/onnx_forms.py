"""How ONNX passes what hwnas keeps as attributes: one table that writing and reading share."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from hwnas.errors import GraphError
from hwnas.ir.node import Array

MAX_INLINE_BYTES = 1_900_000_000  # of weights in one message: protobuf ends at 2 GiB; names, nodes and framing need some of it
OPSETS = range(17, 22)  # written, and read without conversion

# Reductions take their axes as an input from opset 18 on (ReduceSum from 13 on), as an attribute before.
REDUCTIONS = tuple(f"Reduce{how}" for how in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"))

TENSOR = ""  # among slots: an input that stays one

# Inputs that are attributes here, from the second input on: the position is the index. Names that no operator of hwnas keeps
# (roi, ratio, ...) are understood by the reader and never written.
SLOTS: Mapping[str, tuple[str, ...]] = {
    "Clip": ("min", "max"),
    "Col2Im": ("image_shape", "block_shape"),
    "CumSum": ("axis",),
    "DFT": ("dft_length", "axis"),
    "Dropout": ("ratio", "training_mode"),
    "Expand": ("shape",),
    "OneHot": ("depth", TENSOR),
    "Pad": ("pads", "value", "axes"),
    **dict.fromkeys(REDUCTIONS, ("axes",)),
    "Reshape": ("shape",),
    "Resize": ("roi", "scales", "sizes"),
    "Slice": ("starts", "ends", "axes", "steps"),
    "Split": ("split",),
    "Squeeze": ("axes",),
    "Tile": ("repeats",),
    "TopK": ("k",),
    "Trilu": ("k",),
    "Unsqueeze": ("axes",),
}

# Values of one number each: those of the node's data, in its element type, and counts and axes. Every other slot is a list.
DATA_SLOTS = frozenset({"min", "max", "value", "ratio", "training_mode"})
SCALAR_SLOTS = DATA_SLOTS | {"axis", "depth", "dft_length", "k"}

# The first opset that has an operator, where it is newer than the oldest one written.
SINCE: Mapping[str, int] = {"Col2Im": 18, "DFT": 20, "Gelu": 20, "GridSample": 20, "GroupNormalization": 21, "Mish": 18}

_DTYPES: Mapping[str, int] = {
    "float64": onnx.TensorProto.DOUBLE,
    "float32": onnx.TensorProto.FLOAT,
    "float16": onnx.TensorProto.FLOAT16,
    "bfloat16": onnx.TensorProto.BFLOAT16,
    "int64": onnx.TensorProto.INT64,
    "int32": onnx.TensorProto.INT32,
    "int8": onnx.TensorProto.INT8,
    "uint8": onnx.TensorProto.UINT8,
    "bool": onnx.TensorProto.BOOL,
}
_NAMES: Mapping[int, str] = {number: name for name, number in _DTYPES.items()}


def to_element_type(dtype: str) -> int:
    """ONNX's number for an element type."""
    return _DTYPES[dtype]


def from_element_type(number: int) -> str:
    """The element type behind ONNX's number.

    Raises:
        GraphError: for a type that hwnas does not represent.
    """
    if number not in _NAMES:
        known = onnx.TensorProto.DataType.values()
        name = onnx.TensorProto.DataType.Name(number).lower() if number in known else str(number)
        raise GraphError(f"element type '{name}' is not supported; use one of {', '.join(_DTYPES)}")
    return _NAMES[number]


def slot_array(op: str, slot: str, value: object, dtype: str) -> Array:
    """The constant by which ONNX passes an attribute.

    Args:
        op: the operator.
        slot: name of the attribute.
        value: its value.
        dtype: element type of the node's data, which limits and fillings share.
    """
    array = np.asarray(value, dtype if slot in DATA_SLOTS else "float32" if slot == "scales" else "int64")
    return array.reshape(1) if op == "TopK" else array  # the only number that ONNX wants as a list
