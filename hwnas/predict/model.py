"""What is learned of a device's latency: XGBoost per kind of kernel, a small correction per network, a conformal interval.

First stage: log(time / roofline) of a kernel from its local features, so that equal kernels are predicted once however many
networks share them; and once more from those and a network's exposure, for a few of these. Second stage: what a network does to the
sums of its kernels (`second_stage`). How both are learned is in `fitting`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import require
from hwnas.predict.conformal import quantile
from hwnas.predict.features import Matrix, Table
from hwnas.predict.roofline import Roofline
from hwnas.predict.second_stage import Correction, Reuse, between

LEVEL = 0.9
LEAST_DOUBT = 0.005  # absolute log error of a kernel below which differences are noise
UNKNOWN = 3.0  # what is not covered may take so many times more or less, where nothing else is known
TINY_S = 1e-12  # no network takes as little
REACH = 2.0  # a size counts as covered up to this factor beyond what was measured


@dataclass(frozen=True, slots=True, kw_only=True)
class KindModel:
    """The model of one kind of kernel.

    Attributes:
        booster: predicts log(time / roofline).
        doubt: predicts how far off that is, as an absolute log error; None in predictors of format 1.
        reuse: predicts as `booster` does, with the log of the network's exposure as another feature; None before format 3.
        rows: kernels that it learned from.
        low: smallest of each of `Table.sizes` among them; of operations and bytes alone before format 5 and where models see other columns.
        high: largest, likewise.
        detailed: whether it sees `Table.details`; not so in predictors of format 1.
    """

    booster: Any
    doubt: Any = None
    reuse: Any = None
    rows: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    detailed: bool = True

    def covers(self, sizes: Matrix) -> NDArray[np.bool_]:
        """Which kernels are of sizes that were measured, give or take a factor of `REACH`; sizes as `low`, [rows, sizes]."""
        known = sizes[:, : len(self.low)]
        inside = (known >= np.array(self.low) / REACH) & (known <= np.array(self.high) * REACH)
        covered: NDArray[np.bool_] = np.logical_and.reduce(inside, axis=1)
        return covered


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
        reuse: the second opinion on networks; None before format 3.
        call_s: of an empty call.
        half_width: conformal half width of log(p10 / prediction) of a network of usual difficulty, both ways.
        median_width: conformal bound of log(median / prediction), upwards: what a user is promised, on the machine as it was.
        usual_doubt: median of the networks' doubt (`Kernels.doubt`, per network); 0 in predictors of format 1.
        typical: median of time / roofline over all kernels, which stands in for kinds that are not covered.
        unknown: what is not covered may take so many times more or less.
        held_out: cross-fitted figures.
    """

    kinds: Mapping[str, KindModel]
    roofline: Roofline
    correction: Correction
    reuse: Reuse | None = None
    call_s: float
    half_width: float
    median_width: float
    usual_doubt: float = 0.0
    typical: float
    unknown: float = UNKNOWN
    held_out: HeldOut

    def kernels(self, table: Table) -> Kernels:
        """The first stage: every kernel by itself."""
        return first_stage(self.kinds, self.roofline, self.typical, table, self.exposures)

    @property
    def exposures(self) -> tuple[float, ...]:
        """See `NetworkModel`."""
        return self.reuse.exposures if self.reuse else ()

    def networks(self, context: Matrix, seconds: Matrix, unknown: Matrix, doubt: Matrix, by_exposure: Matrix) -> Bounds:
        """The second stage: networks from sums over their kernels, which a population gathers from its blocks.

        Args:
            context: as `Table.context`, [networks, 4].
            seconds: sum of the kernels' times in s, [networks].
            unknown: that part of it which is not covered, in s.
            doubt: sum of the kernels' times weighed by their doubt, in s.
            by_exposure: sums of the kernels' times at each of `exposures`, in s, [networks, exposures].
        """
        sums = self.call_s + seconds
        value = self.correction.apply(context, sums)
        if self.reuse:
            value = self.reuse.apply(value, context, self.call_s, by_exposure)
        coverage = np.clip(1 - unknown / sums, 0.0, 1.0)
        difficulty = (1 + doubt / sums / self.usual_doubt) / 2 if self.usual_doubt else np.ones(len(sums))
        width = self.half_width * difficulty
        return bounded(value, coverage, width, self.median_width + width - self.half_width, self.unknown)

    def bounds(self, table: Table) -> Bounds:
        """Both stages."""
        return self.networks(table.context, *self.kernels(table).sums(table))

    def in_place(self, table: Table) -> Matrix:
        """Both opinions count, as for the network."""
        found = self.kernels(table)
        if not self.reuse:
            return found.seconds
        first = self.correction.apply(table.context, self.call_s + table.total(found.seconds))
        where = self.reuse.where(table.context, first)
        both = self.reuse.mean(found.seconds, between(self.exposures, where[table.owner], found.by_exposure))
        known, told = (table.total(np.where(found.covered, seconds, 0.0)) for seconds in (found.seconds, both))
        scale = np.divide(known, told, out=np.ones(table.networks), where=told > 0)
        return np.where(found.covered, both * scale[table.owner], found.seconds)

    def limits(self, table: Table) -> NDArray[np.str_]:
        """What limits each kernel by the roofline: `compute`, `memory` or `overhead`."""
        return self.roofline.limits(table.flops, table.bytes)

    def shifted(self, shift: float, half_width: float) -> LatencyModel:
        """This model with every logarithm of a latency moved, and another half width."""
        reuse = self.reuse and replace(self.reuse, correction=self.reuse.correction.shifted(shift))
        return replace(self, correction=self.correction.shifted(shift), reuse=reuse, half_width=half_width)


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

    @property
    def exposures(self) -> tuple[float, ...]:
        """Exposures of networks, for each of which kernels are told (`second_stage`); none where that makes no difference."""
        ...

    def kernels(self, table: Table) -> Kernels:
        """Every kernel by itself."""
        ...

    def in_place(self, table: Table) -> Matrix:
        """Time of every kernel in its network, in s; they add up to the sum of `kernels`, and so do those that are covered."""
        ...

    def networks(self, context: Matrix, seconds: Matrix, unknown: Matrix, doubt: Matrix, by_exposure: Matrix) -> Bounds:
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


