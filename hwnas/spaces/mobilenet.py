"""Inverted-bottleneck networks in the manner of MobileNetV3 (Howard et al., 2019, arXiv:1905.02244) and its searched relatives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from hwnas.errors import UsageError
from hwnas.ir import GraphBuilder, TensorSpec
from hwnas.spaces.base import Choice, Gene, Genotype, Layer
from hwnas.spaces.layers import ACTIVATIONS, Classifier, Conv, FactoredSpace, Part, Style, widths, window

KERNELS = (3, 5, 7)
EXPANSIONS = (1, 3, 4, 6)
MULTIPLIERS = (0.5, 0.75, 1.0, 1.25)


@dataclass(frozen=True, slots=True)
class MBConv:
    """Expand, filter depthwise, optionally gate, project; a residual connection where shapes allow it.

    Attributes:
        channels: of the output.
        expansion: channels inside, per channel of the input; 1 leaves the expanding convolution out.
        gated: whether a squeeze-excite gate scales the channels (with a quarter of them inside, at least 8).
    """

    style: Style
    channels: int
    kernel: int
    stride: int
    expansion: int
    gated: bool

    def emit(self, b: GraphBuilder, x: str) -> str:
        """See `Layer.emit`."""
        channels = b.shape(x)[1]
        inside = channels * self.expansion
        y = self.style.conv(b, x, inside) if self.expansion > 1 else x
        y = self.style.conv(b, y, inside, kernel=self.kernel, stride=self.stride, groups=inside)
        y = _gate(b, y, inside) if self.gated else y
        y = self.style.conv(b, y, self.channels, active=False)
        return b.op("Add", [y, x]) if self.stride == 1 and channels == self.channels else y

    def output(self, spec: TensorSpec) -> TensorSpec:
        """See `Layer.output`."""
        return window(spec, self.channels, self.stride)


def _gate(b: GraphBuilder, x: str, channels: int) -> str:
    squeezed = b.op("Relu", [b.conv(b.op("GlobalAveragePool", [x]), max(8, channels // 4))])
    gate = b.op("HardSigmoid", [b.conv(squeezed, channels)], alpha=1 / 6, beta=0.5)
    return b.op("Mul", [x, gate])


@dataclass(frozen=True, slots=True)
class Stage:
    """Blocks that work at one resolution.

    Attributes:
        base: channels at width 1.0.
        stride: of the first block.
    """

    base: int
    stride: int

    @property
    def widths(self) -> tuple[int, ...]:
        """The channel counts to choose from."""
        return widths(self.base, MULTIPLIERS)


class MobileNetSpace(FactoredSpace):
    """MBConv networks: kernel, expansion and gate per block; depth and width per stage; the rest per network.

    Widths are channel counts: what the multipliers 0.5, 0.75, 1 and 1.25 of a stage's base give in multiples of 8, each once.
    """

    def __init__(
        self,
        *,
        name: str = "mobilenet",
        num_classes: int = 1000,
        channels: int = 3,
        resolutions: Sequence[int] = (96, 112, 128, 160, 192, 224),
        stems: Sequence[int] = (8, 16, 24, 32),
        stages: Sequence[Stage] = (Stage(16, 1), Stage(24, 2), Stage(40, 2), Stage(80, 2), Stage(112, 1), Stage(192, 2)),
        depths: Sequence[int] = (1, 2, 3, 4),
        heads: Sequence[int] = (480, 640, 960, 1280),
        reference: Mapping[str, Choice] | None = None,
    ) -> None:
        """Lays the genes out.

        Args:
            name: under which results are stored.
            num_classes: of the classifier.
            channels: of the image.
            resolutions: edge lengths of the square image, in pixels.
            stems: channel counts of the first convolution.
            stages: from the image to the head.
            depths: numbers of blocks that a stage may have, ascending.
            heads: channel counts of the last convolution.
            reference: choices of the reference network that differ from the default: two blocks a stage, widths 1.0, 3x3 kernels,
                expansion 4, no gates, `clip6`, batch normalisation, the largest resolution, stem and head. In `mobilenet` that is
                0.58 GFLOPs, about as much as MobileNetV2 and as nine tenths of random networks.

        Raises:
            UsageError: when a stage of stride 1 shares a width with the stage before it: the border between the two would then
                be invisible, and one network would have several canonical genotypes.
        """
        for before, after in pairwise(stages):
            shared = sorted(set(before.widths) & set(after.widths))
            if after.stride == 1 and shared:
                raise UsageError(f"a stage of stride 1 must not share widths with the stage before it, and {shared} are shared")
        self.name, self.num_classes, self.channels, self.stages = name, num_classes, channels, tuple(stages)
        self._max_depth = max(depths)
        self.genes = (
            Gene("resolution", tuple(resolutions)),
            Gene("norm", ("batch", "none")),
            Gene("activation", tuple(ACTIVATIONS)),
            Gene("stem", tuple(stems)),
            Gene("head", tuple(heads)),
            *(gene for i, stage in enumerate(stages) for gene in self._stage_genes(i, stage, tuple(depths))),
        )
        usual: dict[str, Choice] = {"resolution": max(resolutions), "norm": "batch", "activation": "clip6"}
        usual |= {"stem": max(stems), "head": max(heads)}
        for i, stage in enumerate(stages):
            usual |= {f"depth_{i}": sorted(depths)[(len(depths) - 1) // 2], f"width_{i}": widths(stage.base, (1.0,))[0]}
            for j in range(self._max_depth):
                usual |= {f"kernel_{i}_{j}": 3, f"expansion_{i}_{j}": 4, f"gate_{i}_{j}": False}
        self._reference = self.canonical(self.encode(usual | dict(reference or {})))

    @staticmethod
    def _stage_genes(i: int, stage: Stage, depths: tuple[int, ...]) -> Iterator[Gene]:
        yield Gene(f"depth_{i}", depths)
        yield Gene(f"width_{i}", stage.widths)
        for j in range(max(depths)):
            deeper = tuple(depth for depth in depths if depth > j)
            when = (f"depth_{i}", deeper) if deeper != depths else None
            yield Gene(f"kernel_{i}_{j}", KERNELS, when)
            yield Gene(f"expansion_{i}_{j}", EXPANSIONS, when)
            yield Gene(f"gate_{i}_{j}", (False, True), when)

    def reference(self) -> Genotype:
        """The network that relative limits refer to; see the constructor."""
        return self._reference

    def input_shape(self, genotype: Genotype, batch: int = 1) -> tuple[int, ...]:
        """Shape [batch, channels, resolution, resolution]."""
        resolution = int(self.genes[0].choices[genotype[0]])
        return (batch, self.channels, resolution, resolution)

    def parts(self) -> Iterator[Part]:
        """Stem, the slots of all stages, head, classifier."""
        style = ("norm", "activation")
        yield Part((*style, "stem"), lambda arch: [Conv(_style(arch), arch["stem"], kernel=3, stride=2)])
        for i, stage in enumerate(self.stages):
            for j in range(self._max_depth):
                names = (f"depth_{i}", f"width_{i}", f"kernel_{i}_{j}", f"expansion_{i}_{j}", f"gate_{i}_{j}")
                yield Part((*style, *names), partial(_slot, names, j, stage.stride if j == 0 else 1))
        yield Part((*style, "head"), lambda arch: [Conv(_style(arch), arch["head"], kernel=1, stride=1)])
        yield Part((), lambda _: [Classifier(self.num_classes)])


def _style(arch: Mapping[str, Any]) -> Style:
    return Style(arch["norm"], arch["activation"])


def _slot(names: Sequence[str], slot: int, stride: int, arch: Mapping[str, Any]) -> list[Layer]:
    """The block of a stage at this index, where the stage is deep enough to have it."""
    depth, width, kernel, expansion, gate = (arch[name] for name in names)
    return [MBConv(_style(arch), width, kernel, stride, expansion, gate)] if slot < depth else []


def small(*, num_classes: int = 10) -> MobileNetSpace:
    """`mobilenet-small`: the same kinds of genes at 24 to 64 pixels, four stages and few channels; trains on a CPU in seconds."""
    return MobileNetSpace(
        name="mobilenet-small",
        num_classes=num_classes,
        resolutions=(24, 32, 40, 48, 64),
        stems=(8, 16),
        stages=(Stage(12, 1), Stage(20, 2), Stage(32, 2), Stage(64, 2)),
        depths=(1, 2, 3),
        heads=(64, 128, 192, 256),
        reference={"resolution": 48, "stem": 16, "head": 192},
    )
