"""Zero-cost proxies against gradients, codes and flows worked out by hand on a network of two layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from hwnas.accuracy import data
from hwnas.accuracy.data import Batch
from hwnas.accuracy.proxies import PROXIES, log_det, score_all
from hwnas.errors import UsageError
from hwnas.ir import Graph, GraphBuilder, Weight

SEED = 7
CLASSES = 3
Golden = Callable[[str, Any], Any]


def two_layers(
    w1: np.ndarray, w2: np.ndarray, activation: Callable[[GraphBuilder, str], str] = lambda b, x: b.op("Relu", [x]), *, norm: bool = False
) -> Graph:
    """A 2x2 convolution on a 2x2 image (so: a matrix product), an activation, a fully connected layer."""
    b = GraphBuilder("two-layers")
    x = b.op("Conv", [b.input("x", (1, 1, 2, 2)), b.constant("w", w1.reshape(-1, 1, 2, 2))])
    x = activation(b, b.batch_norm(x) if norm else x)
    return b.finish(b.op("Gemm", [b.op("Flatten", [x]), b.constant("w", w2)], transB=1))


@dataclass(frozen=True)
class Hand:
    """The same network in NumPy, with its gradients written out."""

    w1: np.ndarray  # [H, 4]
    w2: np.ndarray  # [C, H]

    def gradients(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """dL/dw1 and dL/dw2 for the mean cross-entropy: softmax minus one-hot, sent back through both products and the ReLU."""
        x = batch.images.reshape(len(batch), 4).astype(np.float64)
        z = x @ self.w1.T
        h = np.maximum(z, 0)
        logits = h @ self.w2.T
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        d_logits = (p - np.eye(CLASSES)[batch.labels]) / len(batch)
        d_z = (d_logits @ self.w2) * (z > 0)
        return d_z.T @ x, d_logits.T @ h


@pytest.fixture
def hand() -> Hand:
    rng = np.random.default_rng(1)
    return Hand(rng.standard_normal((5, 4)).astype(np.float32), rng.standard_normal((CLASSES, 5)).astype(np.float32))


@pytest.fixture
def batch() -> Batch:
    rng = np.random.default_rng(2)
    return Batch(rng.standard_normal((8, 1, 2, 2)).astype(np.float32), rng.integers(0, CLASSES, 8))


def score(name: str, graph: Graph, batch: Batch) -> float:
    return PROXIES[name].score(graph, batch, SEED)


def test_grad_norm_sums_the_norms_of_both_layers(hand: Hand, batch: Batch) -> None:
    """Sum over layers of the L2 norm of dL/dW."""
    expected = sum(np.linalg.norm(gradient) for gradient in hand.gradients(batch))
    assert score("grad_norm", two_layers(hand.w1, hand.w2), batch) == pytest.approx(expected, rel=1e-5)


def test_snip_sums_weight_times_gradient(hand: Hand, batch: Batch) -> None:
    """Sum of |w dL/dw| over all weights."""
    g1, g2 = hand.gradients(batch)
    expected = np.abs(hand.w1 * g1).sum() + np.abs(hand.w2 * g2).sum()
    assert score("snip", two_layers(hand.w1, hand.w2), batch) == pytest.approx(expected, rel=1e-5)


def test_zico_compares_the_gradients_of_two_halves(hand: Hand, batch: Batch) -> None:
    """Per layer the log of the sum over weights of mean |g| / std(g); weights whose gradient does not vary are skipped."""
    w2 = hand.w2.copy()
    w2[:, 4] = 0
    dead = replace(hand, w2=w2)  # nothing flows back into the last hidden unit: gradients 0 in both halves, std 0
    halves = [dead.gradients(half) for half in batch.halves()]
    expected = 0.0
    for layer in range(2):
        pair = np.stack([half[layer] for half in halves])
        mean, std = np.abs(pair).mean(axis=0), pair.std(axis=0)
        assert layer or (std[4] == 0).all()
        expected += math.log((mean[std > 0] / std[std > 0]).sum())
    assert score("zico", two_layers(dead.w1, dead.w2), batch) == pytest.approx(expected, rel=1e-4)


def test_zico_skips_a_layer_whose_gradients_never_vary(hand: Hand, batch: Batch) -> None:
    """Two equal halves have no deviation anywhere: nothing is added, and nothing divides by zero."""
    half, _ = batch.halves()
    twice = Batch(np.concatenate([half.images] * 2), np.concatenate([half.labels] * 2))
    assert score("zico", two_layers(hand.w1, hand.w2), twice) == 0


def test_synflow_is_the_flow_through_absolute_weights(hand: Hand, batch: Batch) -> None:
    """For all-ones input R = sum |w2| |w1| 1, and each layer's sum of |w dR/dw| is R: S = 2 R, reported as log(1 + S)."""
    flow = np.abs(hand.w2.astype(np.float64)).sum(axis=0) @ np.abs(hand.w1.astype(np.float64)).sum(axis=1)
    assert score("synflow", two_layers(hand.w1, hand.w2), batch) == pytest.approx(math.log1p(2 * flow), rel=1e-12)


