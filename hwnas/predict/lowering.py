"""The kernels of a network, put together from those of its blocks, each block lowered once.

What a runtime makes of a block depends on its neighbours: a layout that the block finds its input in, an activation that the kernel
before it absorbs. Nothing here knows a runtime's rules; they are found out with small graphs. A block is lowered between a short network
that leaves its input as the block before it does, and a probe that reads its output. Where the probe finds two outputs alike, they are in
one state, so that a block is lowered once per state, not once per neighbour. Whether two blocks change each other beyond that is tried out
once for each way in which a kernel ends the one and kernels begin the other; where they do, the network is not put together
(`Unit.entangled`).

Blocks that are new one behind the other are lowered in one graph, as they stand in their network, and cut apart at their borders. A cut
holds where its way of ending and beginning was tried out before; where it was not, the blocks beside it are lowered alone as well.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hwnas.ir import Graph, GraphBuilder, Kernel, KernelCall, TensorSpec
from hwnas.ir.node import Node
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


class _Piece(NamedTuple):
    """What became of a layer: numbers of its kernels, ascending; what reads its input; what writes its output."""

    kernels: tuple[int, ...]
    head: Hashable
    tail: Hashable


class _Lowered(NamedTuple):
    """What became of layers one behind the other, None of one that writes nothing; and of the probe behind them."""

    pieces: tuple[_Piece | None, ...]
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
        self._behind: dict[Hashable, int] = {}  # what writes a value, and its channels -> what a probe finds behind it
        self._lowered: dict[tuple[int, int, bool], _Lowered | None] = {}
        self._examples: dict[tuple[int, TensorSpec], tuple[int, int]] = {}  # state, spec -> state and block that led there
        self._before: dict[tuple[int, TensorSpec], tuple[TensorSpec, tuple[Layer, ...]]] = {}
        self._entangled: dict[tuple[int, Hashable], bool] = {}  # state, head

    @property
    def states(self) -> int:
        """How many states were met."""
        return len(self._states)

    def run(self, state: int, numbers: Sequence[int], last: bool) -> list[Unit]:
        """Blocks one behind the other.

        Args:
            state: of the first one's input.
            numbers: of the blocks.
            last: whether the output of the last one is that of the network.
        """
        units = self._together(state, numbers, last) if len(numbers) > 1 else None
        if units is None:
            units = []
            for place, number in enumerate(numbers, 1):
                units.append(self._unit(state, number, last and place == len(numbers)))
                state = units[-1].state
        return units

    def _unit(self, state: int, number: int, last: bool) -> Unit:
        """A block by itself."""
        block = self._index.blocks[number]
        if isinstance(block.layer, WholeNetwork):
            calls = self._kernels_of(self._index.space.block_graph(block))
            return Unit(tuple(self._number(call.kernel) for call in calls), START, False)
        lowered = self._lower(state, number, last)
        if lowered is None:
            return Unit((), state, last)
        piece = _last(lowered)
        after = START if last else self._state(state, number, piece.tail, lowered.probed)
        return Unit(piece.kernels, after, state != START and self._entangle(state, number, last, lowered))

    def _together(self, state: int, numbers: Sequence[int], last: bool) -> list[Unit] | None:
        """Blocks lowered in one graph; None where a cut between two of them does not hold."""
        spec, before = self._prefix(state, self._layer(numbers[0])[1])
        lowered = self._place(spec, before, [self._layer(number)[0] for number in numbers], last=last)
        if lowered is None:
            return None
        units: list[Unit] = []
        neighbour: tuple[int, int, _Piece] | None = None
        for place, (number, piece) in enumerate(zip(numbers, lowered.pieces, strict=True), 1):
            ends = place == len(numbers)
            if piece is not None:
                if state != START and self._changes(state, number, last and ends, piece, neighbour):
                    return None
                neighbour = state, number, piece
                after: int | None = START
                if not (last and ends):
                    after = self._after(state, number, piece, lowered.probed if ends else None)
                if after is None:
                    return None
                state = after
            units.append(Unit(piece.kernels if piece else (), state, False))
        return units

    def _changes(self, state: int, number: int, last: bool, piece: _Piece, neighbour: tuple[int, int, _Piece] | None) -> bool:
        """Whether a block as it was found in a network is another than by itself, or changes its neighbour before, given with its state."""
        key = (state, piece.head)
        if key in self._entangled:
            return self._entangled[key]
        lowered = self._lower(state, number, last)
        if lowered is None or _last(lowered) != piece:
            return True
        if neighbour is None:
            return self._entangle(state, number, last, lowered)
        alone = self._lower(neighbour[0], neighbour[1], False)
        if alone is None or _last(alone) != neighbour[2]:
            return True
        self._entangled[key] = False  # what `_entangle` would find, since the two were lowered together just now
        return False

    def _after(self, state: int, number: int, piece: _Piece, probed: Hashable | None) -> int | None:
        """The state behind a block as it was found in a network; None where it is another than by itself."""
        layer, source = self._layer(number)
        if probed is None and _written(piece.tail, layer.output(source)) not in self._behind:
            lowered = self._lower(state, number, False)
            if lowered is None or _last(lowered) != piece:
                return None
            probed = lowered.probed
        return self._state(state, number, piece.tail, probed)

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

    def _state(self, state: int, number: int, tail: Hashable, probed: Hashable | None) -> int:
        """The state that a block leads to, remembering by which way; `probed` may be left out where the like was probed."""
        layer, source = self._layer(number)
        written = layer.output(source)
        if probed is None:
            after = _State(self._behind[_written(tail, written)], tail)
        else:
            after = _State(self._found.setdefault(probed, len(self._found)), tail)
            self._behind.setdefault(_written(tail, written), after.found)
        found = self._state_ids.setdefault(after, len(self._states))
        if found == len(self._states):
            self._states.append(after)
        self._examples.setdefault((found, written), (state, number))
        return found

    def _lower(self, state: int, number: int, last: bool) -> _Lowered | None:
        """A block behind a short network that leaves its input in this state; None where it writes nothing."""
        key = (self._states[state].found, number, last)
        if key not in self._lowered:
            layer, source = self._layer(number)
            spec, before = self._prefix(state, source)
            self._lowered[key] = self._place(spec, before, (layer,), last=last)
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
        piece = _last(lowered)
        key = (state, piece.head)
        if key not in self._entangled:
            layer, source = self._layer(number)
            earlier, neighbour = self._examples[state, source]
            alone = self._lower(earlier, neighbour, False)
            other, start = self._layer(neighbour)
            spec, before = self._prefix(earlier, start)
            together = self._place(spec, before, (other, layer), last=last)
            assert alone is not None  # blocks that write nothing lead to no state
            assert together is not None
            kernels = [found and found.kernels for found in together.pieces]
            apart = kernels == [_last(alone).kernels, piece.kernels] and together.probed == lowered.probed
            self._entangled[key] = not apart
        return self._entangled[key]

    def _place(self, spec: TensorSpec, before: Sequence[Layer], layers: Sequence[Layer], *, last: bool) -> _Lowered | None:
        """Lowers layers behind others, and before a probe unless they end the network; None where the last one writes no nodes."""
        b = GraphBuilder("blocks")
        value = b.input("x", spec.shape, spec.dtype)
        borders: dict[str, int] = {value: 0}  # values between layers: of each how many layers that write nodes stand before it
        ends: list[int] = []
        places: list[int | None] = []
        for layer in (*before, *layers):
            start, value = b.nodes, layer.emit(b, value)
            places.append(len(ends) if b.nodes > start else None)
            if b.nodes > start:
                ends.append(b.nodes)
                borders[value] = len(ends)
        if places[-1] is None:
            return None
        graph = b.finish(value if last else PROBE.emit(b, value))
        kernels: list[list[int]] = [[] for _ in ends]
        heads: list[list[Hashable]] = [[] for _ in (*ends, "probe")]
        tails: list[list[Hashable]] = [[] for _ in (*ends, "input")]
        probed: list[Hashable] = []
        for call in self._kernels_of(graph):
            nodes = [graph.nodes[graph.positions[name]] for name in call.nodes]
            owner = bisect_right(ends, graph.positions[call.nodes[0]])
            look = _look(call.kernel, nodes)
            if owner == len(ends):
                probed.append(look)
            else:
                kernels[owner].append(self._number(call.kernel))
            read = {borders[value] for node in nodes for value in node.inputs if value in borders}
            written = {borders[value] for node in nodes for value in node.outputs if value in borders}
            if not written and call.output in borders:  # it re-arranges the value
                read.add(borders[call.output])
            for border in read:
                heads[border].append((owner - border, *look))
            for border in written:
                tails[border].append(look)
        pieces = [_Piece(tuple(sorted(kernels[i])), tuple(heads[i]), tuple(tails[i + 1])) for i in range(len(ends))]
        wanted = places[len(before) :]
        return _Lowered(tuple(None if place is None else pieces[place] for place in wanted), tuple(probed))


def _last(lowered: _Lowered) -> _Piece:
    """The last of the layers, which writes something (`Lowering._place`)."""
    piece = lowered.pieces[-1]
    assert piece is not None
    return piece


def _written(tail: Hashable, spec: TensorSpec) -> Hashable:
    """What a probe behind a value depends on: what writes it, and its shape, the height and width of an image apart."""
    return tail, spec.shape[:2] if len(spec.shape) == 4 else spec.shape, spec.dtype


def _look(kernel: Kernel, nodes: Sequence[Node]) -> tuple[Hashable, ...]:
    """A kernel without its sizes."""
    return kernel.op, kernel.fused, kernel.layout, kernel.precision, tuple(node.op for node in nodes)
