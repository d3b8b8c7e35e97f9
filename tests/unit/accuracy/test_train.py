"""Short training: reproducible, judged on validation only, and never a crash because a network is bad."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from hwnas.accuracy import data
from hwnas.accuracy.train import Epoch, Recipe, Trained, accuracy, shifted, train
from hwnas.errors import UsageError
from hwnas.ir import Graph, GraphBuilder

QUICK = Recipe(epochs=3, batch_size=32)


def network(norm: str = "batch", *, classes: int = 10) -> Graph:
    """A small network on 12 x 12 pixels, its weights not drawn."""
    b = GraphBuilder("small")
    x = b.input("x", (1, 1, 12, 12))
    for channels, stride in ((12, 2), (24, 2)):
        x = b.conv(x, channels, kernel=3, stride=stride, bias=norm == "none")
        x = b.op("Relu", [b.batch_norm(x) if norm == "batch" else x])
    return b.finish(b.linear(b.op("Flatten", [x]), classes))


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load("digits")


@pytest.fixture(scope="module")
def trained(digits: data.Dataset) -> Trained:
    return train(network(), digits, QUICK, 0)


def test_three_epochs_learn_the_digits(trained: Trained) -> None:
    """Far above chance, with one entry of the curve per epoch and a falling loss."""
    assert trained.outcome == "finished"
    assert trained.reason == ""
    assert trained.validation_accuracy > 0.8
    assert [epoch.number for epoch in trained.curve] == [1, 2, 3]
    assert trained.curve[-1].loss < trained.curve[0].loss
    assert trained.curve[-1].validation_accuracy == trained.validation_accuracy
    assert trained.seconds >= trained.curve[-1].seconds > trained.curve[0].seconds > 0


def test_network_without_normalisation_learns_too(digits: data.Dataset) -> None:
    """The same recipe trains He-normal weights with nothing to normalise them."""
    assert train(network("none"), digits, QUICK, 0).validation_accuracy > 0.8


def test_same_seed_gives_the_same_weights_and_accuracy(digits: data.Dataset, trained: Trained) -> None:
    """Weights, order and augmentation all follow the seed."""
    again, other = (train(network(), digits, QUICK, seed) for seed in (0, 1))
    assert again.curve[-1].loss == trained.curve[-1].loss
    for key, weight in trained.graph.weights.items():
        assert np.array_equal(weight.value, again.graph.weights[key].value), key
    assert other.curve[-1].loss != trained.curve[-1].loss


def test_trained_graph_is_the_same_network_with_the_trained_weights(digits: data.Dataset, trained: Trained) -> None:
    """Its accuracy by itself is the one reported: running statistics came along; nodes and weights keep their names."""
    assert accuracy(trained.graph, digits.validation) == trained.validation_accuracy
    assert trained.graph.nodes == network().nodes
    assert set(trained.graph.weights) == set(network().weights)
    means = [weight.value for key, weight in trained.graph.weights.items() if key.startswith("bn_mean")]
    assert all(mean is not None and np.abs(mean).max() > 0 for mean in means)


def test_given_weights_are_the_starting_point(digits: data.Dataset, trained: Trained) -> None:
    """Training goes on from weights that have values, and leaves the given graph as it was."""
    before = {key: weight.value.copy() for key, weight in trained.graph.weights.items() if weight.value is not None}
    more = train(trained.graph, digits, replace(QUICK, epochs=1, lr=1e-4), 5)
    assert more.validation_accuracy > trained.validation_accuracy - 0.05
    assert all(np.array_equal(trained.graph.weights[key].value, value) for key, value in before.items())


def test_training_does_not_read_the_test_split(digits: data.Dataset) -> None:
    """Nothing is on the record, and images of the test part have no influence: here they are not numbers."""
    poisoned = replace(
        digits, _test=replace(digits.unlock("to spoil a copy"), _pixels=np.full_like(digits.unlock("again")._pixels, np.nan))
    )
    record = poisoned.unlocked
    assert train(network(), poisoned, replace(QUICK, epochs=1), 0).outcome == "finished"
    assert poisoned.unlocked == record


def test_loss_that_is_no_number_ends_as_diverged(digits: data.Dataset) -> None:
    """Accuracy 0, the reason in words, and the weights as they were given: no exception."""
    graph = network("none").materialize(np.random.default_rng(0))
    broken = graph.with_weights({key: weight.value * np.float32(1e20) for key, weight in graph.weights.items() if weight.value is not None})
    result = train(broken, digits, QUICK, 0)
    assert (result.outcome, result.validation_accuracy, result.curve) == ("diverged", 0.0, ())
    assert "in epoch 1 of 3" in result.reason
    assert all(np.isfinite(weight.value).all() for weight in result.graph.weights.values() if weight.value is not None)


def test_weights_that_are_no_numbers_after_the_last_step_end_as_diverged(digits: data.Dataset) -> None:
    """A finite loss with an infinite gradient spoils the weights; that is noticed without another step."""
    b = GraphBuilder("root")
    x = b.op("Conv", [b.input("x", (1, 1, 12, 12)), b.weight("w", (4, 1, 3, 3), "zeros")])
    x = b.op("Sqrt", [b.op("Mul", [x, x])])  # at 0 the root's infinite slope meets the square's zero slope
    graph = b.finish(b.linear(b.op("Flatten", [x]), 10))
    result = train(graph, digits, Recipe(epochs=1, batch_size=2000), 0)
    assert (result.outcome, result.validation_accuracy) == ("diverged", 0.0)


def test_callback_sees_every_epoch_and_can_stop(digits: data.Dataset) -> None:
    """Returning False ends the training after that epoch; returning nothing goes on; the result says so."""
    seen: list[Epoch] = []
    full = train(network(), digits, QUICK, 0, on_epoch=seen.append)
    assert tuple(seen) == full.curve
    stopped = train(network(), digits, QUICK, 0, on_epoch=lambda epoch: epoch.number < 2)
    assert (stopped.outcome, stopped.reason) == ("stopped", "stopped after epoch 2 of 3")
    assert stopped.validation_accuracy == full.curve[1].validation_accuracy
    assert train(network(), digits, QUICK, 0, on_epoch=lambda epoch: epoch.number < 3).outcome == "finished"


def test_error_in_the_callback_is_the_callers(digits: data.Dataset) -> None:
    """An exception goes through, and torch's settings are put back all the same."""

    def fail(epoch: Epoch) -> None:
        raise RuntimeError("mine")

    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with pytest.raises(RuntimeError, match="mine"):
        train(network(), digits, replace(QUICK, epochs=1, batch_size=1000, threads=before[0] + 1), 0, on_epoch=fail)
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before