def test_synflow_ignores_data_normalisation_and_saturation(hand: Hand, batch: Batch) -> None:
    """The batch is not looked at; normalisation is the identity; a ReLU6 does not cut the flow off."""
    plain = score("synflow", two_layers(hand.w1, hand.w2), batch)
    other = Batch(batch.images * 5, batch.labels)
    assert score("synflow", two_layers(hand.w1, hand.w2), other) == plain
    assert score("synflow", two_layers(hand.w1, hand.w2, norm=True), batch) == plain
    clipped = two_layers(100 * hand.w1, hand.w2, lambda b, x: b.op("Clip", [x], min=0.0, max=6.0))
    assert score("synflow", clipped, batch) == pytest.approx(score("synflow", two_layers(100 * hand.w1, hand.w2), batch))


def test_synflow_is_finite_beyond_the_range_of_a_double() -> None:
    """A flow that overflows float64 scores as the largest number, not as infinity or NaN."""
    b = GraphBuilder("deep")
    x = b.input("x", (1, 1, 2, 2))
    for _ in range(9):
        x = b.op("Conv", [x, b.constant("w", np.full((1, 1, 1, 1), 1e36, np.float32))])
    x = b.op("Gemm", [b.op("Flatten", [x]), b.constant("w", np.ones((CLASSES, 4), np.float32))], transB=1)
    batch = Batch(np.ones((4, 1, 2, 2), np.float32), np.zeros(4, np.int64))
    assert score("synflow", b.finish(x), batch) == pytest.approx(math.log(np.finfo(np.float64).max))


def codes(hand: Hand, batch: Batch) -> np.ndarray:
    return (batch.images.reshape(len(batch), 4) @ hand.w1.T > 0).astype(np.float64)


def test_naswot_is_the_log_determinant_of_code_agreement(batch: Batch) -> None:
    """K counts, for each pair of images, the units that are open in both or closed in both."""
    rng = np.random.default_rng(5)
    wide = Hand(rng.standard_normal((40, 4)).astype(np.float32), rng.standard_normal((CLASSES, 40)).astype(np.float32))
    c = codes(wide, batch)
    kernel = np.array([[np.sum(a == b) for b in c] for a in c], np.float64)
    sign, expected = np.linalg.slogdet(kernel)
    assert sign == 1
    assert score("naswot", two_layers(wide.w1, wide.w2), batch) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "activation",
    [
        lambda b, x: b.op("Clip", [x], min=0.0, max=6.0),
        lambda b, x: b.op("HardSwish", [x]),
        lambda b, x: b.op("Mul", [x, b.op("Sigmoid", [x])]),
        lambda b, x: b.op("Gelu", [x]),
        lambda b, x: b.op("Mul", [x, b.op("HardSigmoid", [x], alpha=1 / 6, beta=0.5)]),
    ],
    ids=["clip", "hardswish", "silu", "gelu", "hardswish decomposed"],
)
def test_naswot_sees_activations_that_are_no_relu(activation: Callable[[GraphBuilder, str], str], batch: Batch) -> None:
    """The code is the sign of the pre-activation, whatever the activation is made of."""
    rng = np.random.default_rng(5)
    w1, w2 = rng.standard_normal((40, 4)).astype(np.float32), rng.standard_normal((CLASSES, 40)).astype(np.float32)
    assert score("naswot", two_layers(w1, w2, activation), batch) == score("naswot", two_layers(w1, w2), batch)


