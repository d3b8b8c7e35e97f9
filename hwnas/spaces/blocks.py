"""Divides whole populations into blocks: from a matrix of genotypes to a matrix of block numbers.

Networks of a space share most of their blocks, so that whatever is additive over blocks is worked out once per block and then looked up.
The networks of a `FactoredSpace` are divided by tables, one for each of its parts: from what the part reads and the choices of its genes
to the block that stands there. A table is filled as populations bring up what it lacks; what it holds is looked up with NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import GraphError
from hwnas.ir import TensorSpec
from hwnas.ir.cost import flops, memory_bytes, params, weight_bytes
from hwnas.spaces.base import Block, Genotype, Population, SearchSpace
from hwnas.spaces.layers import FactoredSpace, Part, Run

Ids = NDArray[np.int32]
UNSEEN = -1
MOST_CHOICES = 2**17  # combinations of the genes of a part up to which it has a table
CHECKED = 16  # networks of a population with something new whose blocks are compared with those that the space itself lists


def grown(array: NDArray[Any], rows: int, fill: float) -> NDArray[Any]:
    """The array with at least so many rows: itself, or twice the size, filled up."""
    if rows <= len(array):
        return array
    larger = np.full((max(rows, 2 * len(array)), *array.shape[1:]), fill, array.dtype)
    larger[: len(array)] = array
    return larger


class BlockIndex:
    """Numbers the blocks of a space's networks in the order in which populations bring them up.

    Block numbers form a matrix [slots, n], a column a network, from its input to its output; a slot may hold `Run(())`, which passes its
    input on, and the last one never does.

    Attributes:
        space: the networks.
        batch: images per call.
        blocks: by number.
        tabled: whether populations are divided by tables; otherwise one network after the other.
    """

    def __init__(self, space: SearchSpace, *, batch: int = 1) -> None:
        self.space, self.batch = space, batch
        self.blocks: list[Block] = []
        self._ids: dict[Block, int] = {}
        self._tables: _Tables | None = None
        if isinstance(space, FactoredSpace) and all(prod(sizes) <= MOST_CHOICES for sizes in _sizes(space)):
            self._tables = _Tables(self, space)

    @property
    def tabled(self) -> bool:
        """See the class."""
        return self._tables is not None

    def divide(self, population: Population) -> Ids:
        """The block numbers of a matrix of genotypes [n, genes], as a matrix [slots, n].

        Raises:
            GraphError: the space's parts, or its `input_genes`, contradict its `blocks`.
        """
        return self._tables.divide(population) if self._tables else self._one_by_one(self.space.canonical_batch(population))

    def number(self, block: Block) -> int:
        """The number of a block, a new one for one that is new."""
        number = self._ids.setdefault(block, len(self.blocks))
        if number == len(self.blocks):
            self.blocks.append(block)
        return number

    def _one_by_one(self, population: Population) -> Ids:
        networks = [self.space.blocks(tuple(row), batch=self.batch) for row in population.tolist()]
        slots = max(map(len, networks), default=0)
        rows = []
        for network in networks:
            padding = [Block(Run(()), network[0].input)] * (slots - len(network))
            rows.append([self.number(block) for block in (*padding, *network)])
        return np.array(rows, np.int32).reshape(len(networks), slots).T.copy()


def _sizes(space: FactoredSpace) -> list[list[int]]:
    """How many choices the genes of the input, and then those of each part, have."""
    genes = {gene.name: gene for gene in space.genes}
    return [[len(genes[name].choices) for name in names] for names in (space.input_genes, *(part.genes for part in space.places))]


class _Tables:
    """The tables of a space's parts. Specs have numbers as blocks have."""

    def __init__(self, index: BlockIndex, space: FactoredSpace) -> None:
        self._index, self._space = index, space
        self._specs: list[TensorSpec] = []
        self._spec_ids: dict[TensorSpec, int] = {}
        self._outputs: Ids = np.zeros(64, np.int32)  # number of the spec that each block writes
        sizes = _sizes(space)
        position = {gene.name: i for i, gene in enumerate(space.genes)}
        # One product of matrices gives the code of every part: its genes as the digits of a number. Exact, since codes are small.
        self._strides = np.zeros((len(space.genes), len(sizes)))
        for column, names in enumerate((space.input_genes, *(part.genes for part in space.places))):
            for digit, name in enumerate(names):
                self._strides[position[name], column] = prod(sizes[column][digit + 1 :])
        self._inputs = np.full(prod(sizes[0]), UNSEEN, np.int32)
        self._genes = {gene.name: gene for gene in space.genes}
        self._tables = [_Table(part, size, _same(space, part, size)) for part, size in zip(space.places, sizes[1:], strict=True)]
        self._filled = False

    def divide(self, population: Population) -> Ids:
        codes = np.ascontiguousarray((population.astype(np.float64) @ self._strides).T).astype(np.int64)
        spec = self._inputs[codes[0]]
        if spec.size and spec.min() == UNSEEN:
            for row in np.unique(codes[0], return_index=True)[1].tolist():
                shape = self._space.input_shape(tuple(population[row].tolist()), self._index.batch)
                self._inputs[codes[0, row]] = self._spec(TensorSpec(shape))
            spec = self._inputs[codes[0]]
        found = np.empty((len(self._tables), len(population)), np.int32)
        self._filled = False
        for slot, table in enumerate(self._tables):
            found[slot] = self._look_up(table, spec, codes[slot + 1])
            spec = self._outputs[found[slot]]
        if self._filled:
            self._check(population, found)
        return found

    def _look_up(self, table: _Table, spec: Ids, code: NDArray[np.int64]) -> Ids:
        table.rows = grown(table.rows, len(self._specs), UNSEEN)
        row = table.rows[spec]
        if row.size and row.min() == UNSEEN:
            for number in np.unique(spec[row == UNSEEN]).tolist():
                table.add(number)
            row = table.rows[spec]
        place = row * table.choices + code
        blocks: Ids = table.blocks.reshape(-1)[place]
        if blocks.size and blocks.min() == UNSEEN:
            missing = np.flatnonzero(blocks == UNSEEN)
            places, first = np.unique(place[missing], return_index=True)
            same = places - places % table.choices + table.same[places % table.choices]
            for at, number in zip(same.tolist(), spec[missing[first]].tolist(), strict=True):
                if table.blocks.reshape(-1)[at] == UNSEEN:
                    self._fill(table, at, number)
                    self._filled = True
            table.blocks.reshape(-1)[places] = table.blocks.reshape(-1)[same]
            blocks = table.blocks.reshape(-1)[place]
        return blocks

    def _fill(self, table: _Table, place: int, spec: int) -> None:
        """Finds the block of a part, for one spec that it reads and one choice of its genes."""
        code, arch = place % table.choices, {}
        for name, size in reversed(list(zip(table.part.genes, table.sizes, strict=True))):
            code, digit = divmod(code, size)
            arch[name] = self._genes[name].choices[digit]
        layers = tuple(table.part.layers(arch))
        if not layers and table is self._tables[-1]:
            raise GraphError(f"the last part of '{self._space.name}' must make a layer whatever the choices, and makes none for {arch}")
        layer, source = layers[0] if len(layers) == 1 else Run(layers), self._specs[spec]
        number = self._index.number(Block(layer, source))
        self._outputs = grown(self._outputs, number + 1, 0)
        self._outputs[number] = self._spec(layer.output(source))
        table.blocks.reshape(-1)[place] = number

    def _spec(self, spec: TensorSpec) -> int:
        number = self._spec_ids.setdefault(spec, len(self._specs))
        if number == len(self._specs):
            self._specs.append(spec)
        return number

    def _check(self, population: Population, found: Ids) -> None:
        for row in np.linspace(0, len(population) - 1, min(CHECKED, len(population))).astype(int).tolist():
            genotype: Genotype = tuple(population[row].tolist())
            told = [block for number in found[:, row].tolist() for block in _single(self._index.blocks[number])]
            if told != list(self._space.blocks(genotype, batch=self._index.batch)):
                raise GraphError(
                    f"the parts of '{self._space.name}' contradict its blocks in network {list(genotype)}; `input_genes` must name all "
                    "genes that `input_shape` depends on, and `layers` must be left as it is"
                )


