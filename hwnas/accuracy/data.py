"""Labelled images: a fixed split into train, validation and a locked test part, served at the resolution a network reads.

The split is drawn once per data set, stratified by class, with a seed that is part of the data set's definition: every network of
every search sees the same images. The test part can only be read through `Dataset.unlock`, which keeps a record, because a
search that looks at its test images has none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import UsageError, did_you_mean, require
from hwnas.ir import Graph

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]

_SPLIT_SEED = 20_240_229
_FRACTIONS = {"test": 0.2, "validation": 0.2}


class Source(Protocol):
    """Where a data set's images come from: the seam for a data set of your own.

    A source is a small object with a name and a `read`; hand it to `load` in place of a name. `read` must give the same arrays in
    the same order at every call, since the split refers to positions.
    """

    @property
    def name(self) -> str:
        """What runs and reports call it."""

    @property
    def num_classes(self) -> int:
        """Number of classes; labels are 0 to `num_classes - 1`."""

    def read(self) -> tuple[Floats, Labels]:
        """All images [N, C, H, W] (float32, any scale, square) and their labels [N] (int64)."""


@dataclass(frozen=True, slots=True)
class Digits:
    """The 1,797 handwritten digits of 8 x 8 pixels that ship with scikit-learn (UCI Optical Recognition, the test part).

    Writers are not identified, so the split is by image: accuracies are those for known hands.
    """

    name: str = "digits"
    num_classes: int = 10

    def read(self) -> tuple[Floats, Labels]:
        """Images [1797, 1, 8, 8] in 0..1."""
        bunch = require("sklearn.datasets").load_digits()
        return (bunch.images[:, None] / 16).astype(np.float32), bunch.target.astype(np.int64)


SOURCES: Mapping[str, Source] = {source.name: source for source in (Digits(),)}


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Images [N, C, H, W] (float32, normalised) with their labels [N] (int64)."""

    images: Floats
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def halves(self) -> tuple[Batch, Batch]:
        """The first and the second half; an odd last image is dropped."""
        half = len(self) // 2
        return Batch(self.images[:half], self.labels[:half]), Batch(self.images[half : 2 * half], self.labels[half : 2 * half])


@lru_cache(maxsize=64)
def bilinear(source: int, target: int) -> Floats:
    """The matrix [target, source] that resizes a line of pixels bilinearly (half-pixel centres, edges repeated, no anti-aliasing).

    >>> bilinear(2, 4).tolist()
    [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    """
    centres = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    low = np.minimum(centres.astype(int), max(source - 2, 0))
    weight = centres - low
    matrix = np.zeros((target, source), np.float32)
    rows = np.arange(target)
    matrix[rows, low] = 1 - weight
    matrix[rows, np.minimum(low + 1, source - 1)] += weight.astype(np.float32)
    return matrix


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Split:
    """One part of a data set at one resolution.

    Images are kept at the size they have on disk and resized batch by batch: two small matrix products, cheaper than a copy of
    the data set per resolution.

    Attributes:
        name: `train`, `validation` or `test`.
        labels: of all its images, in order.
        resolution: height and width of the images served.
        channels: of the images served.
    """

    name: str
    labels: Labels
    resolution: int
    channels: int
    _pixels: Floats  # [N, C, S, S], normalised

    def __post_init__(self) -> None:
        if self.resolution < 1:
            raise UsageError(f"a resolution must be at least 1 pixel, got {self.resolution}")
        if self.channels != self._pixels.shape[1] and self._pixels.shape[1] != 1:
            depth = self._pixels.shape[1]
            raise UsageError(f"images of {depth} channels cannot be served with {self.channels}; only grey ones are repeated")

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Sequence[int] | NDArray[np.intp]) -> Batch:
        """These images at the split's resolution, a grey channel repeated."""
        pixels = self._pixels[np.asarray(indices, dtype=np.intp)]
        matrix = bilinear(pixels.shape[-1], self.resolution)
        images = (matrix @ pixels @ matrix.T).astype(np.float32, copy=False)
        if images.shape[1] != self.channels:
            images = np.repeat(images, self.channels, axis=1)
        return Batch(images, self.labels[np.asarray(indices, dtype=np.intp)])

    def batches(self, size: int) -> Iterator[Batch]:
        """All images in order, the last batch shorter."""
        for start in range(0, len(self), size):
            yield self.batch(np.arange(start, min(start + size, len(self))))

    def at(self, resolution: int, channels: int) -> Split:
        """The same images at another size."""
        return replace(self, resolution=resolution, channels=channels)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Dataset:
    """A data set at one resolution.

    Attributes:
        name: of its source.
        num_classes: labels are 0 to `num_classes - 1`.
        train: to learn from.
        validation: to choose by.
        digest: SHA-256 of all images, labels and the split.
    """

    name: str
    num_classes: int
    train: Split
    validation: Split
    digest: str
    _test: Split
    _reasons: list[str] = field(default_factory=list)

    def unlock(self, reason: str) -> Split:
        """The test split, for a stated reason, which stays on record in `unlocked`.

        Raises:
            UsageError: when no reason is given.
        """
        if not reason.strip():
            raise UsageError("the test split is locked; give the reason for reading it, such as 'final accuracy of the exported network'")
        self._reasons.append(reason.strip())
        return self._test

    @property
    def unlocked(self) -> tuple[str, ...]:
        """The reasons for which the test split was read, in order, at any resolution."""
        return tuple(self._reasons)

    def at(self, resolution: int, channels: int) -> Dataset:
        """The same data set, split and record at another resolution."""
        if (resolution, channels) == (self.train.resolution, self.train.channels):
            return self
        train, validation, test = (split.at(resolution, channels) for split in (self.train, self.validation, self._test))
        return replace(self, train=train, validation=validation, _test=test)

    def fit(self, graph: Graph) -> Dataset:
        """The data set at the resolution and channels that a classifier reads.

        Raises:
            UsageError: when the network is not an image classifier for this number of classes; says which.
        """
        _, channels, height, width = image_shape(graph)
        if height != width:
            raise UsageError(f"network '{graph.name}' reads images of {height} x {width}; data set '{self.name}' gives square ones")
        classes = graph.specs[graph.outputs[0]].shape[-1]
        if classes != self.num_classes:
            raise UsageError(
                f"network '{graph.name}' has {classes} classes and data set '{self.name}' has {self.num_classes}; "
                f"make the space with num_classes={self.num_classes}"
            )
        return self.at(height, channels)


