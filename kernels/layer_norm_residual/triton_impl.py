"""Residual addition and layer normalisation in one pass: the sum is read by the next residual, its normalisation by the next layer.

A program keeps whole rows in registers, so mean and variance are computed in two exact passes that touch no memory.
"""

from __future__ import annotations

import triton
import triton.language as tl

INPUTS = ("x", "residual", "weight", "bias")  # [..., D], [..., D], [D], [D]
OUTPUTS = ("total", "y")  # [..., D], [..., D]


@triton.jit
def layer_norm_residual(
    x,
    residual,
    weight,
    bias,
    rows,
    total,
    y,
    width: tl.constexpr,
    epsilon: tl.constexpr,
    block_rows: tl.constexpr,
    block_width: tl.constexpr,
):
    """The kernel; what it computes is in reference.py."""
    row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    column = tl.arange(0, block_width)
    is_column = column < width
    inside = (row < rows)[:, None] & is_column[None, :]
    at = row.to(tl.int64)[:, None] * width + column[None, :]
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(total + at, value.to(total.dtype.element_ty), mask=inside)
    mean = tl.sum(value, 1) / width
    centred = tl.where(inside, value - mean[:, None], 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / width + epsilon)
    gain = tl.load(weight + column, mask=is_column, other=0.0).to(tl.float32)
    shift = tl.load(bias + column, mask=is_column, other=0.0).to(tl.float32)
    result = centred * scale[:, None] * gain[None, :] + shift[None, :]
    tl.store(y + at, result.to(y.dtype.element_ty), mask=inside)


ENTRY = layer_norm_residual


def outputs(shapes, attrs):
    """Shapes of the outputs."""
    return {name: tuple(shapes["x"]) for name in OUTPUTS}


def _rows(shapes):
    first, *others = shapes["x"][:-1] if len(shapes["x"]) > 1 else (1,)
    for size in others:
        first = first * size
    return first


def scalars(shapes, attrs):
    """The integers that the kernel is called with, in its order; sizes may be symbolic."""
    return {"rows": _rows(shapes)}


def constants(shapes, attrs, tuning):
    """What is fixed when the kernel is compiled; the width must be exact."""
    width = shapes["weight"][0]
    block = triton.next_power_of_2(width)
    return {"width": width, "epsilon": attrs["epsilon"], "block_rows": max(1, tuning["tile"] // block), "block_width": block}


def grid(shapes, attrs, constants, cdiv):
    """Programs along each axis; sizes may be symbolic."""
    return (cdiv(_rows(shapes), constants["block_rows"]),)
