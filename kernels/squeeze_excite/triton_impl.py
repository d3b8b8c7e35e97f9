"""Squeeze-and-excite as one kernel: mean of every channel, two small matrices, gate, scale.

A program takes a whole image, so nothing has to be agreed between programs and nothing between the stages leaves the chip: while channels
are pooled, a block at a time, their part of the first product is added up in registers, and the scaling pass finds the image in a cache.
The price is one multiprocessor per image: it suits batches and the small late stages, not one large image.
"""

from __future__ import annotations

import triton
import triton.language as tl

INPUTS = ("x", "reduce", "reduce_bias", "expand", "expand_bias")  # [N, C, H, W], [R, C], [R], [C, R], [C]
OUTPUTS = ("y",)  # [N, C, H, W]


@triton.jit
def squeeze_excite(
    x,
    reduce,
    reduce_bias,
    expand,
    expand_bias,
    channels,
    hidden,
    positions,
    y,
    activation: tl.constexpr,
    gating: tl.constexpr,
    block_hidden: tl.constexpr,
    block_channels: tl.constexpr,
    block_positions: tl.constexpr,
):
    """The kernel; what it computes is in reference.py."""
    image = tl.program_id(0).to(tl.int64) * channels * positions
    h = tl.arange(0, block_hidden)
    is_hidden = h < hidden
    offset = tl.arange(0, block_positions)
    squeezed = tl.load(reduce_bias + h, mask=is_hidden, other=0.0).to(tl.float32)
    for start in range(0, channels, block_channels):
        c = start + tl.arange(0, block_channels)
        is_channel = c < channels
        total = tl.zeros([block_channels, block_positions], tl.float32)
        for first in range(0, positions, block_positions):
            p = first + offset
            inside = is_channel[:, None] & (p < positions)[None, :]
            total += tl.load(x + image + c[:, None] * positions + p[None, :], mask=inside, other=0.0).to(tl.float32)
        mean = tl.sum(total, 1) / positions
        matrix = tl.load(reduce + h[:, None] * channels + c[None, :], mask=is_hidden[:, None] & is_channel[None, :], other=0.0)
        squeezed += tl.sum(matrix.to(tl.float32) * mean[None, :], 1)
    if activation == "relu":
        squeezed = tl.where(squeezed < 0.0, 0.0, squeezed)
    else:
        tl.static_assert(activation == "silu", "unknown activation")
        squeezed = squeezed / (1.0 + tl.exp(-squeezed))
    for start in range(0, channels, block_channels):
        c = start + tl.arange(0, block_channels)
        is_channel = c < channels
        matrix = tl.load(expand + c[:, None] * hidden + h[None, :], mask=is_channel[:, None] & is_hidden[None, :], other=0.0)
        gate = tl.sum(matrix.to(tl.float32) * squeezed[None, :], 1)
        gate += tl.load(expand_bias + c, mask=is_channel, other=0.0).to(tl.float32)
        if gating == "hardsigmoid":
            gate = gate * (1.0 / 6.0) + 0.5
            gate = tl.where(gate < 0.0, 0.0, tl.where(gate > 1.0, 1.0, gate))
        else:
            tl.static_assert(gating == "sigmoid", "unknown gate")
            gate = 1.0 / (1.0 + tl.exp(-gate))
        for first in range(0, positions, block_positions):
            p = first + offset
            inside = is_channel[:, None] & (p < positions)[None, :]
            at = image + c[:, None] * positions + p[None, :]
            value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
            tl.store(y + at, (value * gate[:, None]).to(y.dtype.element_ty), mask=inside)


ENTRY = squeeze_excite


def outputs(shapes, attrs):
    """Shapes of the outputs."""
    return {"y": tuple(shapes["x"])}


def scalars(shapes, attrs):
    """The integers that the kernel is called with, in its order; sizes may be symbolic."""
    _, channels, height, width = shapes["x"]
    return {"channels": channels, "hidden": shapes["reduce"][0], "positions": height * width}


def constants(shapes, attrs, tuning):
    """What is fixed when the kernel is compiled, for these (or typical) sizes; the hidden layer's block must hold all of it."""
    _, _, height, width = shapes["x"]
    hidden = triton.next_power_of_2(shapes["reduce"][0])
    positions = min(tuning["positions"], triton.next_power_of_2(height * width))
    return {
        "activation": attrs["activation"],
        "gating": attrs["gate"],
        "block_hidden": hidden,
        "block_channels": max(1, tuning["tile"] // max(hidden, positions)),
        "block_positions": positions,
    }


def grid(shapes, attrs, constants, cdiv):
    """Programs along each axis; sizes may be symbolic."""
    return (shapes["x"][0],)
