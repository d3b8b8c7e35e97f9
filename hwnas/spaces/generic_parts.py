"""What the families of carrier networks are drawn with: random choices, layers as exporters write them, and a limit on their cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import gcd, log2, prod, sqrt
from typing import TypeVar

import numpy as np

from hwnas.ir import Graph, GraphBuilder
from hwnas.ir.node import Array, AttrValue

T = TypeVar("T")
LIMIT = (4e8, 5e9)  # floating-point operations that a network may spend, drawn log-uniformly between the two
MEMORY_OPS = 6.0  # operations that an element moved counts for: what memory-bound layers cost
WIDEST_PART = 0.25  # of the limit, that one convolution usually may take
WIDEST = 1024  # channels of a stage, before any expansion
STAGE_PART = 0.4  # of the limit, that one stage may take
USUAL_RESOLUTION = 144  # at which a multiplier of 1 gives the usual channel counts; smaller images get more
SMALLEST = 4  # pixels below which nothing is downsampled


@dataclass(frozen=True, slots=True, kw_only=True)
class Coarse:
    """The choices that a genotype states; all finer ones are drawn.

    Attributes:
        resolution: of the image in pixels.
        width: multiplier of channel counts.
        depth: most blocks of a stage.
        activation: a key of `ACTIVATIONS`, or `rare` for several of `RARE` in turn.
        norm: `batch` for a normalisation behind each convolution, `none` for biases.
    """

    resolution: int
    width: float
    depth: int
    activation: str
    norm: str


def scalar(value: float) -> Array:
    """A constant of no dimension, as exporters write the numbers of a formula."""
    return np.array(value, np.float32)


def _erf_gelu(b: GraphBuilder, x: str) -> str:
    y = b.op("Erf", [b.op("Div", [x, b.constant("c", scalar(sqrt(2)))])])
    y = b.op("Mul", [x, b.op("Add", [y, b.constant("c", scalar(1))])])
    return b.op("Mul", [y, b.constant("c", scalar(0.5))])


def _new_gelu(b: GraphBuilder, x: str) -> str:
    """As torch's newer exporter writes it, which a runtime may not recognise."""
    y = b.op("Erf", [b.op("Div", [x, b.constant("c", scalar(sqrt(2)))])])
    y = b.op("Mul", [b.constant("c", scalar(0.5)), b.op("Add", [y, b.constant("c", scalar(1))])])
    return b.op("Mul", [x, y])


def _tanh_gelu(b: GraphBuilder, x: str) -> str:
    y = b.op("Mul", [b.op("Pow", [x, b.constant("c", scalar(3))]), b.constant("c", scalar(0.044715))])
    y = b.op("Tanh", [b.op("Mul", [b.op("Add", [x, y]), b.constant("c", scalar(0.7978846))])])
    y = b.op("Add", [y, b.constant("c", scalar(1))])
    return b.op("Mul", [b.op("Mul", [x, b.constant("c", scalar(0.5))]), y])


def _old_hardswish(b: GraphBuilder, x: str) -> str:
    y = b.op("Clip", [b.op("Add", [x, b.constant("c", scalar(3))])], min=0.0, max=6.0)
    return b.op("Div", [b.op("Mul", [x, y]), b.constant("c", scalar(6))])


def _quick_gelu(b: GraphBuilder, x: str) -> str:
    return b.op("Mul", [x, b.op("Sigmoid", [b.op("Mul", [x, b.constant("c", scalar(1.702))])])])


Emit = Callable[[GraphBuilder, str], str]
ACTIVATIONS: Mapping[str, Emit] = {
    "relu": lambda b, x: b.op("Relu", [x]),
    "clip6": lambda b, x: b.op("Clip", [x], min=0.0, max=6.0),
    "swish": lambda b, x: b.op("Mul", [x, b.op("Sigmoid", [x])]),
    "hardswish": lambda b, x: b.op("HardSwish", [x]),
    "gelu": _erf_gelu,
    "gelu-new": _new_gelu,
}
RARE: Mapping[str, Emit] = {
    "gelu-op": lambda b, x: b.op("Gelu", [x]),
    "gelu-tanh": _tanh_gelu,
    "gelu-quick": _quick_gelu,
    "hardswish-old": _old_hardswish,
    "hardswish-gate": lambda b, x: b.op("Mul", [x, b.op("HardSigmoid", [x], alpha=1 / 6)]),
    "mish": lambda b, x: b.op("Mul", [x, b.op("Tanh", [b.op("Softplus", [x])])]),
    "elu": lambda b, x: b.op("Elu", [x]),
    "leaky": lambda b, x: b.op("LeakyRelu", [x], alpha=0.1),
    "tanh": lambda b, x: b.op("Tanh", [x]),
    "sigmoid": lambda b, x: b.op("Sigmoid", [x]),
    "prelu": lambda b, x: b.op("PRelu", [x, b.constant("slope", np.full((b.shape(x)[1], 1, 1), 0.25, np.float32))]),
}
RARE_AT_ONCE = 4  # kinds of rare activations in a network that has any
COSTLY = {"mish": 300, "elu": 60, "gelu": 30, "gelu-new": 30}  # operations that an element costs; rare ones are often not vectorised


