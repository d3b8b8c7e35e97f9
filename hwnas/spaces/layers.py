"""Spaces whose networks are chains of layers, and the pieces that their layers share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from hwnas.errors import GraphError
from hwnas.ir import Graph, GraphBuilder, TensorSpec
from hwnas.spaces.base import Block, Genotype, Layer, SearchSpace

Norm = Literal["batch", "none"]

ACTIVATIONS: Mapping[str, Callable[[GraphBuilder, str], str]] = {
    "relu": lambda b, x: b.op("Relu", [x]),
    "hardswish": lambda b, x: b.op("HardSwish", [x]),
    "swish": lambda b, x: b.op("Mul", [x, b.op("Sigmoid", [x])]),
    "clip6": lambda b, x: b.op("Clip", [x], min=0.0, max=6.0),
}


def round_channels(channels: float) -> int:
    """The nearest multiple of 8, halves up, at least 8: channel counts that fill a vector register.

    >>> [round_channels(c) for c in (3, 12, 18, 30)]
    [8, 16, 16, 32]
    """
    return max(8, int(channels / 8 + 0.5) * 8)


def widths(base: int, multipliers: Iterable[float]) -> tuple[int, ...]:
    """The different channel counts that width multipliers give, in ascending order.

    >>> widths(24, (0.5, 0.75, 1.0, 1.25))
    (16, 24, 32)
    """
    return tuple(sorted({round_channels(base * multiplier) for multiplier in multipliers}))


def window(spec: TensorSpec, channels: int, stride: int) -> TensorSpec:
    """What a convolution or pooling with an odd kernel and "same" padding makes of a [N, C, H, W] input."""
    batch, _, height, width = spec.shape
    return TensorSpec((batch, channels, (height - 1) // stride + 1, (width - 1) // stride + 1), spec.dtype)


@dataclass(frozen=True, slots=True)
class Style:
    """What all layers of a network share.

    Attributes:
        norm: `batch` puts a BatchNormalization behind every convolution; `none` gives the convolutions a bias instead, as if the
            normalisation had been folded into them.
        activation: a key of `ACTIVATIONS`.
    """

    norm: Norm
    activation: str

    def activate(self, b: GraphBuilder, x: str) -> str:
        """The activation."""
        return ACTIVATIONS[self.activation](b, x)

    def conv(
        self, b: GraphBuilder, x: str, channels: int, *, kernel: int = 1, stride: int = 1, groups: int = 1, active: bool = True
    ) -> str:
        """A convolution with its normalisation and, unless told not to, its activation."""
        x = b.conv(x, channels, kernel=kernel, stride=stride, groups=groups, bias=self.norm == "none")
        x = b.batch_norm(x) if self.norm == "batch" else x
        return self.activate(b, x) if active else x


@dataclass(frozen=True, slots=True)
class Conv:
    """A convolution with its normalisation and activation: a stem, or the widening before a classifier."""

    style: Style
    channels: int
    kernel: int
    stride: int

    def emit(self, b: GraphBuilder, x: str) -> str:
        """See `Layer.emit`."""
        return self.style.conv(b, x, self.channels, kernel=self.kernel, stride=self.stride)

    def output(self, spec: TensorSpec) -> TensorSpec:
        """See `Layer.output`."""
        return window(spec, self.channels, self.stride)


@dataclass(frozen=True, slots=True)
class Classifier:
    """Global average pooling and a fully connected layer."""

    classes: int

    def emit(self, b: GraphBuilder, x: str) -> str:
        """See `Layer.emit`."""
        return b.linear(b.op("Flatten", [b.op("GlobalAveragePool", [x])]), self.classes)

    def output(self, spec: TensorSpec) -> TensorSpec:
        """See `Layer.output`."""
        return TensorSpec((spec.shape[0], self.classes), spec.dtype)


class LayeredSpace(SearchSpace):
    """A space whose networks are layers one behind the other.

    A subclass declares `genes`, `layers` and `input_shape`; `graph` emits exactly the blocks that `blocks` lists.
    """

    @abstractmethod
    def layers(self, arch: Mapping[str, Any]) -> Iterable[Layer]:
        """The layers of the network that makes these choices, from its input to its output."""

    @abstractmethod
    def input_shape(self, genotype: Genotype, batch: int = 1) -> tuple[int, ...]:
        """Shape [batch, C, H, W] of the network's input."""

    def _chain(self, genotype: Genotype, batch: int) -> Iterator[tuple[Layer, TensorSpec]]:
        """Every layer with the spec of what it reads."""
        spec = TensorSpec(self.input_shape(genotype, batch))
        for layer in self.layers(self.decode(genotype)):
            yield layer, spec
            spec = layer.output(spec)

    def blocks(self, genotype: Genotype, *, batch: int = 1) -> tuple[Block, ...]:
        """One block per layer."""
        return tuple(Block(layer, spec) for layer, spec in self._chain(genotype, batch))

    def graph(self, genotype: Genotype, *, batch: int = 1) -> Graph:
        """The network: its blocks, emitted in order.

        Raises:
            GraphError: when a layer's `output` does not say what its `emit` writes; names the layer.
        """
        b = GraphBuilder(self.name)
        x = b.input("x", self.input_shape(genotype, batch))
        for layer, spec in self._chain(genotype, batch):
            x = layer.emit(b, x)
            if b.shape(x) != layer.output(spec).shape:
                raise GraphError(f"{layer} emits {list(b.shape(x))}, and its output() says {list(layer.output(spec).shape)}")
        return b.finish(x)


@dataclass(frozen=True, slots=True)
class Run:
    """Layers one behind the other as one layer; a run of none writes nothing, its output is its input."""

    layers: tuple[Layer, ...]

    def emit(self, b: GraphBuilder, x: str) -> str:
        """See `Layer.emit`."""
        for layer in self.layers:
            x = layer.emit(b, x)
        return x

    def output(self, spec: TensorSpec) -> TensorSpec:
        """See `Layer.output`."""
        for layer in self.layers:
            spec = layer.output(spec)
        return spec


@dataclass(frozen=True, slots=True)
class Part:
    """A place in the networks of a space, and the genes that decide what stands there.

    Attributes:
        genes: names of all genes that its layers depend on.
        layers: from the choices of these genes, and no others, to the layers at this place; often one, none where a network ends its
            stage earlier.
    """

    genes: tuple[str, ...]
    layers: Callable[[Mapping[str, Any]], Iterable[Layer]]


class FactoredSpace(LayeredSpace):
    """A layered space that says which genes each of its layers depends on, so that a population is divided into blocks as a matrix.

    A subclass declares `genes`, `parts` and `input_shape`. The last part makes a layer whatever the choices.

    Attributes:
        input_genes: names of the genes that `input_shape` depends on.
    """

    input_genes: tuple[str, ...] = ("resolution",)

    @abstractmethod
    def parts(self) -> Iterable[Part]:
        """The places of a network, from its input to its output."""

    @cached_property
    def places(self) -> Sequence[Part]:
        """The parts, made once."""
        return tuple(self.parts())

    def layers(self, arch: Mapping[str, Any]) -> Iterator[Layer]:
        """The layers of all parts; each is shown the choices of its own genes alone, so that it cannot depend on others."""
        for part in self.places:
            yield from part.layers({name: arch[name] for name in part.genes})
