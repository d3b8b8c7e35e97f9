"""Families of carrier networks that work on tokens: attention, mixing, and images whose channels come last."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import prod, sqrt

import numpy as np

from hwnas.ir import Graph
from hwnas.spaces.generic_attention import (
    HEADS_FIRST,
    KEYS_LAST,
    Encoder,
    Form,
    affordable,
    attended,
    attention,
    cut,
    dimensions,
    head_of,
    patched,
)
from hwnas.spaces.generic_parts import Family, Sketch, scalar

VOCABULARY = (1000, 8000, 30_000)
MOST_PIXELS = 2000  # of a map whose pixels all attend to each other


def vision(s: Sketch) -> Graph:
    """Patches and attention among all of them (ViT, DeiT and their relatives)."""
    b = s.b
    resolution = s.coarse.resolution
    patch = s.pick(*(size for size in (4, 7, 8, 12, 14, 16, 16, 32) if 4 <= resolution // size <= 20))
    count = (resolution // patch) ** 2
    heads, width = dimensions(s, affordable(s, count, 384 * s.coarse.width * s.between(0.7, 2.0), layers=s.pick(1, 2, 3)))
    x = patched(s, s.image(), width, patch)
    first = s.chance(0.6)
    if first:
        token = b.op("Expand", [b.weight("token", (1, 1, width))], shape=(s.batch, 1, width))
        x = b.op("Concat", [token, x], axis=1)
    x = s.add(x, b.weight("position", (1, b.shape(x)[1], width)))
    encoder = Encoder(s)
    for _ in s.blocks(2 * s.coarse.depth + 1, share=1):
        x = encoder.attend(x, heads)
    return head_of(s, x, first=first)


def roll(s: Sketch, x: str, shift: int) -> str:
    """An image [N, H, W, C] moved by some pixels; what leaves on one side comes in on the other."""
    for axis in (1, 2):
        size = s.b.shape(x)[axis]
        border = shift % size
        parts = [s.b.op("Slice", [x], axes=(axis,), starts=(low,), ends=(high,)) for low, high in ((border, size), (0, border))]
        x = s.b.op("Concat", parts, axis=axis)
        s.spend(0, x, x)
    return x


def windowed(s: Sketch) -> Graph:
    """Attention inside windows that move from layer to layer, and patches that merge (Swin and its relatives)."""
    b, n = s.b, s.batch
    resolution = s.coarse.resolution
    patch = s.pick(*(size for size in (2, 4, 4, 8) if 8 <= resolution // size <= 72))
    count, size_of_head = (resolution // patch) ** 2, s.pick(16, 24, 32, 32)
    width = max(1, round(affordable(s, count, 96 * s.coarse.width * s.between(0.7, 1.5), layers=3) / size_of_head)) * size_of_head
    x = s.layer_norm(patched(s, s.image(), width, patch))
    encoder = Encoder(s)

    def window(x: str, size: int, shift: int, heads: int) -> str:
        count, width = b.shape(x)[1:]
        height = side_of(count)
        padded = -(-height // size) * size
        x = b.op("Reshape", [x], shape=(n, height, height, width))
        if padded != height:
            x = b.op("Pad", [x], pads=(0, 0, 0, 0, 0, padded - height, padded - height, 0))
            s.spend(0, x)
        x = roll(s, x, shift) if shift else x
        across = padded // size
        x = b.op("Reshape", [x], shape=(n, across, size, across, size, width))
        x = b.op("Reshape", [b.op("Transpose", [x], perm=(0, 1, 3, 2, 4, 5))], shape=(n * across**2, size**2, width))
        x = attention(s, x, heads, encoder.form, bias=b.weight("relative", (1, heads, size**2, size**2)))
        x = b.op("Reshape", [x], shape=(n, across, across, size, size, width))
        x = b.op("Reshape", [b.op("Transpose", [x], perm=(0, 1, 3, 2, 4, 5))], shape=(n, padded, padded, width))
        s.spend(0, x, x)
        x = roll(s, x, -shift) if shift else x
        if padded != height:
            x = b.op("Slice", [x], axes=(1, 2), starts=(0, 0), ends=(height, height))
        return b.op("Reshape", [x], shape=(n, count, width))

    for i in range(s.pick(2, 3, 4)):
        height = side_of(b.shape(x)[1])
        if i and height % 2 == 0 and height >= 4:
            x = merged(s, x, height)
            height //= 2
        size = min(s.pick(4, 5, 6, 7, 7, 8), height)
        heads = b.shape(x)[-1] // size_of_head
        for j in s.blocks(s.pick(1, 2, 2, 4)):
            shift = size // 2 if j % 2 and height > size else 0
            x = encoder.layer(x, partial(window, size=size, shift=shift, heads=heads))
    return head_of(s, x, first=False)


def side_of(count: int) -> int:
    """The side of a square of so many tokens."""
    return round(sqrt(count))


def merged(s: Sketch, x: str, height: int) -> str:
    """Four neighbouring tokens become one."""
    b, (n, count, width) = s.b, s.b.shape(x)
    x = b.op("Reshape", [x], shape=(n, height, height, width))
    corners = [
        b.op("Slice", [x], axes=(1, 2), starts=(row, column), ends=(height, height), steps=(2, 2)) for column in (0, 1) for row in (0, 1)
    ]
    x = b.op("Reshape", [b.op("Concat", corners, axis=3)], shape=(n, count // 4, 4 * width))
    s.spend(0, x, x)
    return s.linear(s.layer_norm(x), 2 * width, bias=False)


def pyramid(s: Sketch) -> Graph:
    """Stages of attention to a smaller copy of the map, the small networks with or without convolutions (PVT, SegFormer and relatives)."""
    b, n = s.b, s.batch
    x = s.image()
    local = s.chance(0.5)
    for i, channels in enumerate(s.growing(48, s.pick(2, 3, 4))):
        if i and not s.roomy(x):
            break
        stride = s.pick(2, 4, 4) if i == 0 else 2
        kernel = stride if s.chance(0.4) else 2 * stride - 1
        area = prod(b.shape(x)[2:]) / stride**2
        heads, width = dimensions(s, affordable(s, area, channels, layers=3))
        x = s.conv(x, width, kernel, stride, act=False, norm=False, pads=(0,) * 4 if kernel == stride else None)
        height, breadth = b.shape(x)[2:]
        reduction = s.pick(*(factor for factor in (1, 2, 4, 8) if height * breadth <= MOST_PIXELS * factor**2 and factor <= height))
        encoder = Encoder(s)

        def mix(
            x: str, heads: int = heads, width: int = width, height: int = height, reduction: int = reduction, encoder: Encoder = encoder
        ) -> str:
            other = x
            if reduction > 1:
                other = s.conv(s.picture(x, height), width, reduction, reduction, act=False, norm=False, pads=(0,) * 4)
                other = s.layer_norm(s.tokens(other))

            def part(source: str, perm: tuple[int, ...]) -> str:
                y = s.linear(source, width, bias=encoder.form.biased)
                y = b.op("Reshape", [y], shape=(n, b.shape(y)[1], heads, width // heads))
                s.spend(0, y)
                return b.op("Transpose", [y], perm=perm)

            q, k, v = part(x, HEADS_FIRST), part(other, KEYS_LAST), part(other, HEADS_FIRST)
            return s.linear(attended(s, q, k, v, encoder.form), width)

        def mlp(x: str, width: int = width, height: int = height) -> str:
            hidden = s.round(width * s.pick(2, 4, 4))
            y = s.picture(s.linear(x, hidden), height)
            y = s.tokens(s.conv(y, hidden, 3, groups=hidden, act=False, norm=False))
            return s.linear(s.act(y), width)

        x = s.layer_norm(s.tokens(x))
        for _ in s.blocks():
            x = encoder.layer(x, mix, mlp if local else None)
        x = s.picture(s.layer_norm(x), height)
    return s.head(x)


def mixer(s: Sketch) -> Graph:
    """Tokens mixed by linear layers across them, or by pooling (MLP-Mixer, PoolFormer and their relatives)."""
    if s.chance(0.4):
        return pooled(s)
    b, resolution = s.b, s.coarse.resolution
    patch = s.pick(*(size for size in (4, 7, 8, 14, 16, 32) if 4 <= resolution // size <= 20))
    count = (resolution // patch) ** 2
    width = s.round(affordable(s, count, 384 * s.coarse.width * s.between(0.7, 1.6)))
    x = patched(s, s.image(), width, patch)
    encoder = Encoder(s)

    def mix(x: str) -> str:
        y = b.op("Transpose", [x], perm=(0, 2, 1))
        y = s.linear(s.act(s.linear(y, s.round(width * s.between(0.25, 2)))), count)
        s.spend(0, y)
        return b.op("Transpose", [y], perm=(0, 2, 1))

    for _ in s.blocks(2 * s.coarse.depth + 1, share=1):
        x = encoder.layer(x, mix)
    return head_of(s, x, first=False)


def pooled(s: Sketch) -> Graph:
    """Stages in which an average pooling, less its input, mixes places."""
    b = s.b
    x = s.image()
    normalise = s.batch_norm if s.chance(0.4) else lambda x: s.group_norm(x, 1)
    for i, channels in enumerate(s.growing(80, s.pick(3, 4))):
        width = s.wide(x, channels, window=8)
        kernel, stride = (7, 4) if i == 0 else (3, 2 if s.roomy(x) else 1)
        x = s.conv(x, width, kernel, stride, act=False, norm=False)
        for _ in s.blocks():
            y = normalise(x)
            y = b.op("Sub", [b.op("AveragePool", [y], kernel_shape=(3, 3), pads=(1, 1, 1, 1)), y])
            x = s.add(x, b.op("Mul", [b.weight("gamma", (width, 1, 1), "ones"), y]))
            y = s.conv(s.conv(normalise(x), s.round(width * s.pick(2, 3, 4, 4)), norm=False), width, act=False, norm=False)
            x = s.add(x, b.op("Mul", [b.weight("gamma", (width, 1, 1), "ones"), y]))
    return s.head(normalise(x))


def channels_last(s: Sketch) -> Graph:
    """Depthwise convolutions, then linear layers on channels that come last (ConvNeXt and its relatives)."""
    b = s.b
    kernel, linear = s.pick(5, 7, 7, 7, 9), s.chance(0.7)
    scaling, spelled, responding = s.pick(True, True, False), s.chance(0.4), s.chance(0.4)
    x = s.image()

    def norm_first(x: str) -> str:
        """Normalisation of the channels of an image, between transposes or spelled out."""
        if not spelled:
            x = b.op("Transpose", [x], perm=(0, 2, 3, 1))
            return b.op("Transpose", [s.layer_norm(x)], perm=(0, 3, 1, 2))
        channels = b.shape(x)[1]
        x = b.op("Sub", [x, b.op("ReduceMean", [x], axes=(1,), keepdims=1)])
        y = b.op("ReduceMean", [b.op("Pow", [x, b.constant("c", scalar(2))])], axes=(1,), keepdims=1)
        x = b.op("Div", [x, b.op("Sqrt", [b.op("Add", [y, b.constant("c", scalar(1e-6))])])])
        s.spend(0, x, x, x, x)
        return s.add(b.op("Mul", [b.weight("scale", (channels, 1, 1), "ones"), x]), b.weight("shift", (channels, 1, 1), "zeros"))

    for i, channels in enumerate(s.growing(80, s.pick(3, 4))):
        width = s.wide(x, channels, window=8)
        if i == 0:
            patch = s.pick(2, 4, 4)
            x = norm_first(s.conv(x, width, patch, patch, pads=(0,) * 4, act=False, norm=False))
        elif s.roomy(x):
            x = s.conv(norm_first(x), width, 2, 2, pads=(0,) * 4, act=False, norm=False)
        else:
            x = s.conv(norm_first(x), width, act=False, norm=False)
        for _ in s.blocks():
            y = s.conv(x, width, kernel, groups=width, act=False, norm=False)
            hidden = s.round(width * s.pick(2, 3, 4, 4))
            if linear:
                y = s.layer_norm(b.op("Transpose", [y], perm=(0, 2, 3, 1)))
                y = s.act(s.linear(y, hidden))
                y = s.linear(response(s, y) if responding else y, width)
                y = b.op("Mul", [b.weight("gamma", (width,), "ones"), y]) if scaling else y
                y = b.op("Transpose", [y], perm=(0, 3, 1, 2))
            else:
                y = s.conv(s.conv(norm_first(y), hidden, norm=False), width, act=False, norm=False)
                y = b.op("Mul", [y, b.weight("gamma", (width, 1, 1), "ones")]) if scaling else y
            s.spend(0, y, y)
            x = s.add(x, y)
    if s.chance(0.5):
        x = s.layer_norm(b.op("ReduceMean", [x], axes=(2, 3), keepdims=0))
        return s.finish(b.linear(x, s.classes))
    return s.head(x)


def response(s: Sketch, x: str) -> str:
    """Channels scaled by how strongly each responds over the whole map, compared with the others; [N, H, W, C]."""
    b, width = s.b, s.b.shape(x)[-1:]
    strength = b.op("ReduceL2", [x], axes=(1, 2), keepdims=1)
    mean = b.op("Add", [b.op("ReduceMean", [strength], axes=(-1,), keepdims=1), b.constant("c", scalar(1e-6))])
    y = b.op("Mul", [b.weight("weight", (1, 1, 1, *width), "ones"), b.op("Mul", [x, b.op("Div", [strength, mean])])])
    s.spend(0, x, x, x)
    return s.add(s.add(y, b.weight("bias", (1, 1, 1, *width), "zeros")), x)


def hybrid(s: Sketch) -> Graph:
    """Convolutions, then attention on what they leave (MobileViT, LeViT and their relatives)."""
    return levels(s) if s.chance(0.4) else local_and_global(s)


def normalised_linear(s: Sketch, x: str, features: int) -> str:
    """A linear layer of tokens with a batch normalisation behind it, for which they are laid out as a matrix."""
    n, count, _ = s.b.shape(x)
    y = s.b.op("Reshape", [s.linear(x, features, bias=False)], shape=(n * count, features))
    y = s.b.op("Reshape", [s.b.batch_norm(y)], shape=(n, count, features))
    s.spend(0, y)
    return y


def levels(s: Sketch) -> Graph:
    """A stem of strided convolutions, then attention whose linear layers are batch-normalised."""
    b = s.b
    x = s.image()
    width = 16 * s.coarse.width + 8
    while min(b.shape(x)[2:]) > s.pick(8, 14, 20):
        x = s.conv(x, s.wide(x, width, step=8), 3, 2)
        width *= 2
    heads, inner = dimensions(s, affordable(s, prod(b.shape(x)[2:]), width * s.between(0.7, 1.4)))
    x = s.tokens(s.conv(x, inner, 3, 1 if min(b.shape(x)[2:]) < 8 else 2, act=False))
    count = b.shape(x)[1]
    bias = b.weight("places", (1, heads, count, count)) if s.chance(0.7) else None
    linear = partial(normalised_linear, s) if s.chance(0.7) else s.linear
    form = Form.drawn(s)

    def attend(x: str) -> str:
        key = s.pick(8, 16, 24, 32)
        q, k, v = cut(s, x, heads, key, key * s.pick(1, 2), form.parts, linear)
        return linear(s.act(attended(s, q, k, v, form, bias=bias)), inner)

    for _ in s.blocks(2 * s.coarse.depth, share=1):
        x = s.add(x, attend(x))
        x = s.add(x, linear(s.act(linear(x, inner * s.pick(1, 2, 3, 4))), inner))
    return head_of(s, x, first=False)


def local_and_global(s: Sketch) -> Graph:
    """Depthwise stages, between them attention among the pixels of equal place in their patches."""
    b, n = s.b, s.batch
    x = s.image()
    x = s.conv(x, s.wide(x, 16 + 8 * s.coarse.width), 3, 2)
    separable = s.chance(0.4)
    gathered = separable and s.chance(0.5)
    for i, channels in enumerate(s.growing(40, s.pick(3, 4))):
        width = s.wide(x, channels, window=16, step=8)
        hidden = s.round(b.shape(x)[1] * s.pick(2, 4))
        y = s.conv(x, hidden)
        y = s.conv(y, hidden, 3, 2 if s.roomy(x) else 1, groups=hidden)
        x = s.conv(y, width, act=False)
        height, breadth = b.shape(x)[2:]
        if i == 0 or height % 2 or breadth % 2 or height * breadth > MOST_PIXELS:
            continue
        heads, inner = dimensions(s, affordable(s, height * breadth, 1.4 * width))
        y = s.conv(s.conv(x, width, 3), inner, act=False, norm=False)
        if gathered:
            y = s.unfold(y)
        else:
            y = b.op("Reshape", [y], shape=(n * inner * height // 2, 2, breadth // 2, 2))
            y = b.op("Reshape", [b.op("Transpose", [y], perm=(0, 2, 1, 3))], shape=(n, inner, height * breadth // 4, 4))
            y = b.op("Transpose", [y], perm=(0, 1, 3, 2) if separable else (0, 3, 2, 1))
            s.spend(0, y, y)
        if separable:
            for _ in s.blocks(s.pick(1, 2, 3)):
                y = s.add(y, separably(s, s.group_norm(y, 1)))
                z = s.conv(s.conv(s.group_norm(y, 1), s.round(inner * s.pick(1.5, 2, 3)), norm=False), inner, norm=False, act=False)
                y = s.add(y, z)
            y = y if gathered else b.op("Transpose", [y], perm=(0, 1, 3, 2))
        else:
            y = b.op("Reshape", [y], shape=(4 * n, height * breadth // 4, inner))
            encoder = Encoder(s)
            for _ in s.blocks(s.pick(1, 2, 3)):
                y = encoder.attend(y, heads)
            y = b.op("Reshape", [s.layer_norm(y)], shape=(n, 4, height * breadth // 4, inner))
            y = b.op("Transpose", [y], perm=(0, 3, 2, 1))
        if gathered:
            y = s.fold(y, height)
        else:
            y = b.op("Reshape", [y], shape=(n * inner * height // 2, breadth // 2, 2, 2))
            y = b.op("Reshape", [b.op("Transpose", [y], perm=(0, 2, 1, 3))], shape=(n, inner, height, breadth))
            s.spend(0, y, y)
        y = b.op("Concat", [x, s.conv(y, width)], axis=1)
        x = s.conv(y, width, 3)
    return s.head(s.conv(x, s.wide(x, 4 * b.shape(x)[1], window=1)))


def separably(s: Sketch, x: str) -> str:
    """Attention whose cost grows with the number of tokens, on [N, C, patches, tokens]: one score a token."""
    b, (n, width, patches, count) = s.b, s.b.shape(x)
    y = s.conv(x, 1 + 2 * width, act=False, norm=False)
    query, key, value = b.ops("Split", [y], outputs=3, axis=1, split=(1, width, width))
    context = b.op("ReduceSum", [b.op("Mul", [key, b.op("Softmax", [query], axis=-1)])], axes=(-1,), keepdims=1)
    context = b.op("Expand", [context], shape=(n, width, patches, count))
    y = b.op("Mul", [b.op("Relu", [value]), context])
    s.spend(0, y, y, y)
    return s.conv(y, width, act=False, norm=False)


def text(s: Sketch) -> Graph:
    """Words, embedded and attended to (BERT, GPT, Llama and their relatives); the input is [N, tokens] of numbers of words."""
    b = s.b
    count = tokens_of(s.coarse.resolution)
    heads, width = dimensions(s, affordable(s, count, 384 * s.coarse.width * s.between(0.7, 1.6)))
    size = width // heads
    words = b.input("x", (s.batch, count), "int64")
    x = b.op("Gather", [b.weight("words", (s.pick(*VOCABULARY), width)), words], axis=0)
    rotary, modern = s.chance(0.25), s.chance(0.3)
    if not rotary:
        x = s.add(x, b.weight("position", (1, count, width)))
    encoder = Encoder(s, s.rms_norm if modern else None)
    if not encoder.normalised_first:
        x = s.layer_norm(x)
    mask = b.constant("mask", np.triu(np.full((1, 1, count, count), -1e9, np.float32), 1)) if s.chance(0.5) else None
    cosines, sines = (b.weight("rotation", (1, 1, count, size)) for _ in range(2))

    def turned(x: str) -> str:
        ahead = b.op("Slice", [x], axes=(3,), starts=(0,), ends=(size // 2,))
        behind = b.op("Slice", [x], axes=(3,), starts=(size // 2,), ends=(size,))
        y = b.op("Concat", [b.op("Neg", [behind]), ahead], axis=3)
        s.spend(0, y, y, y, y)
        return b.op("Add", [b.op("Mul", [x, cosines]), b.op("Mul", [y, sines])])

    def rotated(x: str) -> str:
        q, k, v = (
            b.op(
                "Transpose",
                [b.op("Reshape", [s.linear(x, width, bias=encoder.form.biased)], shape=(s.batch, count, heads, size))],
                perm=HEADS_FIRST,
            )
            for _ in range(3)
        )
        q, k = turned(q), b.op("Transpose", [turned(k)], perm=(0, 1, 3, 2))
        return s.linear(attended(s, q, k, v, encoder.form, bias=mask), width, bias=encoder.form.biased)

    for _ in s.blocks(2 * s.coarse.depth + 1, share=1):
        x = encoder.layer(x, rotated) if rotary else encoder.attend(x, heads, mask)
    return head_of(s, x, first=s.chance(0.6))


def tokens_of(resolution: int) -> int:
    """Length of a text, for the gene that says how large an image would be."""
    return resolution * 3 // 4


FAMILIES: Mapping[str, Family] = {
    "vision": vision,
    "windowed": windowed,
    "pyramid": pyramid,
    "mixer": mixer,
    "channels_last": channels_last,
    "hybrid": hybrid,
    "text": text,
}
