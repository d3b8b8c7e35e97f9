from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import pairwise

import numpy as np
import onnx
import pytest

from hwnas import spaces
from hwnas.errors import UsageError
from hwnas.ir import Graph
from hwnas.ir.cost import flops, weight_bytes
from hwnas.ir.onnx import to_model
from hwnas.runtimes.ort import OrtRuntime
from hwnas.spaces import Genotype
from hwnas.spaces.generic import FAMILIES, GenericSpace
from hwnas.spaces.generic_images import shortcut
from hwnas.spaces.generic_parts import LIMIT, Coarse, Sketch

SPACE = GenericSpace()
SMALL = {"resolution": 48, "width": 0.35, "depth": 2, "activation": "relu", "norm": "batch", "variant": 5}


def chosen(family: str, **choices: int | float | str) -> Genotype:
    """The canonical genotype of a small network of a family with some choices changed."""
    return SPACE.canonical(SPACE.encode({"family": family, **SMALL, **choices}))


@cache
def sampled(count: int = 150) -> tuple[tuple[Genotype, Graph], ...]:
    """Random carriers."""
    population = SPACE.sample_batch(np.random.default_rng(7), count)
    genotypes = [SPACE.canonical(tuple(row)) for row in population.tolist()]
    return tuple((genotype, SPACE.graph(genotype)) for genotype in genotypes)


