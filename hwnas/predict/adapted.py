"""A known device's predictor adapted to another device from a handful of measured networks.

What the known device would take for a kernel, times a factor for the device, times another that boosted trees give for the kernel's
kind. They learn from the kernels of the measured networks, each timed in its place, and there are few of them, so that a few rows move
them little. A regression of whole networks on a few of their features was tried in their place and behind them, and did worse
(docs/transfer.md); it serves to choose networks and known devices, for which no kernels are timed yet (`kind_features`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import MeasurementError, require
from hwnas.predict.features import Matrix, Table
from hwnas.predict.fitting import LEAST_TIME_S, PARAMETERS, UPPER_LEVEL, Training
from hwnas.predict.model import LEVEL, Bounds, HeldOut, Kernels, KindModel, NetworkModel, bounded
from hwnas.predict.roofline import Roofline
from hwnas.predict.transfer import Prior
from hwnas.profiling import NetworkRecord

LEAST_NETWORKS = 3
TREES = 30
GROWTH = {"max_depth": 3, "eta": 0.1, "subsample": 0.8}
LEAST_ROWS = 10  # of a kind, for every leaf of a tree
DEGREES = 2  # imagined errors of networks, of the size of
USUAL_NOISE = 0.03
NOISE_SPREAD = 0.7  # deviation of its log between devices
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
        call_s: of an empty call.
        half_width: of the interval of log(p10 / prediction) of a network of usual difficulty, not conformal (see `adapt`).
        median_width: upwards, of log(median / prediction).
        usual_doubt: median of the networks' doubt.
        held_out: of networks that were left out, each by the others.
        level: by which networks that were measured later moved the predictions (`shifted`).
    """

    base: NetworkModel
    kinds: Mapping[str, AdaptedKind]
    scale: float
    spread: float
    roofline: Roofline
    call_s: float
    half_width: float
    median_width: float
    usual_doubt: float
    held_out: HeldOut
    level: float = 1.0

    @property
    def exposures(self) -> tuple[float, ...]:
        """None: a handful of networks does not tell what theirs do."""
        return ()

    def kernels(self, table: Table) -> Kernels:
        """Every kernel by itself; one of a kind that was not measured on this device does not count as covered."""
        found = self.base.kernels(table)
        seconds = _apply(_First(self.scale, {name: kind.part for name, kind in self.kinds.items()}), table, found.seconds)
        covered, sizes = np.zeros(len(seconds), bool), table.sizes
        doubt = np.maximum(found.doubt, self.spread)
        for name, kind in self.kinds.items():
            rows = table.kinds == name
            covered[rows] = found.covered[rows] | kind.part.covers(sizes[rows])
            doubt[rows] = np.maximum(found.doubt[rows], kind.error)
        return Kernels.of(seconds, covered, doubt)

    def networks(self, context: Matrix, seconds: Matrix, unknown: Matrix, doubt: Matrix, by_exposure: Matrix) -> Bounds:
        """Networks from sums over their kernels; arguments as `LatencyModel.networks`."""
        sums = self.call_s + seconds
        coverage = np.clip(1 - unknown / sums, 0.0, 1.0)
        width = self.half_width * (1 + doubt / sums / self.usual_doubt) / 2
        return bounded(self.level * sums, coverage, width, self.median_width + width - self.half_width)

    def bounds(self, table: Table) -> Bounds:
        """Both stages."""
        return self.networks(table.context, *self.kernels(table).sums(table))

    def in_place(self, table: Table) -> Matrix:
        """Time of every kernel in s, the same in every network."""
        return self.kernels(table).seconds

    def limits(self, table: Table) -> NDArray[np.str_]:
        """What limits each kernel by the device's roofline."""
        return self.roofline.limits(table.flops, table.bytes)

    def shifted(self, shift: float, half_width: float) -> AdaptedModel:
        """This model after measured networks moved it."""
        return replace(self, level=self.level * float(np.exp(shift)), half_width=half_width)


class _First(NamedTuple):
    """The first stage: one factor, and for every kind trees that tell the log of another."""

    scale: float
    kinds: Mapping[str, KindModel]


