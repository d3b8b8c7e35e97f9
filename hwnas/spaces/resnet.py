"""Residual networks (He et al., 2015, arXiv:1512.03385), with grouped convolutions as in ResNeXt (Xie et al., 2016, arXiv:1611.05431)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from hwnas.ir import GraphBuilder, TensorSpec
from hwnas.spaces.base import Choice, Gene, Genotype, Layer
from hwnas.spaces.layers import Classifier, FactoredSpace, Part, Style, widths, window

MULTIPLIERS = (0.25, 0.5, 0.75, 1.0)
GROUPS = (1, 2, 4, 8)  # all widths are multiples of 8, so that every one of them fits; 8 groups of 8 channels are a depthwise convolution
BOTTLENECK = 4


@dataclass(frozen=True, slots=True)
class Stem:
    """What meets the image.

    Attributes:
        kind: `7x7`: a convolution with stride 2 and a max pooling with stride 2, as in ResNet; `3x3`: a convolution with stride 2 alone,
            as in RegNet.
    """

    style: Style
    channels: int
    kind: Literal["3x3", "7x7"]

    def emit(self, b: GraphBuilder, x: str) -> str:
        """See `Layer.emit`."""
        if self.kind == "3x3":
            return self.style.conv(b, x, self.channels, kernel=3, stride=2)
        x = self.style.conv(b, x, self.channels, kernel=7, stride=2)
        return b.op("MaxPool", [x], kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))

    def output(self, spec: TensorSpec) -> TensorSpec:
        """See `Layer.output`."""
        spec = window(spec, self.channels, 2)
        return spec if self.kind == "3x3" else window(spec, self.channels, 2)


@dataclass(frozen=True, slots=True)
class Residual:
    """Convolutions beside a shortcut, which is a strided 1x1 convolution where the shapes differ.

    Attributes:
        kind: `basic`: two 3x3 convolutions; `bottleneck`: 1x1, 3x3, and 1x1 to four times the width.
        width: channels of the 3x3 convolutions.
        stride: of the first 3x3 convolution.
        groups: of the 3x3 convolutions.
    """

    style: Style
    kind: Literal["basic", "bottleneck"]
    width: int
    stride: int
    groups: int

    @property
    def channels(self) -> int:
        """Channels of the output."""
        return self.width * (BOTTLENECK if self.kind == "bottleneck" else 1)

    def emit(self, b: GraphBuilder, x: str) -> str:
        """See `Layer.emit`."""
        conv = self.style.conv
        if self.kind == "basic":
            y = conv(b, x, self.width, kernel=3, stride=self.stride, groups=self.groups)
            y = conv(b, y, self.width, kernel=3, groups=self.groups, active=False)
        else:
            y = conv(b, x, self.width)
            y = conv(b, y, self.width, kernel=3, stride=self.stride, groups=self.groups)
            y = conv(b, y, self.channels, active=False)
        if self.stride > 1 or b.shape(x)[1] != self.channels:
            x = conv(b, x, self.channels, stride=self.stride, active=False)
        return self.style.activate(b, b.op("Add", [y, x]))

    def output(self, spec: TensorSpec) -> TensorSpec:
        """See `Layer.output`."""
        return window(spec, self.channels, self.stride)


class ResNetSpace(FactoredSpace):
    """Residual networks: block kind, depth, width and groups per stage; stem, normalisation and resolution per network.

    Widths are channel counts: what the multipliers 0.25, 0.5, 0.75 and 1 of a stage's base give in multiples of 8. The first stage
    strides behind a `3x3` stem only, so that both stems reduce the image alike.
    """

    def __init__(
        self,
        *,
        name: str = "resnet",
        num_classes: int = 1000,
        channels: int = 3,
        resolutions: Sequence[int] = (96, 112, 128, 160, 192, 224),
        stems: Sequence[int] = (16, 32, 48, 64),
        bases: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (1, 2, 3, 4),
        reference: Mapping[str, Choice] | None = None,
    ) -> None:
        """Lays the genes out.

        Args:
            name: under which results are stored.
            num_classes: of the classifier.
            channels: of the image.
            resolutions: edge lengths of the square image, in pixels.
            stems: channel counts of the first convolution, multiples of 8.
            bases: the widest width of each stage.
            depths: numbers of blocks that a stage may have.
            reference: choices of the reference network that differ from the default (two basic blocks a stage, no groups, batch
                normalisation, `7x7` stem, the largest of everything else: ResNet-18).
        """
        self.name, self.num_classes, self.channels = name, num_classes, channels
        self._stages, self._max_depth = len(bases), max(depths)
        self.genes = (
            Gene("resolution", tuple(resolutions)),
            Gene("norm", ("batch", "none")),
            Gene("stem", ("3x3", "7x7")),
            Gene("stem_width", tuple(stems)),
            *(gene for i, base in enumerate(bases) for gene in self._stage_genes(i, base, tuple(depths))),
        )
        usual: dict[str, Choice] = {"resolution": max(resolutions), "norm": "batch", "stem": "7x7", "stem_width": max(stems)}
        for i, base in enumerate(bases):
            usual |= {f"kind_{i}": "basic", f"depth_{i}": 2, f"width_{i}": widths(base, (1.0,))[0], f"groups_{i}": 1}
        self._reference = self.canonical(self.encode(usual | dict(reference or {})))

    @staticmethod
    def _stage_genes(i: int, base: int, depths: tuple[int, ...]) -> Iterator[Gene]:
        yield Gene(f"kind_{i}", ("basic", "bottleneck"))
        yield Gene(f"depth_{i}", depths)
        yield Gene(f"width_{i}", widths(base, MULTIPLIERS))
        yield Gene(f"groups_{i}", GROUPS)

    def reference(self) -> Genotype:
        """The network that relative limits refer to; see the constructor."""
        return self._reference

    def input_shape(self, genotype: Genotype, batch: int = 1) -> tuple[int, ...]:
        """Shape [batch, channels, resolution, resolution]."""
        resolution = int(self.genes[0].choices[genotype[0]])
        return (batch, self.channels, resolution, resolution)

    def parts(self) -> Iterator[Part]:
        """Stem, the slots of all stages, classifier."""
        yield Part(("norm", "stem", "stem_width"), lambda arch: [Stem(Style(arch["norm"], "relu"), arch["stem_width"], arch["stem"])])
        for i in range(self._stages):
            for j in range(self._max_depth):
                names = (f"depth_{i}", f"kind_{i}", f"width_{i}", f"groups_{i}")
                stem = ("stem",) if i == j == 0 else ()  # the first block strides behind one of the stems only
                yield Part(("norm", *stem, *names), partial(_slot, names, j, 2 if i > 0 and j == 0 else 1))
        yield Part((), lambda _: [Classifier(self.num_classes)])


def _slot(names: Sequence[str], slot: int, stride: int, arch: Mapping[str, Any]) -> list[Layer]:
    """The block of a stage at this index, where the stage is deep enough to have it."""
    depth, kind, width, groups = (arch[name] for name in names)
    stride = 2 if arch.get("stem") == "3x3" else stride
    return [Residual(Style(arch["norm"], "relu"), kind, width, stride, groups)] if slot < depth else []


def small(*, num_classes: int = 10) -> ResNetSpace:
    """`resnet-small`: the same kinds of genes at 24 to 64 pixels, three stages and few channels; trains on a CPU in seconds."""
    return ResNetSpace(
        name="resnet-small",
        num_classes=num_classes,
        resolutions=(24, 32, 40, 48, 64),
        stems=(8, 16, 24, 32),
        bases=(32, 64, 128),
        depths=(1, 2, 3),
        reference={"resolution": 48},
    )
