"""A known device's predictor adapted to another device from a handful of measured networks.

First stage: what the known device would take for a kernel, times a factor that boosted trees give for its kind. They learn from the
kernels of the measured networks, each timed in its place, and start from one factor for all, so that a few rows move them little. Second
stage: what a network's context does to the sum of its kernels, a Bayesian linear regression whose prior is that it does nothing
(`hwnas.predict.transfer`). Every figure comes from networks that were left out: ten are too few for anything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import MeasurementError, require
from hwnas.predict.conformal import quantile
from hwnas.predict.features import Matrix, Table
from hwnas.predict.model import (
    LEAST_TIME_S,
    LEVEL,
    PARAMETERS,
    Bounds,
    Correction,
    HeldOut,
    Kernels,
    KindModel,
    NetworkModel,
    Training,
    bounded,
)
from hwnas.predict.roofline import Roofline
from hwnas.predict.transfer import Posterior, Prior
from hwnas.profiling import NetworkRecord

LEAST_NETWORKS = 3
TREES = 100
GROWTH = {"max_depth": 3, "eta": 0.1, "subsample": 0.8}
LEAST_ROWS = 10  # of a kind, for every leaf of a tree
SIDED = 1.645  # deviations of a normal distribution either side of which 10 % lie
CONTEXT_SPREAD = 0.03  # of what one deviation of a column does to a network's time
USUAL_NOISE, NOISE_SPREAD = 0.02, 0.7  # of a network's time about the sum of its kernels; deviation of its log
KIND_SPREAD = 0.3  # deviation of the factors of kinds between devices, in parts of the device's factor
KIN = 0.5  # correlation of the factors of kinds that are limited by the same
PRODUCTS = ("Conv-dense", "Conv-pointwise", "Conv-grouped", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptedKind:
    """The model of one kind of kernel.

    Attributes:
        part: its booster predicts log(time / what the known device takes, scaled).
        error: median absolute log error of kernels of networks that were left out.
    """

    part: KindModel
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptedModel:
    """A known device's model with what was learned of another. Satisfies `hwnas.predict.model.NetworkModel`.

    Attributes:
        base: of the known device.
        kinds: that were measured on the other.
        scale: by which the other differs in general, for kinds that were not measured.
        spread: deviation of the log of the factors of kinds about that, hence the doubt of kinds that were not measured.
        roofline: of the other device, for explanations.
        correction: per network.
        call_s: of an empty call.
        half_width: of the 90 % interval of log(p10 / prediction) of a network of usual difficulty; not conformal (see `adapt`).
        median_width: upwards, of log(median / prediction).
        usual_doubt: median of the networks' doubt.
        held_out: of networks that were left out, each by the others.
    """

    base: NetworkModel
    kinds: Mapping[str, AdaptedKind]
    scale: float
    spread: float
    roofline: Roofline
    correction: Correction
    call_s: float
    half_width: float
    median_width: float
    usual_doubt: float
    held_out: HeldOut

    def kernels(self, table: Table) -> Kernels:
        """Every kernel by itself; one of a kind that was not measured on this device does not count as covered."""
        found = self.base.kernels(table)
        seconds = _apply(_First(self.scale, {name: kind.part for name, kind in self.kinds.items()}), table, found.seconds)
        covered, doubt = np.zeros(len(seconds), bool), np.maximum(found.doubt, self.spread)
        for name, kind in self.kinds.items():
            rows = table.kinds == name
            covered[rows] = found.covered[rows] | kind.part.covers(table.flops[rows], table.bytes[rows])
            doubt[rows] = np.maximum(found.doubt[rows], kind.error)
        return Kernels(seconds, covered, doubt)

    def networks(self, context: Matrix, seconds: Matrix, unknown: Matrix, doubt: Matrix) -> Bounds:
        """Networks from sums over their kernels; arguments as `LatencyModel.networks`."""
        sums = self.call_s + seconds
        coverage = np.clip(1 - unknown / sums, 0.0, 1.0)
        width = self.half_width * (1 + doubt / sums / self.usual_doubt) / 2
        return bounded(self.correction.apply(context, sums), coverage, width, self.median_width + width - self.half_width)

    def bounds(self, table: Table) -> Bounds:
        """Both stages."""
        kernels = self.kernels(table)
        unknown = np.where(kernels.covered, 0.0, kernels.seconds)
        return self.networks(table.context, *(table.total(rows) for rows in (kernels.seconds, unknown, kernels.seconds * kernels.doubt)))

    def limits(self, table: Table) -> NDArray[np.str_]:
        """What limits each kernel by the device's roofline."""
        return self.roofline.limits(table.flops, table.bytes)

    def shifted(self, shift: float, half_width: float) -> AdaptedModel:
        """This model after measured networks moved it."""
        intercept, *rest = self.correction.weights
        return replace(self, correction=replace(self.correction, weights=(intercept + shift, *rest)), half_width=half_width)


