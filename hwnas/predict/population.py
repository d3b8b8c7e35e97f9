"""Latency of whole populations, from a matrix of genotypes to arrays of estimates, without building their networks.

Each block is lowered, and each of its kernels predicted, once; then a network costs a few look-ups and additions (`hwnas.spaces.blocks`,
`hwnas.predict.lowering`). The estimates are those of `Predictor.estimate` to the rounding of sums: networks are put together from their
blocks only where that gives the kernels of the whole network, which is tried on a few networks whenever something new comes up.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from hwnas.predict.features import Matrix, describe, tabulate
from hwnas.predict.lowering import START, Lowering, Unit
from hwnas.predict.model import Bounds, split
from hwnas.predict.predictor import Predictor
from hwnas.spaces.base import Population, SearchSpace, WholeNetwork
from hwnas.spaces.blocks import UNSEEN, BlockIndex, Ids, grown

CHUNK = 8192  # networks at a time: what is gathered for them stays in the cache
FIRST_CHECKED, CHECKED = 32, 2  # networks whose kernels are told twice: of a first population, and of others that bring something new
FIRST_SHARE, FIRST_LEAST = 32, 8  # of a small first population one in so many, but at least so many
FEW_STATES = 16
OWN = 4  # columns that are no prediction: entangled, bytes of weights, kernels, bytes read and written


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the collector of cycles: lowering makes none, and keeps so much that looking through it is a fifth of the work."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class PopulationPredictor:
    """Latency of the networks of a space by a predictor. Remembers every block that it met.

    Args:
        predictor: of the kernels and of the networks.
        index: of the blocks of the space at the predictor's batch; one that others fill as well may be given.

    Attributes:
        predictor: may be replaced by its own `recalibrated` ones, which predict the same kernels.
        index: of the blocks.
        refusal: why networks of this space are not put together from blocks; empty where they are.
        alone: how many networks were built and predicted one by one, because two of their blocks change each other or because of `refusal`.
    """

    def __init__(self, predictor: Predictor, space: SearchSpace, index: BlockIndex | None = None) -> None:
        self.predictor = predictor
        self.index = index or BlockIndex(space, batch=predictor.setting.batch)
        self.refusal = ""
        self.alone = 0
        self._space = space
        self._lowering = Lowering(predictor.kernels, self.index)
        self._table: Ids = np.full((64, FEW_STATES, 2), UNSEEN, np.int32)  # number of the unit by block, state, whether it is the last
        self._next: Ids = np.zeros(64, np.int32)  # the state after each unit
        self._width = OWN + 3 + len(predictor.model.exposures)
        self._sums: Matrix = np.zeros((64, self._width))  # of each unit: `OWN` columns, then `Kernels.amounts`
        self._largest: Matrix = np.zeros(64)  # bytes of the largest activation of each unit
        self._units: list[tuple[int, ...]] = []  # the kernels of each
        self._known = 0  # units whose sums are there
        self._met: set[tuple[int, bool]] = set()  # blocks that were lowered, in whatever state, and whether as the last
        self._passing: set[int] = set()  # those that have no kernels
        self._kernels: Matrix = np.zeros((0, self._width))  # of each kernel: the same, but the bytes of its activations first

    def bounds(self, population: Population, *, strict: bool = False) -> Bounds:
        """Latency of every network of a matrix of genotypes, [n] each; those of `Predictor.estimate`.

        Args:
            population: [n, genes].
            strict: refuse instead of falling back to the roofline.

        Raises:
            UncoveredKernelError: in strict mode, for a kernel whose kind or size was not measured.
        """
        parts = [self._chunk(population[i : i + CHUNK]) for i in range(0, len(population), CHUNK)] or [Bounds(*[np.zeros(0)] * 4)]
        found = parts[0] if len(parts) == 1 else Bounds(*(np.concatenate([getattr(p, n) for p in parts]) for n in Bounds.__slots__))
        if strict and (found.coverage < 1).any():
            first = tuple(population[int(np.argmax(found.coverage < 1))].tolist())
            self.predictor.estimate([self._space.graph(first, batch=self.index.batch)], strict=True)  # raises, and names the node
        return found

    def _chunk(self, population: Population) -> Bounds:
        if self.refusal:
            return self._alone(population)
        blocks = self.index.divide(population)
        known = len(self._units)
        with _uncollected():
            units = self._place(blocks)
        if len(self._units) > known:
            self._predict()
            self._check(population, units, known)
            if self.refusal:
                return self._alone(population)
        sums, largest = np.zeros((len(population), self._width)), np.zeros(len(population))
        for row in units:
            sums += self._sums[row]
            np.maximum(largest, self._largest[row], out=largest)
        entangled, weights, kernels, moved = sums[:, :OWN].T
        found = self.predictor.model.networks(np.column_stack([weights, largest, kernels, moved]), *split(sums[:, OWN:]))
        apart = np.flatnonzero(entangled)
        if apart.size:
            exact = self._alone(population[apart])
            for name in Bounds.__slots__:
                getattr(found, name)[apart] = getattr(exact, name)
        return found

    def _place(self, blocks: Ids) -> Ids:
        """The unit of every block in its place."""
        state = np.full(blocks.shape[1], START, np.int32)
        units = np.empty_like(blocks)
        for slot, numbers in enumerate(blocks):
            last = slot == len(blocks) - 1
            self._table = grown(self._table, len(self.index.blocks), UNSEEN)
            units[slot] = self._table[numbers, state, int(last)]
            if units[slot].size and units[slot].min() == UNSEEN:
                missing = np.flatnonzero(units[slot] == UNSEEN)
                _, first = np.unique(numbers[missing].astype(np.int64) * self._table.shape[1] + state[missing], return_index=True)
                for i in missing[first].tolist():
                    if self._table[numbers[i], state[i], int(last)] == UNSEEN:  # not met in a run of blocks meanwhile
                        self._add(blocks[:, i].tolist(), slot, int(state[i]))
                units[slot] = self._table[numbers, state, int(last)]
            state = self._next[units[slot]]
        return units

    def _add(self, blocks: Sequence[int], slot: int, state: int) -> None:
        """Lowers the block in this slot of a network, and with it those behind it that are new as well."""
        run, length = [], 1
        for at in range(slot, len(blocks)):
            new = (blocks[at], at == len(blocks) - 1) not in self._met
            if not (new or at == slot or blocks[at] in self._passing):
                break
            run.append(blocks[at])
            length = len(run) if new else length
        run, last = run[:length], slot + length == len(blocks)
        units = self._lowering.run(state, run, last)
        if self._lowering.states > self._table.shape[1]:
            more = np.full((len(self._table), self._lowering.states, 2), UNSEEN, np.int32)
            self._table = np.concatenate([self._table, more], axis=1)
        for at, (block, unit) in enumerate(zip(run, units, strict=True), 1):
            if self._table[block, state, int(last and at == length)] == UNSEEN:
                self._register(block, state, last and at == length, unit)
            state = unit.state

    def _register(self, block: int, state: int, last: bool, unit: Unit) -> None:
        number = len(self._units)
        self._units.append(unit.kernels)
        self._next, self._sums, self._largest = (
            grown(self._next, number + 1, 0),
            grown(self._sums, number + 1, 0),
            grown(self._largest, number + 1, 0),
        )
        self._next[number], self._sums[number, 0] = unit.state, unit.entangled
        self._table[block, state, int(last)] = number
        self._met.add((block, last))
        if not unit.kernels:
            self._passing.add(block)

    def _predict(self) -> None:
        """Predicts the new kernels, all in one batch per kind, and sums the new units up."""
        kernels = self._lowering.kernels[len(self._kernels) :]
        if kernels:
            table = tabulate([kernels])
            told = self.predictor.model.kernels(table)
            described = [describe(kernel) for kernel in kernels]
            own = [(row.activation_bytes, row.weight_bytes, 1.0, row.bytes) for row in described]
            self._kernels = np.concatenate([self._kernels, np.column_stack([np.array(own), told.amounts])])
        new = self._units[self._known :]
        owner = self._known + np.repeat(np.arange(len(new)), [len(unit) for unit in new])
        rows = self._kernels[[kernel for unit in new for kernel in unit]]
        # Kernels have their numbers by when they were met; sums must not depend on that, or a resumed search would round otherwise.
        order = np.lexsort((*rows[:, OWN + 2 : OWN - 1 : -1].T, owner))
        owner, rows = owner[order], rows[order]
        np.add.at(self._sums[:, 1:], owner, rows[:, 1:])
        np.maximum.at(self._largest, owner, rows[:, 0])
        self._known = len(self._units)

    def _check(self, population: Population, units: Ids, known: int) -> None:
        """Compares the kernels of some networks that have new units with those that the runtime makes of the whole."""
        if isinstance(self.index.blocks[0].layer, WholeNetwork):
            return
        entangled = self._sums[units, 0].any(axis=0)
        rows = np.flatnonzero((units.max(axis=0) >= known) & ~entangled)
        wanted = CHECKED if known else min(FIRST_CHECKED, max(FIRST_LEAST, len(rows) // FIRST_SHARE))
        for row in rows[np.linspace(0, len(rows) - 1, min(wanted, len(rows))).astype(int)].tolist():
            genotype = tuple(population[row].tolist())
            whole = Counter(call.kernel for call in self.predictor.kernels(self._space.graph(genotype, batch=self.index.batch)))
            numbers = Counter(kernel for unit in units[:, row].tolist() for kernel in self._units[unit])
            if whole != {self._lowering.kernels[number]: count for number, count in numbers.items()}:
                self.refusal = (
                    f"'{self.predictor.setting.runtime}' makes other kernels of network {list(genotype)} than of its blocks, so that "
                    f"networks of '{self._space.name}' are built one by one"
                )
                return

    def _alone(self, population: Population) -> Bounds:
        """Networks built and predicted one by one."""
        self.alone += len(population)
        graphs = [self._space.graph(tuple(row), batch=self.index.batch) for row in population.tolist()]
        estimates = self.predictor.estimate(graphs)
        return Bounds(*(np.array([getattr(estimate, name) for estimate in estimates]) for name in Bounds.__slots__))