def bounded(value: Matrix, coverage: Matrix, width: Matrix, upper_width: Matrix, unknown: float = UNKNOWN) -> Bounds:
    """Values with their intervals: what is covered by the widths, the rest by a factor either way.

    Args:
        value: [networks].
        coverage: share of each that is covered.
        width: half width of its logarithm.
        upper_width: the same for the upper end, where it is larger.
        unknown: the factor.
    """
    down, up = np.exp(-width), np.exp(np.maximum(width, upper_width))
    known, rest = value * coverage, value * (1 - coverage)
    return Bounds(value=value, low=known * down + rest / unknown, high=known * up + rest * unknown, coverage=coverage)


def reaching_up(value: Matrix, coverage: Matrix, seconds: Matrix, unknown: float) -> Matrix:
    """The least width at which the upper end of `bounded` reaches some times; negative where it is beyond them anyway."""
    known, rest = np.maximum(value * coverage, TINY_S), value * (1 - coverage) * unknown
    width: Matrix = np.log(np.maximum(seconds - rest, TINY_S) / known)
    return width


def reaching(value: Matrix, coverage: Matrix, seconds: Matrix, unknown: float) -> Matrix:
    """The least width at which `bounded` holds some times, as `reaching_up` for both ends; not below 0."""
    known, rest = np.maximum(value * coverage, TINY_S), value * (1 - coverage) / unknown
    down = np.log(known / np.maximum(seconds - rest, TINY_S))
    width: Matrix = np.maximum(0.0, np.maximum(down, reaching_up(value, coverage, seconds, unknown)))
    return width


@dataclass(frozen=True, slots=True, eq=False)
class Kernels:
    """What the first stage says of each kernel.

    Attributes:
        seconds: its time, [rows].
        covered: whether its kind and size were measured; of a kind that was not, the time is scaled from the roofline.
        doubt: how far off the time may be, as an absolute log error.
        by_exposure: its time in a network of each exposure of the model, [rows, exposures].
    """

    seconds: Matrix
    covered: NDArray[np.bool_]
    doubt: Matrix
    by_exposure: Matrix

    @classmethod
    def of(cls, seconds: Matrix, covered: NDArray[np.bool_], doubt: Matrix) -> Kernels:
        """Those of a model that has no exposures."""
        return cls(seconds, covered, doubt, np.zeros((len(seconds), 0)))

    @property
    def amounts(self) -> Matrix:
        """What is summed up over a network: time, time that is not covered, doubtful time, times by exposure; [rows, 3 + exposures]."""
        return np.column_stack([self.seconds, np.where(self.covered, 0.0, self.seconds), self.seconds * self.doubt, self.by_exposure])

    def sums(self, table: Table) -> tuple[Matrix, Matrix, Matrix, Matrix]:
        """The last arguments of `NetworkModel.networks`."""
        return split(np.column_stack([table.total(column) for column in self.amounts.T]))


def split(sums: Matrix) -> tuple[Matrix, Matrix, Matrix, Matrix]:
    """Sums of `Kernels.amounts` over networks as the last arguments of `NetworkModel.networks`."""
    return sums[:, 0], sums[:, 1], sums[:, 2], sums[:, 3:]


@dataclass(frozen=True, slots=True, eq=False)
class Bounds:
    """Latencies of networks in s with their intervals, and the share of each that stands on measured kernels; [networks] each."""

    value: Matrix
    low: Matrix
    high: Matrix
    coverage: Matrix


def first_stage(
    kinds: Mapping[str, KindModel], roofline: Roofline, typical: float, table: Table, exposures: Sequence[float] = ()
) -> Kernels:
    """Time of every kernel in s from its local features, and whether its kind and size were measured; and its time by exposure."""
    xgboost = require("xgboost")
    bound = roofline.time_s(table.flops, table.bytes)
    factor = np.full((len(bound), 1 + len(exposures)), typical)
    covered, sizes = np.zeros(len(bound), bool), table.sizes
    doubt = np.full(len(bound), LEAST_DOUBT)
    for kind in np.unique(table.kinds):
        model = kinds.get(str(kind))
        if model is None:
            continue
        rows = table.kinds == kind
        columns = table.columns(rows, detailed=model.detailed)
        data = xgboost.DMatrix(columns, nthread=1)
        factor[rows, 0] = np.exp(model.booster.predict(data))
        covered[rows] = model.covers(sizes[rows])
        if model.doubt is not None:
            doubt[rows] = np.maximum(LEAST_DOUBT, model.doubt.predict(data))
        if exposures:
            beside = xgboost.DMatrix(with_exposure(np.repeat(columns, len(exposures), axis=0), np.tile(exposures, len(columns))), nthread=1)
            factor[rows, 1:] = np.exp(model.reuse.predict(beside)).reshape(-1, len(exposures))
    seconds = bound[:, None] * factor
    return Kernels(seconds[:, 0], covered, doubt, seconds[:, 1:])


def with_exposure(columns: Matrix, where: Matrix) -> Matrix:
    """What a model sees of kernels that knows the exposure of their networks."""
    return np.column_stack([columns, np.log(where)])