class _First(NamedTuple):
    """The first stage: one factor, and for every kind trees that tell the log of another."""

    scale: float
    kinds: Mapping[str, KindModel]


def _learn(table: Table, known_s: Matrix, seconds: Matrix) -> _First:
    """From kernels, what the known device would take for each, and what they take."""
    xgboost = require("xgboost")
    log_ratio = np.log(np.maximum(seconds, LEAST_TIME_S) / known_s)
    scale = _weighted_median(log_ratio, seconds)
    kinds = {}
    for name in np.unique(table.kinds).tolist():
        rows = table.kinds == name
        target, count = log_ratio[rows] - scale, int(rows.sum())
        parameters = {
            **PARAMETERS,
            **GROWTH,
            "min_child_weight": min(PARAMETERS["min_child_weight"], max(1, count // LEAST_ROWS)),
            "base_score": 0.0,
        }
        sizes = np.column_stack([table.flops[rows], table.bytes[rows]])
        kinds[name] = KindModel(
            booster=xgboost.train(parameters, xgboost.DMatrix(table.values[rows], target, nthread=1), num_boost_round=TREES),
            rows=count,
            low=tuple(sizes.min(axis=0).tolist()),
            high=tuple(sizes.max(axis=0).tolist()),
        )
    return _First(float(np.exp(scale)), kinds)


def _apply(first: _First, table: Table, known_s: Matrix) -> Matrix:
    """What kernels take on the other device, in s."""
    xgboost = require("xgboost")
    seconds = first.scale * known_s
    for name in np.unique(table.kinds).tolist():
        if name in first.kinds:
            rows = table.kinds == name
            seconds[rows] *= np.exp(first.kinds[name].booster.predict(xgboost.DMatrix(table.values[rows], nthread=1)))
    return seconds


def _weighted_median(values: Matrix, weights: Matrix) -> float:
    order = np.argsort(values)
    below = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(below, below[-1] / 2)])


@dataclass(frozen=True, slots=True, eq=False)
class _Second:
    """The second stage: columns of a network's context, standardised on the measured networks, and what was learned of them."""

    mean: Matrix
    scale: Matrix
    posterior: Posterior

    @classmethod
    def learn(cls, context: Matrix, sums: Matrix, latency: Matrix) -> _Second:
        columns = Correction.columns(context, sums)
        mean, scale = columns.mean(axis=0), np.maximum(columns.std(axis=0), 0.1)
        prior = Prior(
            mean=np.array([1.0, *[0.0] * columns.shape[1]]),
            covariance=np.diag([0.0, *[CONTEXT_SPREAD**2] * columns.shape[1]]),
            noise=USUAL_NOISE,
            noise_spread=NOISE_SPREAD,
        )
        return cls(mean, scale, prior.learn(_rows(columns, sums, mean, scale), latency))

    def value_and_deviation(self, context: Matrix, sums: Matrix) -> tuple[Matrix, Matrix]:
        """Of networks, in s."""
        rows = _rows(Correction.columns(context, sums), sums, self.mean, self.scale)
        return self.posterior.value(rows), self.posterior.deviation(rows)

    def correction(self, context: Matrix, sums: Matrix) -> Correction:
        """The same, as predictors hold it; sizes beyond the measured networks' count as the nearest of theirs."""
        columns = Correction.columns(context, sums)
        level, *weights = self.posterior.mean.tolist()
        return Correction(
            mean=tuple(self.mean.tolist()),
            scale=tuple(self.scale.tolist()),
            weights=(float(np.log(level)), *(weight / level for weight in weights)),
            low=tuple(columns.min(axis=0).tolist()),
            high=tuple(columns.max(axis=0).tolist()),
        )


def _rows(columns: Matrix, sums: Matrix, mean: Matrix, scale: Matrix) -> Matrix:
    return sums[:, None] * np.column_stack([np.ones(len(sums)), (columns - mean) / scale])


