"""Families of carrier networks that are made of convolutions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hwnas.ir import Graph
from hwnas.ir.node import AttrValue
from hwnas.spaces.generic_parts import Family, Sketch

Block = Callable[[str, int, int], str]
"""From a value to the block's, given the channels wanted and the stride."""


def plain(s: Sketch) -> Graph:
    """Convolutions and poolings behind each other, then fully connected layers (VGG and its relatives)."""
    x = s.image()
    pool, kernel = s.pick("MaxPool", "MaxPool", "AveragePool"), s.pick(3, 3, 3, 5)
    for channels in s.growing(64, s.pick(3, 4, 5)):
        width = s.wide(x, min(channels, 768), window=kernel**2, part=0.5)
        for j in s.blocks():
            x = s.conv(x, width, s.pick(1, 2 * kernel - 3) if j and s.chance(0.15) else kernel, dilation=s.pick(1, 1, 1, 1, 1, 2))
        if s.roomy(x):
            size = s.pick(2, 2, 3)
            x = s.pool(x, pool, size, 2, padded=size == 3) if s.chance(0.8) else s.conv(x, width, kernel, 2)
    return fully_connected(s, x, most=s.pick(0, 1, 2))


def fully_connected(s: Sketch, x: str, *, most: int) -> Graph:
    """Hidden fully connected layers on all that is left of an image; a head like others' for none of them."""
    if most == 0:
        return s.head(x)
    hidden = s.round(s.between(128, 4096))
    n, c, h, w = s.b.shape(x)
    if c * h * w * hidden > (5.2e7 if s.chance(0.2) else 2.4e7):  # 208 and 96 MB
        x = s.b.op("GlobalAveragePool", [x])
    x = s.b.op("Flatten", [x]) if s.chance(0.6) else s.b.op("Reshape", [x], shape=(n, -1))
    for _ in range(most):
        x = s.act(s.b.linear(x, hidden))
    return s.finish(s.b.linear(x, s.classes))


def early(s: Sketch) -> Graph:
    """Large kernels, local response normalisation and overlapping poolings (AlexNet, ZFNet and their relatives)."""
    b = s.b
    kernel, stride = s.pick((7, 2), (9, 2), (9, 3), (11, 4), (8, 4), (7, 4), (5, 2))
    x = s.image()
    x = s.conv(x, s.wide(x, 64 * s.coarse.width * s.between(0.7, 1.6)), kernel, stride, pads=(s.pick(0, 1, 2),) * 4, norm=False)
    ceil = s.pick(0, 1)
    for i, channels in enumerate(s.growing(128, s.pick(2, 3))):
        normalised = i < 2 and s.chance(0.7)
        if normalised:
            x = b.op("LRN", [x], size=s.pick(3, 5, 5), alpha=1e-4, beta=0.75, bias=s.pick(1.0, 2.0))
            s.spend(50 * s.coarse.width, x)
        if min(b.shape(x)[2:]) >= 5:
            x = b.op("MaxPool", [x], kernel_shape=(3, 3), strides=(2, 2), ceil_mode=ceil)
        groups = s.pick(1, 2)
        for j in s.blocks(s.pick(1, 2, 3)):
            size = 5 if i == j == 0 and s.chance(0.7) else 3
            x = s.conv(x, s.wide(x, channels, window=size**2, step=16), size, groups=groups if b.shape(x)[1] % 16 == 0 else 1, norm=False)
    return fully_connected(s, x, most=s.pick(1, 2))


def staged(s: Sketch, block: Block, *, first: float, step: int = 0, window: int = 9, stem: float = 32) -> str:
    """Stem and stages of one kind of block, each stage but perhaps the first beginning with a stride."""
    x = stem_of(s, stem)
    for i, channels in enumerate(s.growing(first, s.pick(3, 4, 4, 5))):
        width = s.wide(x, channels, window=window, step=step)
        for j in s.blocks():
            x = block(x, width, 2 if j == 0 and s.roomy(x) and (i > 0 or s.chance(0.3)) else 1)
    return x