def _learn(table: Table, known_s: Matrix, seconds: Matrix) -> _First:
    """From kernels, what the known device would take for each, and what they take."""
    xgboost = require("xgboost")
    log_ratio = np.log(np.maximum(seconds, LEAST_TIME_S) / known_s)
    scale = _weighted_median(log_ratio, seconds)
    kinds, sizes = {}, table.sizes
    for name in np.unique(table.kinds).tolist():
        rows = table.kinds == name
        target, count = log_ratio[rows] - scale, int(rows.sum())
        parameters = {
            **PARAMETERS,
            **GROWTH,
            "min_child_weight": min(PARAMETERS["min_child_weight"], max(1, count // LEAST_ROWS)),
            "base_score": 0.0,
        }
        kinds[name] = KindModel(
            booster=xgboost.train(
                parameters, xgboost.DMatrix(table.columns(rows, detailed=True), target, nthread=1), num_boost_round=TREES
            ),
            rows=count,
            low=tuple(sizes[rows].min(axis=0).tolist()),
            high=tuple(sizes[rows].max(axis=0).tolist()),
        )
    return _First(float(np.exp(scale)), kinds)


def _apply(first: _First, table: Table, known_s: Matrix) -> Matrix:
    """What kernels take on the other device, in s."""
    xgboost = require("xgboost")
    seconds = first.scale * known_s
    for name in np.unique(table.kinds).tolist():
        if name in first.kinds:
            rows = table.kinds == name
            seconds[rows] *= np.exp(first.kinds[name].booster.predict(xgboost.DMatrix(table.columns(rows, detailed=True), nthread=1)))
    return seconds


def _weighted_median(values: Matrix, weights: Matrix) -> float:
    order = np.argsort(values)
    below = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(below, below[-1] / 2)])


def adapt(base: NetworkModel, networks: Sequence[NetworkRecord], roofline: Roofline) -> AdaptedModel:
    """Learns another device from a few of its networks.

    The interval is no conformal one: chosen networks are not exchangeable with others, and they are few. It is the posterior predictive
    one of a normal error of which `DEGREES` earlier ones of size `USUAL_NOISE` are imagined, given the errors of networks that were left
    out.

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
    table, known_s = data.table, base.kernels(data.table).seconds
    crossed = np.empty(len(known_s))
    for i in range(len(networks)):
        out, rest = table.owner == i, np.delete(np.arange(len(networks)), i)
        first = _learn(table.take(rest), known_s[~out], data.seconds[~out])
        crossed[out] = _apply(first, table.take(np.array([i])), known_s[out])
    value = data.call_s + table.total(crossed)
    left = np.log(data.latency / value)
    freedom = DEGREES + len(networks)
    half_width = _student(freedom) * float(np.sqrt((DEGREES * USUAL_NOISE**2 + np.sum(left**2)) / freedom))
    scale, parts = _learn(table, known_s, data.seconds)
    of_kind = {name: table.kinds == name for name in parts}
    error = np.abs(np.log(np.maximum(data.seconds, LEAST_TIME_S) / crossed))
    ratio = np.log(np.maximum(data.seconds, LEAST_TIME_S) / known_s)
    model = AdaptedModel(
        base=base,
        kinds={name: AdaptedKind(part=part, error=float(np.median(error[of_kind[name]]))) for name, part in parts.items()},
        scale=scale,
        spread=float(np.std([_weighted_median(ratio[rows], data.seconds[rows]) for rows in of_kind.values()])),
        roofline=roofline,
        call_s=data.call_s,
        half_width=half_width,
        median_width=half_width + max(0.0, float(np.quantile(np.log(data.median / data.latency), LEVEL))),
        usual_doubt=1.0,
        held_out=HeldOut.of(value, data.latency),
    )
    kernels = model.kernels(table)
    return replace(model, usual_doubt=float(np.median(table.total(kernels.seconds * kernels.doubt) / table.total(kernels.seconds))))


def _student(freedom: int) -> float:
    """The 95 % quantile of Student's distribution, by the first terms of Cornish and Fisher's expansion."""
    z = NormalDist().inv_cdf(UPPER_LEVEL)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


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
