from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from hwnas import spaces
from hwnas.errors import UsageError
from hwnas.ir import Graph
from hwnas.spaces.mobilenet import MobileNetSpace, Stage

SPACE = MobileNetSpace(num_classes=7, resolutions=(32, 64), stages=(Stage(16, 1), Stage(24, 2)), depths=(1, 2), heads=(32,))
BASE = SPACE.decode(SPACE.reference()) | {"depth_0": 1, "depth_1": 1, "norm": "none", "activation": "relu", "stem": 16, "resolution": 32}


def built(**choices: int | str | bool) -> Graph:
    """The graph of the base architecture with some choices changed."""
    return SPACE.graph(SPACE.encode(BASE | choices))


def convs(graph: Graph) -> list[tuple[int, int, int, int, int]]:
    """Every convolution: channels in, channels out, kernel, stride, groups."""
    found = []
    for node in graph.nodes:
        if node.op == "Conv":
            data, weight = graph.specs[node.inputs[0]].shape, graph.specs[node.inputs[1]].shape
            found.append((data[1], weight[0], weight[2], node.ints("strides")[0], int(node.attr("group"))))
    return found


def test_a_network_worked_out_by_hand() -> None:
    """Stem, one block a stage, head: every convolution and the order of all operators."""
    graph = built(expansion_0_0=1, expansion_1_0=6, kernel_1_0=5, gate_1_0=True, width_0=8, width_1=24)
    assert convs(graph) == [
        (3, 16, 3, 2, 1),
        (16, 16, 3, 1, 16),  # expansion 1: no expanding convolution
        (16, 8, 1, 1, 1),
        (8, 48, 1, 1, 1),
        (48, 48, 5, 2, 48),
        (48, 12, 1, 1, 1),  # the gate: a quarter inside
        (12, 48, 1, 1, 1),
        (48, 24, 1, 1, 1),
        (24, 32, 1, 1, 1),
    ]
    gate = ["GlobalAveragePool", "Conv", "Relu", "Conv", "HardSigmoid", "Mul"]
    assert [node.op for node in graph.nodes] == [
        *["Conv", "Relu"],
        *["Conv", "Relu", "Conv"],
        *["Conv", "Relu", "Conv", "Relu", *gate, "Conv"],
        *["Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"],
    ]
    (sigmoid,) = [node for node in graph.nodes if node.op == "HardSigmoid"]
    assert (sigmoid.attr("alpha"), sigmoid.attr("beta")) == (pytest.approx(1 / 6), 0.5)
    assert graph.specs[graph.nodes[-3].inputs[0]].shape == (1, 32, 8, 8)
    assert graph.specs[graph.outputs[0]].shape == (1, 7)


@pytest.mark.parametrize(
    ("choices", "additions"),
    [({"width_0": 16}, 1), ({"width_0": 8}, 0), ({"width_0": 8, "depth_0": 2}, 1), ({"width_0": 8, "depth_1": 2}, 1)],
)
def test_blocks_that_keep_the_shape_are_residual(choices: dict[str, int], additions: int) -> None:
    """A block with stride 1 and as many channels out as in adds its input; no other does."""
    assert Counter(node.op for node in built(**choices).nodes)["Add"] == additions


def test_each_gene_shows_where_it_should() -> None:
    """Norm, activation, head, stem and resolution act on the whole network."""
    ops = Counter(node.op for node in built(norm="batch").nodes)
    assert ops["BatchNormalization"] == ops["Conv"]
    assert (
        Counter(node.op for node in built(activation="hardswish").nodes)["HardSwish"] == Counter(node.op for node in built().nodes)["Relu"]
    )
    assert convs(built(stem=8))[0] == (3, 8, 3, 2, 1)
    assert SPACE.input_shape(SPACE.encode(BASE | {"resolution": 64}), batch=2) == (2, 3, 64, 64)


def test_genes_of_blocks_that_are_not_there_fold() -> None:
    """Kernel, expansion and gate of a block beyond the stage's depth are 0 in the canonical form, those of the others are kept."""
    deep = BASE | {"kernel_0_0": 7, "kernel_0_1": 7, "expansion_0_1": 3, "gate_0_1": True}
    folded = SPACE.decode(SPACE.canonical(SPACE.encode(deep)))
    assert [folded[f"{gene}_0_1"] for gene in ("kernel", "expansion", "gate")] == [3, 1, False]
    assert folded["kernel_0_0"] == 7
    kept = SPACE.decode(SPACE.canonical(SPACE.encode(deep | {"depth_0": 2})))
    assert [kept[f"{gene}_0_1"] for gene in ("kernel", "expansion", "gate")] == [7, 3, True]


def test_a_border_between_stages_that_nobody_could_see_is_refused() -> None:
    """Stage(24) may be 32 wide and so may Stage(32, stride 1): two blocks and one, or one and two, would be the same network."""
    with pytest.raises(UsageError, match=r"must not share widths with the stage before it, and \[16, 24, 32\] are shared"):
        MobileNetSpace(stages=(Stage(24, 2), Stage(32, 1)))
    MobileNetSpace(stages=(Stage(24, 2), Stage(32, 2)))


def test_the_spaces_offer_what_they_promise() -> None:
    """Ranges of the shipped pair: resolutions, classes, channels in multiples of 8, and the reference as documented."""
    large, small = spaces.load("mobilenet"), spaces.load("mobilenet-small")
    assert large.genes[0].choices == (96, 112, 128, 160, 192, 224)
    assert small.genes[0].choices == (24, 32, 40, 48, 64)
    assert (large.num_classes, small.num_classes) == (1000, 10)
    widths = [gene.choices for gene in large.genes if gene.name.startswith("width")]
    assert widths == [(8, 16, 24), (16, 24, 32), (24, 32, 40, 48), (40, 64, 80, 104), (56, 88, 112, 144), (96, 144, 192, 240)]
    assert {gene.name.rsplit("_")[0] for gene in large.genes} == {gene.name.rsplit("_")[0] for gene in small.genes}
    reference = large.decode(large.reference())
    assert reference | {"resolution": 224, "stem": 32, "head": 1280, "depth_3": 2, "width_4": 112, "norm": "batch"} == reference


def multiply_accumulates(space: spaces.SearchSpace, genotype: spaces.Genotype) -> int:
    """Of convolutions and the classifier, counted from the shapes."""
    graph = space.graph(genotype)
    layers = [node for node in graph.nodes if node.op in ("Conv", "Gemm")]
    return sum(graph.specs[node.outputs[0]].numel * int(np.prod(graph.specs[node.inputs[1]].shape[1:])) for node in layers)


def test_the_small_space_trains_on_a_cpu() -> None:
    """Its networks cost 1 to 40 MFLOPs (2 per multiply-accumulate), and half of the random ones less than 8."""
    space = spaces.load("mobilenet-small")
    rng = np.random.default_rng(0)
    flops = sorted(2 * multiply_accumulates(space, space.sample(rng)) for _ in range(100))
    assert 0.5e6 < flops[0] < 2e6
    assert flops[50] < 8e6
    assert 25e6 < flops[-1] < 45e6


def test_the_gate_has_at_least_eight_channels_inside() -> None:
    """A quarter of few channels would be too few."""
    graph = built(gate_0_0=True, expansion_0_0=1, stem=8)
    assert (8, 8, 1, 1, 1) in convs(graph)