class Sketch:
    """A network in the making, with the random stream that makes its finer choices.

    Its methods take and return names of values. Convolutions read [N, C, H, W], token layers [N, tokens, C].
    """

    def __init__(self, name: str, coarse: Coarse, rng: np.random.Generator, *, batch: int, classes: int) -> None:
        self.b = GraphBuilder(name)
        self.coarse, self.batch, self.classes = coarse, batch, classes
        self._rng = rng
        self._spent = 0.0
        self.limit = float(np.exp(rng.uniform(*np.log(LIMIT))))
        self.activations = tuple(self.pick(*RARE) for _ in range(RARE_AT_ONCE)) if coarse.activation == "rare" else (coarse.activation,)
        self.pads_apart = self.chance(0.12)  # a strided convolution's padding is an operator of its own
        self.scales = self.chance(0.12)  # scale and shift are operators of their own, behind a normalisation that stands alone
        self.sums = self.chance(0.1)  # residuals are added by Sum

    # Choices.

    def pick(self, *options: T) -> T:
        """One of the options, all equally likely."""
        return options[int(self._rng.integers(len(options)))]

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return bool(self._rng.random() < probability)

    def favour(self, *activations: str) -> None:
        """Half of the networks have one of these activations, whatever the genotype says: those that their like are known for."""
        if self.chance(0.5):
            self.activations = (self.pick(*activations),)

    def between(self, low: float, high: float) -> float:
        """A number whose logarithm is uniform."""
        return float(np.exp(self._rng.uniform(np.log(low), np.log(high))))

    def round(self, channels: float) -> int:
        """A channel count nearby: mostly a multiple of 8, sometimes of 32, 4 or nothing, sometimes a power of two."""
        step = self.pick(8, 8, 8, 8, 16, 16, 16, 32, 4, 2, 1, 0, 0) if channels > 12 else self.pick(8, 4)
        if step == 0:
            return int(2 ** round(log2(channels)))
        return max(step, 4, int(channels / step + 0.5) * step)

    def wide(self, x: str, channels: float, *, window: int = 9, step: int = 0, part: float = WIDEST_PART) -> int:
        """A channel count nearby, less where a convolution from as many to as many at the size of x would be too much of the network.

        Args:
            x: what the convolution reads.
            channels: wanted.
            window: elements of the convolution's kernel, divided by its groups.
            step: the count is a multiple of it; 0: as `round`.
            part: of the network's limit, that the convolution may take.
        """
        area = prod(self.b.shape(x)[2:])
        channels = min(channels, WIDEST, sqrt(part * self.limit / (2 * window * area)))
        return max(step, int(channels / step + 0.5) * step) if step else self.round(channels)

    def blocks(self, most: int | None = None, *, share: float = STAGE_PART) -> Iterator[int]:
        """Numbers of the blocks of a stage: at least one, no more once another of the same cost would pass the limit.

        Args:
            most: blocks; by default a random number up to the network's depth.
            share: of the network's limit that the stage may take.
        """
        limit = min(self.limit, self._spent + share * self.limit)
        for j in range(most or int(self._rng.integers(1, self.coarse.depth + 1))):
            before = self._spent
            yield j
            if 2 * self._spent - before > limit:
                return

    def growing(self, first: float, stages: int) -> Iterator[float]:
        """Channel counts of so many stages, before rounding."""
        channels = first * self.coarse.width * self.between(0.75, 1.33) * sqrt(USUAL_RESOLUTION / self.coarse.resolution)
        for _ in range(stages):
            yield channels
            channels *= self.pick(1.5, 2.0, 2.0, 2.0, 2.5)

    def roomy(self, x: str) -> bool:
        """Whether an image is large enough to be downsampled."""
        return min(self.b.shape(x)[2:]) >= SMALLEST

    def spend(self, operations: float, *values: str) -> None:
        """Counts what was emitted, per image: operations, and the elements of the values written."""
        moved = sum(prod(self.b.shape(value)) for value in values)
        self._spent += (operations + MEMORY_OPS * moved) / self.batch

    # Layers of images.

    def image(self) -> str:
        """The input."""
        return self.b.input("x", (self.batch, 3, self.coarse.resolution, self.coarse.resolution))

    def conv(
        self,
        x: str,
        channels: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        dilation: int = 1,
        act: bool | str = True,
        norm: bool = True,
        pads: tuple[int, int, int, int] | None = None,
    ) -> str:
        """A convolution, its normalisation (or a bias), and its activation; "same" padding unless told."""
        b, height_width = self.b, (kernel, kernel) if isinstance(kernel, int) else kernel
        batch_norm = norm and self.coarse.norm == "batch"
        around = pads or tuple(dilation * (size - 1) // 2 for size in height_width) * 2
        if self.pads_apart and stride > 1 and any(around):
            x, around = b.op("Pad", [x], pads=(0, 0, *around[:2], 0, 0, *around[2:])), (0,) * 4
        weight = b.weight("w", (channels, b.shape(x)[1] // groups, *height_width))
        inputs = [x, weight] if batch_norm else [x, weight, b.weight("b", (channels,), "zeros")]
        x = b.op("Conv", inputs, strides=(stride,) * 2, pads=around, dilations=(dilation,) * 2, group=groups)
        self.spend(2 * prod(b.shape(x)) * prod(height_width) * (b.shape(weight)[1]), x)
        x = b.batch_norm(x) if batch_norm else x
        return self.act(x, act if isinstance(act, str) else None) if act else x

    def act(self, x: str, name: str | None = None) -> str:
        """An activation: the network's, unless another is named."""
        name = name or self.pick(*self.activations)
        self.spend(COSTLY.get(name, 10) * prod(self.b.shape(x)) if name in RARE or name in COSTLY else 0)
        if name == "prelu" and len(self.b.shape(x)) != 4:
            name = "leaky"
        return ({**ACTIVATIONS, **RARE})[name](self.b, x)

    def pool(self, x: str, op: str, kernel: int, stride: int, *, padded: bool = True) -> str:
        """A pooling; `padded` keeps the size at stride 1."""
        pad = (kernel - 1) // 2 if padded else 0
        window: dict[str, AttrValue] = {"kernel_shape": (kernel,) * 2, "strides": (stride,) * 2, "pads": (pad,) * 4}
        if op == "AveragePool" and pad:
            window["count_include_pad"] = self.pick(0, 1)
        x = self.b.op(op, [x], outputs=1, **window)
        self.spend(0, x)
        return x

    def batch_norm(self, x: str) -> str:
        """A batch normalisation that no convolution absorbs."""
        x = self.b.batch_norm(x)
        self.spend(0, x)
        if self.scales:
            x = self.b.op("Mul", [x, self.b.weight("scale", (self.b.shape(x)[1], 1, 1), "ones")])
            x = self.add(x, self.b.weight("shift", (self.b.shape(x)[1], 1, 1), "zeros"))
        return x

    def add(self, *values: str) -> str:
        """A sum of two values."""
        shapes = {self.b.shape(value) for value in values}
        x = self.b.op("Sum" if self.sums and len(shapes) == 1 else "Add", values)
        self.spend(0, x)
        return x

    def gate(self, x: str, hidden: int, gate: str, inner: str | None = None, *, form: str = "conv") -> str:
        """Squeeze and excite: channels scaled by what a small network makes of their means.

        Args:
            x: [N, C, H, W].
            hidden: channels inside.
            gate: `Sigmoid` or `HardSigmoid`.
            inner: activation inside; by default the network's.
            form: `conv`: 1x1 convolutions of [N, C, 1, 1]; `linear`: fully connected layers between two reshapes.
        """
        b, channels = self.b, self.b.shape(x)[1]
        if form == "linear":
            y = b.op("Reshape", [b.op("GlobalAveragePool", [x])], shape=(self.batch, channels))
            y = self.act(b.linear(y, hidden), inner)
            y = b.linear(y, channels)
        else:
            y = b.op("GlobalAveragePool", [x]) if self.chance(0.5) else b.op("ReduceMean", [x], axes=(2, 3), keepdims=1)
            y = self.act(b.conv(y, hidden), inner)
            y = b.conv(y, channels)
        y = b.op("HardSigmoid", [y], alpha=1 / 6) if gate == "HardSigmoid" else b.op(gate, [y])
        if form == "linear":
            y = b.op("Reshape", [y], shape=(self.batch, channels, 1, 1))
        x = b.op("Mul", [x, y] if self.chance(0.5) else [y, x])
        self.spend(0, x)
        return x

    def shuffle(self, x: str, groups: int) -> str:
        """Channels interleaved across groups."""
        n, c, h, w = self.b.shape(x)
        x = self.b.op("Reshape", [x], shape=(n, groups, c // groups, h, w))
        x = self.b.op("Transpose", [x], perm=(0, 2, 1, 3, 4))
        self.spend(0, x, x)
        return self.b.op("Reshape", [x], shape=(n, c, h, w))

    def rearrange(self, x: str) -> str:
        """An image whose elements lie in another order, by a permutation, or cut into patches and joined again."""
        height, width = self.b.shape(x)[2:]
        return self.permute(x) if height % 2 or width % 2 or self.chance(0.6) else self.fold(self.unfold(x), height)

    def permute(self, x: str) -> str:
        """Channels and places in another order: a permutation of the axes into which an image can be cut."""
        n, c, h, w = shape = self.b.shape(x)
        parts: list[int] = [n]
        for size in (c, h, w):
            factor = self.pick(1, *(factor for factor in (2, 3, 4, 7, 8) if size % factor == 0))
            parts += [size // factor, factor] if factor > 1 else [size]
        order = (0, *(1 + int(axis) for axis in self._rng.permutation(len(parts) - 1)))
        x = self.b.op("Transpose", [self.b.op("Reshape", [x], shape=tuple(parts))], perm=order)
        self.spend(0, x, x)
        return self.b.op("Reshape", [x], shape=shape)

    def unfold(self, x: str) -> str:
        """Patches of 2x2 pixels, [N, C, 4, patches], picked by Gather."""
        n, c, h, w = self.b.shape(x)
        for axis, size in ((2, h), (4, w)):
            places = np.arange(size, dtype=np.int64).reshape(size // 2, 2).T
            x = self.b.op("Gather", [x, self.b.constant("places", places)], axis=axis)
            self.spend(20 * prod(self.b.shape(x)), x)
        x = self.b.op("Transpose", [x], perm=(0, 1, 2, 4, 3, 5))
        self.spend(0, x)
        return self.b.op("Reshape", [x], shape=(n, c, 4, h * w // 4))

    def fold(self, x: str, height: int) -> str:
        """An image of this height from patches as `unfold` makes them."""
        n, c, pixels, patches = self.b.shape(x)
        x = self.b.op("Reshape", [x], shape=(n, c * pixels, patches))
        x = self.b.op("Col2Im", [x], image_shape=(height, pixels * patches // height), block_shape=(2, 2), strides=(2, 2))
        self.spend(20 * prod(self.b.shape(x)), x)
        return x

    def group_norm(self, x: str, groups: int) -> str:
        """Normalisation over groups of channels, as exported: an instance normalisation between two reshapes, then scale and shift.

        Args:
            x: [N, C, H, W].
            groups: as many as that at most; so many that they divide the channels.
        """
        b, shape = self.b, self.b.shape(x)
        groups = gcd(groups, shape[1])
        ones = b.constant("ones", np.ones(groups, np.float32))
        zeros = b.constant("zeros", np.zeros(groups, np.float32))
        x = b.op("Reshape", [x], shape=(shape[0], groups, -1))
        x = b.op("Reshape", [b.op("InstanceNormalization", [x, ones, zeros])], shape=shape)
        x = b.op("Mul", [x, b.weight("scale", (shape[1], 1, 1), "ones")])
        self.spend(0, x, x)
        return self.add(x, b.weight("shift", (shape[1], 1, 1), "zeros"))

    def head(self, x: str) -> Graph:
        """From an image to class scores, in one of the forms that exported networks end in."""
        b, (n, c, *size) = self.b, self.b.shape(x)
        form = self.pick("gap", "gap", "mean", "mean-keep", "window", "conv", "hidden", "flat")
        if form == "conv":
            x = b.op("GlobalAveragePool", [b.conv(x, self.classes)])
            return self.finish(b.op(self.pick("Flatten", "Flatten"), [x]) if self.chance(0.7) else b.op("Reshape", [x], shape=(n, -1)))
        if form == "flat" and c * prod(size) <= 25_088:
            return self.finish(b.linear(b.op("Flatten", [x]), self.classes))
        if form == "mean":
            x = b.op("ReduceMean", [x], axes=(2, 3), keepdims=0)
        elif form == "mean-keep":
            x = b.op("Reshape", [b.op("ReduceMean", [x], axes=(2, 3), keepdims=1)], shape=(n, c))
        elif form == "window":
            x = b.op("Reshape", [b.op("AveragePool", [x], kernel_shape=tuple(size))], shape=(n, c))
        else:
            x = b.op("Flatten", [b.op("GlobalAveragePool", [x])])
        if form == "hidden":
            x = self.act(b.linear(x, self.round(self.between(128, 2048))), self.pick(None, "relu", "tanh"))
        return self.finish(b.linear(x, self.classes))

    def finish(self, scores: str) -> Graph:
        """The graph, sometimes behind a Softmax."""
        return self.b.finish(self.b.op("Softmax", [scores], axis=-1) if self.chance(0.15) else scores)

    # Layers of tokens.

    def tokens(self, x: str) -> str:
        """An image [N, C, H, W] as tokens [N, H W, C]."""
        n, c, h, w = self.b.shape(x)
        x = self.b.op("Transpose", [self.b.op("Reshape", [x], shape=(n, c, h * w))], perm=(0, 2, 1))
        self.spend(0, x)
        return x

    def picture(self, x: str, height: int) -> str:
        """Tokens as an image of this height."""
        n, count, c = self.b.shape(x)
        x = self.b.op("Transpose", [x], perm=(0, 2, 1))
        self.spend(0, x)
        return self.b.op("Reshape", [x], shape=(n, c, height, count // height))

    def linear(self, x: str, features: int, *, bias: bool = True) -> str:
        """A fully connected layer of the last axis: MatMul and Add."""
        b = self.b
        weight = b.weight("w", (b.shape(x)[-1], features))
        x = b.op("MatMul", [x, weight])
        self.spend(2 * prod(b.shape(x)) * b.shape(weight)[0], x)
        if bias:
            shift = b.weight("b", (features,), "zeros")
            x = b.op("Add", [x, shift] if self.activations[0] == "gelu-new" else [shift, x])
        return x

    def layer_norm(self, x: str) -> str:
        """Normalisation of the last axis."""
        b, width = self.b, self.b.shape(x)[-1:]
        x = b.op("LayerNormalization", [x, b.weight("scale", width, "ones"), b.weight("shift", width, "zeros")], axis=-1)
        self.spend(0, x, x)
        return x

    def rms_norm(self, x: str) -> str:
        """Normalisation of the last axis by its mean square, spelled out as exporters do."""
        b = self.b
        y = b.op("ReduceMean", [b.op("Pow", [x, b.constant("c", scalar(2))])], axes=(-1,), keepdims=1)
        y = b.op("Sqrt", [b.op("Add", [y, b.constant("c", scalar(1e-6))])])
        x = b.op("Mul", [x, b.op("Reciprocal", [y])]) if self.chance(0.5) else b.op("Div", [x, y])
        x = b.op("Mul", [b.weight("scale", b.shape(x)[-1:], "ones"), x])
        self.spend(0, x, x, x)
        return x

    def product(self, a: str, c: str) -> str:
        """A matrix product of two activations."""
        x = self.b.op("MatMul", [a, c])
        self.spend(2 * prod(self.b.shape(x)) * self.b.shape(a)[-1], x)
        return x

    def split(self, x: str, parts: int, axis: int) -> Sequence[str]:
        """Equal parts along an axis."""
        size = self.b.shape(x)[axis] // parts
        return self.b.ops("Split", [x], outputs=parts, axis=axis, split=(size,) * parts)

    def take(self, x: str, index: int, axis: int) -> str:
        """One slice of an axis, which vanishes."""
        return self.b.op("Gather", [x, self.b.constant("index", np.array(index, np.int64))], axis=axis)


Family = Callable[[Sketch], Graph]