def stem_of(s: Sketch, channels: float) -> str:
    """What meets the image: one strided convolution, a large one and a pooling, three small ones, or none."""
    x = s.image()
    width = s.wide(x, channels * s.coarse.width * s.between(0.7, 1.5) + 4)
    form = s.pick("3x3", "3x3", "3x3", "7x7", "7x7", "deep", "valid", "same" if s.coarse.resolution < 100 else "3x3")
    if form == "7x7":
        return s.pool(s.conv(x, width, s.pick(5, 7, 7), 2), "MaxPool", 3, 2)
    if form == "deep":
        x = s.conv(s.conv(s.conv(x, width, 3, 2), width, 3), s.wide(x, 1.7 * width), 3)
        return s.pool(x, "MaxPool", 3, 2) if s.roomy(x) else x
    if form == "same":
        return s.conv(x, width, 3)
    if form == "valid":  # as TensorFlow pads: one pixel, at the end
        return s.conv(x, width, 3, 2, pads=(0, 0, s.pick(0, 1), 1))
    return s.conv(x, width, 3, 2)


def shortcut(s: Sketch, x: str, channels: int, stride: int, *, pooled: bool) -> str:
    """The way past a block that changes the shape: a strided 1x1 convolution, or a pooling before it."""
    if s.b.shape(x)[1] == channels and stride == 1:
        return x
    if pooled and stride > 1 and not any(size % 2 for size in s.b.shape(x)[2:]):
        return s.conv(s.pool(x, "AveragePool", 2, 2, padded=False), channels, act=False)
    return s.conv(x, channels, stride=stride, act=False)


