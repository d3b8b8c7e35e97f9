from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import archs

from hwnas import spaces
from hwnas.errors import UsageError
from hwnas.ir import Graph, GraphBuilder
from hwnas.spaces import Gene, Genotype, SearchSpace


class Toy(SearchSpace):
    """Two optional layers, the second only behind the first: conditions in a chain, and a space small enough to enumerate."""

    num_classes = 3
    genes = (
        Gene("layers", (0, 1, 2)),
        Gene("first", ("plain", "wide"), when=("layers", (1, 2))),
        Gene("width", (8, 16, 24), when=("first", ("wide",))),
        Gene("second", (1, 3), when=("layers", (2,))),
        Gene("size", (4, 6)),
    )

    def graph(self, genotype: Genotype, *, batch: int = 1) -> Graph:
        arch = self.decode(genotype)
        b = GraphBuilder(self.name)
        x = b.input("image", (batch, 1, arch["size"], arch["size"]))
        if arch["layers"] > 0:
            x = b.conv(x, arch["width"] if arch["first"] == "wide" else 4)
        if arch["layers"] > 1:
            x = b.conv(x, 4, kernel=arch["second"])
        return b.finish(b.linear(b.op("Flatten", [b.op("GlobalAveragePool", [x])]), self.num_classes))


class Parity(Toy):
    """A space with a canonical form of its own: only the parity of `layers` counts."""

    def canonical(self, genotype: Genotype) -> Genotype:
        return (genotype[0] % 2, *genotype[1:])


TOY = Toy()
EVERY = [tuple(genotype) for genotype in product(*(range(len(gene.choices)) for gene in TOY.genes))]
SPACES = [spaces.load(name) for name in spaces.names()]
each_space = pytest.mark.parametrize("space", [TOY, *SPACES], ids=lambda space: space.name)


def structure(graph: Graph) -> object:
    """All there is to a network whose weights are not drawn; names count too, since builders give them in order."""
    return graph.nodes, tuple(graph.inputs.items()), tuple((name, w.spec, w.init) for name, w in graph.weights.items()), graph.outputs


def test_size_counts_genotypes_and_distinct_size_counts_networks() -> None:
    """Both counts are exact: they equal those of an enumeration."""
    assert TOY.size() == len(EVERY) == 72
    assert TOY.distinct_size() == len({TOY.canonical(genotype) for genotype in EVERY}) == 26


def test_canonical_genotypes_and_networks_correspond_one_to_one() -> None:
    """Over a whole space: equal canonical forms are equal networks, different ones are different networks."""
    networks: dict[Genotype, set[object]] = {}
    for genotype in EVERY:
        networks.setdefault(TOY.canonical(genotype), set()).add(structure(TOY.graph(genotype)))
    assert all(len(graphs) == 1 for graphs in networks.values())
    assert len({graph for graphs in networks.values() for graph in graphs}) == len(networks)


def test_a_gene_under_a_gene_without_effect_has_none() -> None:
    """Conditions chain: `width` hangs on `first`, which has no effect in a network without layers."""
    assert TOY.canonical((0, 1, 2, 1, 1)) == (0, 0, 0, 0, 1)
    assert TOY.canonical((1, 1, 2, 1, 1)) == (1, 1, 2, 0, 1)


def test_mutation_reaches_every_network_and_never_stays() -> None:
    """From any genotype, mutation leads to another network, and over many draws to all that are one choice away."""
    rng = np.random.default_rng(0)
    for genotype in EVERY[::7]:
        reached = {TOY.canonical(TOY.mutate(genotype, rng)) for _ in range(400)}
        neighbours = {
            TOY.canonical((*genotype[:i], choice, *genotype[i + 1 :]))
            for i, gene in enumerate(TOY.genes)
            for choice in range(len(gene.choices))
        }
        assert TOY.canonical(genotype) not in reached
        assert neighbours - {TOY.canonical(genotype)} <= reached


def test_mutation_redraws_what_a_canonical_genotype_has_lost() -> None:
    """A part that a mutation switches on is a random one: not always the first choice, which idle genes are set to."""
    rng = np.random.default_rng(0)
    children = [TOY.mutate((1, 0, 0, 0, 0), rng) for _ in range(300)]
    assert {TOY.canonical(child)[3] for child in children if child[0] == 2} == {0, 1}


def test_mutation_gives_up_where_there_is_no_other_network() -> None:
    """A space of one network has no neighbours."""

    class Lonely(Toy):
        genes = tuple(Gene(gene.name, gene.choices[:1]) for gene in Toy.genes)

    assert Lonely().mutate((0, 0, 0, 0, 0), np.random.default_rng(0)) == (0, 0, 0, 0, 0)


def test_defaults_that_follow_from_genes_and_graph() -> None:
    """A subclass that declares nothing else has a name, an input shape, a reference and one block, its network."""
    assert TOY.name == "Toy"
    assert TOY.input_shape((0, 0, 0, 0, 1), batch=5) == (5, 1, 6, 6)
    assert TOY.reference() == (1, 1, 1, 0, 1)
    (block,) = TOY.blocks((2, 1, 2, 1, 1), batch=5)
    assert structure(TOY.block_graph(block)) == structure(TOY.graph((2, 1, 2, 1, 1), batch=5))
    assert block.key == TOY.blocks((2, 1, 2, 1, 1), batch=5)[0].key
    assert block.key != TOY.blocks((2, 1, 2, 1, 1), batch=6)[0].key
    assert block.key != TOY.blocks((2, 1, 1, 1, 1), batch=5)[0].key


