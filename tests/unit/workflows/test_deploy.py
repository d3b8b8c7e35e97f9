"""Trained networks as they are deployed."""

from __future__ import annotations

import numpy as np
import pytest
from stand_ins import SPACE, ladder

from hwnas.accuracy import data
from hwnas.accuracy.train import Recipe, accuracy, train
from hwnas.ir import Graph
from hwnas.profiling import Setting
from hwnas.workflows.deploy import CALIBRATION_IMAGES, accuracy_as_run, calibration, deployed

(A,) = ladder(1)


@pytest.fixture(scope="module")
def trained() -> Graph:
    """A network that has learned something."""
    return train(SPACE.graph(A), data.load("digits"), Recipe(epochs=3), 0).graph


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


@pytest.mark.parametrize(
    ("runtime", "precision"), [("onnxruntime-cpu", "int8"), ("tensorrt", "int8"), ("tensorrt", "fp16")], ids=["cpu int8", "int8", "fp16"]
)
def test_accuracy_is_that_of_what_will_run(trained: Graph, runtime: str, precision: str) -> None:
    """Near that in fp32 for a network that has learned something; that of another one is another."""
    dataset = data.load("digits")
    test = dataset.unlock("a test of this function")
    setting = Setting(device="any", runtime=runtime, precision=precision)
    exact, found = accuracy(trained, test), accuracy_as_run(trained, dataset, test, 0, setting)
    assert exact > 0.5
    assert found == pytest.approx(exact, abs=0.05)
    assert accuracy_as_run(SPACE.graph(A).materialize(np.random.default_rng(1)), dataset, test, 0, setting) < 0.4