def adapt(base: NetworkModel, networks: Sequence[NetworkRecord], roofline: Roofline) -> AdaptedModel:
    """Learns another device from a few of its networks.

    The interval is no conformal one, since chosen networks are not exchangeable with others: it is the posterior's, widened where networks
    that were left out lie further off than it says, and never narrower than the conformal one of theirs where there are enough for one.

    Args:
        base: of the known device.
        networks: as measured on the other.
        roofline: of the other.

    Raises:
        MeasurementError: there are fewer than `LEAST_NETWORKS`.
    """
    if len(networks) < LEAST_NETWORKS:
        raise MeasurementError(f"a transfer needs at least {LEAST_NETWORKS} measured networks, got {len(networks)}; measure more")
    data = Training.of(networks)
    table, count = data.table, len(networks)
    known_s = base.kernels(table).seconds
    crossed = np.empty(len(known_s))
    for i in range(count):
        out, rest = table.owner == i, np.delete(np.arange(count), i)
        first = _learn(table.take(rest), known_s[~out], data.seconds[~out])
        crossed[out] = _apply(first, table.take(np.array([i])), known_s[out])
    sums = data.call_s + table.total(crossed)
    value, deviation = np.empty(count), np.empty(count)
    for i in range(count):
        rest, one = np.delete(np.arange(count), i), np.array([i])
        second = _Second.learn(table.context[rest], sums[rest], data.latency[rest])
        value[one], deviation[one] = second.value_and_deviation(table.context[one], sums[one])
    left = np.log(data.latency / value)
    second = _Second.learn(table.context, sums, data.latency)
    told, told_deviation = second.value_and_deviation(table.context, sums)
    surprise = float(np.sqrt(np.mean((left / (deviation / value)) ** 2)))
    own = quantile(np.abs(left), LEVEL)
    half_width = max(SIDED * float(np.median(told_deviation / told)) * max(1.0, surprise), own if np.isfinite(own) else 0.0)
    first = _learn(table, known_s, data.seconds)
    error = np.abs(np.log(np.maximum(data.seconds, LEAST_TIME_S) / crossed))
    kinds = {name: AdaptedKind(part=part, error=float(np.median(error[table.kinds == name]))) for name, part in first.kinds.items()}
    factors = [_weighted_median(np.log(data.seconds / known_s)[table.kinds == name], data.seconds[table.kinds == name]) for name in kinds]
    model = AdaptedModel(
        base=base,
        kinds=kinds,
        scale=first.scale,
        spread=float(np.std(factors)),
        roofline=roofline,
        correction=second.correction(table.context, sums),
        call_s=data.call_s,
        half_width=half_width,
        median_width=half_width + max(0.0, float(np.quantile(np.log(data.median / data.latency), LEVEL))),
        usual_doubt=1.0,
        held_out=HeldOut.of(value, data.latency),
    )
    kernels = model.kernels(table)
    return replace(model, usual_doubt=float(np.median(table.total(kernels.seconds * kernels.doubt) / table.total(kernels.seconds))))


def kind_features(model: NetworkModel, table: Table) -> tuple[Matrix, Prior]:
    """Networks as sums of what each kind of kernel takes on a known device, and what that says of another device before it is measured.

    The usual device is the known one, at any scale; the factors of its kinds differ, those of kinds that are limited by the same
    (arithmetic, or moving data) less from each other. The last feature is a constant for every kernel.

    Returns:
        Features in s, [networks, kinds + 2], and the prior of their weights.
    """
    seconds = model.kernels(table).seconds
    names = np.unique(table.kinds).tolist()
    usual = float(np.median(seconds))
    columns = [table.total(np.where(table.kinds == name, seconds, 0.0)) for name in names]
    columns += [np.full(table.networks, model.call_s), usual * table.context[:, 2]]
    groups = np.array([*("product" if name in PRODUCTS else "other" for name in names), "call", "start"])
    alike = groups[:, None] == groups
    covariance = KIND_SPREAD**2 * np.where(np.eye(len(groups), dtype=bool), 1.0, np.where(alike, KIN, 0.0))
    mean = np.where(groups == "start", 0.0, 1.0)
    prior = Prior(mean=mean, covariance=covariance, noise=USUAL_NOISE, noise_spread=NOISE_SPREAD)
    return np.column_stack(columns), prior
