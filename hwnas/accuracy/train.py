"""Short training: what a network reaches under one recipe, the same for every candidate.

The recipe is made for few epochs on a CPU: AdamW with a one-cycle learning rate, small batches, gradients clipped by their norm. Networks
without any normalisation train by the same recipe; only their drawn weights are scaled first (see `hwnas.accuracy.unit_variance`).
The accuracy reported is that of the last epoch, never the best one: choosing the epoch by validation accuracy would flatter whoever
varies most.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Literal, Self

import numpy as np

from hwnas.accuracy.data import Dataset, Floats, Split, image_shape
from hwnas.accuracy.running import LAYERS, NORMALISATIONS, module_of, reproducible, tensor_of
from hwnas.accuracy.unit_variance import scale_to_unit_variance
from hwnas.errors import UsageError, require
from hwnas.ir import Graph
from hwnas.ir.torch import GraphModule

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    require("torch")

_EVALUATION_BATCH = 32  # small enough for the caches
_SCALING_BATCH = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a network is trained. Two trainings compare only if their recipes' digests are equal.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step; batches of an epoch differ by one at most.
        lr: the highest learning rate of the cycle.
        warmup: share of the steps in which the rate rises linearly, before it falls as a cosine to 0.
        weight_decay: decoupled, on weights with more than one dimension.
        label_smoothing: probability spread over all classes.
        clip_norm: to which norm longer gradients are cut.
        shift: how far images are moved at random, each way, as a share of their edge; what enters repeats the border.
        threads: torch threads; part of the recipe, since sums round differently over other numbers of them.
    """

    epochs: int
    batch_size: int = 16
    lr: float = 8e-3
    warmup: float = 0.3
    weight_decay: float = 0.02
    label_smoothing: float = 0.05
    clip_norm: float = 1.0
    shift: float = 1 / 16
    threads: int = 1

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size - 1, self.threads) < 1:
            raise UsageError(f"a recipe needs at least 1 epoch, 1 thread and batches of 2, got {self.canonical}")
        if self.lr <= 0 or self.clip_norm <= 0 or not 0 < self.warmup < 1 or not 0 <= self.shift < 0.5 or not 0 <= self.label_smoothing < 1:
            limits = "lr > 0, clip_norm > 0, 0 < warmup < 1, 0 <= shift < 0.5, 0 <= label_smoothing < 1"
            raise UsageError(f"a recipe needs {limits}, got {self.canonical}")

    @classmethod
    def short(cls) -> Self:
        """For candidates of a search: seconds a network."""
        return cls(epochs=3)

    @classmethod
    def long(cls) -> Self:
        """For finalists: more epochs, larger shifts."""
        return cls(epochs=8, shift=1 / 12)

    @property
    def canonical(self) -> str:
        """The text that stands for the recipe: JSON with sorted keys. What the code fixes is named too, so that a change changes it."""
        fixed = {"format": 1, "optimizer": "adamw", "schedule": "one-cycle", "unnormalised": "unit-variance"}
        return json.dumps({**fixed, **asdict(self)}, sort_keys=True)

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical text."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()

    def rate(self, progress: float) -> float:
        """The learning rate after this share of all steps.

        >>> recipe = Recipe(epochs=1, lr=1.0, warmup=0.5)
        >>> [round(recipe.rate(p), 2) for p in (0, 0.25, 0.5, 0.75, 1)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
        """
        if progress < self.warmup:
            return self.lr * progress / self.warmup
        return self.lr * 0.5 * (1 + math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """The state of a training after one epoch.

    Attributes:
        number: counts from 1.
        of: epochs that the recipe asks for.
        loss: mean training loss of the epoch, label smoothing included.
        validation_accuracy: 0..1.
        seconds: since the training started.
    """

    number: int
    of: int
    loss: float
    validation_accuracy: float
    seconds: float


Outcome = Literal["finished", "stopped", "diverged"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """What a training gave.

    Attributes:
        validation_accuracy: after the last epoch, 0..1; 0 where the training diverged.
        outcome: `finished`; `stopped` by `on_epoch`; or `diverged`, when the loss or the weights were no longer numbers.
        reason: one line for a log where it did not finish, else empty.
        curve: every epoch that ended.
        seconds: the whole training, evaluation included.
        graph: with the trained weights (those before the step that diverged, where it did).
        recipe: its digest.
        seed: of weights, order and augmentation.
    """

    validation_accuracy: float
    outcome: Outcome
    reason: str
    curve: tuple[Epoch, ...]
    seconds: float
    graph: Graph
    recipe: str
    seed: int


def train(
    graph: Graph,
    dataset: Dataset,
    recipe: Recipe,
    seed: int,
    *,
    on_epoch: Callable[[Epoch], bool | None] | None = None,
) -> Trained:
    """Trains a network on the training split and judges it on the validation split.

    The same arguments give the same accuracy on the same machine. The test split is not touched.

    Args:
        graph: a classifier; weights without values are drawn from the seed, those with values are the starting point.
        dataset: at any resolution; images come at that of the network.
        recipe: how.
        seed: of the weights, the order of images and their augmentation.
        on_epoch: called after every epoch; returning False ends the training there.

    Raises:
        UsageError: when the data set does not fit the network.
    """
    start = perf_counter()
    data = dataset.fit(graph)
    drawn = graph.materialize(np.random.default_rng(seed))
    curve: list[Epoch] = []
    outcome: Outcome = "finished"
    reason = ""
    with reproducible(recipe.threads):
        module = module_of(drawn)
        if not any(node.op in NORMALISATIONS for node in graph.nodes):
            _scale_drawn(module, graph, data.train)
        for number, loss in enumerate(_epochs(module, data.train, recipe, np.random.default_rng([seed, 1])), start=1):
            if not math.isfinite(loss):
                outcome, reason = "diverged", f"the loss was {loss} in epoch {number} of {recipe.epochs}"
                break
            reached = _accuracy(module, data.validation)
            curve.append(Epoch(number=number, of=recipe.epochs, loss=loss, validation_accuracy=reached, seconds=perf_counter() - start))
            if on_epoch and on_epoch(curve[-1]) is False and number < recipe.epochs:
                outcome, reason = "stopped", f"stopped after epoch {number} of {recipe.epochs}"
                break
        return Trained(
            validation_accuracy=0.0 if outcome == "diverged" else curve[-1].validation_accuracy,
            outcome=outcome,
            reason=reason,
            curve=tuple(curve),
            seconds=perf_counter() - start,
            graph=drawn if outcome == "diverged" else module.to_graph(),
            recipe=recipe.digest,
            seed=seed,
        )


def accuracy(graph: Graph, split: Split, *, threads: int = 1) -> float:
    """The share of a split's images that a network classifies right, in inference mode; the split is resized to the network."""
    _, channels, height, _ = image_shape(graph)
    with reproducible(threads):
        return _accuracy(module_of(graph), split.at(height, channels))


def shifted(images: Floats, largest: int, rng: np.random.Generator) -> Floats:
    """Images [N, C, H, W] each moved by up to `largest` pixels in both directions; what enters repeats the border."""
    n, _, height, width = images.shape
    rows, columns = (np.clip(np.arange(size) + rng.integers(-largest, largest + 1, (n, 1)), 0, size - 1) for size in (height, width))
    moved: Floats = images[np.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # [N, H, W, C]
    return moved.transpose(0, 3, 1, 2)


def _scale_drawn(module: GraphModule, graph: Graph, split: Split) -> None:
    """Brings the outputs of the layers whose weights were drawn to unit variance on the first training images."""
    layers = [node for node in graph.nodes if node.op in LAYERS and node.inputs[1] in graph.weights]
    drawn = {node.inputs[1]: node.name for node in layers if graph.weights[node.inputs[1]].value is None}
    scale_to_unit_variance(module, tensor_of(split.batch(range(min(_SCALING_BATCH, len(split)))).images), drawn.values())


def _epochs(module: GraphModule, split: Split, recipe: Recipe, rng: np.random.Generator) -> Iterator[float]:
    """Trains epoch by epoch, yielding the mean loss of each; ends after one that is not a finite number."""
    decayed = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in module.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr)
    per_epoch = math.ceil(len(split) / recipe.batch_size)
    largest = round(recipe.shift * split.resolution)
    for epoch in range(recipe.epochs):
        module.train()
        total = 0.0
        for i, indices in enumerate(np.array_split(rng.permutation(len(split)), per_epoch)):
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate((epoch * per_epoch + i + 0.5) / (recipe.epochs * per_epoch))
            batch = split.batch(indices)
            logits = module(tensor_of(shifted(batch.images, largest, rng)))
            loss = F.cross_entropy(logits, torch.from_numpy(batch.labels), label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(module.parameters(), recipe.clip_norm)
            optimizer.step()
            total += loss.item() * len(batch)
            if not math.isfinite(total):
                yield total
                return
        finite = all(bool(torch.isfinite(parameter).all()) for parameter in module.parameters())
        yield total / len(split) if finite else math.nan
        if not finite:
            return


def _accuracy(module: GraphModule, split: Split) -> float:
    module.eval()
    with torch.no_grad():
        hits = sum(
            int((module(tensor_of(batch.images)).argmax(1).numpy() == batch.labels).sum()) for batch in split.batches(_EVALUATION_BATCH)
        )
    return hits / len(split)
