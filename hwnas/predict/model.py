"""What is learned of a device's latency: XGBoost per kind of kernel, a small correction per network, a conformal interval.

First stage: log(time / roofline) of a kernel from its local features, so that equal kernels are predicted once however many
networks share them. Second stage: what a network's context does to the sum of its kernels, a robust ridge regression on four
network-level numbers. How both are learned is in `fitting`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import require
from hwnas.predict.conformal import quantile
from hwnas.predict.features import Matrix, Table
from hwnas.predict.roofline import Roofline

LEVEL = 0.9
RIDGE = 1.0
HUBER = 2.0  # residuals beyond so many robust deviations count less
LEAST_DOUBT = 0.005  # absolute log error of a kernel below which differences are noise
UNKNOWN = 3.0  # what is not covered may take so many times more or less than the roofline suggests
REACH = 2.0  # a size counts as covered up to this factor beyond what was measured


@dataclass(frozen=True, slots=True, kw_only=True)
class KindModel:
    """The model of one kind of kernel.

    Attributes:
        booster: predicts log(time / roofline).
        doubt: predicts how far off that is, as an absolute log error; None in predictors of format 1.
        rows: kernels that it learned from.
        low: smallest flops and bytes among them.
        high: largest flops and bytes among them.
        detailed: whether it sees `Table.details`; not so in predictors of format 1.
    """

    booster: Any
    doubt: Any = None
    rows: int
    low: tuple[float, float]
    high: tuple[float, float]
    detailed: bool = True

    def covers(self, flops: Matrix, moved: Matrix) -> NDArray[np.bool_]:
        """Which kernels are of sizes that were measured, give or take a factor of `REACH`."""
        covered: NDArray[np.bool_] = np.ones(len(flops), bool)
        for sizes, low, high in zip((flops, moved), self.low, self.high, strict=True):
            covered &= (sizes >= low / REACH) & (sizes <= high * REACH)
        return covered


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
        columns: Matrix = np.log(np.column_stack([np.maximum(context, 1.0), sums]))
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

    @staticmethod
    def _design(standard: Matrix) -> Matrix:
        return np.column_stack([np.ones(len(standard)), standard, standard**2])


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """How good predictions of networks are that the models did not see.

    Attributes:
        networks: how many.
        mape: mean absolute relative error.
        within_5: share within 5 %.
        within_10: share within 10 %.
        coverage: share inside the interval, each network's interval made from the others' residuals.
    """

    networks: int
    mape: float
    within_5: float
    within_10: float
    coverage: float

    @classmethod
    def of(cls, predicted: Matrix, latency: Matrix, difficulty: Matrix | None = None, level: float = LEVEL) -> HeldOut:
        """From predictions and measurements of the same networks, and how difficult each is."""
        error = np.abs(predicted / latency - 1)
        residual = np.abs(np.log(latency / predicted)) / (1.0 if difficulty is None else difficulty)
        inside = [residual[i] <= quantile(np.delete(residual, i), level) for i in range(len(residual))]
        return cls(
            networks=len(latency),
            mape=float(error.mean()),
            within_5=float(np.mean(error <= 0.05)),
            within_10=float(np.mean(error <= 0.10)),
            coverage=float(np.mean(inside)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyModel:
    """What was learned of a setting.

    Attributes:
        kinds: a model per kind of kernel.
        roofline: scale of the targets.
        correction: per network.
        call_s: of an empty call.
        half_width: conformal half width of log(p10 / prediction) of a network of usual difficulty, both ways.
        median_width: conformal bound of log(median / prediction), upwards: what a user is promised, on the machine as it was.
        usual_doubt: median of the networks' doubt (`Kernels.doubt`, per network); 0 in predictors of format 1.
        typical: median of time / roofline over all kernels, which stands in for kinds that are not covered.
        held_out: cross-fitted figures.
    """

    kinds: Mapping[str, KindModel]
    roofline: Roofline
    correction: Correction
    call_s: float
    half_width: float
    median_width: float
    usual_doubt: float = 0.0
    typical: float
    held_out: HeldOut

    def kernels(self, table: Table) -> Kernels:
        """The first stage: every kernel by itself."""
        return first_stage(self.kinds, self.roofline, self.typical, table)

    def networks(self, context: Matrix, seconds: Matrix, unknown: Matrix, doubt: Matrix) -> Bounds:
        """The second stage: networks from sums over their kernels, which a population gathers from its blocks.

        Args:
            context: as `Table.context`, [networks, 3].
            seconds: sum of the kernels' times in s, [networks].
            unknown: that part of it which is not covered, in s.
            doubt: sum of the kernels' times weighed by their doubt, in s.
        """
        sums = self.call_s + seconds
        value = self.correction.apply(context, sums)
        coverage = np.clip(1 - unknown / sums, 0.0, 1.0)
        difficulty = (1 + doubt / sums / self.usual_doubt) / 2 if self.usual_doubt else np.ones(len(sums))
        width = self.half_width * difficulty
        return bounded(value, coverage, width, self.median_width + width - self.half_width)

    def bounds(self, table: Table) -> Bounds:
        """Both stages."""
        kernels = self.kernels(table)
        unknown = np.where(kernels.covered, 0.0, kernels.seconds)
        return self.networks(table.context, *(table.total(rows) for rows in (kernels.seconds, unknown, kernels.seconds * kernels.doubt)))

    def limits(self, table: Table) -> NDArray[np.str_]:
        """What limits each kernel by the roofline: `compute`, `memory` or `overhead`."""
        return self.roofline.limits(table.flops, table.bytes)

    def shifted(self, shift: float, half_width: float) -> LatencyModel:
        """This model with every logarithm of a latency moved, and another half width."""
        intercept, *rest = self.correction.weights
        return replace(self, correction=replace(self.correction, weights=(intercept + shift, *rest)), half_width=half_width)


class NetworkModel(Protocol):
    """What a `Predictor` asks of the model that it holds: kernels by themselves, then networks from sums over their kernels."""

    @property
    def call_s(self) -> float:
        """What a network costs besides its kernels, in s."""
        ...

    @property
    def half_width(self) -> float:
        """Conformal half width of log(latency / prediction)."""
        ...

    @property
    def held_out(self) -> HeldOut:
        """How good it is on networks that it did not see."""
        ...

    def kernels(self, table: Table) -> Kernels:
        """Every kernel by itself."""
        ...

    def networks(self, context: Matrix, seconds: Matrix, unknown: Matrix, doubt: Matrix) -> Bounds:
        """Networks from sums over their kernels; see `LatencyModel.networks`."""
        ...

    def bounds(self, table: Table) -> Bounds:
        """Both, one after the other."""
        ...

    def limits(self, table: Table) -> NDArray[np.str_]:
        """What limits each kernel: `compute`, `memory` or `overhead`."""
        ...

    def shifted(self, shift: float, half_width: float) -> NetworkModel:
        """The same model after networks were measured: every logarithm of a latency moved, another half width."""
        ...


def bounded(value: Matrix, coverage: Matrix, width: Matrix, upper_width: Matrix) -> Bounds:
    """Values with their intervals: what is covered by the widths, the rest by a factor of `UNKNOWN` either way.

    Args:
        value: [networks].
        coverage: share of each that is covered.
        width: half width of its logarithm.
        upper_width: the same for the upper end, where it is larger.
    """
    down, up = np.exp(-width), np.exp(np.maximum(width, upper_width))
    known, rest = value * coverage, value * (1 - coverage)
    return Bounds(value=value, low=known * down + rest / UNKNOWN, high=known * up + rest * UNKNOWN, coverage=coverage)


@dataclass(frozen=True, slots=True, eq=False)
class Kernels:
    """What the first stage says of each kernel.

    Attributes:
        seconds: its time, [rows].
        covered: whether its kind and size were measured; where not, the time is scaled from the roofline.
        doubt: how far off the time may be, as an absolute log error.
    """

    seconds: Matrix
    covered: NDArray[np.bool_]
    doubt: Matrix


@dataclass(frozen=True, slots=True, eq=False)
class Bounds:
    """Latencies of networks in s with their intervals, and the share of each that stands on measured kernels; [networks] each."""

    value: Matrix
    low: Matrix
    high: Matrix
    coverage: Matrix


def first_stage(kinds: Mapping[str, KindModel], roofline: Roofline, typical: float, table: Table) -> Kernels:
    """Time of every kernel in s from its local features, and whether its kind and size were measured."""
    xgboost = require("xgboost")
    bound = roofline.time_s(table.flops, table.bytes)
    factor = np.full(len(bound), typical)
    covered = np.zeros(len(bound), bool)
    doubt = np.full(len(bound), LEAST_DOUBT)
    for kind in np.unique(table.kinds):
        model = kinds.get(str(kind))
        if model is None:
            continue
        rows = table.kinds == kind
        data = xgboost.DMatrix(table.columns(rows, detailed=model.detailed), nthread=1)
        factor[rows] = np.exp(model.booster.predict(data))
        covered[rows] = model.covers(table.flops[rows], table.bytes[rows])
        if model.doubt is not None:
            doubt[rows] = np.maximum(LEAST_DOUBT, model.doubt.predict(data))
    return Kernels(bound * factor, covered, doubt)
