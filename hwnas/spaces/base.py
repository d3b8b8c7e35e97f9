"""What a search space is: genes, and the network that a choice for each of them stands for.

A subclass declares `genes` and `graph`; everything else follows from these (docs/spaces.md). Genotypes are tuples of integers, so
that a population is an integer matrix and a genotype is a key.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log10, prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import UsageError, did_you_mean
from hwnas.ir import Graph, GraphBuilder, TensorSpec

Genotype = tuple[int, ...]
Choice = int | float | str | bool
Population = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Gene:
    """One decision of an architecture.

    Attributes:
        name: unique in its space.
        choices: what may be chosen, all different; a genotype holds an index into them.
        when: `(gene, values)`: this gene has an effect only while that earlier gene has an effect and takes one of these values.
            `None`: it always has one. Genes without effect are what makes two genotypes the same network.
    """

    name: str
    choices: tuple[Choice, ...]
    when: tuple[str, tuple[Choice, ...]] | None = None

    def __post_init__(self) -> None:
        if not self.choices or len(set(self.choices)) < len(self.choices):
            raise UsageError(f"gene '{self.name}' needs at least one choice and all of them different, got {list(self.choices)}")


class Layer(Protocol):
    """A part of a network that reads one value and writes one.

    A layer is hashable and compares by value (a frozen dataclass), and equal layers emit equal nodes behind equal inputs.
    """

    def emit(self, b: GraphBuilder, x: str) -> str:
        """Adds the layer's nodes behind value `x` and returns the name of the value they end in."""

    def output(self, spec: TensorSpec) -> TensorSpec:
        """The spec of that value for an input of this spec: what `emit` will give, without building anything."""


@dataclass(frozen=True, slots=True)
class WholeNetwork:
    """The layer of a space that does not divide its networks: one block, the network itself.

    Attributes:
        space: name of the space.
        genotype: canonical.
    """

    space: str
    genotype: Genotype


@dataclass(frozen=True, slots=True)
class Block:
    """A layer at its input: the unit under which costs are memoised.

    Attributes:
        layer: what it computes.
        input: the spec of the value it reads.
    """

    layer: Layer | WholeNetwork
    input: TensorSpec

    @property
    def key(self) -> Hashable:
        """Everything that determines the block's sub-graph: blocks with equal keys have equal sub-graphs."""
        return self.layer, self.input


