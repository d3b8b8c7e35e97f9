"""Depthwise convolution with folded batch normalisation, activation and residual: one pass over memory.

A program computes a tile of planes (image x channel) by output positions. Neighbouring taps read neighbouring addresses, so all but the
first read of a line come from the level-1 cache; sums are kept in float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

INPUTS = ("x", "weight", "bias", "residual")  # [N, C, H, W], [C, 1, K, K], [C], [N, C, OH, OW] (left out where attrs.add is "none")
OUTPUTS = ("y",)  # [N, C, OH, OW]


@triton.jit
def activate(value, activation: tl.constexpr):
    """The activation of a float32 tile; NaN stays NaN, as in the frameworks."""
    if activation == "relu":
        value = tl.where(value < 0.0, 0.0, value)
    elif activation == "relu6":
        value = tl.where(value < 0.0, 0.0, tl.where(value > 6.0, 6.0, value))
    elif activation == "hardswish":
        gate = value + 3.0
        value = value * tl.where(gate < 0.0, 0.0, tl.where(gate > 6.0, 6.0, gate)) * (1.0 / 6.0)
    elif activation == "silu":
        value = value / (1.0 + tl.exp(-value))
    else:
        tl.static_assert(activation == "none", "unknown activation")
    return value


@triton.jit
def depthwise_conv(
    x,
    weight,
    bias,
    residual,
    planes,
    channels,
    height,
    width,
    out_height,
    out_width,
    y,
    window: tl.constexpr,
    stride: tl.constexpr,
    pad: tl.constexpr,
    activation: tl.constexpr,
    add: tl.constexpr,
    block_planes: tl.constexpr,
    block_positions: tl.constexpr,
):
    """The kernel; what it computes is in reference.py."""
    plane = tl.program_id(0) * block_planes + tl.arange(0, block_planes)
    position = tl.program_id(1) * block_positions + tl.arange(0, block_positions)
    row, column = position // out_width, position % out_width
    present = plane < planes
    alive = present[:, None] & (row < out_height)[None, :]
    channel = plane % channels
    source = x + plane.to(tl.int64)[:, None] * (height * width)
    total = tl.zeros([block_planes, block_positions], tl.float32)
    total += tl.load(bias + channel, mask=present, other=0.0).to(tl.float32)[:, None]
    for i in range(window):  # rolled: unrolled rows cost three times the registers in a 7x7 window
        r = row * stride + (i - pad)
        row_inside = (r >= 0) & (r < height)
        for j in tl.static_range(window):
            c = column * stride + (j - pad)
            inside = row_inside & (c >= 0) & (c < width)
            tap = tl.load(weight + channel * (window * window) + (i * window + j), mask=present, other=0.0).to(tl.float32)
            value = tl.load(source + (r * width + c)[None, :], mask=alive & inside[None, :], other=0.0).to(tl.float32)
            total += value * tap[:, None]
    target = plane.to(tl.int64)[:, None] * (out_height * out_width) + position[None, :]
    if add == "before":
        total += tl.load(residual + target, mask=alive, other=0.0).to(tl.float32)
    total = activate(total, activation)
    if add == "after":
        total += tl.load(residual + target, mask=alive, other=0.0).to(tl.float32)
    tl.store(y + target, total.to(y.dtype.element_ty), mask=alive)


ENTRY = depthwise_conv


def outputs(shapes, attrs):
    """Shapes of the outputs. Sizes may be symbolic: they stand on the left of every operator."""
    batch, channels, height, width = shapes["x"]
    reach = shapes["weight"][2] - 2 * attrs["pad"]
    return {"y": (batch, channels, (height - reach) // attrs["stride"] + 1, (width - reach) // attrs["stride"] + 1)}


def scalars(shapes, attrs):
    """The integers that the kernel is called with, in its order; sizes may be symbolic."""
    batch, channels, height, width = shapes["x"]
    _, _, out_height, out_width = outputs(shapes, attrs)["y"]
    return {
        "planes": batch * channels,
        "channels": channels,
        "height": height,
        "width": width,
        "out_height": out_height,
        "out_width": out_width,
    }


def constants(shapes, attrs, tuning):
    """What is fixed when the kernel is compiled, for these (or typical) sizes: small planes share a program, up to the tile."""
    _, _, height, width = outputs(shapes, attrs)["y"]
    positions = min(tuning["tile"], triton.next_power_of_2(height * width))
    return {
        "window": shapes["weight"][2],
        "stride": attrs["stride"],
        "pad": attrs["pad"],
        "activation": attrs["activation"],
        "add": attrs["add"],
        "block_planes": max(1, tuning["tile"] // positions),
        "block_positions": positions,
    }


def grid(shapes, attrs, constants, cdiv):
    """Programs along each axis; sizes may be symbolic."""
    batch, channels, _, _ = shapes["x"]
    _, _, height, width = outputs(shapes, attrs)["y"]
    return cdiv(batch * channels, constants["block_planes"]), cdiv(height * width, constants["block_positions"])
