from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import archs

from hwnas import spaces
from hwnas.errors import GraphError
from hwnas.ir import Graph, GraphBuilder, TensorSpec
from hwnas.spaces import Gene, Genotype, Layer, SearchSpace
from hwnas.spaces.layers import ACTIVATIONS, LayeredSpace, Style

SPACES = [spaces.load(name) for name in spaces.names()]
each_space = pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)


def rows(graph: Graph) -> list[object]:
    """A network without its names: every node with its attributes, its specs, its weights, and how far back its inputs were written.

    The input of a network counts as written just before its first node.
    """
    place = {value: i for i, node in enumerate(graph.nodes) for value in node.outputs} | dict.fromkeys(graph.inputs, -1)
    found: list[object] = []
    for i, node in enumerate(graph.nodes):
        reads = tuple(("weight", graph.weights[v].init) if v in graph.weights else ("value", i - place[v]) for v in node.inputs)
        found.append((node.op, node.attrs, reads, tuple(graph.input_specs(node)), tuple(graph.output_specs(node))))
    return found


@each_space
@settings(max_examples=15)
@given(data=st.data())
def test_a_network_is_the_concatenation_of_its_blocks(space: SearchSpace, data: st.DataObject) -> None:
    """Operators, attributes, shapes, weights and wiring of the block graphs, one behind the other, are those of the whole graph."""
    genotype = data.draw(archs(space))
    batch = data.draw(st.integers(1, 3))
    blocks = space.blocks(genotype, batch=batch)
    graphs = [space.block_graph(block) for block in blocks]
    for graph, after in pairwise(graphs):
        assert graph.outputs == graph.nodes[-1].outputs
        assert [graph.specs[graph.outputs[0]]] == list(after.inputs.values())
    whole = space.graph(genotype, batch=batch)
    assert [row for graph in graphs for row in rows(graph)] == rows(whole)
    assert whole.specs[whole.outputs[0]].shape == (batch, space.num_classes)
    assert [spec.shape for spec in whole.inputs.values()] == [space.input_shape(genotype, batch)]


@each_space
@settings(max_examples=15)
@given(data=st.data())
def test_genotypes_are_the_same_network_exactly_when_their_canonical_forms_are(space: SearchSpace, data: st.DataObject) -> None:
    """The canonical genotype builds the identical graph; a neighbour's canonical form differs, and so does its graph."""
    genotype = data.draw(archs(space))
    canonical = space.canonical(genotype)
    assert rows(space.graph(canonical)) == rows(space.graph(genotype))
    assert space.blocks(canonical) == space.blocks(genotype)
    neighbour = space.mutate(genotype, np.random.default_rng(data.draw(st.integers(0, 2**32))))
    assert rows(space.graph(neighbour)) != rows(space.graph(genotype))


@each_space
def test_different_canonical_forms_are_different_networks(space: SearchSpace) -> None:
    """Among all networks within one choice of some, and many within two: as many block lists as canonical forms.

    A block list holds nothing but layers and input specs, so that two genotypes of one network would have the same; near each other is
    where such pairs would be, as when a block moved over the border between two stages.
    """
    rng = np.random.default_rng(1)
    for start in space.sample_batch(rng, 2):
        columns = [column for column, gene in enumerate(space.genes) for _ in gene.choices]
        choices = [choice for gene in space.genes for choice in range(len(gene.choices))]
        population = np.tile(start, (len(columns) + 600, 1))
        population[np.arange(len(columns)), columns] = choices
        for row in population[len(columns) :]:
            pair = rng.integers(len(columns), size=2)
            row[np.array(columns)[pair]] = np.array(choices)[pair]
        canonical = {tuple(row) for row in space.canonical_batch(population).tolist()}
        assert len({space.blocks(genotype) for genotype in canonical}) == len(canonical) > 50


@each_space
def test_blocks_with_equal_keys_have_equal_graphs_and_others_do_not(space: SearchSpace) -> None:
    """A key holds all that determines the sub-graph, and nothing that does not show in it."""
    rng = np.random.default_rng(2)
    blocks = {block for _ in range(6) for block in space.blocks(space.sample(rng))}
    assert len({block.key for block in blocks}) == len(blocks)
    graphs = {str(rows(space.block_graph(block))) for block in blocks}
    assert len(graphs) == len({block.key for block in blocks})


@each_space
def test_batch_reaches_every_value(space: SearchSpace) -> None:
    """Batch is the first dimension of all activations."""
    graph = space.graph(space.reference(), batch=7)
    assert {graph.specs[value].shape[0] for node in graph.nodes for value in node.outputs} == {7}


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_normalisation_is_a_node_or_a_bias(norm: Any) -> None:
    """`batch`: a convolution without bias and a BatchNormalization; `none`: a convolution with a bias, as if folded."""
    b = GraphBuilder("conv")
    graph = b.finish(Style(norm, "relu").conv(b, b.input("x", (1, 8, 4, 4)), 16, kernel=3))
    assert [node.op for node in graph.nodes] == (["Conv", "BatchNormalization", "Relu"] if norm == "batch" else ["Conv", "Relu"])
    assert len(graph.nodes[0].inputs) == (2 if norm == "batch" else 3)


@pytest.mark.parametrize(
    ("name", "ops"), [("relu", ["Relu"]), ("hardswish", ["HardSwish"]), ("swish", ["Sigmoid", "Mul"]), ("clip6", ["Clip"])]
)
def test_activations_are_standard_operators(name: str, ops: list[str]) -> None:
    """The swish is x * sigmoid(x); clip6 is ReLU6."""
    b = GraphBuilder(name)
    graph = b.finish(ACTIVATIONS[name](b, b.input("x", (1, 2))))
    assert [node.op for node in graph.nodes] == ops
    if name == "swish":
        assert graph.nodes[1].inputs == ("x", graph.nodes[0].outputs[0])
    if name == "clip6":
        assert (graph.nodes[0].attr("min"), graph.nodes[0].attr("max")) == (0.0, 6.0)


@dataclass(frozen=True, slots=True)
class Liar:
    """A layer whose `output` does not describe what it emits."""

    channels: int

    def emit(self, b: GraphBuilder, x: str) -> str:
        return b.conv(x, self.channels)

    def output(self, spec: TensorSpec) -> TensorSpec:
        return spec


class LyingSpace(LayeredSpace):
    genes = (Gene("channels", (3, 4)),)

    def input_shape(self, genotype: Genotype, batch: int = 1) -> tuple[int, ...]:
        return (batch, 3, 4, 4)

    def layers(self, arch: Mapping[str, Any]) -> Iterator[Layer]:
        yield Liar(arch["channels"])


def test_a_layer_must_emit_what_its_output_says() -> None:
    """Blocks and graph cannot drift apart unnoticed: building compares them."""
    LyingSpace().graph((0,))
    with pytest.raises(GraphError, match=r"Liar\(channels=4\) emits \[1, 4, 4, 4\], and its output\(\) says \[1, 3, 4, 4\]"):
        LyingSpace().graph((1,))