def chains(graph: Graph, ops: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Names of nodes that feed each other and are of these operators in this order."""
    paths = [(node,) for node in graph.nodes if node.op == ops[0]]
    for op in ops[1:]:
        paths = [(*path, reader) for path in paths for reader in graph.consumers.get(path[-1].outputs[0], ()) if reader.op == op]
    yield from (tuple(node.name for node in path) for path in paths)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_of_every_family_is_valid_and_runs(family: str) -> None:
    """The ONNX checker accepts it with full shape inference, and ONNX Runtime computes finite scores of as many classes as asked for."""
    space = spaces.load("generic", num_classes=12)
    graph = space.graph(chosen(family, activation="swish")).materialize(np.random.default_rng(0))
    onnx.checker.check_model(to_model(graph), full_check=True)
    (scores,) = OrtRuntime().build(graph).run(graph.random_inputs(np.random.default_rng(1)))
    assert scores.shape == (1, 12)
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_batch_changes_nothing_else(family: str) -> None:
    """The same operators with the same weights, three images at a time."""
    genotype = chosen(family, activation="rare", depth=3)
    one, three = SPACE.graph(genotype), SPACE.graph(genotype, batch=3)
    assert [(node.name, node.op) for node in one.nodes] == [(node.name, node.op) for node in three.nodes]
    assert {name: weight.spec for name, weight in one.weights.items()} == {name: weight.spec for name, weight in three.weights.items()}
    assert flops(three) == pytest.approx(3 * flops(one), rel=1e-6)
    assert three.specs[three.outputs[0]].shape == (3, SPACE.num_classes)


def test_families_are_told_apart() -> None:
    """Every family has a share of the networks, and its name is the network's."""
    counts = Counter(SPACE.family(genotype) for genotype, _ in sampled())
    assert set(counts) == set(FAMILIES)
    assert all(graph.name == f"generic-{SPACE.family(genotype)}" for genotype, graph in sampled())
    assert {space.family(space.reference()) for space in map(spaces.load, ("mobilenet", "resnet-small"))} == {"mobilenet", "resnet-small"}


def test_the_operators_that_networks_are_made_of_are_there() -> None:
    """Of classifiers, detectors' decoders, transformers and text encoders; each in more than one network."""
    counts = Counter(op for _, graph in sampled() for op in {node.op for node in graph.nodes})
    convolutional = {
        "Conv",
        "BatchNormalization",
        "Relu",
        "Clip",
        "HardSwish",
        "Sigmoid",
        "HardSigmoid",
        "MaxPool",
        "AveragePool",
        "Concat",
    }
    heads = {"GlobalAveragePool", "ReduceMean", "Flatten", "Reshape", "Gemm", "Softmax"}
    tokens = {"MatMul", "LayerNormalization", "Erf", "Tanh", "Pow", "Sqrt", "Div", "Transpose", "Gather", "Split", "Slice", "Expand"}
    others = {"LRN", "InstanceNormalization", "Resize", "Pad", "Sum", "Sub", "Mul", "Add", "Elu", "LeakyRelu", "PRelu", "Gelu"}
    assert {op for op in convolutional | heads | tokens | others if counts[op] < 2} == set()


def test_convolutions_vary_in_all_that_shapes_them() -> None:
    """Kernels, strides, groups, dilations and odd sizes of maps; channels are multiples of 8 mostly, and sometimes not."""
    seen = Counter[tuple[str, int]]()
    channels = []
    for _, graph in sampled():
        for node in graph.nodes:
            if node.op == "Conv":
                data, weight = (graph.specs[value].shape for value in node.inputs[:2])
                depthwise = node.attr("group") == data[1] > 1
                seen.update([("kernel", max(weight[2:])), ("stride", node.ints("strides")[0]), ("dilation", node.ints("dilations")[0])])
                seen.update([("depthwise kernel", weight[2])] if depthwise else [("group", weight[1])] if node.attr("group") > 1 else [])
                seen.update([("lopsided", weight[2] != weight[3]), ("odd map", data[2] % 2)])
                channels.append(data[1])
    for key, values in {
        "kernel": (1, 2, 3, 4, 5, 7),
        "stride": (1, 2, 4),
        "dilation": (1, 2),
        "depthwise kernel": (3, 5, 7),
        "group": (8, 16),
        "lopsided": (1,),
        "odd map": (0, 1),
    }.items():
        assert all(seen[key, value] for value in values), (key, seen)
    share = np.mean(np.array(channels) % 8 == 0)
    assert 0.6 < share < 0.97
    assert min(channels) < 8
    assert max(channels) >= 1024


def test_sizes_stay_within_what_profiling_affords() -> None:
    """A network costs about what its limit says, few are far below, and weights of more than 250 MB are rare."""
    costs = np.array([flops(graph) for _, graph in sampled()])
    weights = np.array([weight_bytes(graph) for _, graph in sampled()])
    assert costs.max() < 2.5 * LIMIT[1]
    assert LIMIT[0] < np.median(costs) < LIMIT[1] / 2
    assert np.mean(costs < 1e7) < 0.05
    assert np.quantile(weights, 0.95) < 2.5e8


def test_every_resolution_serves_every_family() -> None:
    """Each gives an input of that size, and the longest and the shortest text; `input_shape` says so without building anything."""
    for family in FAMILIES:
        for resolution in (32, 127, 227, 288):
            genotype = chosen(family, resolution=resolution)
            (spec,) = SPACE.graph(genotype).inputs.values()
            assert spec.shape == SPACE.input_shape(genotype)
            assert spec.shape == ((1, resolution * 3 // 4) if family == "text" else (1, 3, resolution, resolution))
            assert spec.dtype == ("int64" if family == "text" else "float32")


def test_gelu_and_attention_are_written_as_exporters_write_them() -> None:
    """First x / sqrt 2, then Erf, + 1, times x, times 1/2; and MatMul, scale, Softmax, MatMul between reshapes and transposes."""
    graph = SPACE.graph(chosen("vision", activation="gelu"))
    gelus = list(chains(graph, ("Div", "Erf", "Add", "Mul", "Mul")))
    assert gelus
    by_name = {node.name: node for node in graph.nodes}
    first, last = (by_name[name] for name in (gelus[0][0], gelus[0][3]))
    assert first.inputs[0] in last.inputs
    found = [SPACE.graph(chosen("vision", variant=variant)) for variant in range(12)]
    ways = {
        op for graph in found for op in ("Div", "Mul") if list(chains(graph, ("MatMul", op, "Softmax", "MatMul", "Transpose", "Reshape")))
    }
    assert ways == {"Div", "Mul"}


def test_normalisations_are_written_as_exporters_write_them() -> None:
    """Of layers in one operator, of groups around an instance normalisation, of root mean squares spelled out."""
    many = [SPACE.graph(chosen(family, variant=v)) for family in ("mixer", "text", "channels_last", "preactivated") for v in range(12)]
    for ops in (
        ("LayerNormalization",),
        ("Reshape", "InstanceNormalization", "Reshape", "Mul", "Add"),
        ("Pow", "ReduceMean", "Add", "Sqrt"),
        ("ReduceMean", "Sub", "Pow", "ReduceMean", "Add", "Sqrt", "Div", "Mul", "Add"),
        ("BatchNormalization", "Relu", "Conv"),
    ):
        assert any(list(chains(graph, ops)) for graph in many), ops


@pytest.mark.parametrize("gene", range(len(SPACE.genes)))
def test_a_genotype_of_another_version_is_refused(gene: int) -> None:
    """An index that a gene does not have is named, whichever gene it is; nothing is built from it."""
    genotype = list(SPACE.reference())
    genotype[gene] = len(SPACE.genes[gene].choices)
    with pytest.raises(UsageError, match=f"gene '{SPACE.genes[gene].name}' of 'generic' has indices"):
        SPACE.graph(tuple(genotype))


def sketch(seed: int) -> Sketch:
    """One without nodes."""
    coarse = Coarse(resolution=64, width=1.0, depth=6, activation="relu", norm="batch")
    return Sketch("sketch", coarse, np.random.default_rng(seed), batch=1, classes=10)


def test_a_stage_ends_when_its_share_is_spent() -> None:
    """Not before another block of the same cost would be too much, and never before the first block."""
    s = sketch(0)
    costs = []
    for _ in s.blocks(100, share=0.5):
        s.spend(0.1 * s.limit)
        costs.append(0.1)
    assert sum(costs) == pytest.approx(0.5, abs=0.11)
    assert [s.spend(10 * s.limit) for _ in s.blocks(100)] == [None]


def test_a_layer_is_as_wide_as_the_limit_allows() -> None:
    """Large maps get fewer channels than asked for, small ones as many as that, roughly."""
    s = sketch(1)
    large, small = s.b.input("a", (1, 3, 1024, 1024)), s.b.input("b", (1, 3, 4, 4))
    assert s.wide(large, 512) < 128
    assert 480 <= s.wide(small, 512) <= 544
    assert s.wide(small, 100, step=24) == 96


def test_channels_grow_from_stage_to_stage() -> None:
    """By a factor between 1.5 and 2.5."""
    for seed in range(5):
        assert all(1.4 < after / before < 2.6 for before, after in pairwise(sketch(seed).growing(16, 5)))


@pytest.mark.parametrize(
    "genotype",
    [(3, 16, 5, 3, 3, 0, 884), (3, 10, 4, 4, 5, 0, 811), (3, 10, 4, 3, 2, 0, 344), (3, 7, 0, 1, 6, 0, 118), (3, 16, 4, 0, 6, 0, 251)],
)
def test_groups_divide_the_channels(genotype: Genotype) -> None:
    """However many channels favoured widths lead to; these were drawn once, and could not be normalised in 4 or 8 groups."""
    assert SPACE.graph(genotype).outputs


@pytest.mark.parametrize("size", [(74, 75), (75, 74), (74, 74), (75, 75)])
def test_a_shortcut_has_the_size_of_its_block(size: tuple[int, int]) -> None:
    """Pooled or not: an image with one odd side is not halved by a pooling, which would round down."""
    for pooled in (True, False):
        s = sketch(0)
        x = s.b.input("a", (1, 8, *size))
        assert s.b.shape(shortcut(s, x, 16, 2, pooled=pooled)) == s.b.shape(s.conv(x, 16, 3, 2))


def test_patches_are_folded_back() -> None:
    """What `fold` joins is what `unfold` cut; a permutation keeps every element."""
    s = Sketch(
        "folded", Coarse(resolution=8, width=1.0, depth=1, activation="relu", norm="none"), np.random.default_rng(3), batch=2, classes=3
    )
    x = s.image()
    assert s.b.shape(s.unfold(x)) == (2, 3, 4, 16)
    graph = s.b.finish(s.b.op("Concat", [s.fold(s.unfold(x), 8), s.permute(x)], axis=1))
    image = np.random.default_rng(0).random((2, 3, 8, 8), dtype=np.float32)
    (found,) = OrtRuntime(1).build(graph).run({"x": image})
    np.testing.assert_array_equal(found[:, :3], image)
    np.testing.assert_array_equal(np.sort(found[:, 3:].reshape(2, -1)), np.sort(image.reshape(2, -1)))
    assert not np.array_equal(found[:, 3:], image)
