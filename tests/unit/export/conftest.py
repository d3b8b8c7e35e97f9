"""Small networks to export, with weights as training leaves them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from trained import residual

from hwnas.export.measure import Predict
from hwnas.ir import Graph
from hwnas.runtimes.ort import OrtRuntime


@pytest.fixture
def graph() -> Graph:
    """A residual network for one image."""
    return residual()


@pytest.fixture
def feeds(graph: Graph) -> list[dict[str, np.ndarray]]:
    """Eight inputs for it."""
    rng = np.random.default_rng(11)
    return [{"image": rng.standard_normal((1, 3, 16, 16), dtype=np.float32)} for _ in range(8)]


@pytest.fixture
def accuracy(graph: Graph) -> Callable[[Predict], float]:
    """How often a function picks the class that the network itself picks, over 40 images: 1 for the network in fp32."""
    images = np.random.default_rng(5).standard_normal((40, 3, 16, 16), dtype=np.float32)
    session = OrtRuntime().build(graph)
    labels = np.array([session.run({"image": image[None]})[0].argmax() for image in images])
    return lambda predict: float((predict(images).argmax(axis=1) == labels).mean())
