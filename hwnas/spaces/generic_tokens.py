"""Families of carrier networks that work on tokens: attention, mixing, and images whose channels come last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import prod, sqrt

import numpy as np

from hwnas.ir import Graph
from hwnas.spaces.generic_parts import Family, Sketch, scalar

VOCABULARY = (1000, 4000, 12_000)
TEXT_TOKENS = {True: 16, False: 8}


def head_of(s: Sketch, x: str, *, first: bool) -> Graph:
    """From tokens [N, tokens, C] to class scores: of the first token, or of their mean."""
    if s.chance(0.8):
        x = s.layer_norm(x)
    x = s.take(x, 0, 1) if first else s.b.op("ReduceMean", [x], axes=(1,), keepdims=0)
    if s.chance(0.2):
        x = s.act(s.b.linear(x, s.b.shape(x)[1]), "tanh")
    return s.finish(s.b.linear(x, s.classes))


def attention(s: Sketch, x: str, heads: int, *, form: str, bias: str | None = None, key: int = 0, value: int = 0) -> str:
    """Multi-head attention among tokens [N, tokens, C].

    Args:
        s: the sketch.
        x: tokens.
        heads: number of heads.
        form: `apart`: three linear layers; `joined`: one, cut by Gather; `split`: one, cut by Split.
        bias: a constant of [1, heads, tokens, tokens] that is added to the scores, where there is one.
        key: channels of a head's queries and keys; by default its share of C.
        value: of its values.
    """
    b, (n, count, width) = s.b, s.b.shape(x)
    key = key or width // heads
    value = value or width // heads
    scaling = s.pick("scores", "scores-mul", "both", "query")
    if form == "joined" and key == value:
        y = s.linear(x, 3 * heads * key, bias=s.biased)
        y = b.op("Reshape", [y], shape=(n, count, 3, heads, key))
        y = b.op("Transpose", [y], perm=(2, 0, 3, 1, 4))
        s.spend(0, y)
        q, k, v = (s.take(y, i, 0) for i in range(3))
        k = b.op("Transpose", [k], perm=(0, 1, 3, 2))
    else:
        if form == "split":
            y = s.linear(x, heads * (2 * key + value), bias=s.biased)
            y = b.op("Reshape", [y], shape=(n, count, heads, 2 * key + value))
            parts = b.ops("Split", [y], outputs=3, axis=3, split=(key, key, value))
        else:
            sizes = (key, key, value)
            parts = tuple(b.op("Reshape", [s.linear(x, heads * size, bias=s.biased)], shape=(n, count, heads, size)) for size in sizes)
        q, k, v = (
            b.op("Transpose", [part], perm=perm) for part, perm in zip(parts, ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)), strict=True)
        )
    if scaling == "both":
        root = scalar(key**-0.25)
        q, k = (b.op("Mul", [part, b.constant("root", root)]) for part in (q, k))
    elif scaling == "query":
        q = b.op("Mul", [q, b.constant("scale", scalar(key**-0.5))])
    s.spend(0, q, k, v)
    scores = s.product(q, k)
    if scaling == "scores":
        scores = b.op("Div", [scores, b.constant("root", scalar(sqrt(key)))])
    elif scaling == "scores-mul":
        scores = b.op("Mul", [scores, b.constant("scale", scalar(key**-0.5))])
    if bias is not None:
        scores = s.add(scores, bias)
    y = s.product(s.softmax_of(scores), v)
    y = b.op("Reshape", [b.op("Transpose", [y], perm=(0, 2, 1, 3))], shape=(n, count, heads * value))
    s.spend(0, y)
    return s.linear(s.act(y) if value != width // heads else y, width)


def scaled(s: Sketch, x: str) -> str:
    """A branch scaled channel by channel, where the network does so."""
    return s.b.op("Mul", [x, s.b.weight("gamma", s.b.shape(x)[-1:], "ones")])


class Encoder:
    """Layers of attention and a small network each, alike throughout a network.

    Args:
        s: the sketch.
        normalise: the normalisation of tokens.
    """

    def __init__(self, s: Sketch, normalise: Callable[[str], str] | None = None) -> None:
        self.s = s
        self.form = s.pick("apart", "apart", "joined", "split")
        self.expansion = s.pick(2, 3, 4, 4)
        self.before = s.chance(0.75)
        self.scaling = s.chance(0.2)
        self.gated = s.chance(0.15)
        self.normalise = normalise or s.layer_norm

    def mlp(self, x: str) -> str:
        """Two linear layers with an activation, or three with a gate."""
        s, width = self.s, self.s.b.shape(x)[-1]
        hidden = int(width * self.expansion)
        y = s.act(s.linear(x, hidden, bias=not self.gated))
        s.spend(0, y, y)
        if self.gated:
            y = s.b.op("Mul", [y, s.linear(x, hidden, bias=False)])
        return s.linear(y, width, bias=not self.gated)

    def layer(self, x: str, mix: Callable[[str], str]) -> str:
        """A residual layer of something that mixes tokens, and one of the small network."""
        for part in (mix, self.mlp):
            y = part(self.normalise(x) if self.before else x)
            x = self.s.add(scaled(self.s, y) if self.scaling else y, x)
            x = x if self.before else self.normalise(x)
        return x

    def attend(self, x: str, heads: int, bias: str | None = None) -> str:
        """`layer` with attention."""
        return self.layer(x, lambda y: attention(self.s, y, heads, form=self.form, bias=bias))


def dimensions(s: Sketch, wanted: float) -> tuple[int, int]:
    """Number of heads, and a number of channels nearby that they divide."""
    per_head = s.pick(16, 24, 32, 32, 48, 64, 64)
    heads = max(1, round(wanted / per_head))
    return heads, heads * per_head


def patched(s: Sketch, x: str, width: int, patch: int) -> str:
    """An image cut into patches, each a token."""
    count = s.coarse.resolution // patch
    b, padding = s.b, 0
    weight = b.weight("w", (width, b.shape(x)[1], patch, patch))
    x = b.op("Conv", [x, weight, b.weight("b", (width,), "zeros")], strides=(patch, patch), pads=(padding,) * 4)
    s.spend(2 * s.batch * count**2 * prod(b.shape(weight)), x)
    return s.tokens(x)


def affordable(s: Sketch, tokens: float, wanted: float, *, layers: int = 2) -> float:
    """Channels of a transformer of at least so many layers on so many tokens."""
    # a layer takes about 24 operations for each token and square of channels
    return min(wanted, sqrt(s.limit / (24 * layers * tokens)))


def vision(s: Sketch) -> Graph:
    """Patches and attention among all of them (ViT, DeiT and their relatives)."""
    b = s.b
    resolution = s.coarse.resolution
    patch = s.pick(*(size for size in (4, 7, 8, 12, 14, 16, 16, 32) if 4 <= resolution // size <= 20))
    count = (resolution // patch) ** 2
    heads, width = dimensions(s, affordable(s, count, 384 * s.coarse.width * s.between(0.7, 2.0)))
    x = patched(s, s.image(), width, patch)
    first = s.chance(0.6)
    if first:
        token = b.op("Expand", [b.weight("token", (1, 1, width))], shape=(s.batch, 1, width))
        x = b.op("Concat", [token, x], axis=1)
        count += 1
    x = s.add(x, b.weight("position", (1, count, width)))
    encoder = Encoder(s)
    for _ in s.blocks(2 * s.coarse.depth + 1, share=1):
        x = encoder.attend(x, heads)
    return head_of(s, x, first=first)


def roll(s: Sketch, x: str, shift: int) -> str:
    """An image [N, H, W, C] moved by some pixels; what leaves on one side comes in on the other."""
    for axis in (1, 2):
        size = s.b.shape(x)[axis]
        cut = shift % size
        parts = [s.b.op("Slice", [x], axes=(axis,), starts=(low,), ends=(high,)) for low, high in ((cut, size), (0, cut))]
        x = s.b.op("Concat", parts, axis=axis)
        s.spend(0, x, x)
    return x


def windowed(s: Sketch) -> Graph:
    """Attention inside windows that move from layer to layer, and patches that merge (Swin and its relatives)."""
    b, n = s.b, s.batch
    resolution = s.coarse.resolution
    patch = s.pick(*(size for size in (2, 4, 4, 8) if resolution // size >= 8 and resolution // size <= 72))
    side = resolution // patch
    per_head = s.pick(16, 24, 32, 32)
    width = max(1, round(affordable(s, side**2, 96 * s.coarse.width * s.between(0.7, 1.5), layers=5) / per_head)) * per_head
    x = s.layer_norm(patched(s, s.image(), width, patch))
    encoder = Encoder(s)
    wanted = s.pick(4, 5, 6, 7, 7, 8)

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
        bias = b.weight("relative", (1, heads, size**2, size**2))
        x = attention(s, x, heads, form=encoder.form, bias=bias)
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
        size = min(wanted, height)
        heads = b.shape(x)[-1] // per_head
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


def mixer(s: Sketch) -> Graph:
    """Tokens mixed by linear layers across them, or by pooling (MLP-Mixer, PoolFormer and their relatives)."""
    if s.chance(0.4):
        return pooled(s)
    b, resolution = s.b, s.coarse.resolution
    patch = s.pick(*(size for size in (4, 7, 8, 14, 16, 32) if 4 <= resolution // size <= 20))
    count = (resolution // patch) ** 2
    width = s.round(affordable(s, count, 384 * s.coarse.width * s.between(0.7, 1.6)))
    x = patched(s, s.image(), width, patch)
    encoder, hidden = Encoder(s), s.round(width * s.pick(0.5, 1, 2))

    def mix(x: str) -> str:
        y = b.op("Transpose", [x], perm=(0, 2, 1))
        y = s.linear(s.act(s.linear(y, hidden)), count)
        s.spend(0, y)
        return b.op("Transpose", [y], perm=(0, 2, 1))

    for _ in s.blocks(2 * s.coarse.depth + 1, share=1):
        x = encoder.layer(x, mix)
    return head_of(s, x, first=False)


def pooled(s: Sketch) -> Graph:
    """Stages in which an average pooling, less its input, mixes places."""
    b, expansion = s.b, s.pick(2, 4)
    x = s.image()
    normalise = s.b.batch_norm if s.chance(0.4) else lambda x: s.group_norm(x, 1)
    for i, channels in enumerate(s.growing(80, s.pick(3, 4))):
        width = s.wide(x, channels, window=2 * expansion)
        if i == 0:
            x = s.conv(x, width, 7, 4, act=False, norm=False)
        elif s.roomy(x):
            x = s.conv(x, width, 3, 2, act=False, norm=False)
        else:
            x = s.conv(x, width, act=False, norm=False)
        for _ in s.blocks():
            y = normalise(x)
            y = b.op("Sub", [b.op("AveragePool", [y], kernel_shape=(3, 3), pads=(1, 1, 1, 1)), y])
            x = s.add(x, b.op("Mul", [b.weight("gamma", (width, 1, 1), "ones"), y]))
            y = s.conv(s.conv(normalise(x), expansion * width, norm=False), width, act=False, norm=False)
            x = s.add(x, b.op("Mul", [b.weight("gamma", (width, 1, 1), "ones"), y]))
    return s.head(normalise(x))


def channels_last(s: Sketch) -> Graph:
    """Depthwise convolutions, then linear layers on channels that come last (ConvNeXt and its relatives)."""
    b = s.b
    kernel, expansion, form = s.pick(5, 7, 7, 7, 9), s.pick(2, 3, 4, 4), s.pick("linear", "linear", "conv")
    scaling, spelled = s.chance(0.7), s.chance(0.4)
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
        width = s.wide(x, channels, window=2 * expansion)
        if i == 0:
            patch = s.pick(2, 4, 4)
            x = norm_first(s.conv(x, width, patch, patch, pads=(0,) * 4, act=False, norm=False))
        elif s.roomy(x):
            x = s.conv(norm_first(x), width, 2, 2, pads=(0,) * 4, act=False, norm=False)
        else:
            x = s.conv(norm_first(x), width, act=False, norm=False)
        for _ in s.blocks():
            y = s.conv(x, width, kernel, groups=width, act=False, norm=False)
            if form == "linear":
                y = s.layer_norm(b.op("Transpose", [y], perm=(0, 2, 3, 1)))
                y = s.linear(s.act(s.linear(y, expansion * width)), width)
                y = scaled(s, y) if scaling else y
                y = b.op("Transpose", [y], perm=(0, 3, 1, 2))
            else:
                y = s.conv(s.conv(norm_first(y), expansion * width, norm=False), width, act=False, norm=False)
                y = b.op("Mul", [y, b.weight("gamma", (width, 1, 1), "ones")]) if scaling else y
            s.spend(0, y, y)
            x = s.add(x, y)
    if s.chance(0.5):
        x = s.layer_norm(b.op("ReduceMean", [x], axes=(2, 3), keepdims=0))
        return s.finish(b.linear(x, s.classes))
    return s.head(x)


def normalised_linear(s: Sketch, x: str, features: int) -> str:
    """A linear layer of tokens with a batch normalisation behind it, for which they are laid out as a matrix."""
    n, count, _ = s.b.shape(x)
    y = s.b.op("Reshape", [s.linear(x, features, bias=False)], shape=(n * count, features))
    y = s.b.op("Reshape", [s.b.batch_norm(y)], shape=(n, count, features))
    s.spend(0, y)
    return y


def hybrid(s: Sketch) -> Graph:
    """Convolutions, then attention on what they leave (MobileViT, LeViT and their relatives)."""
    return levels(s) if s.chance(0.5) else local_and_global(s)


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
    key, expansion = s.pick(8, 16, 24, 32), s.pick(1, 2, 4)
    value = key * s.pick(1, 2)
    bias = b.weight("places", (1, heads, count, count)) if s.chance(0.7) else None
    normalised = s.chance(0.7)

    def attend(x: str) -> str:
        if not normalised:
            return attention(s, x, heads, form="split", bias=bias, key=key, value=value)
        y = normalised_linear(s, x, heads * (2 * key + value))
        y = b.op("Reshape", [y], shape=(s.batch, count, heads, 2 * key + value))
        parts = b.ops("Split", [y], outputs=3, axis=3, split=(key, key, value))
        q, k, v = (
            b.op("Transpose", [part], perm=perm) for part, perm in zip(parts, ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)), strict=True)
        )
        scores = b.op("Mul", [s.product(q, k), b.constant("scale", scalar(key**-0.5))])
        y = s.product(s.softmax_of(s.add(scores, bias) if bias else scores), v)
        y = b.op("Reshape", [b.op("Transpose", [y], perm=(0, 2, 1, 3))], shape=(s.batch, count, heads * value))
        return normalised_linear(s, s.act(y), inner)

    for _ in s.blocks(2 * s.coarse.depth, share=1):
        x = s.add(x, attend(x))
        y = normalised_linear(s, s.act(normalised_linear(s, x, expansion * inner)), inner)
        x = s.add(x, y)
    return head_of(s, x, first=False)


def local_and_global(s: Sketch) -> Graph:
    """Depthwise stages, between them attention among the pixels of equal place in their patches."""
    b, n = s.b, s.batch
    x = s.image()
    x = s.conv(x, s.wide(x, 16 + 8 * s.coarse.width), 3, 2)
    for i, channels in enumerate(s.growing(40, s.pick(3, 4))):
        width = s.wide(x, channels, window=16, step=8)
        hidden = s.round(b.shape(x)[1] * s.pick(2, 4))
        y = s.conv(x, hidden)
        y = s.conv(y, hidden, 3, 2 if s.roomy(x) else 1, groups=hidden)
        x = s.conv(y, width, act=False)
        height, breadth = b.shape(x)[2:]
        if i == 0 or height % 2 or breadth % 2 or height * breadth > 2000:
            continue
        heads, inner = dimensions(s, affordable(s, height * breadth, 1.4 * width))
        y = s.conv(s.conv(x, width, 3), inner, act=False, norm=False)
        y = b.op("Reshape", [y], shape=(n * inner * height // 2, 2, breadth // 2, 2))
        y = b.op("Reshape", [b.op("Transpose", [y], perm=(0, 2, 1, 3))], shape=(n, inner, height * breadth // 4, 4))
        y = b.op("Reshape", [b.op("Transpose", [y], perm=(0, 3, 2, 1))], shape=(4 * n, height * breadth // 4, inner))
        encoder = Encoder(s)
        for _ in s.blocks(s.pick(1, 2, 3)):
            y = encoder.attend(y, heads)
        y = b.op("Reshape", [s.layer_norm(y)], shape=(n, 4, height * breadth // 4, inner))
        y = b.op("Reshape", [b.op("Transpose", [y], perm=(0, 3, 2, 1))], shape=(n * inner * height // 2, breadth // 2, 2, 2))
        y = b.op("Reshape", [b.op("Transpose", [y], perm=(0, 2, 1, 3))], shape=(n, inner, height, breadth))
        s.spend(0, y, y, y, y)
        y = b.op("Concat", [x, s.conv(y, width)], axis=1)
        x = s.conv(y, width, 3)
    return s.head(s.conv(x, s.wide(x, 4 * b.shape(x)[1], window=1)))


def text(s: Sketch) -> Graph:
    """Words, embedded and attended to (BERT, GPT, Llama and their relatives); the input is [N, tokens] of numbers of words."""
    b = s.b
    count = tokens_of(s.coarse.resolution)
    heads, width = dimensions(s, affordable(s, count, 384 * s.coarse.width * s.between(0.7, 1.6)))
    words = b.input("x", (s.batch, count), "int64")
    x = b.op("Gather", [b.weight("words", (s.pick(*VOCABULARY), width)), words], axis=0)
    rotary, modern = s.chance(0.25), s.chance(0.3)
    if not rotary:
        x = s.add(x, b.weight("position", (1, count, width)))
    encoder = Encoder(s, s.rms_norm if modern else None)
    if not encoder.before:
        x = s.layer_norm(x)
    mask = b.constant("mask", np.triu(np.full((1, 1, count, count), -1e9, np.float32), 1)) if s.chance(0.5) else None
    rotations = [b.weight("rotation", (1, 1, count, width // heads)) for _ in range(2)]

    def turned(x: str) -> str:
        half = width // heads // 2
        ahead = b.op("Slice", [x], axes=(3,), starts=(0,), ends=(half,))
        behind = b.op("Slice", [x], axes=(3,), starts=(half,), ends=(2 * half,))
        y = b.op("Concat", [b.op("Neg", [behind]), ahead], axis=3)
        s.spend(0, y, y, y, y)
        return b.op("Add", [b.op("Mul", [x, rotations[0]]), b.op("Mul", [y, rotations[1]])])

    def attend(x: str) -> str:
        if not rotary:
            return attention(s, x, heads, form=encoder.form, bias=mask)
        q, k, v = (
            b.op(
                "Transpose",
                [b.op("Reshape", [s.linear(x, width, bias=False)], shape=(s.batch, count, heads, width // heads))],
                perm=(0, 2, 1, 3),
            )
            for _ in range(3)
        )
        q, k = turned(q), b.op("Transpose", [turned(k)], perm=(0, 1, 3, 2))
        scores = b.op("Mul", [s.product(q, k), b.constant("scale", scalar((width // heads) ** -0.5))])
        y = s.product(s.softmax_of(s.add(scores, mask) if mask else scores), v)
        y = b.op("Reshape", [b.op("Transpose", [y], perm=(0, 2, 1, 3))], shape=(s.batch, count, width))
        return s.linear(y, width, bias=False)

    for _ in s.blocks(2 * s.coarse.depth + 1, share=1):
        x = encoder.layer(x, attend)
    return head_of(s, x, first=s.chance(0.6))


def tokens_of(resolution: int) -> int:
    """Length of a text, for the gene that says how large an image would be."""
    return max(8, resolution * 3 // 4)


FAMILIES: Mapping[str, Family] = {
    "vision": vision,
    "windowed": windowed,
    "mixer": mixer,
    "channels_last": channels_last,
    "hybrid": hybrid,
    "text": text,
}
