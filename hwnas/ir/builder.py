"""Builds a graph node by node, with shapes known at every step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from hwnas.ir.graph import Graph
from hwnas.ir.node import Array, AttrValue, Init, Node, TensorSpec, Weight
from hwnas.ir.ops import make_node


@lru_cache(maxsize=65_536)
def _recipe(shape: tuple[int, ...], init: Init) -> Weight:
    """A weight still to be drawn; they have no identity, so that all of one shape may be one."""
    return Weight(spec=TensorSpec(shape), init=init)


class GraphBuilder:
    """Collects nodes and weights; every method returns the name of the value that it wrote.

    >>> b = GraphBuilder("tiny")
    >>> x = b.input("x", (1, 3, 8, 8))
    >>> x = b.op("Relu", [b.conv(x, 16, kernel=3, stride=2)])
    >>> graph = b.finish(x)
    >>> graph.specs[x].shape
    (1, 16, 4, 4)
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._inputs: dict[str, TensorSpec] = {}
        self._nodes: list[Node] = []
        self._weights: dict[str, Weight] = {}
        self._specs: dict[str, TensorSpec] = {}
        self._counts: dict[str, int] = {}

    def _fresh(self, stem: str) -> str:
        count = self._counts.get(stem, 0)
        self._counts[stem] = count + 1
        return f"{stem}_{count}"

    @property
    def nodes(self) -> int:
        """Number of nodes written so far."""
        return len(self._nodes)

    def shape(self, value: str) -> tuple[int, ...]:
        """Shape of a value written so far."""
        return self._specs[value].shape

    def input(self, name: str, shape: Sequence[int], dtype: str = "float32") -> str:
        """Declares an input of the network."""
        self._inputs[name] = self._specs[name] = TensorSpec(tuple(shape), dtype)
        return name

    def weight(self, stem: str, shape: Sequence[int], init: Init = "he") -> str:
        """A constant whose values are drawn later."""
        name = self._fresh(stem)
        weight = self._weights[name] = _recipe(tuple(shape), init)
        self._specs[name] = weight.spec
        return name

    def constant(self, stem: str, value: Array) -> str:
        """A constant with given values."""
        name = self._fresh(stem)
        self._weights[name] = Weight.of(value)
        self._specs[name] = self._weights[name].spec
        return name

    def op(self, op: str, inputs: Sequence[str], *, outputs: int = 1, **attrs: AttrValue) -> str:
        """Applies an operator with one output of interest; use `ops` for several."""
        return self.ops(op, inputs, outputs=outputs, **attrs)[0]

    def ops(self, op: str, inputs: Sequence[str], *, outputs: int, **attrs: AttrValue) -> tuple[str, ...]:
        """Applies an operator and names all its outputs.

        Raises:
            GraphError: when the operator or its attributes do not fit the inputs.
        """
        name = self._fresh(op.lower())
        written = tuple(f"{name}_out{i}" if outputs > 1 else f"{name}_out" for i in range(outputs))
        specs = [self._specs[value] for value in inputs if value]
        node, made = make_node(name, op, tuple(inputs), written, tuple(sorted(attrs.items())), specs)
        self._specs.update(zip(written, made, strict=True))
        self._nodes.append(node)
        return written

    def conv(
        self,
        x: str,
        channels: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        dilation: int = 1,
        bias: bool = True,
    ) -> str:
        """A square 2-D convolution with "same" padding for odd kernels; x is [N, C, H, W]."""
        weight = self.weight("w", (channels, self.shape(x)[1] // groups, kernel, kernel))
        inputs = [x, weight, self.weight("b", (channels,), "zeros")] if bias else [x, weight]
        pad = dilation * (kernel - 1) // 2
        return self.op("Conv", inputs, strides=(stride,) * 2, pads=(pad,) * 4, dilations=(dilation,) * 2, group=groups)

    def batch_norm(self, x: str) -> str:
        """Batch normalisation over the channels (axis 1), in inference form."""
        channels = (self.shape(x)[1],)
        parameters: list[tuple[str, Init]] = [("scale", "ones"), ("shift", "zeros"), ("mean", "zeros"), ("var", "ones")]
        return self.op("BatchNormalization", [x, *(self.weight(f"bn_{stem}", channels, init) for stem, init in parameters)])

    def linear(self, x: str, features: int, *, bias: bool = True) -> str:
        """A fully connected layer on x of shape [N, F]."""
        inputs = [x, self.weight("w", (features, self.shape(x)[1]))]
        return self.op("Gemm", [*inputs, self.weight("b", (features,), "zeros")] if bias else inputs, transB=1)

    def finish(self, *outputs: str) -> Graph:
        """The finished graph."""
        return Graph.assemble(
            name=self.name, inputs=self._inputs, outputs=outputs, nodes=self._nodes, weights=self._weights, specs=self._specs
        )
