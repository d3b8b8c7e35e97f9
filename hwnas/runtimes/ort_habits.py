"""One small network for every pattern of `hwnas.runtimes.fusions`, which shows whether a runtime knows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import pi, sqrt

import numpy as np

from hwnas.ir import Graph, GraphBuilder

Build = Callable[[GraphBuilder, str], str]

PLAIN_CHANNELS = 18  # too many to be read as they are, and no whole units of a re-order: such a convolution stays plain
IMAGE, SEQUENCE, MATRIX = (1, 16, 4, 4), (1, 4, 8), (4, 8)


@dataclass(frozen=True, slots=True)
class Habit:
    """A network that a pattern rewrites, and how that shows: in how often an operator is left.

    Attributes:
        build: from the network's input to its output.
        op: the operator.
        left: how often it is left where the pattern is known.
        shape: of the input.
        blocks: whether the pattern belongs to the blocked layout.
    """

    build: Build
    op: str
    left: int
    shape: tuple[int, ...] = IMAGE
    blocks: bool = False

    def graph(self) -> Graph:
        """The network, between two operators that fuse with nothing: some rules spare what a network is given and returns."""
        b = GraphBuilder("habit")
        inner = b.op("Softsign", [b.input("x", self.shape)])
        return b.finish(b.op("Abs", [self.build(b, inner)]))


def _number(b: GraphBuilder, value: float) -> str:
    return b.constant("number", np.array(value, np.float32))


def _width(b: GraphBuilder, x: str) -> int:
    return b.shape(x)[-1]


def _linear(b: GraphBuilder, x: str) -> str:
    return b.op("MatMul", [x, b.weight("w", (_width(b, x), 6))])


def _swapped(b: GraphBuilder, x: str) -> str:
    rank = len(b.shape(x))
    return b.op("Transpose", [x], perm=(*range(rank - 2), rank - 1, rank - 2))


def _other(b: GraphBuilder, x: str) -> str:
    """Another value of the same shape."""
    return b.op("Elu", [x])


def _gelu(b: GraphBuilder, x: str) -> str:
    erf = b.op("Erf", [b.op("Div", [x, _number(b, sqrt(2))])])
    return b.op("Mul", [b.op("Mul", [x, _number(b, 0.5)]), b.op("Add", [erf, _number(b, 1)])])


def _fast_gelu(b: GraphBuilder, x: str) -> str:
    cubic = b.op("Mul", [b.op("Pow", [x, _number(b, 3)]), _number(b, 0.044715)])
    tanh = b.op("Tanh", [b.op("Mul", [b.op("Add", [x, cubic]), _number(b, sqrt(2 / pi))])])
    return b.op("Mul", [b.op("Mul", [x, _number(b, 0.5)]), b.op("Add", [tanh, _number(b, 1)])])


def _deviation(b: GraphBuilder, x: str) -> str:
    squares = b.op("ReduceMean", [b.op("Pow", [x, _number(b, 2)])], axes=(-1,))
    return b.op("Sqrt", [b.op("Add", [squares, _number(b, 1e-5)])])


def _layer_norm(b: GraphBuilder, x: str) -> str:
    centred = b.op("Sub", [x, b.op("ReduceMean", [x], axes=(-1,))])
    scaled = b.op("Mul", [b.op("Div", [centred, _deviation(b, centred)]), b.weight("scale", (_width(b, x),))])
    return b.op("Add", [scaled, b.weight("shift", (_width(b, x),))])


def _normalized(b: GraphBuilder, x: str) -> str:
    return b.op("LayerNormalization", [x, b.weight("scale", (_width(b, x),)), b.weight("shift", (_width(b, x),))])


def _biased_skip(b: GraphBuilder, x: str) -> str:
    product = b.op("MatMul", [x, b.op("Tanh", [b.input("y", (1, _width(b, x), _width(b, x)))])])
    return _normalized(b, b.op("Add", [_other(b, x), b.op("Add", [b.weight("bias", (_width(b, x),)), product])]))


def _channels(b: GraphBuilder, x: str) -> str:
    return b.weight("channels", (1, b.shape(x)[1], 1, 1))


def _pooled(b: GraphBuilder, x: str) -> str:
    return b.op("MaxPool", [x], kernel_shape=(1, 1))


def _halves(b: GraphBuilder, x: str) -> str:
    return b.op("Mul", [b.op("Slice", [x], starts=(start,), ends=(start + 4,), axes=(2,)) for start in (0, 4)])


def _focus(b: GraphBuilder, x: str) -> str:
    parts = [
        b.op("Slice", [x], starts=(row, column), ends=b.shape(x)[2:], axes=(2, 3), steps=(2, 2)) for row in (0, 1) for column in (0, 1)
    ]
    return b.op("Concat", parts, axis=1)


def _upsampled(b: GraphBuilder, x: str) -> str:
    return b.op("Resize", [_pooled(b, x)], scales=(1.0, 1.0, 2.0, 2.0), mode="linear", coordinate_transformation_mode="half_pixel")


def _enlarged(b: GraphBuilder, x: str) -> str:
    """Of an image with its channels last, by an operator that wants them first."""
    y = b.op("Resize", [b.op("Transpose", [x], perm=(0, 3, 1, 2))], scales=(1.0, 1.0, 2.0, 2.0), mode="linear")
    return b.op("Transpose", [y], perm=(0, 2, 3, 1))


def _chosen(b: GraphBuilder, x: str) -> str:
    return b.op("Where", [b.op("Not", [b.op("Greater", [x, _number(b, 0)])]), x, _other(b, x)])


def _plain_conv(b: GraphBuilder, x: str) -> str:
    return b.conv(b.conv(x, PLAIN_CHANNELS), PLAIN_CHANNELS)


def _up(b: GraphBuilder, x: str) -> str:
    return b.op("ConvTranspose", [x, b.weight("w", (b.shape(x)[1], 4, 2, 2))])


def _gemm(b: GraphBuilder, x: str) -> str:
    return b.op("Gemm", [x, b.weight("w", (_width(b, x), 6))])


HABITS: Mapping[str, Habit] = {
    "BiasGelu": Habit(lambda b, x: b.op("Gelu", [b.op("Add", [x, b.weight("bias", (8,))])]), "Add", left=0, shape=SEQUENCE),
    "BiasSkipLayerNormalization": Habit(_biased_skip, "Add", left=0, shape=SEQUENCE),
    "BlockedResize": Habit(_upsampled, "Upsample", left=1, blocks=True),
    "BlockedScale": Habit(lambda b, x: b.op("Mul", [_pooled(b, x), _channels(b, x)]), "Conv", left=1, blocks=True),
    "BlockedTranspose": Habit(lambda b, x: b.op("Transpose", [_pooled(b, x)], perm=(0, 2, 3, 1)), "Transpose", left=0, blocks=True),
    "CommonSubexpression": Habit(lambda b, x: b.op("Mul", [_other(b, x), _other(b, x)]), "Elu", left=1),
    "ConvAdd": Habit(lambda b, x: b.op("Add", [b.conv(x, 16), _channels(b, x)]), "Add", left=0),
    "ConvMul": Habit(lambda b, x: b.op("Mul", [b.conv(x, 16), _number(b, 0.5)]), "Mul", left=0),
    "ConvNorm": Habit(lambda b, x: b.batch_norm(b.conv(x, 16)), "BatchNormalization", left=0),
    "ConvResidual": Habit(lambda b, x: b.op("Add", [_plain_conv(b, x), b.op("Elu", [_plain_conv(b, x)])]), "Add", left=0),
    "ConvTransposeNorm": Habit(lambda b, x: b.batch_norm(_up(b, x)), "BatchNormalization", left=0),
    "DivMul": Habit(lambda b, x: b.op("Mul", [_other(b, x), b.op("Div", [_number(b, 1), x])]), "Mul", left=0),
    "FastGelu": Habit(_fast_gelu, "Tanh", left=0, shape=SEQUENCE),
    "Gelu": Habit(_gelu, "Erf", left=0, shape=SEQUENCE),
    "GemmSum": Habit(lambda b, x: b.op("Sum", [_gemm(b, x), _other(b, b.input("y", (4, 6)))]), "Sum", left=0, shape=MATRIX),
    "GemmTranspose": Habit(lambda b, x: _gemm(b, _swapped(b, x)), "Transpose", left=0, shape=MATRIX),
    "LateTransposes": Habit(_enlarged, "Transpose", left=0),
    "LayerNormalization": Habit(_layer_norm, "ReduceMean", left=0, shape=SEQUENCE),
    "MatMulAdd": Habit(lambda b, x: b.op("Add", [_linear(b, x), b.weight("bias", (6,))]), "Add", left=0, shape=SEQUENCE),
    "MatMulNorm": Habit(lambda b, x: b.batch_norm(_linear(b, x)), "BatchNormalization", left=0, shape=MATRIX),
    "MatMulScale": Habit(lambda b, x: b.op("Mul", [_linear(b, x), _number(b, 0.5)]), "Mul", left=0, shape=SEQUENCE),
    "MatMulTranspose": Habit(lambda b, x: b.op("MatMul", [x, _swapped(b, _other(b, x))]), "Transpose", left=0, shape=SEQUENCE),
    "Noop": Habit(lambda b, x: b.op("Add", [x, _number(b, 0)]), "Add", left=0),
    "NotWhere": Habit(_chosen, "Not", left=0),
    "Pad": Habit(lambda b, x: b.conv(b.op("Pad", [x], pads=(0, 0, 1, 1, 0, 0, 1, 1)), 16), "Pad", left=0),
    "QuickGelu": Habit(lambda b, x: b.op("Mul", [x, b.op("Sigmoid", [x])]), "Sigmoid", left=0),
    "RMSNormalization": Habit(
        lambda b, x: b.op("Mul", [b.op("Div", [x, _deviation(b, x)]), b.weight("scale", (8,))]), "ReduceMean", left=0, shape=SEQUENCE
    ),
    "ReluClip": Habit(lambda b, x: b.op("Clip", [b.op("Relu", [x])], min=-1.0, max=6.0), "Relu", left=0),
    "ReshapeReshape": Habit(lambda b, x: b.op("Reshape", [b.op("Reshape", [x], shape=(16, 16))], shape=(256,)), "Reshape", left=1),
    "SkipLayerNormalization": Habit(lambda b, x: _normalized(b, b.op("Add", [x, _other(b, x)])), "Add", left=0, shape=SEQUENCE),
    "SlicesToSplit": Habit(_halves, "Split", left=1, shape=SEQUENCE),
    "SpaceToDepth": Habit(_focus, "SpaceToDepth", left=1),
    "Transposes": Habit(lambda b, x: _swapped(b, b.op("Relu", [_swapped(b, x)])), "Transpose", left=0),
}
