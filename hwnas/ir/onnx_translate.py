"""Brings a node's attributes, as a file states them, into the form that `hwnas.ir.ops` knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from hwnas.errors import GraphError
from hwnas.ir.node import TensorSpec
from hwnas.ir.onnx_forms import REDUCTIONS, from_element_type
from hwnas.ir.op_complete import Attributes
from hwnas.ir.op_recurrent import ACTIVATIONS, GATES
from hwnas.ir.op_shapes import axis_of


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    """A node half read: its attributes may still be changed."""

    op: str
    attrs: Attributes
    specs: Sequence[TensorSpec]
    outputs: Sequence[str]


# Attributes that hwnas does not keep: the one value that it implements, or None where they do not matter for inference.
_NEUTRAL: Mapping[str, Mapping[str, object]] = {
    "BatchNormalization": {"momentum": None, "training_mode": 0, "spatial": 1},
    "Cast": {"saturate": None, "round_mode": None},
    **{op: {"activation_alpha": None, "activation_beta": None, "layout": 0} for op in GATES},
    "GroupNormalization": {"stash_type": 1},
    "LayerNormalization": {"stash_type": 1},
    "MaxPool": {"storage_order": None},
    "Reshape": {"allowzero": None},
    "Resize": {
        "antialias": 0,
        "exclude_outside": 0,
        "extrapolation_value": None,
        "keep_aspect_ratio_policy": "stretch",
        "roi": None,
    },
}


def translate(op: str, name: str, attrs: Attributes, specs: Sequence[TensorSpec], outputs: Sequence[str]) -> tuple[str, Attributes]:
    """The operator and the attributes under which hwnas keeps a node.

    Args:
        op: the operator of the file.
        name: of the node, for errors.
        attrs: as the file states them, constant inputs among them.
        specs: of the inputs.
        outputs: the values it writes.

    Raises:
        GraphError: names the node, when it asks for something that hwnas does not represent.
    """
    attrs = dict(attrs)
    for key, only in _NEUTRAL.get(op, {}).items():
        if key in attrs and attrs.pop(key) != only and only is not None:
            raise GraphError(f"node '{name}' ({op}): only {key} = {only} is supported")
    draft = _Draft(op=op, attrs=attrs, specs=specs, outputs=outputs)
    try:
        return _TRANSLATIONS[op](draft) if op in _TRANSLATIONS else op, draft.attrs
    except (GraphError, IndexError, KeyError, TypeError, ValueError) as error:
        raise GraphError(f"node '{name}' ({op}): {error}") from error


def _window(draft: _Draft) -> str:
    """Turns auto_pad into pads."""
    mode, attrs = draft.attrs.pop("auto_pad", "NOTSET"), draft.attrs
    if mode == "NOTSET":
        return draft.op
    if mode not in ("VALID", "SAME_UPPER", "SAME_LOWER"):
        raise GraphError(f"auto_pad '{mode}' does not exist")
    attrs.pop("pads", None)
    if mode == "VALID":
        return draft.op
    sizes = draft.specs[0].shape[2:]
    totals = []
    for size, kernel, stride, dilation in zip(sizes, *_window_attrs(draft), strict=True):
        totals.append(max((ceil(size / stride) - 1) * stride + dilation * (kernel - 1) + 1 - size, 0))
    attrs["pads"] = _both_ends(totals, more_at_end=mode == "SAME_UPPER")
    if "ceil_mode" in attrs:
        attrs["ceil_mode"] = 0  # the pads already make every window whole
    return draft.op


def _conv_transpose(draft: _Draft) -> str:
    """Turns auto_pad and output_shape into pads."""
    mode, attrs = draft.attrs.pop("auto_pad", "NOTSET"), draft.attrs
    wanted = attrs.pop("output_shape", None)
    sizes = draft.specs[0].shape[2:]
    kernels, strides, dilations = _window_attrs(draft)
    if mode.startswith("SAME") and wanted is None:
        wanted = tuple(size * stride for size, stride in zip(sizes, strides, strict=True))
    if wanted is None:
        if mode == "VALID":
            attrs.pop("pads", None)
        return draft.op
    extra = attrs.get("output_padding") or (0,) * len(sizes)
    whole = [
        stride * (size - 1) + more + dilation * (kernel - 1) + 1
        for size, kernel, stride, dilation, more in zip(sizes, kernels, strides, dilations, extra, strict=True)
    ]
    totals = [full - out for full, out in zip(whole, wanted[-len(sizes) :], strict=True)]
    if min(totals) < 0:
        raise GraphError(f"output_shape {list(wanted)} is larger than the {whole} that the kernel reaches")
    attrs["pads"] = _both_ends(totals, more_at_end=mode == "SAME_UPPER")
    return draft.op


def _window_attrs(draft: _Draft) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    rank = len(draft.specs[0].shape) - 2
    attrs = draft.attrs
    kernel = attrs["kernel_shape"] if "kernel_shape" in attrs else draft.specs[1].shape[2:]
    return kernel, attrs.get("strides") or (1,) * rank, attrs.get("dilations") or (1,) * rank


def _both_ends(totals: Sequence[int], *, more_at_end: bool) -> tuple[int, ...]:
    less, more = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return tuple(less + more if more_at_end else more + less)


def _cast(draft: _Draft) -> str:
    draft.attrs["to"] = from_element_type(draft.attrs["to"])
    return "Cast"


def _reduce(draft: _Draft) -> str:
    if draft.attrs.pop("noop_with_empty_axes", 0) and not draft.attrs.get("axes"):
        draft.attrs.clear()
        return "Identity"
    return draft.op


def _squeeze(draft: _Draft) -> str:
    shape = draft.specs[0].shape
    axes = draft.attrs.pop("axes", None)
    gone = {axis_of(axis, len(shape)) for axis in axes} if axes is not None else {i for i, size in enumerate(shape) if size == 1}
    if any(shape[axis] != 1 for axis in gone):
        raise GraphError(f"axes {list(axes or ())} of {list(shape)} are not all of size 1")
    draft.attrs["shape"] = tuple(size for i, size in enumerate(shape) if i not in gone)
    return "Reshape"


def _unsqueeze(draft: _Draft) -> str:
    axes = draft.attrs.pop("axes")
    rank = len(draft.specs[0].shape) + len(axes)
    new = {axis_of(axis, rank) for axis in axes}
    old = iter(draft.specs[0].shape)
    draft.attrs["shape"] = tuple(1 if i in new else next(old) for i in range(rank))
    return "Reshape"


def _split(draft: _Draft) -> str:
    parts = draft.attrs.pop("num_outputs", len(draft.outputs))
    if "split" not in draft.attrs:
        size = draft.specs[0].shape[axis_of(draft.attrs.get("axis", 0), len(draft.specs[0].shape))]
        chunk = ceil(size / parts)
        draft.attrs["split"] = tuple(min(chunk, size - chunk * i) for i in range(parts))
    return "Split"


def _pad(draft: _Draft) -> str:
    axes = draft.attrs.pop("axes", None)
    if axes is not None:
        rank, pads = len(draft.specs[0].shape), draft.attrs["pads"]
        full = [0] * 2 * rank
        for i, axis in enumerate(axes):
            full[axis_of(axis, rank)] = pads[i]
            full[axis_of(axis, rank) + rank] = pads[i + len(axes)]
        draft.attrs["pads"] = tuple(full)
    return "Pad"


def _resize(draft: _Draft) -> str:
    attrs, shape = draft.attrs, draft.specs[0].shape
    axes = attrs.pop("axes", None)
    if attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise GraphError("coordinate_transformation_mode 'tf_crop_and_resize' is not supported")
    for key, neutral in (("scales", (1.0,) * len(shape)), ("sizes", shape)):
        if axes is not None and key in attrs:
            full: list[Any] = list(neutral)
            for value, axis in zip(attrs[key], axes, strict=True):
                full[axis_of(axis, len(shape))] = value
            attrs[key] = tuple(full)
    return "Resize"


def _recurrent(draft: _Draft) -> str:
    """Refuses what no exporter of torch writes."""
    attrs, default = draft.attrs, ACTIVATIONS[draft.op]
    given = tuple(name if isinstance(name, str) else name.decode() for name in attrs.pop("activations", ()))
    if given and given != default * (len(given) // len(default)):
        raise GraphError(f"activations {', '.join(given)} are not supported, only {', '.join(default)}")
    if attrs.pop("clip", 0.0) or attrs.pop("input_forget", 0):
        raise GraphError("clipping and coupled gates are not supported")
    return draft.op


_TRANSLATIONS: Mapping[str, Callable[[_Draft], str]] = {
    "AveragePool": _window,
    "Cast": _cast,
    "Conv": _window,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _window,
    "Pad": _pad,
    **dict.fromkeys(GATES, _recurrent),
    **dict.fromkeys(REDUCTIONS, _reduce),
    "Resize": _resize,
    "Split": _split,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
}