def image_shape(graph: Graph) -> tuple[int, int, int, int]:
    """Batch, channels, height and width of the one image input of a network.

    Raises:
        UsageError: when the network reads anything else.
    """
    shapes = [spec.shape for spec in graph.inputs.values()]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        listed = ", ".join(f"{name} {list(spec.shape)}" for name, spec in graph.inputs.items())
        raise UsageError(f"network '{graph.name}' must read one image batch [N, C, H, W] to be trained or scored, and reads {listed}")
    n, c, h, w = shapes[0]
    return n, c, h, w


def names() -> tuple[str, ...]:
    """The data sets that `load` knows by name."""
    return tuple(SOURCES)


def load(source: str | Source, resolution: int | None = None, channels: int | None = None) -> Dataset:
    """A data set, by name or from a source of your own.

    Args:
        source: a name out of `names()`, or an object that keeps the `Source` contract.
        resolution: height and width in pixels; by default that of the source.
        channels: by default those of the source; a grey image is repeated.

    Raises:
        UsageError: for an unknown name, or images that cannot be served so.
    """
    if isinstance(source, str):
        if source not in SOURCES:
            raise UsageError(f"no data set '{source}'{did_you_mean(source, SOURCES)}; there is: {', '.join(SOURCES)}")
        prepared, source = _read_once(source), SOURCES[source]
    else:
        prepared = _prepare(source)
    size = resolution or prepared.pixels.shape[-1]
    depth = channels or prepared.pixels.shape[1]

    def part(name: str) -> Split:
        indices = prepared.parts[name]
        return Split(name=name, labels=prepared.labels[indices], resolution=size, channels=depth, _pixels=prepared.pixels[indices])

    return Dataset(
        name=source.name,
        num_classes=source.num_classes,
        train=part("train"),
        validation=part("validation"),
        digest=prepared.digest,
        _test=part("test"),
    )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Prepared:
    """A source as read: normalised pixels, labels, the positions of each part, and the digest of what was read."""

    pixels: Floats
    labels: Labels
    parts: Mapping[str, NDArray[np.intp]]
    digest: str


@cache
def _read_once(name: str) -> _Prepared:
    return _prepare(SOURCES[name])


def _prepare(source: Source) -> _Prepared:
    images, labels = source.read()
    if images.ndim != 4 or images.shape[2] != images.shape[3] or labels.shape != images.shape[:1]:
        got = f"{list(images.shape)} and {list(labels.shape)}"
        raise UsageError(f"data set '{source.name}' must give square images [N, C, S, S] and labels [N], got {got}")
    if labels.min() < 0 or labels.max() >= source.num_classes:
        raise UsageError(f"data set '{source.name}' has labels {labels.min()} to {labels.max()}, and says {source.num_classes} classes")
    images, labels = images.astype(np.float32), labels.astype(np.int64)
    parts = stratified(labels, np.random.default_rng(_SPLIT_SEED))
    train = images[parts["train"]]
    axes = (0, 2, 3)  # normalised by what training may see
    mean, std = train.mean(axes, keepdims=True), np.maximum(train.std(axes, keepdims=True), 1e-6)
    return _Prepared(pixels=(images - mean) / std, labels=labels, parts=parts, digest=_digest(images, labels, *parts.values()))


def _digest(*arrays: NDArray[Any]) -> str:
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(repr((array.shape, str(array.dtype))).encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def stratified(labels: Labels, rng: np.random.Generator) -> dict[str, NDArray[np.intp]]:
    """Positions of each part, sorted: 20 % test and 20 % validation of every class, the rest to train on."""
    taken: dict[str, list[NDArray[np.intp]]] = {"train": [], **{name: [] for name in _FRACTIONS}}
    for label in np.unique(labels):
        shuffled = rng.permutation(np.flatnonzero(labels == label))
        start = 0
        for name, fraction in _FRACTIONS.items():
            stop = start + round(len(shuffled) * fraction)
            taken[name].append(shuffled[start:stop])
            start = stop
        taken["train"].append(shuffled[start:])
    return {name: np.sort(np.concatenate(pieces)) for name, pieces in taken.items()}
