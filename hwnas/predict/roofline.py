"""The time that a kernel cannot beat: what predictors learn relative to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwnas.predict.features import Matrix

USUAL_BYTES_PER_S = 15e9  # of one core to memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """A device as two slopes and a floor (Williams, Waterman and Patterson, 2009).

    It sets the scale of the target, log(time / roofline): a model that leaves the sizes it has seen goes on in proportion to it.

    Attributes:
        flops_per_s: peak rate of the threads that compute.
        bytes_per_s: of memory.
        floor_s: least time of any kernel.
    """

    flops_per_s: float
    bytes_per_s: float
    floor_s: float = 1e-6

    @classmethod
    def of(cls, *, peak_flops: float) -> Roofline:
        """Of a processor that tells its peak rate; processors do not tell their memory's, so a usual one stands for it."""
        return cls(flops_per_s=peak_flops, bytes_per_s=USUAL_BYTES_PER_S)

    def time_s(self, flops: Matrix, moved: Matrix) -> Matrix:
        """Per kernel: the larger of the time to compute and the time to move its bytes, above the floor; in s."""
        bound: Matrix = np.maximum(flops / self.flops_per_s, moved / self.bytes_per_s) + self.floor_s
        return bound

    def limits(self, flops: Matrix, moved: Matrix) -> NDArray[np.str_]:
        """What limits each kernel: `compute`, `memory`, or `overhead` where both take less than the least time."""
        compute, memory = flops / self.flops_per_s, moved / self.bytes_per_s
        return np.where(np.maximum(compute, memory) < self.floor_s, "overhead", np.where(compute >= memory, "compute", "memory"))