def residual(s: Sketch) -> Graph:
    """Basic or bottleneck blocks with shortcuts (ResNet and its relatives, wide ones too)."""
    bottleneck, pooled = s.chance(0.5), s.chance(0.25)
    expansion, gated, kernel = s.pick(2, 4, 4), s.chance(0.15), s.pick(3, 3, 3, 5)
    groups = s.pick(1, 1, 1, 2, 4) if bottleneck else 1

    def block(x: str, channels: int, stride: int) -> str:
        out = channels * expansion if bottleneck else channels
        inner = channels if groups > 1 else s.round(channels * s.pick(0.7, 1, 1, 1, 1.3))
        if bottleneck:
            strides = (1, stride) if s.chance(0.7) else (stride, 1)
            y = s.conv(s.conv(x, inner, stride=strides[0]), inner, kernel, strides[1], groups=groups)
            y = s.conv(y, out, act=False)
        else:
            y = s.conv(s.conv(x, inner, kernel, stride), out, kernel, act=False)
        if gated:
            y = s.gate(y, max(4, out // 16), "Sigmoid", "relu", form=s.pick("conv", "linear"))
        x = shortcut(s, x, out, stride, pooled=pooled)
        return s.act(s.add(*((y, x) if s.chance(0.5) else (x, y))))

    return s.head(staged(s, block, first=48 if bottleneck else 64, step=16 if groups > 1 else 0))


def preactivated(s: Sketch) -> Graph:
    """Residual blocks whose normalisation and activation come before each convolution (ResNet v2, and normalisation in groups)."""
    grouped = s.chance(0.3)
    bottleneck = s.chance(0.5)

    def before(x: str) -> str:
        return s.act(s.group_norm(x, s.pick(4, 8)) if grouped else s.batch_norm(x))

    def block(x: str, channels: int, stride: int) -> str:
        y = before(x)
        if stride > 1 or s.b.shape(x)[1] != channels:
            x = s.conv(y if s.chance(0.7) else x, channels, stride=stride, act=False, norm=False)
        if bottleneck:
            y = s.conv(y, max(8, channels // 4 // 8 * 8), act=False, norm=False)
            y = before(y)
        y = s.conv(y, max(8, channels // (4 if bottleneck else 1) // 8 * 8), 3, stride, act=False, norm=False)
        y = s.conv(before(y), channels, 1 if bottleneck else 3, act=False, norm=False)
        return s.add(y, x)

    x = staged(s, block, first=160 if bottleneck else 64, step=8, window=2 if bottleneck else 9)
    return s.head(before(x))


def grouped(s: Sketch) -> Graph:
    """Bottlenecks of grouped convolutions, the groups of one width throughout (ResNeXt, RegNet and their relatives)."""
    of = s.pick(4, 8, 8, 16, 16, 24, 32, 48, 64)
    gated, pooled = s.chance(0.4), s.chance(0.15)
    kernel = s.pick(3, 3, 3, 5)

    def block(x: str, channels: int, stride: int) -> str:
        inner = max(of, int(channels * s.pick(0.5, 1, 1, 1, 1.5)) // of * of)
        y = s.conv(x, inner)
        y = s.conv(y, inner, kernel, stride, groups=inner // of)
        if gated:
            y = s.gate(y, s.round(s.b.shape(x)[1] / 4), "Sigmoid", "relu")
        y = s.conv(y, channels, act=False)
        return s.act(s.add(shortcut(s, x, channels, stride, pooled=pooled), y))

    return s.head(staged(s, block, first=80, step=of, window=4))


def inverted(s: Sketch) -> Graph:
    """Inverted bottlenecks with depthwise convolutions and gates (MobileNet v2 and v3, MnasNet, EfficientNet and their relatives)."""
    gate, form = s.pick("Sigmoid", "HardSigmoid"), s.pick("conv", "conv", "linear")
    gates, fused, inner = s.pick(0.0, 0.0, 0.5, 1.0), s.pick(0.0, 0.0, 0.4), s.pick(None, "relu")
    s.favour("clip6", "swish", "hardswish")
    expansions = s.pick((6,), (4,), (3, 6), (1, 2, 3, 4, 6), (2.5, 3.7, 4.3))

    def block(x: str, channels: int, stride: int) -> str:
        before = s.b.shape(x)[1]
        hidden = s.round(before * s.pick(*expansions)) if s.chance(0.9) else before
        if s.chance(fused):
            y = s.conv(x, hidden, 3, stride)
        else:
            y = s.conv(x, hidden) if hidden != before or s.chance(0.2) else x
            y = s.conv(y, s.b.shape(y)[1], s.pick(3, 3, 5, 5, 7), stride, groups=s.b.shape(y)[1])
            if s.chance(gates):
                y = s.gate(y, s.round(s.b.shape(y)[1] / 4 if s.chance(0.5) else before / 4), gate, inner, form=form)
        y = s.conv(y, channels, act=False)
        return s.add(*((y, x) if s.chance(0.5) else (x, y))) if stride == 1 and before == channels else y

    x = staged(s, block, first=28, window=16, stem=32)
    return s.head(s.conv(x, s.wide(x, 1280 * min(1, s.coarse.width + 0.3), window=1)) if s.chance(0.7) else x)


def separable(s: Sketch) -> Graph:
    """Depthwise and pointwise convolutions in turn, with or without shortcuts (MobileNet v1, Xception and their relatives)."""
    linked, between, kernel = s.chance(0.4), s.chance(0.6), s.pick(3, 3, 5)
    s.favour("clip6", "relu")

    def block(x: str, channels: int, stride: int) -> str:
        y = s.conv(x, s.b.shape(x)[1], kernel, stride, groups=s.b.shape(x)[1], act=between)
        if not linked:
            return s.conv(y, s.round(channels * s.pick(0.75, 1, 1, 1.33)))
        y = s.conv(y, channels)
        y = s.conv(s.conv(y, channels, kernel, groups=channels, act=False), channels, act=False)
        return s.act(s.add(y, shortcut(s, x, channels, stride, pooled=False)))

    return s.head(staged(s, block, first=72, window=3))


def shuffled(s: Sketch) -> Graph:
    """Channels shuffled across groups, or split and joined again (ShuffleNet v1 and v2 and their relatives)."""
    groups, kernel, b = s.pick(2, 3, 4, 8), s.pick(3, 3, 5), s.b
    otherwise = s.chance(0.4)

    def stir(x: str, groups: int) -> str:
        return s.rearrange(x) if otherwise else s.shuffle(x, groups)

    def first_version(x: str, channels: int, stride: int) -> str:
        before = b.shape(x)[1]
        joined = stride > 1 and channels > before and (channels - before) % groups == 0
        out = channels - before if joined else channels
        inner = max(groups, out // 4 // groups * groups)
        y = s.conv(x, inner, groups=groups if before % groups == 0 and s.chance(0.8) else 1)
        y = stir(y, groups)
        y = s.conv(y, inner, kernel, stride, groups=inner, act=False)
        y = s.conv(y, out, groups=groups, act=False)
        if joined:
            x = s.pool(x, "AveragePool", 3, 2)
            return s.act(b.op("Concat", [x, y], axis=1))
        return s.act(s.add(y, shortcut(s, x, channels, stride, pooled=False)))

    def second_version(x: str, channels: int, stride: int) -> str:
        half = channels // 2
        if stride == 1 and b.shape(x)[1] == channels:
            left, right = s.split(x, 2, 1) if s.chance(0.7) else halves(s, x)
        else:
            left = s.conv(x, b.shape(x)[1], kernel, stride, groups=b.shape(x)[1], act=False)
            left, right = s.conv(left, half), x
        y = s.conv(s.conv(right, half), half, kernel, stride, groups=half, act=False)
        y = b.op("Concat", [left, s.conv(y, half)], axis=1)
        s.spend(0, y)
        return stir(y, 2)

    version = s.pick(1, 2)
    x = staged(s, first_version if version == 1 else second_version, first=160, step=24 if version == 1 else 4, window=2)
    return s.head(s.conv(x, s.wide(x, 1024, window=1)) if s.chance(0.5) else x)


def halves(s: Sketch, x: str) -> tuple[str, str]:
    """Both halves of the channels, as two slices."""
    channels = s.b.shape(x)[1]
    first = s.b.op("Slice", [x], axes=(1,), starts=(0,), ends=(channels // 2,))
    return first, s.b.op("Slice", [x], axes=(1,), starts=(channels // 2,), ends=(channels,))


def dense(s: Sketch) -> Graph:
    """Every layer reads all layers before it in its stage (DenseNet and its relatives)."""
    b, bottleneck = s.b, s.chance(0.7)
    x = stem_of(s, 64)
    growth = s.wide(x, 32 * s.coarse.width * s.between(0.6, 1.5), window=60)

    def before(x: str) -> str:
        return s.act(s.batch_norm(x))

    for i in range(s.pick(3, 4)):
        if i:
            x = s.conv(before(x), s.round(b.shape(x)[1] * s.pick(0.5, 0.5, 0.7)), act=False, norm=False)
            x = s.pool(x, "AveragePool", 2, 2, padded=False) if s.roomy(x) else x
        for _ in s.blocks(2 * s.coarse.depth + s.pick(0, 1, 2)):
            y = before(x)
            if bottleneck:
                y = s.conv(y, s.pick(2, 4) * growth)
            x = b.op("Concat", [x, s.conv(y, growth, 3, act=False, norm=False)], axis=1)
            s.spend(0, x)
    return s.head(before(x))


def branched(s: Sketch) -> Graph:
    """Branches of different kernels side by side, joined along the channels (Inception and its relatives)."""
    b = s.b
    factorised = s.pick(0, 5, 7)

    def block(x: str, channels: int, stride: int) -> str:
        kernel, inner = (3, stride), s.round(channels * s.between(0.3, 0.7))
        part = s.round(channels * s.between(0.2, 0.5))
        pooled = s.pool(x, s.pick("AveragePool", "MaxPool"), *kernel)
        branches = [pooled if stride > 1 else s.conv(pooled, s.round(channels / 4))]
        branches.append(s.conv(s.conv(x, inner), s.round(channels * s.between(0.3, 0.8)), 3, stride))
        if stride == 1:
            branches.append(s.conv(x, part))
        if factorised:
            y = s.conv(s.conv(x, inner), inner, (1, factorised))
            y = s.conv(y, part, (factorised, 1))
            y = s.conv(y, part, 3, stride) if stride > 1 or s.chance(0.4) else y
        else:
            y = s.conv(s.conv(s.conv(x, s.round(inner / 2)), part, s.pick(3, 5)), part, 3, stride)
        branches.append(y)
        if s.chance(0.2) and stride == 1:
            y = s.conv(x, inner)
            branches += [s.conv(y, part, (1, 3)), s.conv(y, part, (3, 1))]
        x = b.op("Concat", branches, axis=1)
        s.spend(0, x)
        return x

    return s.head(staged(s, block, first=96, window=9, stem=40))


def fire(s: Sketch) -> Graph:
    """Squeezed channels, expanded by 1x1 and 3x3 convolutions side by side (SqueezeNet and its relatives)."""
    b, linked = s.b, s.chance(0.3)

    def block(x: str, channels: int, stride: int) -> str:
        if stride > 1:
            x = (
                b.op("MaxPool", [x], kernel_shape=(3, 3), strides=(2, 2), ceil_mode=s.pick(0, 1))
                if s.chance(0.6)
                else s.pool(x, "MaxPool", 3, 2)
            )
        y = s.conv(x, max(4, s.round(channels / s.pick(4, 6, 8))), norm=False)
        half = channels // 2
        y = b.op("Concat", [s.conv(y, half, norm=False), s.conv(y, half, 3, norm=False)], axis=1)
        s.spend(0, y)
        return s.add(x, y) if linked and b.shape(x) == b.shape(y) else y

    return s.head(staged(s, block, first=112, step=s.pick(4, 8, 16), window=1, stem=64))


def decoder(s: Sketch) -> Graph:
    """Down and up again, joined with what was seen on the way down (U-Net, FPN, super-resolution and their relatives)."""
    b = s.b
    upward, joined = s.pick("nearest", "linear", "transposed", "shuffle"), s.pick("Concat", "Add", "none")
    x = stem_of(s, 24)
    seen = []
    for channels in s.growing(40, s.pick(2, 3, 4)):
        width = s.wide(x, channels, step=8)
        for _ in s.blocks(s.pick(1, 2)):
            x = s.conv(x, width, 3)
        if min(b.shape(x)[2:]) < SMALL_MAP:
            break
        seen.append(x)
        x = s.pool(x, "MaxPool", 2, 2, padded=False) if s.chance(0.5) else s.conv(x, width, 3, 2)
    for other in reversed(seen):
        x = enlarge(s, x, b.shape(other), upward)
        if joined == "Concat":
            x = b.op("Concat", [x, other], axis=1)
            s.spend(0, x)
        elif joined == "Add":
            x = s.add(x, other)
        for _ in s.blocks(s.pick(1, 1, 2)):
            x = s.conv(x, b.shape(other)[1], 3)
    return s.head(x)


SMALL_MAP = 8  # pixels below which a decoder goes no further down


def enlarge(s: Sketch, x: str, shape: tuple[int, ...], form: str) -> str:
    """An image at the size and with the channels of another shape, which is about twice its own."""
    b, (n, c, h, w) = s.b, s.b.shape(x)
    doubled = shape[2:] == (2 * h, 2 * w)
    if form == "transposed" and doubled:
        kernel = s.pick(2, 4)
        weight = b.weight("w", (c, shape[1], kernel, kernel))
        pad = (kernel - 2) // 2
        x = b.op("ConvTranspose", [x, weight, b.weight("b", (shape[1],), "zeros")], strides=(2, 2), pads=(pad,) * 4)
        s.spend(2 * n * h * w * c * shape[1] * kernel**2, x)
        return s.act(b.batch_norm(x)) if s.coarse.norm == "batch" else s.act(x)
    if form == "shuffle" and doubled:
        return s.act(b.op("DepthToSpace", [s.conv(x, 4 * shape[1], 3, act=False)], blocksize=2, mode=s.pick("DCR", "CRD")))
    x = s.conv(x, shape[1])
    place = {"scales": (1.0, 1.0, 2.0, 2.0)} if doubled and s.chance(0.5) else {"sizes": (n, shape[1], *shape[2:])}
    how = (
        {"mode": "linear", "coordinate_transformation_mode": s.pick("half_pixel", "align_corners")}
        if form == "linear"
        else {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    )
    attributes: dict[str, AttrValue] = {**place, **how}
    x = b.op("Resize", [x], outputs=1, **attributes)
    s.spend(8 * n * shape[1] * shape[2] * shape[3], x)
    return x


def mixed(s: Sketch) -> Graph:
    """Stages of different kinds behind each other, so that operators meet neighbours that no family gives them."""
    b = s.b
    gates, of = s.chance(0.5), s.pick(8, 16, 32)

    def block(kind: str, x: str, channels: int, stride: int) -> str:
        before = b.shape(x)[1]
        if kind == "plain":
            return s.conv(x, channels, s.pick(1, 3, 3, 5, 7), stride)
        if kind == "depthwise":
            y = s.conv(x, before, s.pick(3, 5, 7, 9), stride, groups=before)
            return s.conv(s.gate(y, s.round(before / 4), s.pick("Sigmoid", "HardSigmoid")) if gates else y, channels)
        if kind == "grouped":
            inner = max(of, channels // of * of)
            y = s.conv(s.conv(x, inner), inner, s.pick(3, 5), stride, groups=inner // of, dilation=s.pick(1, 1, 2))
            return s.conv(y, channels)
        if kind == "rearranged":
            return s.rearrange(s.conv(x, channels, s.pick(1, 3), stride))
        if kind == "joined":
            y = b.op("Concat", [s.conv(x, s.round(channels / 2), 3, stride), s.conv(x, s.round(channels / 3), 1, stride)], axis=1)
            return s.conv(y, channels)
        if kind == "scaled":  # attention to places: one map for all channels
            y = s.conv(x, channels, 3, stride)
            return b.op("Mul", [y, b.op("Sigmoid", [s.conv(y, 1, s.pick(1, 3, 7), act=False, norm=False)])])
        y = s.conv(s.conv(x, channels, 3, stride), channels, 3, act=False)
        return s.act(s.add(y, shortcut(s, x, channels, stride, pooled=False)), s.pick(None, *("relu", "hardswish", "swish")))

    kinds = ("plain", "depthwise", "grouped", "joined", "scaled", "residual", "rearranged")
    current = [s.pick(*kinds)]

    def any_block(x: str, channels: int, stride: int) -> str:
        if stride > 1 or s.chance(0.3):
            current[0] = s.pick(*kinds)
        return block(current[0], x, channels, stride)

    return s.head(staged(s, any_block, first=56))


FAMILIES: Mapping[str, Family] = {
    "plain": plain,
    "early": early,
    "residual": residual,
    "preactivated": preactivated,
    "grouped": grouped,
    "inverted": inverted,
    "separable": separable,
    "shuffled": shuffled,
    "dense": dense,
    "branched": branched,
    "fire": fire,
    "decoder": decoder,
    "mixed": mixed,
}