def _single(block: Block) -> Sequence[Block]:
    """The blocks of a run of layers."""
    if not isinstance(block.layer, Run):
        return [block]
    found, spec = [], block.input
    for layer in block.layer.layers:
        found.append(Block(layer, spec))
        spec = layer.output(spec)
    return found


def _same(space: FactoredSpace, part: Part, sizes: Sequence[int]) -> NDArray[np.int64]:
    """The code that a part's code amounts to, genes that the part's own other genes leave without effect being 0."""
    codes = np.arange(prod(sizes))
    if not sizes:
        return codes
    choices = {gene.name: gene.choices for gene in space.genes}
    digits = dict(zip(part.genes, np.unravel_index(codes, sizes), strict=True))
    effect = {}
    for gene in space.genes:
        if gene.name not in digits:
            continue
        effect[gene.name] = np.ones(len(codes), bool)
        if gene.when and gene.when[0] in digits:
            parent, values = gene.when
            effective = np.array([choice in values for choice in choices[parent]])
            effect[gene.name] = effect[parent] & effective[digits[parent]]
    return np.ravel_multi_index([np.where(effect[name], digits[name], 0) for name in part.genes], sizes)


class _Table:
    """The blocks of a part: a row for every spec that it was seen to read, a column for every combination of its genes.

    `same` says which columns are filled from which: those of equal networks from one.
    """

    def __init__(self, part: Part, sizes: Sequence[int], same: NDArray[np.int64]) -> None:
        self.part, self.sizes, self.choices, self.same = part, sizes, prod(sizes), same
        self.rows: Ids = np.full(64, UNSEEN, np.int32)  # by number of the spec
        self.blocks: Ids = np.full((1, self.choices), UNSEEN, np.int32)
        self._used = 0

    def add(self, spec: int) -> None:
        """A row for another spec."""
        self.rows[spec] = self._used
        self._used += 1
        self.blocks = grown(self.blocks, self._used, UNSEEN)