def test_naswot_adds_the_codes_of_every_activation(batch: Batch) -> None:
    """Three activations whose inputs have the same signs give three times K: N log 3 is added."""
    rng = np.random.default_rng(5)
    w1, w2 = rng.standard_normal((40, 4)).astype(np.float32), rng.standard_normal((CLASSES, 40)).astype(np.float32)
    thrice = two_layers(w1, w2, lambda b, x: b.op("Relu", [b.op("HardSwish", [b.op("Relu", [x])])]))
    once = score("naswot", two_layers(w1, w2), batch)
    assert score("naswot", thrice, batch) == pytest.approx(once + len(batch) * math.log(3))


def test_naswot_ranks_networks_that_confuse_images_below_those_that_do_not(batch: Batch) -> None:
    """Images with the same code make K singular: finite, below any regular network, and the lower the more are confused."""
    rng = np.random.default_rng(5)
    graph = two_layers(rng.standard_normal((40, 4)).astype(np.float32), rng.standard_normal((CLASSES, 40)).astype(np.float32))
    some, all_alike = batch.images.copy(), batch.images.copy()
    some[1] = some[0]
    all_alike[:] = all_alike[0]
    scores = [score("naswot", graph, Batch(images, batch.labels)) for images in (batch.images, some, all_alike)]
    assert all(math.isfinite(value) for value in scores)
    assert scores[0] > 0
    assert scores[0] > scores[1] > scores[2]
    blind = two_layers(np.ones((1, 4), np.float32), np.ones((CLASSES, 1), np.float32), lambda b, x: x)
    assert score("naswot", blind, batch) < scores[2], "a network without activations is below them all"


def test_log_det_of_regular_matrix_is_exact() -> None:
    """Only singular matrices are treated."""
    a = np.random.default_rng(0).standard_normal((6, 6))
    assert log_det(a @ a.T) == pytest.approx(np.linalg.slogdet(a @ a.T)[1])


def test_counts_are_those_of_the_cost_module(hand: Hand, batch: Batch) -> None:
    """Parameters: 5 x 4 + 3 x 5. Operations for one image: 2 per weight, and 5 ReLUs; the graph's batch does not matter."""
    graph = two_layers(hand.w1, hand.w2)
    assert score("params", graph, batch) == 35
    assert score("flops", graph, batch) == 2 * 35 + 5
    b = GraphBuilder("batched")
    x = b.op("Conv", [b.input("x", (4, 1, 2, 2)), b.constant("w", hand.w1.reshape(5, 1, 2, 2))])
    assert score("flops", b.finish(b.op("Flatten", [b.op("Relu", [x])])), batch) == 2 * 20 + 5


def test_shared_weight_counts_once(hand: Hand, batch: Batch) -> None:
    """Two convolutions with one weight have one gradient: the sum of both."""
    b = GraphBuilder("shared")
    x, w = b.input("x", (1, 1, 2, 2)), b.constant("w", hand.w1.reshape(5, 1, 2, 2))
    x = b.op("Add", [b.op("Conv", [x, w]), b.op("Conv", [x, w])])
    shared = b.finish(b.op("Gemm", [b.op("Flatten", [b.op("Relu", [x])]), b.constant("w", hand.w2)], transB=1))
    doubled = replace(hand, w1=2 * hand.w1)
    g1, g2 = doubled.gradients(batch)
    expected = np.linalg.norm(2 * g1) + np.linalg.norm(g2)
    assert score("grad_norm", shared, batch) == pytest.approx(expected, rel=1e-5)


def mixed(resolution: int = 16) -> Graph:
    """A small network with what the spaces use: normalisation, ReLU6, a gate, HardSwish, SiLU, a residual connection."""
    b = GraphBuilder("mixed")
    x = b.op(
        "Clip", [b.batch_norm(b.conv(b.input("x", (1, 3, resolution, resolution)), 8, kernel=3, stride=2, bias=False))], min=0.0, max=6.0
    )
    y = b.op("HardSwish", [b.batch_norm(b.conv(x, 16, bias=False))])
    y = b.batch_norm(b.conv(y, 16, kernel=3, groups=16, bias=False))
    y = b.op("Mul", [y, b.op("Sigmoid", [y])])
    gate = b.op("HardSigmoid", [b.conv(b.op("Relu", [b.conv(b.op("GlobalAveragePool", [y]), 8)]), 16)], alpha=1 / 6, beta=0.5)
    y = b.batch_norm(b.conv(b.op("Mul", [y, gate]), 8, bias=False))
    x = b.op("Add", [x, y])
    return b.finish(b.linear(b.op("Flatten", [b.op("GlobalAveragePool", [x])]), 10))


