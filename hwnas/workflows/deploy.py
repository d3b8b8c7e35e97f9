"""Trained networks in the form in which they are deployed: their batch size, their precision."""

from __future__ import annotations

from typing import cast

import numpy as np

from hwnas.accuracy.data import Dataset, Split
from hwnas.export.measure import predictor
from hwnas.export.narrow import EnginePrecision, narrow
from hwnas.export.numerics import Numerics
from hwnas.export.quantize import Feed, int8
from hwnas.ir import Graph
from hwnas.profiling import Setting
from hwnas.runtimes import registry
from hwnas.runtimes.ort import OrtRuntime
from hwnas.spaces import SearchSpace
from hwnas.spaces.base import Genotype

CALIBRATION_IMAGES = 64


def deployed(trained: Graph, space: SearchSpace, genotype: Genotype, batch: int) -> Graph:
    """A trained network, its weights unchanged, at the batch size with which it is deployed."""
    if batch == 1:
        return trained
    values = {name: weight.value for name, weight in trained.weights.items() if weight.value is not None}
    return space.graph(genotype, batch=batch).with_weights(values)


def calibration(graph: Graph, dataset: Dataset, seed: int) -> list[Feed]:
    """Inputs from the training split, drawn, to calibrate a network's ranges with: full batches of the size that it reads.

    Args:
        graph: with one input, of images.
        dataset: that it was trained on, at any resolution.
        seed: of the draw.
    """
    ((name, spec),) = graph.inputs.items()
    train, size = dataset.fit(graph).train, spec.shape[0]
    picked = np.random.default_rng(seed).permutation(len(train))[: max(CALIBRATION_IMAGES, size)]
    return [{name: train.batch(picked[start : start + size]).images} for start in range(0, len(picked) - size + 1, size)]


def accuracy_as_run(graph: Graph, dataset: Dataset, split: Split, seed: int, setting: Setting) -> float:
    """The share of a split's images that a trained network classifies right in the precision of a setting, as `hwnas export` ships it.

    What a card will compute is computed on the processor, in the types that an engine has (`hwnas.export.numerics`).

    Args:
        graph: trained, in fp32.
        dataset: to calibrate with.
        split: of images to judge by, at any resolution.
        seed: of the calibration images.
        setting: whose precision is not fp32.
    """
    ((_, spec),) = graph.inputs.items()
    judged = split.at(spec.shape[2], spec.shape[1]).batch(range(len(split)))
    feeds = calibration(graph, dataset, seed)
    if setting.runtime == registry.CPU:
        answers = predictor(OrtRuntime().build(int8(graph, feeds).SerializeToString()), graph)
    else:
        engine = narrow(graph, cast("EnginePrecision", setting.precision), feeds)
        answers = predictor(Numerics(engine.model.SerializeToString()), graph)
    return float(np.mean(np.argmax(answers(judged.images), axis=1) == judged.labels))
