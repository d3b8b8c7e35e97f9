"""A search space of one's own: plain convolutional networks of one to four stages."""

from hwnas.ir import Graph, GraphBuilder
from hwnas.spaces import Gene, Genotype, SearchSpace

STAGES = (1, 2, 3, 4)


class MySpace(SearchSpace):
    """Every stage is some convolutions and a max pooling; how many stages there are is a gene as well."""

    name = "plain-cnn"
    num_classes = 10
    genes = (
        Gene("resolution", (24, 32, 48)),
        Gene("stages", STAGES),
        # A stage's genes matter only in networks that have the stage: hwnas treats networks that differ in nothing else as one.
        *(Gene(f"width_{i}", (8, 16, 32, 64), when=("stages", STAGES[i:])) for i in range(4)),
        *(Gene(f"kernel_{i}", (3, 5), when=("stages", STAGES[i:])) for i in range(4)),
        *(Gene(f"convs_{i}", (1, 2), when=("stages", STAGES[i:])) for i in range(4)),
    )

    def graph(self, genotype: Genotype, *, batch: int = 1) -> Graph:
        """The network that a genotype stands for."""
        arch = self.decode(genotype)
        b = GraphBuilder(self.name)
        x = b.input("x", (batch, 3, arch["resolution"], arch["resolution"]))
        for i in range(arch["stages"]):
            for _ in range(arch[f"convs_{i}"]):
                x = b.conv(x, arch[f"width_{i}"], kernel=arch[f"kernel_{i}"], bias=False)
                x = b.op("Relu", [b.batch_norm(x)])
            x = b.op("MaxPool", [x], kernel_shape=(2, 2), strides=(2, 2))
        x = b.op("Flatten", [b.op("GlobalAveragePool", [x])])
        return b.finish(b.linear(x, self.num_classes))
