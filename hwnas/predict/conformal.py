"""Intervals that hold without an assumption about the errors: split-conformal prediction (Vovk et al., 2005; Lei et al., 2018)."""

from __future__ import annotations

from math import ceil, inf

import numpy as np

from hwnas.predict.features import Matrix


def quantile(residuals: Matrix, level: float) -> float:
    """The half width that covers a new network with probability `level`, when it is exchangeable with those that gave the residuals.

    Args:
        residuals: absolute errors on networks that the predictor did not see.
        level: between 0 and 1.

    Returns:
        The ceil((n + 1) level)-th smallest residual; infinite when n is too small for the level.

    >>> quantile(np.arange(1.0, 20.0), 0.9)
    18.0
    >>> quantile(np.array([1.0, 2.0]), 0.9)
    inf
    """
    rank = ceil((len(residuals) + 1) * level)
    return inf if rank > len(residuals) else float(np.sort(residuals)[rank - 1])
