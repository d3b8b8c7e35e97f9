"""A prediction taken apart: nothing is lost, and what is not measured is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from paper_device import ROOFLINE

from hwnas import spaces
from hwnas.ir import Graph, GraphBuilder
from hwnas.predict import Predictor
from hwnas.predict.explanation import Ceilings, Explanation, Uncovered

SPACE = spaces.load("mobilenet-small")


def network() -> Graph:
    """One like those that were measured."""
    return SPACE.graph(SPACE.sample(np.random.default_rng([77, 1])))


def stranger() -> Graph:
    """One with two Softmaxes, which were not measured, and a convolution far larger than any that was."""
    b = GraphBuilder("stranger")
    x = b.conv(b.input("x", (1, 64, 96, 96)), 256, kernel=3)
    x = b.op("Softmax", [b.op("Softmax", [x], axis=1)], axis=3)
    return b.finish(b.op("Flatten", [b.op("GlobalAveragePool", [x])]))


def explained(predictor: Predictor, graph: Graph) -> Explanation:
    (estimate,) = predictor.estimate([graph])
    return Explanation.of(predictor, graph, estimate)


@pytest.mark.parametrize("graph", [network(), stranger()], ids=lambda graph: graph.name)
def test_the_parts_and_the_call_make_the_whole(predictor: Predictor, graph: Graph) -> None:
    """Kernels by time, their shares and those of their bounds, and what the call costs: they add up to the estimate."""
    explanation = explained(predictor, graph)
    seconds = [part.kernel.seconds for part in explanation.parts]
    assert seconds == sorted(seconds, reverse=True)
    assert sum(seconds) + explanation.overhead_share * explanation.estimate.value == pytest.approx(explanation.estimate.value)
    assert 0 < explanation.overhead_share < 0.2
    assert sum(explanation.bounds.values()) == pytest.approx(1 - explanation.overhead_share)
    assert set(explanation.bounds) == {"compute", "memory", "overhead"}
    assert sorted(map(hash, explanation.kernels)) == sorted(hash(call.kernel) for call in predictor.kernels(graph))


def test_what_was_measured_is_not_named(predictor: Predictor) -> None:
    """A network of the space that was profiled has nothing uncovered."""
    explanation = explained(predictor, network())
    assert explanation.uncovered == ()
    assert all(part.kernel.covered for part in explanation.parts)


def test_what_was_not_measured_is_named_by_kind(predictor: Predictor) -> None:
    """Kinds that the profile lacks and sizes that it lacks are told apart; the shares are those that the coverage leaves."""
    explanation = explained(predictor, stranger())
    found = {group.kind: group for group in explanation.uncovered}
    assert (found["Softmax"].missing, found["Softmax"].kernels) == ("kind", 2)
    assert (found["Conv-dense"].missing, found["Conv-dense"].kernels) == ("size", 1)
    shares = [group.share for group in explanation.uncovered]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1 - explanation.estimate.coverage)


def test_operations_bytes_and_rates(predictor: Predictor) -> None:
    """A dense convolution worked out by hand."""
    (part,) = [part for part in explained(predictor, stranger()).parts if part.kind == "Conv-dense"]
    pixels = 96 * 96
    assert part.flops == 2 * pixels * 256 * 64 * 9
    assert part.bytes == 4 * (64 * pixels + 256 * pixels + 256 * 64 * 9)
    assert part.name == "Conv"
    assert part.intensity == pytest.approx(part.flops / part.bytes)
    assert part.flops_per_s == pytest.approx(part.flops / part.kernel.seconds)
    assert part.kernel.bound == "compute"


def test_the_ceilings_are_the_predictors_roofline(predictor: Predictor) -> None:
    """What a model scales by; a model without one has none."""
    assert explained(predictor, network()).ceilings == Ceilings(flops_per_s=ROOFLINE.flops_per_s, bytes_per_s=ROOFLINE.bytes_per_s)
    bare = replace(explained(predictor, stranger()), kinds=frozenset())
    assert {group.missing for group in bare.uncovered} == {"kind"}
    assert all(isinstance(group, Uncovered) for group in bare.uncovered)
