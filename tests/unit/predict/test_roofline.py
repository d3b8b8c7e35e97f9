"""The roofline of a device."""

from __future__ import annotations

import numpy as np

from hwnas.predict.roofline import USUAL_BYTES_PER_S, Roofline


def test_the_larger_bound_counts() -> None:
    """A kernel takes the time to compute or the time to move its bytes, whichever is more, above the floor; in s."""
    roofline = Roofline(flops_per_s=1e9, bytes_per_s=1e8, floor_s=1e-6)
    times = roofline.time_s(np.array([1e6, 0.0, 1e6]), np.array([0.0, 1e6, 1e6]))
    np.testing.assert_allclose(times, [1e-3 + 1e-6, 1e-2 + 1e-6, 1e-2 + 1e-6])


def test_of_a_processor() -> None:
    """A processor tells its peak; a usual memory rate stands for its own."""
    assert Roofline.of(peak_flops=5e10) == Roofline(flops_per_s=5e10, bytes_per_s=USUAL_BYTES_PER_S)
