"""From sums over the kernels of a network to its latency: what the network around them does to all of them, and to each.

A kernel's local features do not say whether its weights are still in a cache when it runs again. That depends on what the network touches
in between, its reuse distance (Beyls and D'Hollander 2001 call so what a cache sees between two uses of the same data), and on how long
that takes, for a cache that others share loses data with time. The product of both is called the exposure here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hwnas.predict.features import Matrix

RIDGE = 1.0
HUBER = 2.0  # residuals beyond so many robust deviations count less
EXPOSURES = 12  # for which kernels are told
WEIGHTS = np.linspace(0.0, 1.0, 21)  # that are tried


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """The second stage: log(latency / sum of kernels) from standardised context and its squares.

    The squares are worth 0.5 points of error on `resnet` and on carriers: kernels are quicker than elsewhere in networks that fit into a
    cache, and slower in those that are larger than any.

    Attributes:
        mean: of each column.
        scale: standard deviation of each column.
        weights: intercept, columns, squares; no squares in predictors that were learned without.
        low: smallest value of each column on which it was fitted; outside, the context is held at the edge.
        high: largest.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @staticmethod
    def columns(context: Matrix, sums: Matrix) -> Matrix:
        """Log of weight bytes, of the largest activation, of the number of kernels, of the sum itself; [networks, 4]."""
        columns: Matrix = np.log(np.column_stack([np.maximum(context[:, :3], 1.0), sums]))
        return columns

    @classmethod
    def fit(cls, context: Matrix, sums: Matrix, latency: Matrix) -> Correction:
        """Ridge regression, iteratively reweighted (Huber) so that a disturbed measurement does not bend it."""
        columns = cls.columns(context, sums)
        mean, scale = columns.mean(axis=0), np.maximum(columns.std(axis=0), 1e-9)
        design = cls._design((columns - mean) / scale)
        target = np.log(latency / sums)
        penalty = np.diag([0.0, *[RIDGE] * (design.shape[1] - 1)])
        weight = np.ones(len(target))
        for _ in range(5):
            solution = np.linalg.solve(design.T @ (design * weight[:, None]) + penalty, design.T @ (weight * target))
            residual = np.abs(target - design @ solution)
            deviation = 1.4826 * np.median(residual) + 1e-9
            weight = np.minimum(1.0, HUBER * deviation / np.maximum(residual, 1e-12))
        return cls(
            mean=tuple(mean.tolist()),
            scale=tuple(scale.tolist()),
            weights=tuple(solution.tolist()),
            low=tuple(columns.min(axis=0).tolist()),
            high=tuple(columns.max(axis=0).tolist()),
        )

    def apply(self, context: Matrix, sums: Matrix) -> Matrix:
        """Latency in s from context and sums of kernels in s."""
        columns = np.clip(self.columns(context, sums), self.low, self.high)
        standard = (columns - np.array(self.mean)) / np.array(self.scale)
        corrected: Matrix = sums * np.exp(self._design(standard)[:, : len(self.weights)] @ np.array(self.weights))
        return corrected

    def shifted(self, shift: float) -> Correction:
        """This correction with every logarithm of a latency moved."""
        intercept, *rest = self.weights
        return replace(self, weights=(intercept + shift, *rest))

    @staticmethod
    def _design(standard: Matrix) -> Matrix:
        return np.column_stack([np.ones(len(standard)), standard, standard**2])


def reuse_distance(context: Matrix) -> Matrix:
    """Bytes that a network touches before it comes back to the same weights, [networks].

    At least what it holds, its weights and its largest activation; at most all that its kernels read and write. The geometric mean of both
    tells times better than either.

    Args:
        context: as `Table.context`.
    """
    distance: Matrix = np.sqrt((context[:, 0] + context[:, 1]) * context[:, 3])
    return distance


def exposure(context: Matrix, seconds: Matrix) -> Matrix:
    """How much a network's data is exposed to being lost from a shared cache between two uses: its reuse distance times its latency.

    Args:
        context: as `Table.context`.
        seconds: latency of each network in s, as the first opinion has it.

    Returns:
        [networks], in byte-seconds.
    """
    return reuse_distance(context) * seconds


def spread(where: Matrix) -> tuple[float, ...]:
    """Exposures for which kernels are told, evenly spread in their logarithm over those of some networks; one where all are alike."""
    return tuple(np.unique(np.geomspace(where.min(), where.max(), EXPOSURES)).tolist())


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """A second opinion on networks: from kernels told by the network's exposure.

    The same kernel takes up to three times as long where the network does not fit into a cache as where it does, and kernels differ in
    that: a classifier that streams its weights more than a convolution that uses each hundreds of times. Where the networks of a profile
    differ little in that, one correction for all kernels of a network is the better opinion; so both count, by a weight that
    is learned (stacking, Wolpert 1992). So that a kernel is still told once for all networks, it is told for a few exposures, between
    which times are interpolated.

    Attributes:
        exposures: in byte-seconds, ascending, evenly spread in their logarithm.
        correction: of the sums of kernels told so.
        weight: of this opinion, from 0 to 1.
        timed: False in predictors of format 3, whose exposures are reuse distances alone, in bytes.
    """

    exposures: tuple[float, ...]
    correction: Correction
    weight: float
    timed: bool = True

    @classmethod
    def fit(
        cls, exposures: tuple[float, ...], context: Matrix, call_s: float, by_exposure: Matrix, first: Matrix, latency: Matrix
    ) -> Reuse:
        """Learns the correction, then the weight by which the mean absolute error is least.

        Args:
            exposures: see `Reuse`.
            context: of networks.
            call_s: of an empty call.
            by_exposure: sums over their kernels by models that did not see them, in s, [networks, exposures].
            first: the first opinion on their latency, in s.
            latency: measured, in s.
        """
        sums = call_s + between(exposures, exposure(context, first), by_exposure)
        correction = Correction.fit(context, sums, latency)
        error = np.log(first / latency)
        other = np.log(correction.apply(context, sums) / latency)
        weight = WEIGHTS[np.argmin([np.abs(error + weight * (other - error)).mean() for weight in WEIGHTS])]
        return cls(exposures=exposures, correction=correction, weight=float(weight))

    def apply(self, first: Matrix, context: Matrix, call_s: float, by_exposure: Matrix) -> Matrix:
        """Latency in s from the first opinion on it, and sums over kernels as in `fit`."""
        other = self.correction.apply(context, call_s + between(self.exposures, self.where(context, first), by_exposure))
        return self.mean(first, other)

    def where(self, context: Matrix, first: Matrix) -> Matrix:
        """The exposure of networks, [networks], from their context and the first opinion on them, in s."""
        return exposure(context, first) if self.timed else reuse_distance(context)

    def mean(self, first: Matrix, other: Matrix) -> Matrix:
        """The geometric mean of both opinions, weighted."""
        both: Matrix = first ** (1 - self.weight) * other**self.weight
        return both


def between(exposures: tuple[float, ...], where: Matrix, by_exposure: Matrix) -> Matrix:
    """What was told for some exposures, [rows, exposures], at each row's own; beyond the ends as at the ends."""
    if len(exposures) == 1:
        return by_exposure[:, 0]
    ends = np.log(exposures[0]), np.log(exposures[-1])
    place = (np.log(np.clip(where, exposures[0], exposures[-1])) - ends[0]) / (ends[1] - ends[0]) * (len(exposures) - 1)
    left = np.minimum(place.astype(np.int64), len(exposures) - 2)
    rows, share = np.arange(len(where)), place - left
    found: Matrix = by_exposure[rows, left] * (1 - share) + by_exposure[rows, left + 1] * share
    return found
