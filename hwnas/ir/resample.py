"""The arithmetic of Resize: along one axis, every output element is a weighted sum of a few input elements.

Source: the ONNX operator specification, Resize-19 (https://onnx.ai/onnx/operators/onnx__Resize.html).
"""

from __future__ import annotations

import numpy as np

from hwnas.errors import GraphError
from hwnas.ir.node import Array, Node

Taps = list[tuple[Array, Array | None]]


def axis_taps(node: Node, axis: int, source: tuple[int, ...], target: tuple[int, ...]) -> Taps:
    """Which input elements make up each output element along an axis.

    Args:
        node: a Resize.
        axis: the axis.
        source: shape of the input.
        target: shape of the output.

    Returns:
        For each tap the input indices and their weights (`None`: weight 1), both with one entry per output element; nothing
        where the axis stays as it is.

    Raises:
        GraphError: for a mode that does not exist.
    """
    size, length = source[axis], target[axis]
    scale = dict(node.attrs)["scales"][axis] if "scales" in dict(node.attrs) else length / size  # type: ignore[index]  # a tuple
    if size == length and scale == 1:
        return []
    position = _positions(str(node.attr("coordinate_transformation_mode")), size, length, np.float32(scale))
    mode = str(node.attr("mode"))
    if mode == "nearest":
        return [(np.clip(_rounded(position, str(node.attr("nearest_mode"))), 0, size - 1).astype(np.int64), None)]
    if mode == "linear":
        position = np.clip(position, 0, size - 1)
        low = np.floor(position)
        return [(low.astype(np.int64), 1 - (position - low)), (np.minimum(low + 1, size - 1).astype(np.int64), position - low)]
    if mode == "cubic":
        low = np.floor(position)
        shares = _cubic(position - low, float(node.attr("cubic_coeff_a")))
        return [(np.clip(low + offset, 0, size - 1).astype(np.int64), share) for offset, share in zip((-1, 0, 1, 2), shares, strict=True)]
    raise GraphError(f"mode '{mode}' does not exist; use nearest, linear or cubic")


def _positions(mode: str, size: int, length: int, scale: np.float32) -> Array:
    """Where each output element lies among the input's, in single precision as runtimes compute it."""
    out = np.arange(length, dtype=np.float32)
    half = np.float32(0.5)
    if mode == "asymmetric":
        return out / scale
    if mode == "half_pixel":
        return (out + half) / scale - half
    if mode == "pytorch_half_pixel":
        return (out + half) / scale - half if length > 1 else np.zeros_like(out)
    if mode == "align_corners":
        return out * np.float32(size - 1) / np.float32(length - 1) if length > 1 else np.zeros_like(out)
    if mode == "half_pixel_symmetric":
        offset = np.float32(size / 2) * (1 - np.float32(length) / (scale * np.float32(size)))
        return offset + (out + half) / scale - half
    raise GraphError(f"coordinate_transformation_mode '{mode}' is not supported")


def _rounded(position: Array, mode: str) -> Array:
    if mode == "floor":
        return np.floor(position)
    if mode == "ceil":
        return np.ceil(position)
    if mode == "round_prefer_floor":
        return np.ceil(position - np.float32(0.5))
    if mode == "round_prefer_ceil":
        return np.floor(position + np.float32(0.5))
    raise GraphError(f"nearest_mode '{mode}' does not exist")


def _cubic(t: Array, a: float) -> tuple[Array, Array, Array, Array]:
    """Weights of the four neighbours by Keys' cubic convolution kernel (1981); t in [0, 1) is the distance from the second."""

    def near(x: Array) -> Array:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: Array) -> Array:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    return far(t + 1), near(t), near(1 - t), far(2 - t)
