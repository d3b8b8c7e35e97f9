"""Small networks to export, with weights as training leaves them."""

from __future__ import annotations

import numpy as np
import pytest
from trained import residual

from hwnas.ir import Graph


@pytest.fixture
def graph() -> Graph:
    """A residual network for one image."""
    return residual()


@pytest.fixture
def feeds(graph: Graph) -> list[dict[str, np.ndarray]]:
    """Eight inputs for it."""
    rng = np.random.default_rng(11)
    return [{"image": rng.standard_normal((1, 3, 16, 16), dtype=np.float32)} for _ in range(8)]
