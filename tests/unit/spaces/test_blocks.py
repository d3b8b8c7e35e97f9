"""Populations are divided into the blocks that their spaces list, and counted by them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from tiny_space import TinySpace

from hwnas import spaces
from hwnas.errors import GraphError
from hwnas.ir import cost
from hwnas.spaces import Gene
from hwnas.spaces import blocks as module
from hwnas.spaces.base import Block, Genotype, SearchSpace
from hwnas.spaces.blocks import BlockCounts, BlockIndex
from hwnas.spaces.layers import Classifier, Conv, FactoredSpace, Part, Run, Style

SHIPPED = ("mobilenet", "mobilenet-small", "resnet", "resnet-small")


def listed(index: BlockIndex, numbers: list[int]) -> list[Block]:
    """The blocks of a network, without those that pass their input on."""
    return [block for block in (index.blocks[number] for number in numbers) if block.layer != Run(())]


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", SHIPPED)
def test_blocks_are_those_that_the_space_lists(name: str, batch: int) -> None:
    """For canonical genotypes and others; a second look finds the same numbers, and equal networks have equal ones."""
    space = spaces.load(name)
    index = BlockIndex(space, batch=batch)
    assert index.tabled
    networks = space.sample_batch(np.random.default_rng(0), 30)
    found = index.divide(networks)
    for numbers, genotype in zip(found.T.tolist(), networks.tolist(), strict=True):
        assert listed(index, numbers) == list(space.blocks(tuple(genotype), batch=batch))
    known = len(index.blocks)
    np.testing.assert_array_equal(index.divide(space.canonical_batch(networks)), found)
    assert len(index.blocks) == known
    assert index.divide(networks[:0]).shape == (len(found), 0)


@pytest.mark.parametrize("space", [*map(spaces.load, SHIPPED), TinySpace()], ids=[*SHIPPED, "tiny"])
def test_counts_are_those_of_the_networks(space: SearchSpace) -> None:
    """Parameters, operations and bytes of memory, exactly."""
    index = BlockIndex(space, batch=2)
    counts = BlockCounts(index)
    networks = space.sample_batch(np.random.default_rng(1), 12)
    for _ in range(2):
        found = counts.count(index.divide(networks))
        graphs = [space.graph(tuple(row), batch=2) for row in networks.tolist()]
        assert found.params.tolist() == [cost.params(graph) for graph in graphs]
        assert found.flops.tolist() == [cost.flops(graph) for graph in graphs]
        assert found.memory_bytes.tolist() == [cost.memory_bytes(graph) for graph in graphs]


def test_too_many_combinations_are_divided_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a table the blocks are the same."""
    monkeypatch.setattr(module, "MOST_CHOICES", 10)
    space = spaces.load("resnet-small")
    index = BlockIndex(space)
    assert not index.tabled
    networks = space.sample_batch(np.random.default_rng(0), 10)
    for numbers, genotype in zip(index.divide(networks).T.tolist(), networks.tolist(), strict=True):
        assert listed(index, numbers) == list(space.blocks(tuple(genotype)))


class Small(FactoredSpace):
    """One convolution."""

    name = "factored"
    genes = (Gene("resolution", (8, 16)), Gene("images", (1, 3)), Gene("width", (4, 8)))

    def input_shape(self, genotype: Genotype, batch: int = 1) -> tuple[int, ...]:
        """Depends on two genes."""
        arch = self.decode(genotype)
        return (batch, arch["images"], arch["resolution"], arch["resolution"])

    def parts(self) -> Iterator[Part]:
        """Convolution, classifier."""
        yield Part(("width",), lambda arch: [Conv(Style("none", "relu"), arch["width"], kernel=3, stride=2)])
        yield Part((), lambda _: [Classifier(self.num_classes)])


class Named(Small):
    """Says so."""

    input_genes = ("resolution", "images")


class Endless(Small):
    """Its last part may make nothing."""

    input_genes = ("resolution", "images")

    def parts(self) -> Iterator[Part]:
        """A convolution, or nothing."""
        yield Part(("width",), lambda arch: [Conv(Style("none", "relu"), 4, kernel=3, stride=2)][: arch["width"] - 4])


def test_a_space_that_contradicts_itself_is_refused() -> None:
    """The shape of an input that depends on a gene that is not named, and a last part without a layer."""
    networks = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]])
    assert BlockIndex(Named()).divide(networks).shape == (2, 4)
    with pytest.raises(GraphError, match="the parts of 'factored' contradict its blocks in network"):
        BlockIndex(Small()).divide(networks)
    with pytest.raises(GraphError, match="the last part of 'factored' must make a layer"):
        BlockIndex(Endless()).divide(networks)
