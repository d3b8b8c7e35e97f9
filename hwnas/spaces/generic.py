"""Carrier networks: random networks of many families, measured so that any network's kernels can be predicted.

Not a space to look for accurate networks in: its networks are made to vary what an operator can meet (sizes, strides, groups, activations,
layouts, neighbours), not to learn anything.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hwnas.ir import Graph
from hwnas.spaces import generic_images, generic_recurrent, generic_tokens
from hwnas.spaces.base import Choice, Gene, Genotype, SearchSpace
from hwnas.spaces.generic_parts import ACTIVATIONS, Coarse, Family, Sketch

FAMILIES: Mapping[str, Family] = {**generic_images.FAMILIES, **generic_tokens.FAMILIES, **generic_recurrent.FAMILIES}
RESOLUTIONS = (32, 48, 64, 72, 80, 96, 112, 127, 128, 144, 150, 160, 176, 192, 208, 224, 227, 240, 256, 288)
FREE_NORM = ("plain", "residual", "grouped", "inverted", "separable", "shuffled", "branched", "decoder", "mixed", "hybrid")


class GenericSpace(SearchSpace):
    """Carrier networks for `hwnas profile --space generic`, on which predictions for any ONNX file stand.

    A genotype states a family and the coarse choices; it seeds a random stream that makes all finer ones (channel counts, kernels, strides,
    groups, the form in which an operator is written). Equal genotypes are equal networks.
    """

    name = "generic"
    searchable = False

    def __init__(self, *, num_classes: int = 1000) -> None:
        """The space, for classifiers of so many classes."""
        self.num_classes = num_classes
        self.genes = (
            Gene("family", tuple(FAMILIES)),
            Gene("resolution", RESOLUTIONS),
            Gene("width", (0.35, 0.5, 0.7, 1.0, 1.4, 2.0)),
            Gene("depth", (1, 2, 3, 4, 6)),
            Gene("activation", (*ACTIVATIONS, "rare")),
            Gene("norm", ("batch", "none"), when=("family", FREE_NORM)),
            Gene("variant", tuple(range(1024))),
        )

    def family(self, genotype: Genotype) -> str:
        """The family's name."""
        return str(self.genes[0].choices[genotype[0]])

    def reference(self) -> Genotype:
        """A residual network of middling size."""
        chosen: dict[str, Choice] = {
            "family": "residual",
            "resolution": 160,
            "width": 0.5,
            "depth": 3,
            "activation": "relu",
            "norm": "batch",
            "variant": 0,
        }
        return self.encode(chosen)

    def input_shape(self, genotype: Genotype, batch: int = 1) -> tuple[int, ...]:
        """Shape [batch, 3, resolution, resolution] of an image, or [batch, tokens] of a text."""
        resolution = int(self.genes[1].choices[genotype[1]])
        if self.family(genotype) == "text":
            return (batch, generic_tokens.tokens_of(resolution))
        return (batch, 3, resolution, resolution)

    def graph(self, genotype: Genotype, *, batch: int = 1) -> Graph:
        """The network that a genotype stands for."""
        self.validate(genotype)
        arch = self.decode(self.canonical(genotype))
        coarse = Coarse(**{key: arch[key] for key in ("resolution", "width", "depth", "activation", "norm")})
        rng = np.random.default_rng(self.canonical(genotype))
        return FAMILIES[arch["family"]](Sketch(f"{self.name}-{arch['family']}", coarse, rng, batch=batch, classes=self.num_classes))
