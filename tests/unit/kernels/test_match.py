"""Where networks have work for the kernels, and where they only seem to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hwnas import spaces
from hwnas.ir import Graph, GraphBuilder
from hwnas.kernels.match import Match, matches


def built(make: Callable[[GraphBuilder, str], str], shape: tuple[int, ...] = (1, 8, 6, 6)) -> Graph:
    b = GraphBuilder("net")
    return b.finish(make(b, b.input("x", shape)))


def only(graph: Graph) -> Match:
    (found,) = matches(graph)
    return found


def depthwise(b: GraphBuilder, x: str, *, stride: int = 1) -> str:
    return b.batch_norm(b.conv(x, 8, kernel=3, stride=stride, groups=8, bias=False))


def swish(b: GraphBuilder, x: str) -> str:
    return b.op("Mul", [x, b.op("Sigmoid", [x])])


def gate(b: GraphBuilder, x: str, *, linear: bool = False, hard: bool = True, alpha: float = 1 / 6) -> str:
    pooled = b.op("GlobalAveragePool", [x])
    if linear:
        y = b.op("Relu", [b.linear(b.op("Flatten", [pooled]), 4)])
        y = b.op("Reshape", [b.linear(y, 8)], shape=(1, 8, 1, 1))
    else:
        y = b.conv(b.op("Relu", [b.conv(pooled, 4)]), 8)
    y = b.op("HardSigmoid", [y], alpha=alpha) if hard else b.op("Sigmoid", [y])
    return b.op("Mul", [x, y])


def norm(b: GraphBuilder, x: str) -> str:
    return b.op("LayerNormalization", [x, b.weight("scale", (16,)), b.weight("shift", (16,))], axis=-1)


@pytest.mark.parametrize(
    ("activation", "name", "nodes"),
    [
        (lambda b, x: b.op("Relu", [x]), "relu", 3),
        (lambda b, x: b.op("Clip", [x], min=0.0, max=6.0), "relu6", 3),
        (lambda b, x: b.op("HardSwish", [x]), "hardswish", 3),
        (lambda b, x: b.op("Mul", [x, b.op("HardSigmoid", [x], alpha=1 / 6)]), "hardswish", 4),
        (swish, "silu", 4),
        (lambda b, x: b.op("Clip", [x], min=0.0, max=4.0), "none", 2),
        (lambda b, x: b.op("Tanh", [x]), "none", 2),
    ],
)
def test_depthwise_convolutions(activation: Callable[[GraphBuilder, str], str], name: str, nodes: int) -> None:
    """With their normalisation and whichever activation the kernel has; with none where it has it not."""
    found = only(built(lambda b, x: activation(b, depthwise(b, x, stride=2))))
    assert found.kernel == "depthwise_conv"
    assert found.case.attrs == {"stride": 2, "pad": 1, "activation": name, "add": "none"}
    assert found.case.shapes == {"x": (1, 8, 6, 6), "weight": (8, 1, 3, 3), "bias": (8,)}
    assert len(found.nodes) == nodes


def test_residuals_before_and_after_the_activation() -> None:
    """As the kernel computes either; without an activation both are one."""
    before = only(built(lambda b, x: b.op("Relu", [b.op("Add", [depthwise(b, x), x])])))
    after = only(built(lambda b, x: b.op("Add", [x, b.op("Relu", [depthwise(b, x)])])))
    bare = only(built(lambda b, x: b.op("Add", [x, depthwise(b, x)])))
    assert [found.case.attrs["add"] for found in (before, after, bare)] == ["before", "after", "after"]
    assert [len(found.nodes) for found in (before, after, bare)] == [4, 4, 3]
    assert before.case.shapes["residual"] == (1, 8, 6, 6)


def test_values_that_others_read_are_written() -> None:
    """What is read between a convolution and its activation, or returned by the network, ends the match before it."""
    read = built(lambda b, x: b.op("Add", [b.op("Relu", [y := depthwise(b, x)]), b.op("Tanh", [y])]))
    assert [len(found.nodes) for found in matches(read)] == [2]
    b = GraphBuilder("net")
    y = depthwise(b, b.input("x", (1, 8, 6, 6)))
    assert only(b.finish(y, b.op("Relu", [y]))).nodes == ("conv_0", "batchnormalization_0")


@pytest.mark.parametrize(
    "make",
    [
        lambda b, x: b.conv(x, 8, kernel=3),
        lambda b, x: b.conv(x, 8, kernel=3, groups=4),
        lambda b, x: b.conv(x, 16, kernel=3, groups=8),
        lambda b, x: b.conv(x, 8, kernel=3, groups=8, dilation=2),
        lambda b, x: b.op("Conv", [x, b.weight("w", (8, 1, 3, 3))], group=8, pads=(0, 0, 1, 1), strides=(1, 1)),
        lambda b, x: b.op("Conv", [x, b.weight("w", (8, 1, 3, 5))], group=8),
        lambda b, x: gate(b, x, alpha=0.2),
        lambda b, x: b.op("GlobalAveragePool", [x]),
    ],
)
def test_other_work(make: Callable[[GraphBuilder, str], str]) -> None:
    """Dense, grouped, widening, dilated, lopsided and oblong convolutions, and other gates, are not taken for the kernels' work."""
    assert matches(built(make)) == ()


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("hard", [False, True])
def test_squeeze_excite(linear: bool, hard: bool) -> None:
    """Of convolutions or of fully connected layers, with either gate; all of it is one kernel."""
    graph = built(lambda b, x: gate(b, x, linear=linear, hard=hard))
    found = only(graph)
    assert found.kernel == "squeeze_excite"
    assert found.case.attrs == {"activation": "relu", "gate": "hardsigmoid" if hard else "sigmoid"}
    assert found.case.shapes == {"x": (1, 8, 6, 6), "reduce": (4, 8), "reduce_bias": (4,), "expand": (8, 4), "expand_bias": (8,)}
    assert len(found.nodes) == len(graph.nodes)


def test_layer_norm_behind_a_residual() -> None:
    """Also where others read the sum; not behind another operator, nor over two axes."""
    found = only(built(lambda b, x: b.op("Add", [norm(b, y := b.op("Add", [x, b.op("Relu", [x])])), y]), (2, 5, 16)))
    assert (found.kernel, found.nodes) == ("layer_norm_residual", ("add_0", "layernormalization_0"))
    assert found.case.shapes["x"] == (2, 5, 16)
    assert matches(built(lambda b, x: norm(b, b.op("Relu", [x])), (2, 5, 16))) == ()


@pytest.mark.parametrize("name", ["mobilenet", "mobilenet-small"])
def test_networks_of_a_space(name: str) -> None:
    """Every depthwise convolution and every gate of a network is found, and no node twice."""
    space = spaces.load(name)
    for seed in range(5):
        graph = space.graph(space.sample(np.random.default_rng(seed)))
        found = matches(graph)
        counts = {kernel: sum(match.kernel == kernel for match in found) for kernel in ("depthwise_conv", "squeeze_excite")}
        grouped = sum(node.op == "Conv" and node.attr("group") > 1 for node in graph.nodes)
        nodes = [node for match in found for node in match.nodes]
        assert counts["depthwise_conv"] == grouped
        assert (
            counts["squeeze_excite"] == sum(node.op == "GlobalAveragePool" for node in graph.nodes) - 1
        )  # the last one is the classifier's
        assert len(nodes) == len(set(nodes))