def test_network_for_other_classes_is_refused(digits: data.Dataset) -> None:
    """Before a step is spent."""
    with pytest.raises(UsageError, match="1000 classes"):
        train(network(classes=1000), digits, QUICK, 0)


def test_accuracy_counts_hits(digits: data.Dataset) -> None:
    """A network that always says 3 is right as often as there are threes; the split is resized to it."""
    b = GraphBuilder("three")
    x = b.op("Flatten", [b.op("GlobalAveragePool", [b.input("x", (1, 1, 5, 5))])])
    bias = np.eye(10, dtype=np.float32)[3]
    graph = b.finish(b.op("Gemm", [x, b.constant("w", np.zeros((10, 1), np.float32)), b.constant("b", bias)], transB=1))
    assert accuracy(graph, digits.validation) == np.mean(digits.validation.labels == 3)


def test_digest_tells_recipes_apart() -> None:
    """Every field changes it; equal recipes share it."""
    recipe = Recipe.short()
    assert recipe.digest == Recipe.short().digest
    digests = {recipe.digest, Recipe.long().digest}
    for field in fields(Recipe):
        value = getattr(recipe, field.name)
        digests.add(replace(recipe, **{field.name: value + 1 if isinstance(value, int) else value * 0.9}).digest)
    assert len(digests) == 2 + len(fields(Recipe))
    assert len(recipe.digest) == 64


def test_long_recipe_trains_longer() -> None:
    """Finalists get more epochs."""
    assert Recipe.long().epochs > Recipe.short().epochs


@pytest.mark.parametrize(
    "change", [{"epochs": 0}, {"batch_size": 1}, {"threads": 0}, {"lr": 0.0}, {"warmup": 1.0}, {"shift": 0.5}, {"label_smoothing": 1.0}]
)
def test_recipe_that_cannot_train_is_refused(change: dict[str, float]) -> None:
    """The error gives the whole recipe."""
    with pytest.raises(UsageError, match="a recipe needs"):
        replace(Recipe.short(), **change)


def test_shift_moves_each_image_by_whole_pixels() -> None:
    """Each result is a crop of the image padded with its own border, and they differ between images."""
    rng = np.random.default_rng(0)
    images = rng.random((20, 2, 6, 6), dtype=np.float32)
    moved = shifted(images, 2, rng)
    assert moved.shape == images.shape
    offsets = []
    for image, result in zip(images, moved, strict=True):
        padded = np.pad(image, ((0, 0), (2, 2), (2, 2)), mode="edge")
        found = [(i, j) for i in range(5) for j in range(5) if np.array_equal(padded[:, i : i + 6, j : j + 6], result)]
        assert len(found) == 1
        offsets += found
    assert len(set(offsets)) > 5
    assert {0, 4} <= {i for i, _ in offsets}
    assert np.array_equal(shifted(images, 0, rng), images)