class SearchSpace(ABC):
    """All networks that a set of genes describes.

    A subclass declares `genes` and `graph`, and usually `name` and `num_classes`. It may override `reference` (which network relative
    limits refer to), `canonical` (when `Gene.when` cannot say which genotypes are the same network) and `blocks`.

    Attributes:
        name: under which results are stored; the class's name unless declared.
        genes: in the order of a genotype's integers.
        num_classes: length of a network's output.
        searchable: whether its networks are made to learn; those of a space that only serves profiling are not.
    """

    name: str = ""
    genes: tuple[Gene, ...]
    num_classes: int = 10
    searchable: bool = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.name:
            cls.name = cls.__name__

    @abstractmethod
    def graph(self, genotype: Genotype, *, batch: int = 1) -> Graph:
        """The network, its weights not drawn yet: one input of shape [batch, C, H, W], one output of shape [batch, num_classes]."""

    def reference(self) -> Genotype:
        """The network that relative limits such as `latency<=60%` refer to: here, every gene at its middle choice."""
        return self.canonical(tuple(len(gene.choices) // 2 for gene in self.genes))

    def family(self, genotype: Genotype) -> str:
        """Which kind of network it is; predictors calibrate their intervals across the families of a space."""
        return self.name

    def input_shape(self, genotype: Genotype, batch: int = 1) -> tuple[int, ...]:
        """Shape [batch, C, H, W] of the network's input."""
        (spec,) = self.graph(genotype, batch=batch).inputs.values()
        return spec.shape

    def blocks(self, genotype: Genotype, *, batch: int = 1) -> tuple[Block, ...]:
        """The blocks whose sub-graphs, one behind the other, are the network; here a single one."""
        whole = WholeNetwork(self.name, self.canonical(genotype))
        return (Block(whole, TensorSpec(self.input_shape(genotype, batch))),)

    def block_graph(self, block: Block) -> Graph:
        """A block of this space as a graph of its own, whose input has the spec that the block reads."""
        if isinstance(block.layer, WholeNetwork):
            return self.graph(block.layer.genotype, batch=block.input.shape[0])
        b = GraphBuilder(type(block.layer).__name__.lower())
        return b.finish(block.layer.emit(b, b.input("x", block.input.shape, block.input.dtype)))

    @cached_property
    def _sizes(self) -> Population:
        return np.array([len(gene.choices) for gene in self.genes], np.int64)

    @cached_property
    def _conditions(self) -> tuple[tuple[int, int, tuple[bool, ...]], ...]:
        """Per gene with a condition: its position, that of the gene it depends on, and which indices of that one give it effect."""
        position: dict[str, int] = {}
        found = []
        for i, gene in enumerate(self.genes):
            if gene.name in position:
                raise UsageError(f"space '{self.name}' has two genes named '{gene.name}'; names must be unique")
            if gene.when:
                name, values = gene.when
                if name not in position:
                    raise UsageError(f"gene '{gene.name}' depends on '{name}', which is no gene before it{did_you_mean(name, position)}")
                choices = self.genes[position[name]].choices
                strange = [value for value in values if value not in choices]
                if strange:
                    raise UsageError(f"gene '{gene.name}' depends on {name}={strange[0]!r}, which is not among {list(choices)}")
                found.append((i, position[name], tuple(choice in values for choice in choices)))
            position[gene.name] = i
        return tuple(found)

    def size(self) -> int:
        """Number of genotypes, exactly."""
        return prod(len(gene.choices) for gene in self.genes)

    def distinct_size(self) -> int:
        """Number of canonical genotypes by the genes' conditions, exactly (an upper bound where `canonical` is overridden)."""
        children: dict[int, list[tuple[int, tuple[bool, ...]]]] = {}
        for child, parent, effective in self._conditions:
            children.setdefault(parent, []).append((child, effective))

        def count(gene: int) -> int:
            return sum(
                prod(count(child) for child, effective in children.get(gene, ()) if effective[index])
                for index in range(len(self.genes[gene].choices))
            )

        conditional = {child for child, _, _ in self._conditions}
        return prod(count(gene) for gene in range(len(self.genes)) if gene not in conditional)

    def __str__(self) -> str:
        size, distinct = log10(self.size()), log10(self.distinct_size())
        return f"{self.name}: {len(self.genes)} genes, 10^{size:.1f} genotypes, 10^{distinct:.1f} distinct networks"

    def validate(self, genotype: Sequence[int]) -> None:
        """Checks that a genotype is one of this space.

        Raises:
            UsageError: for a wrong length, or an index outside a gene's choices; names the gene.
        """
        if len(genotype) != len(self.genes):
            raise UsageError(f"a genotype of '{self.name}' has {len(self.genes)} genes, got {len(genotype)}")
        for gene, index in zip(self.genes, genotype, strict=True):
            if not 0 <= index < len(gene.choices):
                raise UsageError(f"gene '{gene.name}' of '{self.name}' has indices 0 to {len(gene.choices) - 1}, got {index}")

    def encode(self, arch: Mapping[str, Choice]) -> Genotype:
        """The genotype that makes these choices.

        Raises:
            UsageError: when a gene is missing or unknown, or a choice is not among the gene's.
        """
        names = [gene.name for gene in self.genes]
        for name in arch:
            if name not in names:
                raise UsageError(f"space '{self.name}' has no gene '{name}'{did_you_mean(name, names)}; it has {', '.join(names)}")
        genotype = []
        for gene in self.genes:
            if gene.name not in arch:
                raise UsageError(f"space '{self.name}' needs a choice for every gene, and '{gene.name}' has none")
            if arch[gene.name] not in gene.choices:
                raise UsageError(f"gene '{gene.name}' of '{self.name}' chooses among {list(gene.choices)}, got {arch[gene.name]!r}")
            genotype.append(gene.choices.index(arch[gene.name]))
        return tuple(genotype)

    def decode(self, genotype: Genotype) -> dict[str, Any]:
        """The choices that a genotype makes, by gene name.

        Raises:
            UsageError: when the genotype is not of this space.
        """
        self.validate(genotype)
        return {gene.name: gene.choices[index] for gene, index in zip(self.genes, genotype, strict=True)}

    def _idle(self, genotype: Sequence[int]) -> set[int]:
        """Positions of the genes that have no effect."""
        idle: set[int] = set()
        for gene, parent, effective in self._conditions:
            if parent in idle or not effective[genotype[parent]]:
                idle.add(gene)
        return idle

    def canonical(self, genotype: Genotype) -> Genotype:
        """The genotype with every gene that has no effect set to 0: equal exactly for genotypes of the same network."""
        idle = self._idle(genotype)
        return tuple(0 if i in idle else int(index) for i, index in enumerate(genotype))

    def canonical_batch(self, population: Population) -> Population:
        """`canonical` of every row of an array [n, genes]."""
        if type(self).canonical is not SearchSpace.canonical:
            rows = [self.canonical(tuple(row)) for row in population.tolist()]
            return np.array(rows, np.int64).reshape(population.shape)
        effect = np.ones(population.shape, bool)
        for gene, parent, effective in self._conditions:
            effect[:, gene] = effect[:, parent] & np.array(effective)[population[:, parent]]
        return np.where(effect, population, 0)

    def sample(self, rng: np.random.Generator) -> Genotype:
        """A random genotype, every gene uniform over its choices."""
        return tuple(rng.integers(self._sizes).tolist())

    def sample_batch(self, rng: np.random.Generator, count: int) -> Population:
        """An array [count, genes] of random genotypes."""
        return rng.integers(self._sizes, size=(count, len(self.genes)))

    def mutate(self, genotype: Genotype, rng: np.random.Generator) -> Genotype:
        """A neighbour: every gene redrawn with probability 1/genes, and at least one changed so that it is another network.

        Genes without effect are redrawn first, so that a part that the mutation switches on is a random one and not the all-zero
        one of a canonical genotype. The same network comes back only where the space holds no other one choice away.
        """
        fresh = self.sample(rng)
        idle = self._idle(genotype)
        start = tuple(new if i in idle else old for i, (old, new) in enumerate(zip(genotype, fresh, strict=True)))
        before = self.canonical(genotype)
        hit = rng.random(len(start)) < 1 / len(start)
        child = tuple(new if h else old for old, new, h in zip(start, self.sample(rng), hit, strict=True))
        if self.canonical(child) != before:
            return child
        for gene in rng.permutation(len(start)).tolist():
            for index in rng.permutation(len(self.genes[gene].choices)).tolist():
                child = (*start[:gene], index, *start[gene + 1 :])
                if self.canonical(child) != before:
                    return child
        return genotype

    def crossover(self, a: Genotype, b: Genotype, rng: np.random.Generator) -> Genotype:
        """A child that takes every gene from either parent with equal probability (uniform crossover)."""
        from_b = rng.random(len(a)) < 0.5
        return tuple(int(y if take else x) for x, y, take in zip(a, b, from_b, strict=True))
