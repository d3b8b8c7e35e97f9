"""Trained networks as they are deployed."""

from __future__ import annotations

import numpy as np
import pytest
from stand_ins import SPACE, ladder

from hwnas.accuracy import data
from hwnas.accuracy.train import Recipe, accuracy, train
from hwnas.ir import Graph
from hwnas.workflows.deploy import CALIBRATION_IMAGES, calibration, deployed, int8_accuracy

(A,) = ladder(1)


def weights(graph: Graph) -> dict[str, list[float]]:
    """A network's weights as plain numbers."""
    return {name: weight.value.ravel().tolist() for name, weight in graph.weights.items() if weight.value is not None}


def test_deployment_changes_the_batch_and_nothing_else() -> None:
    """A trained network is deployed at the run's batch with the weights that it was trained to."""
    trained = SPACE.graph(A).materialize(np.random.default_rng(5))
    assert deployed(trained, SPACE, A, 1) is trained
    many = deployed(trained, SPACE, A, 4)
    assert [spec.shape[0] for spec in many.inputs.values()] == [4]
    assert weights(many) == weights(trained)


@pytest.mark.parametrize("batch", [1, 24, 100])
def test_calibration_is_drawn_in_full_batches(batch: int) -> None:
    """Of the network's size, different images, the same for the same seed; one batch at least."""
    graph = SPACE.graph(A, batch=batch)
    feeds = calibration(graph, data.load("digits"), 3)
    ((name, spec),) = graph.inputs.items()
    assert len(feeds) == max(1, CALIBRATION_IMAGES // batch)
    assert {feed[name].shape for feed in feeds} == {spec.shape}
    images = np.concatenate([feed[name] for feed in feeds])
    assert len(np.unique(images, axis=0)) == len(images)
    again, other = calibration(graph, data.load("digits"), 3), calibration(graph, data.load("digits"), 4)
    assert all(np.array_equal(a[name], b[name]) for a, b in zip(feeds, again, strict=True))
    assert not all(np.array_equal(a[name], b[name]) for a, b in zip(feeds, other, strict=True))


def test_accuracy_in_8_bits_is_that_of_the_quantised_network() -> None:
    """Near that in fp32 for a network that has learned something; that of another one is another."""
    dataset = data.load("digits")
    test = dataset.unlock("a test of this function")
    trained = train(SPACE.graph(A), dataset, Recipe(epochs=3), 0).graph
    exact, quantised = accuracy(trained, test), int8_accuracy(trained, dataset, test, 0)
    assert exact > 0.5
    assert quantised == pytest.approx(exact, abs=0.05)
    assert int8_accuracy(SPACE.graph(A).materialize(np.random.default_rng(1)), dataset, test, 0) < 0.4
