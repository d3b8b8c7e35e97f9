"""Conformal intervals cover as often as they say, whatever the errors look like."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest

from hwnas.predict.conformal import quantile


@pytest.mark.parametrize("n", [9, 20, 100])
@pytest.mark.parametrize("level", [0.8, 0.9])
def test_coverage(n: int, level: float) -> None:
    """Over many repetitions with skewed errors the interval holds a new error with the promised probability, and hardly more often."""
    rng = np.random.default_rng(1)
    runs = np.abs(rng.standard_t(2, (4000, n + 1)))
    inside = np.mean([run[-1] <= quantile(run[:-1], level) for run in runs])
    assert level - 0.02 <= inside <= level + 1 / (n + 1) + 0.02


def test_too_few_residuals_promise_nothing() -> None:
    """With fewer residuals than the level needs, the interval is everything."""
    assert quantile(np.ones(8), 0.9) == inf
    assert quantile(np.ones(9), 0.9) == 1.0
    assert quantile(np.array([]), 0.5) == inf


def test_the_order_does_not_matter() -> None:
    """Residuals are exchangeable."""
    values = np.random.default_rng(0).permutation(np.arange(1.0, 101.0))
    assert quantile(values, 0.9) == 91.0