def test_blocks_of_the_same_network_have_the_same_key() -> None:
    """The key is made of the canonical genotype."""
    assert TOY.blocks((0, 1, 1, 1, 0)) == TOY.blocks((0, 0, 0, 0, 0))


def test_a_space_in_one_line() -> None:
    """Name, genes, size."""
    assert str(TOY) == "Toy: 5 genes, 10^1.9 genotypes, 10^1.4 distinct networks"


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ({"layers": 5}, r"gene 'layers' of 'Toy' chooses among \[0, 1, 2\], got 5"),
        ({"layer": 1}, r"has no gene 'layer' \(did you mean 'layers'\?\)"),
    ],
)
def test_encode_refuses_what_is_no_choice(arch: dict[str, int], message: str) -> None:
    """The message names the gene and what it offers."""
    with pytest.raises(UsageError, match=message):
        TOY.encode(TOY.decode(TOY.reference()) | arch)


def test_encode_wants_every_gene() -> None:
    """A missing choice is not guessed."""
    with pytest.raises(UsageError, match="needs a choice for every gene, and 'first' has none"):
        TOY.encode({"layers": 1})


@pytest.mark.parametrize("genotype", [(0, 0, 0, 0), (0, 0, 3, 0, 0), (-1, 0, 0, 0, 0)])
def test_validate_refuses_what_is_outside(genotype: Genotype) -> None:
    """Wrong length, or an index outside a gene's choices; decoding and building refuse it too."""
    for use in (TOY.validate, TOY.decode, TOY.graph):
        with pytest.raises(UsageError, match="'Toy'"):
            use(genotype)


@pytest.mark.parametrize(
    ("genes", "message"),
    [
        ((Gene("a", (1, 2)), Gene("a", (1,))), "two genes named 'a'"),
        ((Gene("b", (1,), when=("a", (1,))), Gene("a", (1, 2))), "depends on 'a', which is no gene before it"),
        ((Gene("a", (1, 2)), Gene("b", (1,), when=("a", (3,)))), "depends on a=3, which is not among"),
    ],
)
def test_genes_that_do_not_fit_together_are_refused(genes: tuple[Gene, ...], message: str) -> None:
    """A space says what is wrong with its genes when it is first used."""

    class Wrong(Toy):
        pass

    space = Wrong()
    space.genes = genes
    with pytest.raises(UsageError, match=message):
        space.canonical((0, 0))


@pytest.mark.parametrize("choices", [(), (1, 2, 1), (True, 1)])
def test_a_gene_needs_choices_that_differ(choices: tuple[int, ...]) -> None:
    """Equal choices (as Python compares) could not be told apart when encoding."""
    with pytest.raises(UsageError, match="gene 'g' needs at least one choice and all of them different"):
        Gene("g", choices)


def test_an_overridden_canonical_form_holds_for_populations_too() -> None:
    """`canonical_batch` follows `canonical`."""
    population = np.array(EVERY)
    assert Parity().canonical_batch(population).tolist() == [list(Parity().canonical(genotype)) for genotype in EVERY]
    assert Parity().canonical_batch(population[:0]).shape == (0, 5)


@each_space
@given(data=st.data())
def test_operators_stay_inside(space: SearchSpace, data: st.DataObject) -> None:
    """Samples, mutants and children are genotypes of the space, made of plain integers; a mutant is another network."""
    a, b = data.draw(archs(space)), data.draw(archs(space))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    mutant, child = space.mutate(a, rng), space.crossover(a, b, rng)
    for genotype in (space.sample(rng), mutant, child, space.canonical(a), space.reference()):
        space.validate(genotype)
        assert all(type(index) is int for index in genotype)
    assert space.canonical(mutant) != space.canonical(a)
    assert all(gene in parents for gene, parents in zip(child, zip(a, b, strict=True), strict=True))


@each_space
@given(data=st.data())
def test_encode_undoes_decode(space: SearchSpace, data: st.DataObject) -> None:
    """And the other way round."""
    genotype = data.draw(archs(space))
    assert space.encode(space.decode(genotype)) == genotype


@each_space
@given(data=st.data())
def test_canonical_is_idempotent_and_the_same_for_populations(space: SearchSpace, data: st.DataObject) -> None:
    """Row by row and as a matrix give the same canonical forms, and those are their own."""
    population = data.draw(st.lists(archs(space), min_size=1, max_size=4))
    canonical = [space.canonical(genotype) for genotype in population]
    assert [space.canonical(genotype) for genotype in canonical] == canonical
    assert space.canonical_batch(np.array(population)).tolist() == [list(genotype) for genotype in canonical]


@each_space
def test_sampling_is_uniform_per_gene_and_repeats(space: SearchSpace) -> None:
    """Every choice of every gene turns up, about equally often; the same seed gives the same population."""
    population = space.sample_batch(np.random.default_rng(3), 2000)
    assert (population == space.sample_batch(np.random.default_rng(3), 2000)).all()
    for column, gene in zip(population.T, space.genes, strict=True):
        expected = 2000 / len(gene.choices)
        assert (np.abs(np.bincount(column, minlength=len(gene.choices)) - expected) < 6 * np.sqrt(expected)).all()
    assert space.sample(np.random.default_rng(3)) == tuple(population[0])
