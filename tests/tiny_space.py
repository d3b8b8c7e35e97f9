"""A space of networks that are measured and trained in no time: as a user would write one, and as `--space` takes it."""

from __future__ import annotations

from hwnas.ir import Graph, GraphBuilder
from hwnas.spaces import Gene, Genotype, SearchSpace


class TinySpace(SearchSpace):
    """One to three strided convolutions on images of 8 to 16 pixels."""

    name = "tiny"
    genes = (
        Gene("resolution", (8, 12, 16)),
        Gene("depth", (1, 2, 3)),
        *(Gene(f"width_{i}", (4, 8, 16), when=("depth", (1, 2, 3)[i:])) for i in range(3)),
        *(Gene(f"kernel_{i}", (3, 5), when=("depth", (1, 2, 3)[i:])) for i in range(3)),
    )

    def graph(self, genotype: Genotype, *, batch: int = 1) -> Graph:
        """The network that a genotype stands for."""
        arch = self.decode(genotype)
        b = GraphBuilder(self.name)
        x = b.input("x", (batch, 1, arch["resolution"], arch["resolution"]))
        for i in range(arch["depth"]):
            x = b.op("Relu", [b.batch_norm(b.conv(x, arch[f"width_{i}"], kernel=arch[f"kernel_{i}"], stride=2, bias=False))])
        x = b.op("Flatten", [b.op("GlobalAveragePool", [x])])
        return b.finish(b.linear(x, self.num_classes))