class Counts(NamedTuple):
    """What `hwnas.ir.cost` counts of networks, each [n]."""

    params: NDArray[np.int64]
    flops: NDArray[np.int64]
    memory_bytes: NDArray[np.int64]


class BlockCounts:
    """Counts networks by their blocks: nothing but the value between them is shared by two, so that all but the peak of memory add up."""

    def __init__(self, index: BlockIndex) -> None:
        self._index = index
        self._rows = np.full((64, 4), UNSEEN, np.int64)  # params, flops, bytes of weights, most bytes of activations; by block

    def count(self, blocks: Ids) -> Counts:
        """The counts of networks given by their blocks, [slots, n]."""
        self._rows = grown(self._rows, len(self._index.blocks), UNSEEN)
        counted = self._rows[:, 0] != UNSEEN
        for number in np.unique(blocks[~counted[blocks]]).tolist():
            graph = self._index.space.block_graph(self._index.blocks[number])
            weights = weight_bytes(graph)
            self._rows[number] = params(graph), flops(graph), weights, memory_bytes(graph) - weights
        total = np.zeros((blocks.shape[1], 3), np.int64)
        peak = np.zeros(blocks.shape[1], np.int64)
        for slot in blocks:
            rows = self._rows[slot]
            total += rows[:, :3]
            np.maximum(peak, rows[:, 3], out=peak)
        return Counts(total[:, 0], total[:, 1], total[:, 2] + peak)
