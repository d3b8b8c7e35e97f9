"""The kernels of a network, put together from those of its blocks, each block lowered once.

What a runtime makes of a block depends on its neighbours: a layout that the block finds its input in, an activation that the kernel
before it absorbs. Nothing here knows a runtime's rules; they are found out with small graphs. A block is lowered between a short network
that leaves its input as the block before it does, and a probe that reads its output. Where the probe finds two outputs alike, they are in
one state, so that a block is lowered once per state, not once per neighbour. Whether two blocks change each other beyond that is tried out
once for each way in which a kernel ends the one and kernels begin the other; where they do, the network is not put together
(`Unit.entangled`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hwnas.ir import Graph, GraphBuilder, Kernel, KernelCall, TensorSpec
from hwnas.spaces.base import Layer, WholeNetwork
from hwnas.spaces.blocks import BlockIndex

KernelsOf = Callable[[Graph], Sequence[KernelCall]]
START = 0


@dataclass(frozen=True, slots=True)
class Probe:
    """The least that can stand beside a block: one matrix of weights, which every runtime computes in a kernel of its own."""

    def emit(self, b: GraphBuilder, x: str) -> str:
        """See `Layer.emit`."""
        shape = b.shape(x)
        if len(shape) == 4:
            return b.conv(x, shape[1])
        return b.linear(x, shape[1]) if len(shape) == 2 else b.op("MatMul", [x, b.weight("w", (shape[-1], shape[-1]))])

    def output(self, spec: TensorSpec) -> TensorSpec:
        """See `Layer.output`."""
        return spec


PROBE = Probe()


class Unit(NamedTuple):
    """A block in its place.

    Attributes:
        kernels: numbers of its kernels.
        state: in which it leaves its output.
        entangled: whether it and the block before it change each other, so that their kernels do not simply follow each other.
    """

    kernels: tuple[int, ...]
    state: int
    entangled: bool


class _State(NamedTuple):
    """How a block leaves its output: what the probe's kernels are behind it, and what the kernel that writes it is."""

    found: int
    tail: Hashable


@dataclass(frozen=True, slots=True)
class _Lowered:
    """What became of layers: numbers of the kernels of each, ascending; what reads the input of the last one; what writes its output."""

    kernels: tuple[tuple[int, ...], ...]
    head: Hashable
    tail: Hashable
    probed: Hashable


