"""Random convolutional networks: any channel counts, branches, residuals, gates, copies and activations."""

from __future__ import annotations

from hypothesis import strategies as st

from hwnas.ir import Graph, GraphBuilder
from hwnas.ir.kernel import copied

ACTIVATIONS = ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid", "HardSwish", "Gelu", "Elu", "Mish", "Selu", "Softplus")
CHANNELS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 20, 24, 32)


class Network:
    """Grows a network from random steps; a step is never taken twice on the same values, since equal nodes are merged."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.b = GraphBuilder("network")
        shape = (draw(st.integers(1, 2)), draw(st.sampled_from((1, 3, 4, 8, 16))), draw(st.integers(4, 10)), draw(st.integers(4, 10)))
        self.live = [self.b.input("x", shape)]
        self.taken: set[tuple[str, ...]] = set()

    def pick(self, options: object) -> object:
        return self.draw(st.sampled_from(tuple(options)))

    def once(self, *step: str) -> bool:
        """Whether this step was not taken yet."""
        fresh = step not in self.taken
        self.taken.add(step)
        return fresh

    def alike(self, x: str, axes: slice) -> list[str]:
        """Values of the same sizes along some axes."""
        return [value for value in self.live if self.b.shape(value)[axes] == self.b.shape(x)[axes]]

    def activate(self, x: str) -> str:
        op = self.pick((*ACTIVATIONS, "Clip", "swish", None))
        if op is None or not self.once(op, x):
            return x
        if op == "swish":
            return self.b.op("Mul", [x, self.b.op("Sigmoid", [x])]) if self.once("Sigmoid", x) else x
        return self.b.op(op, [x], **({"min": 0.0, "max": 6.0} if op == "Clip" else {}))

    def norm(self, x: str) -> str:
        return self.b.batch_norm(x) if self.once("norm", x) else x

    def convolution(self, x: str) -> str:
        channels = self.b.shape(x)[1]
        groups = self.pick(g for g in (1, 2, 4, channels) if channels % g == 0)
        out = self.pick([c for c in (*CHANNELS, channels, 2 * channels) if c % groups == 0])
        kernel, stride, dilation = self.pick((1, 3, 5)), self.pick((1, 2)), self.pick((1, 2))
        x = self.b.conv(x, out, kernel=kernel, stride=stride, groups=groups, dilation=dilation, bias=self.draw(st.booleans()))
        return self.activate(self.norm(x) if self.draw(st.booleans()) else x)

    def pool(self, x: str) -> str:
        op = self.pick(("MaxPool", "AveragePool"))
        return self.b.op(op, [x], kernel_shape=(3, 3), pads=(1, 1, 1, 1), strides=(2, 2)) if self.once(op, x) else x

    def combine(self, x: str) -> str:
        op = self.pick(("Add", "Add", "Add", "Mul", "Concat"))
        y = self.pick(value for value in (self.alike(x, slice(None)) if op != "Concat" else self.alike(x, slice(2, 4))))
        if self.b.shape(x)[0] != self.b.shape(y)[0] or not self.once(op, *sorted((x, y))):
            return x
        x = self.b.op(op, [x, y], **({"axis": 1} if op == "Concat" else {}))
        return self.activate(x)

    def gate(self, x: str) -> str:
        if not self.once("GlobalAveragePool", x):
            return x
        squeezed = self.b.op("Relu", [self.b.conv(self.b.op("GlobalAveragePool", [x]), 8)])
        return self.b.op("Mul", [x, self.b.op(self.pick(("Sigmoid", "HardSigmoid")), [self.b.conv(squeezed, self.b.shape(x)[1])])])

    def copy(self, x: str) -> str:
        return self.b.op("Identity", [x])

    def grow(self, steps: int) -> Graph:
        for _ in range(steps):
            step = self.pick((self.convolution, self.convolution, self.combine, self.pool, self.gate, self.activate, self.norm, self.copy))
            self.live.append(step(self.pick(self.live[-3:])))
        x = self.b.conv(self.live[-1], 8) if self.live[-1] == "x" else self.live[-1]
        outputs = {x, *self.draw(st.sets(st.sampled_from(self.live), max_size=1))} - {"x"}
        if self.draw(st.booleans()) and self.once("GlobalAveragePool", x):
            x = self.activate(self.b.linear(self.b.op("Flatten", [self.b.op("GlobalAveragePool", [x])]), self.pick((2, 10))))
            outputs = outputs if self.draw(st.booleans()) else set()
        return self.b.finish(*sorted(outputs | {x}))


@st.composite
def networks(draw: st.DrawFn) -> Graph:
    return Network(draw).grow(draw(st.integers(1, 8)))


def repeats(graph: Graph) -> bool:
    """Whether two nodes compute the same; ONNX Runtime then runs one of them."""
    steps = [
        (node.op, tuple(copied(graph, value) for value in node.inputs if value not in graph.weights), node.attrs)
        for node in graph.nodes
        if node.op != "Identity"
    ]
    return len(set(steps)) < len(steps)
