from __future__ import annotations

import pytest

from hwnas import spaces
from hwnas.ir import Graph
from hwnas.spaces.resnet import ResNetSpace

SPACE = ResNetSpace(num_classes=5, resolutions=(32,), bases=(32, 64), depths=(1, 2), stems=(16, 32))
BASE = SPACE.decode(SPACE.reference()) | {"depth_0": 1, "depth_1": 1, "norm": "none", "stem": "7x7"}


def built(**choices: int | str) -> Graph:
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


def test_basic_blocks_worked_out_by_hand() -> None:
    """Two 3x3 convolutions; a strided 1x1 shortcut where the shape changes, none where it does not."""
    graph = built(groups_1=4)
    assert convs(graph) == [
        (3, 32, 7, 2, 1),
        *[(32, 32, 3, 1, 1), (32, 32, 3, 1, 1)],
        *[(32, 64, 3, 2, 4), (64, 64, 3, 1, 4), (32, 64, 1, 2, 1)],
    ]
    block = ["Conv", "Relu", "Conv"]
    tail = ["GlobalAveragePool", "Flatten", "Gemm"]
    assert [node.op for node in graph.nodes] == ["Conv", "Relu", "MaxPool", *block, "Add", "Relu", *block, "Conv", "Add", "Relu", *tail]
    assert graph.specs[graph.nodes[-3].inputs[0]].shape == (1, 64, 4, 4)


def test_bottleneck_blocks_worked_out_by_hand() -> None:
    """1x1, grouped 3x3 with the stride, 1x1 to four times the width."""
    assert convs(built(kind_0="bottleneck", groups_0=8, width_0=8, depth_0=2))[1:8] == [
        *[(32, 8, 1, 1, 1), (8, 8, 3, 1, 8), (8, 32, 1, 1, 1)],
        *[(32, 8, 1, 1, 1), (8, 8, 3, 1, 8), (8, 32, 1, 1, 1)],
        (32, 64, 3, 2, 1),
    ]
    assert (32, 64, 1, 1, 1) in convs(built(kind_0="bottleneck", width_0=16))


@pytest.mark.parametrize("stem", ["3x3", "7x7"])
def test_both_stems_reduce_the_image_alike(stem: str) -> None:
    """Behind the 3x3 stem the first stage strides; behind the 7x7 stem its max pooling has done so."""
    graph = built(stem=stem)
    assert graph.specs[graph.nodes[-3].inputs[0]].shape == (1, 64, 4, 4)
    assert convs(graph)[0][2:4] == ((3, 2) if stem == "3x3" else (7, 2))
    assert [node.op for node in graph.nodes].count("MaxPool") == (stem == "7x7")


def test_the_reference_is_resnet_18() -> None:
    """11,689,512 parameters, as everybody's ResNet-18 has (running statistics not counted)."""
    space = spaces.load("resnet")
    graph = space.graph(space.reference())
    weights = [weight.spec.numel for name, weight in graph.weights.items() if not name.startswith(("bn_mean", "bn_var"))]
    assert sum(weights) == 11_689_512
    assert space.input_shape(space.reference()) == (1, 3, 224, 224)


def test_the_small_space_offers_what_it_promises() -> None:
    """24 to 64 pixels, ten classes, and the same kinds of genes as its large sibling."""
    large, small = spaces.load("resnet"), spaces.load("resnet-small")
    assert small.genes[0].choices == (24, 32, 40, 48, 64)
    assert small.num_classes == 10
    assert {gene.name.rstrip("_0123") for gene in large.genes} == {gene.name.rstrip("_0123") for gene in small.genes}