@pytest.mark.parametrize("name", sorted(PROXIES))
def test_proxy_gives_its_golden_value(name: str, golden: Golden) -> None:
    """Every proxy owns a score of one network on sixteen digits, which changes only on purpose.

    zico divides by deviations that may be rounding noise: other convolution algorithms move it by a percent or two.
    """
    value = score_all(mixed(), data.load("digits"), [name], SEED).values[name]
    stored = golden(f"accuracy/{name}.json", {"format": 1, "score": value})
    assert value == pytest.approx(stored["score"], rel=0.03 if name == "zico" else 1e-4)


@pytest.mark.parametrize("name", sorted(PROXIES))
def test_proxy_is_deterministic_and_leaves_the_graph_alone(name: str) -> None:
    """The same seed gives the same score; the graph stays as it was, with its weights not drawn."""
    graph = mixed()
    train = data.load("digits").fit(graph).train
    batch = train.batch(range(8))
    kept = batch.images.copy()
    first, second = (PROXIES[name].score(graph, batch, SEED) for _ in range(2))
    assert first == second
    assert math.isfinite(first)
    assert all(weight.value is None for weight in graph.weights.values())
    assert np.array_equal(batch.images, kept)
    drawn = graph.materialize(np.random.default_rng(SEED))
    before = {key: weight.value.copy() for key, weight in drawn.weights.items() if weight.value is not None}
    assert PROXIES[name].score(drawn, batch, SEED + 1) == first, "weights that have values are kept"
    assert all(np.array_equal(weight.value, before[key]) for key, weight in drawn.weights.items())


def test_another_seed_draws_other_weights() -> None:
    """Scores vary with the seed, except the counts and where weights are given."""
    scores = [score_all(mixed(), data.load("digits"), seed=seed).values for seed in (1, 2)]
    changed = {name for name in PROXIES if scores[0][name] != scores[1][name]}
    assert changed == set(PROXIES) - {"params", "flops"}


def test_score_all_agrees_with_each_proxy_alone() -> None:
    """Whatever is shared between proxies, no score depends on which others were asked for; each has its time."""
    digits = data.load("digits")
    together = score_all(mixed(), digits, seed=SEED)
    assert tuple(together.values) == tuple(together.seconds) == tuple(PROXIES)
    for name in PROXIES:
        assert score_all(mixed(), digits, [name], SEED).values[name] == together.values[name]


def test_networks_without_normalisation_get_finite_scores() -> None:
    """Exploding and vanishing signals are scores too."""
    for scale in (1e-3, 1e3):
        b = GraphBuilder("plain")
        x = b.input("x", (1, 3, 12, 12))
        for _ in range(4):
            x = b.op("HardSwish", [b.conv(x, 8, kernel=3)])
        graph = b.finish(b.linear(b.op("Flatten", [b.op("GlobalAveragePool", [x])]), 10)).materialize(np.random.default_rng(0))
        scaled = {key: weight.value * np.float32(scale) for key, weight in graph.weights.items() if weight.value is not None}
        values = score_all(graph.with_weights(scaled), data.load("digits")).values
        assert all(math.isfinite(value) for value in values.values()), values


def test_unknown_proxy_and_small_batch_are_refused(hand: Hand, batch: Batch) -> None:
    """The errors say what there is and how many images are needed."""
    with pytest.raises(UsageError, match="did you mean 'synflow'"):
        score_all(mixed(), data.load("digits"), ["synflo"])
    with pytest.raises(UsageError, match="at least 4 images, got 3"):
        score("snip", two_layers(hand.w1, hand.w2), Batch(batch.images[:3], batch.labels[:3]))


def test_integer_weights_do_not_disturb(hand: Hand, batch: Batch) -> None:
    """A constant that is no number of a floating type (an index) stays as it is in every proxy."""
    graph = two_layers(hand.w1, hand.w2)
    extra = replace(graph, weights={**graph.weights, "index": Weight.of(np.arange(3))})
    assert score("synflow", extra, batch) == score("synflow", graph, batch)