class Lowering:
    """The kernels of an index's blocks.

    Args:
        kernels_of: what the runtime makes of a graph.
        index: of the space's blocks.

    Attributes:
        kernels: all that were met, by number.
    """

    def __init__(self, kernels_of: KernelsOf, index: BlockIndex) -> None:
        self._kernels_of, self._index = kernels_of, index
        self.kernels: list[Kernel] = []
        self._numbers: dict[Kernel, int] = {}
        self._states: list[_State] = [_State(-1, None)]  # START: an input of the network
        self._state_ids: dict[_State, int] = {}
        self._found: dict[Hashable, int] = {}  # what a probe's kernels were -> its number
        self._lowered: dict[tuple[int, int, bool], _Lowered] = {}
        self._units: dict[tuple[int, int, bool], Unit] = {}
        self._examples: dict[tuple[int, TensorSpec], tuple[int, int]] = {}  # state, spec -> state and block that led there
        self._before: dict[tuple[int, TensorSpec], tuple[TensorSpec, tuple[Layer, ...]]] = {}
        self._entangled: dict[tuple[int, Hashable], bool] = {}  # state, head

    @property
    def states(self) -> int:
        """How many states were met."""
        return len(self._states)

    def unit(self, state: int, number: int, last: bool) -> Unit:
        """A block by its number, its input in this state; `last`: its output is that of the network."""
        key = (state, number, last)
        if key not in self._units:
            self._units[key] = self._unit(state, number, last)
        return self._units[key]

    def _unit(self, state: int, number: int, last: bool) -> Unit:
        block = self._index.blocks[number]
        if isinstance(block.layer, WholeNetwork):
            calls = self._kernels_of(self._index.space.block_graph(block))
            return Unit(tuple(self._number(call.kernel) for call in calls), START, False)
        lowered = self._lower(state, number, last)
        if lowered is None:
            return Unit((), state, last)
        after = START if last else self._state(state, number, lowered)
        return Unit(lowered.kernels[0], after, state != START and self._entangle(state, number, last, lowered))

    def _layer(self, number: int) -> tuple[Layer, TensorSpec]:
        """A block's layer and what it reads."""
        block = self._index.blocks[number]
        assert not isinstance(block.layer, WholeNetwork)  # it has no neighbours
        return block.layer, block.input

    def _number(self, kernel: Kernel) -> int:
        number = self._numbers.setdefault(kernel, len(self.kernels))
        if number == len(self.kernels):
            self.kernels.append(kernel)
        return number

    def _state(self, state: int, number: int, lowered: _Lowered) -> int:
        """The state that a block leads to, remembering by which way."""
        after = _State(self._found.setdefault(lowered.probed, len(self._found)), lowered.tail)
        found = self._state_ids.setdefault(after, len(self._states))
        if found == len(self._states):
            self._states.append(after)
        layer, source = self._layer(number)
        self._examples.setdefault((found, layer.output(source)), (state, number))
        return found

    def _lower(self, state: int, number: int, last: bool) -> _Lowered | None:
        """A block behind a short network that leaves its input in this state; None where it writes nothing."""
        key = (self._states[state].found, number, last)
        if key not in self._lowered:
            layer, source = self._layer(number)
            spec, before = self._prefix(state, source)
            lowered = self._place(spec, before, (layer,), last=last)
            if lowered is None:
                return None
            self._lowered[key] = lowered
        return self._lowered[key]

    def _prefix(self, state: int, spec: TensorSpec) -> tuple[TensorSpec, tuple[Layer, ...]]:
        """The shortest network known that leaves a value of this spec in this state: the spec of its input, and its layers."""
        if state == START:
            return spec, ()
        key = (self._states[state].found, spec)
        if key not in self._before:
            earlier, number = self._examples[state, spec]
            layer, source = self._layer(number)
            start, before = self._prefix(earlier, source)
            whole = (start, (*before, layer))
            shorter: list[tuple[TensorSpec, tuple[Layer, ...]]] = [(spec, (PROBE,)), (source, (layer,))]
            self._before[key] = next((each for each in shorter if self._leaves(each, key[0])), whole)
        return self._before[key]

    def _leaves(self, network: tuple[TensorSpec, tuple[Layer, ...]], found: int) -> bool:
        """Whether a probe behind this network finds what it found behind others."""
        spec, layers = network
        lowered = self._place(spec, (), layers, last=False)
        return lowered is not None and self._found.get(lowered.probed) == found

    def _entangle(self, state: int, number: int, last: bool, lowered: _Lowered) -> bool:
        """Whether a block and one that leads to this state have other kernels together than each for itself."""
        key = (state, lowered.head)
        if key not in self._entangled:
            layer, source = self._layer(number)
            earlier, neighbour = self._examples[state, source]
            alone = self._lower(earlier, neighbour, False)
            other, start = self._layer(neighbour)
            spec, before = self._prefix(earlier, start)
            together = self._place(spec, before, (other, layer), last=last)
            assert alone is not None  # blocks that write nothing lead to no state
            assert together is not None
            self._entangled[key] = together.kernels != (*alone.kernels, *lowered.kernels) or together.probed != lowered.probed
        return self._entangled[key]

    def _place(self, spec: TensorSpec, before: Sequence[Layer], layers: Sequence[Layer], *, last: bool) -> _Lowered | None:
        """Lowers layers behind others, and before a probe unless they end the network; None where they write no nodes."""
        b = GraphBuilder("blocks")
        x = b.input("x", spec.shape, spec.dtype)
        values, ends = [x], []
        for layer in (*before, *layers):
            values.append(layer.emit(b, values[-1]))
            ends.append(b.nodes)
        if ends[-1] == (ends[-2] if len(ends) > 1 else 0):
            return None
        graph = b.finish(values[-1] if last else PROBE.emit(b, values[-1]))
        read, written = values[-2:]
        kernels: list[list[int]] = [[] for _ in ends]
        head, tail, probed = [], [], []
        for call in self._kernels_of(graph):
            owner = bisect_right(ends, graph.positions[call.nodes[0]]) - len(ends)
            if owner < 0:
                kernels[owner].append(self._number(call.kernel))
            else:
                probed.append(_look(graph, call))
            if call.output == read or any(read in graph.nodes[graph.positions[name]].inputs for name in call.nodes):
                head.append((owner, *_look(graph, call)))
            if graph.producers[written].name in call.nodes:
                tail.append(_look(graph, call))
        found = tuple(tuple(sorted(numbers)) for numbers in kernels[len(before) :])
        return _Lowered(kernels=found, head=tuple(head), tail=tuple(tail), probed=tuple(probed))


def _look(graph: Graph, call: KernelCall) -> tuple[Hashable, ...]:
    """A kernel without its sizes."""
    kernel = call.kernel
    members = tuple(graph.nodes[graph.positions[name]].op for name in call.nodes)
    return kernel.op, kernel.fused, kernel.layout, kernel.precision, members
