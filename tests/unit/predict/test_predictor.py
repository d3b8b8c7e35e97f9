"""From graphs to estimates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paper_device import BLOCK, latency_s

from hwnas import spaces
from hwnas.errors import UncoveredKernelError, UsageError
from hwnas.ir import Graph, GraphBuilder
from hwnas.predict import Predictor
from hwnas.runtimes.fusions import PATTERNS
from hwnas.runtimes.ort_fusion import fuse

SPACE = spaces.load("mobilenet-small")


def network(seed: int, batch: int = 1) -> Graph:
    return SPACE.graph(SPACE.sample(np.random.default_rng([77, seed])), batch=batch)


def with_transformer_parts(graph_batch: int = 1) -> Graph:
    """A network with kernels of kinds that the space does not have."""
    b = GraphBuilder("mixed")
    x = b.op("HardSwish", [b.conv(b.input("x", (graph_batch, 3, 32, 32)), 16, kernel=3, stride=2)])
    x = b.op("Softmax", [b.op("Reshape", [x], shape=(graph_batch, 16, 256))])
    return b.finish(b.op("ReduceMean", [x], axes=(2,)))


# ---- estimates


def test_estimates_are_near_the_truth(predictor: Predictor) -> None:
    """Networks of the space are predicted within a few percent, in their order, all covered, with an interval about the value."""
    graphs = [network(seed) for seed in range(20)]
    estimates = predictor.estimate(graphs)
    truth = [latency_s([call.kernel for call in fuse(graph, BLOCK)]) for graph in graphs]
    for estimate, latency in zip(estimates, truth, strict=True):
        assert estimate.value == pytest.approx(latency, rel=0.1)
        assert estimate.low < estimate.value < estimate.high
        assert estimate.coverage > 0.99
        assert estimate.unit == "s"
    assert np.mean([e.low <= t <= e.high for e, t in zip(estimates, truth, strict=True)]) >= 0.7


def test_kernels_are_those_of_the_device(predictor: Predictor) -> None:
    """A device whose runtime lacks a fusion has other kernels, and so another latency, wherever it is predicted."""
    lacking = replace(predictor, fusions=replace(predictor.fusions, patterns=PATTERNS - {"QuickGelu"}))
    ops, fewer = ([call.kernel.op for call in one.kernels(network(0))] for one in (lacking, predictor))
    assert len(ops) > len(fewer)
    assert "QuickGelu" in set(fewer) - set(ops)
    (slow,), (fast,) = lacking.estimate([network(0)]), predictor.estimate([network(0)])
    assert slow.value > fast.value


def test_the_upper_end_is_for_the_median(predictor: Predictor) -> None:
    """What users are promised is the median: where it lies above p10, it moves the upper end, and nothing else."""
    disturbed = replace(predictor, model=replace(predictor.model, median_width=0.3))
    (calm,), (found,) = predictor.estimate([network(0)]), disturbed.estimate([network(0)])
    assert (found.value, found.low) == (calm.value, calm.low)
    assert found.high == pytest.approx(calm.value * np.exp(0.3), rel=0.01)


def test_one_by_one_or_together(predictor: Predictor) -> None:
    """The company in which a network is predicted does not change its estimate."""
    graphs = [network(seed) for seed in range(5)]
    together = predictor.estimate(graphs)
    for graph, estimate in zip(graphs, together, strict=True):
        (alone,) = predictor.estimate([graph])
        assert (alone.value, alone.low, alone.high) == pytest.approx((estimate.value, estimate.low, estimate.high))


def test_no_networks_no_estimates(predictor: Predictor) -> None:
    """Nothing in, nothing out."""
    assert predictor.estimate([]) == []


def test_weights_do_not_matter(predictor: Predictor) -> None:
    """Whether weights are drawn, and which, has no influence."""
    graph = network(3)
    assert predictor.estimate([graph]) == predictor.estimate([graph.materialize(np.random.default_rng(0))])


def test_the_source_says_where_it_comes_from(predictor: Predictor) -> None:
    """Device, setting and space are in the source of every estimate."""
    (estimate,) = predictor.estimate([network(0)])
    assert estimate.source == "predicted from profile cpu/onnxruntime-cpu-t1-b1-fp32 (mobilenet-small)"


def test_another_batch_is_refused(predictor: Predictor) -> None:
    """A predictor answers for one batch size; the message says which option gives another."""
    for ask in (lambda graph: predictor.estimate([network(0), graph]), predictor.explain):
        with pytest.raises(UsageError, match=r"input 'x' of 'mobilenet-small' has batch 4, this predictor answers for 1; give --batch 4"):
            ask(network(0, batch=4))


# ---- what is not covered


def test_what_is_not_covered_is_said(predictor: Predictor) -> None:
    """Kernels of kinds that were not measured count in the value, lower the coverage and widen the interval."""
    (known,), (mixed,) = predictor.estimate([network(0)]), predictor.estimate([with_transformer_parts()])
    assert 0 < mixed.coverage < 0.9
    assert mixed.value > 0
    assert mixed.high / mixed.value > 1.3 * known.high / known.value
    assert mixed.value / mixed.low > 1.3 * known.value / known.low


def test_coverage_is_the_known_share(predictor: Predictor) -> None:
    """The coverage is the share of the explained kernels that were measured, call included."""
    graph = with_transformer_parts()
    (estimate,) = predictor.estimate([graph])
    assert estimate.coverage == pytest.approx(1 - sum(part.share for part in predictor.explain(graph) if not part.covered))


def test_strict_refuses(predictor: Predictor) -> None:
    """In strict mode the first kernel that was not measured is named with its node, and what to do; covered networks pass."""
    with pytest.raises(UncoveredKernelError) as caught:
        predictor.estimate([network(0), with_transformer_parts()], strict=True)
    message = str(caught.value)
    assert "'cpu' was not profiled for kernel 'HardSwish'" in message or "kernel 'Reshape'" in message
    assert "(node '" in message
    assert "drop --strict" in message
    assert "\n" not in message
    assert predictor.estimate([network(0)], strict=True) == predictor.estimate([network(0)])


def test_a_size_far_beyond_is_not_covered(predictor: Predictor) -> None:
    """A kernel of a known kind, but of a size that nobody measured, is not covered."""
    b = GraphBuilder("huge")
    graph = b.finish(b.conv(b.input("x", (1, 512, 64, 64)), 512))
    with pytest.raises(UncoveredKernelError, match=r"of this size \(node 'conv_0'\)"):
        predictor.estimate([graph], strict=True)
    (estimate,) = predictor.estimate([graph])
    assert estimate.coverage < 0.1


# ---- explaining


def test_the_parts_add_up(predictor: Predictor) -> None:
    """The kernels' times and the call make the network's value; shares are of it; every node is in one part."""
    graph = network(1)
    (estimate,) = predictor.estimate([graph])
    parts = predictor.explain(graph)
    call = estimate.value - sum(part.seconds for part in parts)
    assert 0 < call < 0.2 * estimate.value
    assert all(part.share == pytest.approx(part.seconds / estimate.value) for part in parts)
    assert [part.call for part in parts] == list(predictor.kernels(graph))
    assert {part.bound for part in parts} <= {"compute", "memory", "overhead"}


def test_what_bounds_a_kernel(predictor: Predictor) -> None:
    """Small kernels are bound by overhead, wide convolutions by computing, element-wise work on large values by memory."""
    b = GraphBuilder("bounds")
    x = b.input("x", (1, 64, 64, 64))
    graph = b.finish(b.op("Relu", [b.op("Mul", [b.conv(x, 64, kernel=3), x])]), b.op("Neg", [b.input("y", (1, 8))]))
    bounds = {part.call.kernel.op: part.bound for part in predictor.explain(graph)}
    assert bounds["Conv"] == "compute"
    assert bounds["Mul"] == "memory"
    assert bounds["Neg"] == "overhead"


# ---- recalibrating


def test_winners_move_the_prediction(predictor: Predictor) -> None:
    """When networks that a search chose ran 20 % longer than predicted, predictions go up by that, and the interval does not narrow."""
    graphs = [network(seed) for seed in range(12)]
    predicted = np.array([estimate.value for estimate in predictor.estimate(graphs)])
    again = predictor.recalibrated(predicted, 1.2 * predicted)
    moved = np.array([estimate.value for estimate in again.estimate(graphs)])
    np.testing.assert_allclose(moved, 1.2 * predicted, rtol=1e-6)
    assert again.model.half_width >= predictor.model.half_width
    assert again.digest == ""


def test_scattered_winners_widen_the_interval(predictor: Predictor) -> None:
    """Winners that scatter more than the profile's networks widen the interval to what covers them."""
    graphs = [network(seed) for seed in range(15)]
    predicted = np.array([estimate.value for estimate in predictor.estimate(graphs)])
    measured_s = predicted * np.exp(np.random.default_rng(1).normal(0.1, 0.2, len(predicted)))
    again = predictor.recalibrated(predicted, measured_s)
    assert again.model.half_width > 3 * predictor.model.half_width
    estimates = again.estimate(graphs)
    assert np.mean([e.low <= s <= e.high for e, s in zip(estimates, measured_s, strict=True)]) >= 0.9


@settings(max_examples=50, deadline=None)
@given(errors=st.lists(st.floats(-0.5, 0.5), min_size=1, max_size=30))
def test_recalibrating_never_narrows(predictor: Predictor, errors: list[float]) -> None:
    """Whatever was measured: the interval never narrows, and the shift is the median error."""
    predicted = np.full(len(errors), 1e-3)
    again = predictor.recalibrated(predicted, predicted * np.exp(errors))
    assert again.model.half_width >= predictor.model.half_width
    assert again.model.correction.weights[0] - predictor.model.correction.weights[0] == pytest.approx(np.median(errors))
    assert again.model.correction.weights[1:] == predictor.model.correction.weights[1:]


def test_few_winners_count_in_full(predictor: Predictor) -> None:
    """Three winners cannot promise 90 %, so the largest of their errors is the least half width."""
    predicted = np.array([1e-3, 1e-3, 1e-3])
    again = predictor.recalibrated(predicted, predicted * np.array([1.0, 1.0, 1.5]))
    assert again.model.half_width == pytest.approx(np.log(1.5))
