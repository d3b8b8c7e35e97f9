"""Start values of networks that normalise nothing."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from hwnas.accuracy import data
from hwnas.accuracy.running import module_of, tensor_of
from hwnas.accuracy.train import Recipe, train
from hwnas.accuracy.unit_variance import scale_to_unit_variance
from hwnas.ir import Graph, GraphBuilder


def deep(activation: str = "Relu") -> Graph:
    """Residual blocks without normalisation, whose signal explodes under plain He-normal weights."""
    b = GraphBuilder("deep")
    x = b.op(activation, [b.conv(b.input("x", (1, 1, 8, 8)), 12, kernel=3)])
    for _ in range(6):
        y = b.conv(b.op(activation, [b.conv(x, 24, kernel=3)]), 12, kernel=3)
        x = b.op(activation, [b.op("Add", [x, y])])
    return b.finish(b.linear(b.op("Flatten", [x]), 10))


@pytest.mark.parametrize("activation", ["Relu", "HardSwish", "Tanh"])
def test_every_layer_gets_outputs_of_unit_variance(activation: str) -> None:
    """One pass settles all layers, each on what the scaled ones before it give."""
    graph = deep(activation)
    module = module_of(graph.materialize(np.random.default_rng(0)))
    images = tensor_of(data.load("digits").fit(graph).train.batch(range(64)).images)
    layers = {node.name: node.outputs[0] for node in graph.nodes if node.op in ("Conv", "Gemm")}
    with torch.no_grad():
        before = module.forward_values(images)
        scale_to_unit_variance(module, images, layers)
        after = module.forward_values(images)
    assert max(abs(float(before[value].std()) - 1) for value in layers.values()) > 0.3
    for name, value in layers.items():
        assert float(after[value].std()) == pytest.approx(1, abs=1e-3), name


def test_only_the_named_layers_change() -> None:
    """Weights keep their direction; what is not named keeps its weights too."""
    graph = deep().materialize(np.random.default_rng(0))
    module = module_of(graph)
    scale_to_unit_variance(module, torch.rand(16, 1, 8, 8), ["conv_1"])
    after = module.to_graph()
    changed = {key for key, weight in graph.weights.items() if not np.array_equal(weight.value, after.weights[key].value)}
    (key,) = changed
    ratio = after.weights[key].value / graph.weights[key].value
    np.testing.assert_allclose(ratio, ratio.flat[0], rtol=1e-5)


def test_constant_output_is_left_alone() -> None:
    """A layer that gives the same everywhere has no variance to bring to 1."""
    b = GraphBuilder("zero")
    x = b.op("Conv", [b.input("x", (1, 1, 4, 4)), b.weight("w", (2, 1, 3, 3), "zeros")])
    module = module_of(b.finish(x).materialize(np.random.default_rng(0)))
    scale_to_unit_variance(module, torch.rand(4, 1, 4, 4), ["conv_0"])
    assert float(module.layers["conv_0"].constant(1).detach().abs().max()) == 0


def test_training_starts_from_a_sensible_loss_and_leaves_given_weights_alone() -> None:
    """Drawn weights are scaled: the first loss is near log 10. Weights that have values are where the user wants to start."""
    digits = data.load("digits")
    recipe = Recipe(epochs=1, batch_size=1000, lr=1e-9, shift=0)
    fresh = train(deep(), digits, recipe, 0)
    assert fresh.curve[0].loss < 4
    given = deep().materialize(np.random.default_rng(0))
    kept = train(given, digits, recipe, 0)
    assert kept.curve[0].loss > 10
