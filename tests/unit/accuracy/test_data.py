"""Data sets: the fixed split, the lock on its test part, images at the network's size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.accuracy import data
from hwnas.errors import UsageError
from hwnas.ir import Graph, GraphBuilder


def classifier(shape: tuple[int, ...], classes: int = 10) -> Graph:
    b = GraphBuilder("net")
    x = b.op("Flatten", [b.op("GlobalAveragePool", [b.conv(b.input("x", shape), 4, kernel=3)])])
    return b.finish(b.linear(x, classes))


@dataclass(frozen=True)
class Stripes:
    """A source of one's own: grey or coloured images that tell their class by brightness."""

    channels: int = 1
    name: str = "stripes"
    num_classes: int = 2

    def read(self) -> tuple[data.Floats, data.Labels]:
        labels = np.arange(40) % 2
        images = np.broadcast_to(labels[:, None, None, None], (40, self.channels, 6, 6))
        return images.astype(np.float32), labels.astype(np.int64)


def test_split_covers_every_image_once_and_every_class_in_proportion() -> None:
    """The three parts are disjoint, together everything, and hold a fifth of each class in test and validation."""
    labels = np.random.default_rng(0).integers(0, 5, 400)
    parts = data.stratified(labels, np.random.default_rng(1))
    assert sorted(np.concatenate(list(parts.values()))) == list(range(400))
    for label in range(5):
        count = int((labels == label).sum())
        for name in ("test", "validation"):
            assert int((labels[parts[name]] == label).sum()) == round(count / 5)


def test_digits_split_is_the_same_at_every_load() -> None:
    """The digest names images and split: searches that quote it saw the same data."""
    first, second = data.load("digits", 16), data.load("digits", 24, 3)
    assert first.digest == second.digest
    assert len(first.train) + len(first.validation) + len(first.unlock("count")) == 1797
    assert np.array_equal(first.validation.labels, second.validation.labels)


def test_another_data_set_has_another_digest() -> None:
    """A change of the images changes the digest."""
    assert data.load(Stripes()).digest != data.load(Stripes(channels=3)).digest


def test_test_split_needs_a_reason_and_keeps_it_on_record() -> None:
    """The locked part is read with a reason only; views at other resolutions share the record."""
    digits = data.load("digits", 16)
    with pytest.raises(UsageError, match="locked"):
        digits.unlock("  ")
    assert digits.unlocked == ()
    assert digits.at(24, 3).unlock("final accuracy").name == "test"
    assert digits.unlocked == ("final accuracy",)
    assert not hasattr(digits, "test")


def test_separate_loads_have_separate_records() -> None:
    """A search's record is not another's."""
    one, two = data.load("digits", 16), data.load("digits", 16)
    one.unlock("looking")
    assert two.unlocked == ()


@given(st.integers(1, 12), st.integers(1, 30))
def test_resizing_is_bilinear(source: int, target: int) -> None:
    """Rows of the matrix are weights that sum to one and keep a straight line straight away from the edges."""
    matrix = data.bilinear(source, target)
    assert matrix.min() >= 0
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
    centres = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    np.testing.assert_allclose(matrix @ np.arange(source), centres, atol=1e-4)


def test_resizing_agrees_with_torch() -> None:
    """Half-pixel centres as in torch's `interpolate(align_corners=False)`."""
    torch = pytest.importorskip("torch")
    digits = data.load("digits")
    small, large = digits.train.batch(range(5)), digits.at(21, 1).train.batch(range(5))
    expected = torch.nn.functional.interpolate(torch.from_numpy(small.images), size=(21, 21), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(large.images, expected.numpy(), atol=1e-5)


def test_batches_serve_all_images_in_order_at_the_asked_size() -> None:
    """Shapes, order, channel repetition, and a shorter last batch."""
    validation = data.load("digits", 12, 3).validation
    batches = list(validation.batches(100))
    assert [len(batch) for batch in batches] == [100, 100, 100, len(validation) - 300]
    assert np.array_equal(np.concatenate([batch.labels for batch in batches]), validation.labels)
    images = batches[0].images
    assert images.shape == (100, 3, 12, 12)
    assert images.dtype == np.float32
    assert np.array_equal(images[:, 0], images[:, 2])


def test_training_images_are_normalised() -> None:
    """Mean 0 and deviation 1 over the training part at the source's own size."""
    digits = data.load("digits")
    images = digits.train.batch(range(len(digits.train))).images
    assert abs(float(images.mean())) < 1e-4
    assert abs(float(images.std()) - 1) < 1e-4


def test_halves_are_equal_and_disjoint() -> None:
    """A batch of odd size loses its last image."""
    one, two = data.load("digits").train.batch(range(7)).halves()
    assert len(one) == len(two) == 3
    assert not np.array_equal(one.images, two.images)


def test_own_source_loads_like_a_known_one() -> None:
    """Anything that keeps the contract can be loaded in place of a name."""
    stripes = data.load(Stripes(), 9, 3)
    assert (stripes.name, stripes.num_classes, len(stripes.train)) == ("stripes", 2, 24)
    assert stripes.train.batch([0]).images.shape == (1, 3, 9, 9)


def test_unknown_name_suggests_a_known_one() -> None:
    """The error lists what there is."""
    with pytest.raises(UsageError, match=r"did you mean 'digits'.*there is: digits"):
        data.load("digit", 16)


def test_colours_are_not_turned_grey() -> None:
    """Only a grey image can be served with another number of channels."""
    with pytest.raises(UsageError, match="3 channels cannot be served with 1"):
        data.load(Stripes(channels=3), 8, 1)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((10, 6, 6)), np.zeros(10, int), "must give square images"),
        (np.zeros((10, 1, 6, 5)), np.zeros(10, int), "must give square images"),
        (np.zeros((10, 1, 6, 6)), np.zeros(9, int), "must give square images"),
        (np.zeros((10, 1, 6, 6)), np.full(10, 2), "has labels 2 to 2, and says 2 classes"),
    ],
)
def test_source_that_breaks_its_contract_is_refused(images: np.ndarray, labels: np.ndarray, message: str) -> None:
    """Shapes and labels are checked before anything is trained on them."""

    class Broken(Stripes):
        def read(self) -> tuple[data.Floats, data.Labels]:
            return images, labels

    with pytest.raises(UsageError, match=message):
        data.load(Broken())


def test_fit_takes_resolution_and_channels_from_the_network() -> None:
    """The data set follows the network's input."""
    fitted = data.load("digits").fit(classifier((1, 3, 20, 20)))
    assert (fitted.train.resolution, fitted.validation.channels) == (20, 3)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (classifier((1, 3, 20, 24)), "20 x 24"),
        (classifier((1, 3, 20, 20), classes=1000), "num_classes=10"),
    ],
)
def test_network_that_the_data_do_not_fit_is_refused(graph: Graph, message: str) -> None:
    """The error says what differs and what to do."""
    with pytest.raises(UsageError, match=message):
        data.load("digits").fit(graph)


def test_network_that_reads_no_image_is_refused() -> None:
    """A vector input is named in the error."""
    b = GraphBuilder("mlp")
    with pytest.raises(UsageError, match="must read one image batch"):
        data.load("digits").fit(b.finish(b.linear(b.input("v", (1, 64)), 10)))
