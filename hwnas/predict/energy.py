"""Learning a device's energy from whole networks: a meter is far too slow to tell kernels apart.

First stage: what a network's kernels cost in joules per operation, per byte and per kernel, and what a call costs, none of them
negative. Rates that all kinds share come first; each kind's own rates leave them as far as the networks insist, so that kinds which
always come together stay near the shared ones. Second stage: how a network's whole size bends that sum (idle power, power that rises
with load, a meter's lag), a robust quadratic ridge regression on five network-level numbers. The interval is conformal, from errors
on networks that neither stage saw, and as wide as such a regression expects the error to be there. Trees in place of the regression
and behind it were tried and are no better (docs/energy.md): energies of whole networks are smooth, and few.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import MeasurementError, UsageError, did_you_mean
from hwnas.ir import Kernel
from hwnas.predict.conformal import quantile
from hwnas.predict.features import Matrix, describe
from hwnas.predict.fitting import FOLDS, LEAST_NETWORKS
from hwnas.predict.model import LEVEL, REACH, UNKNOWN, Bounds, HeldOut
from hwnas.profiling import NetworkRecord

SOURCES: Mapping[str, str] = {
    "nvml-counter": "the board's energy counter",
    "nvml-power": "the board's power readings, integrated",
    "rapl": "the processor package's energy counter",
}
COLUMNS = ("flops", "bytes", "kernels", "weight_bytes", "largest_activation_bytes")
LOYALTY = 0.01  # how strongly a kind's own rates are held to the shared ones: so much as a hundredth of a network of that kind alone
LEAST_SHARE = 0.01  # of the mean energy that each shared rate accounts for: a rate of zero could not be corrected for any kind
HUBER = 1.5  # residuals beyond so many robust deviations count less
ROUNDS = 4  # of reweighting
PENALTIES = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
SWEEPS = 200
MOST_LOG = 50.0  # of a curve: beyond it there is no network, and an exponential ends in infinity
MOST_WIDTH = float(np.log(1000.0))  # of an interval, up and down: what is not known to a factor of a thousand is not known


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyRecord:
    """A network whose energy was measured.

    Attributes:
        kernels: that it ran.
        joules: of one call.
        source: how it was measured, one of `SOURCES`; energies of different sources are different quantities.
        seconds: that a call takes, where that was measured too.
        foretold_s: the same as predicted by a model that did not see this network: users have no better time to give, so that the
            interval is calibrated with it.
    """

    kernels: tuple[Kernel, ...]
    joules: float
    source: str
    seconds: float | None = None
    foretold_s: float | None = None

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise UsageError(
                f"'{self.source}' is not a source of measured energy{did_you_mean(self.source, SOURCES)}; known: {', '.join(SOURCES)}"
            )
        if not (isfinite(self.joules) and self.joules > 0):
            raise UsageError(f"a measured energy is positive, got {self.joules} J; leave networks without a reading out")
        if not self.kernels:
            raise UsageError("a network whose energy is measured needs at least one kernel; leave empty networks out")

    @classmethod
    def of(cls, network: NetworkRecord, joules: float, source: str, foretold_s: float | None = None) -> EnergyRecord:
        """A network of a profile, with the energy of one call in J and its latency as predicted without it, in s."""
        kernels = tuple(record.call.kernel for record in network.kernels)
        return cls(kernels=kernels, joules=joules, source=source, seconds=network.latency_s, foretold_s=foretold_s)


@dataclass(frozen=True, slots=True, eq=False)
class Loads:
    """What networks ask of a device, summed over their kernels.

    Attributes:
        kinds: of kernels.
        amounts: operations, bytes and number of each kind's kernels, [networks, kinds, 3].
        context: bytes of all weights, bytes of the largest activation, [networks, 2].
        seconds: that a call takes, measured or predicted, [networks]; None where nobody knows.
    """

    kinds: tuple[str, ...]
    amounts: Matrix
    context: Matrix
    seconds: Matrix | None = None

    @classmethod
    def of(cls, networks: Sequence[Sequence[Kernel]], seconds: Matrix | None = None) -> Loads:
        """Of networks given by their kernels, and what a call of each takes in s; every network needs at least one kernel."""
        counts = [Counter(kernels) for kernels in networks]
        kinds = sorted({describe(kernel).kind for network in counts for kernel in network})
        place = {kind: i for i, kind in enumerate(kinds)}
        amounts, context = np.zeros((len(counts), len(kinds), 3)), np.zeros((len(counts), 2))
        for row, network in enumerate(counts):
            for kernel, times in network.items():
                seen = describe(kernel)
                amounts[row, place[seen.kind]] += (times * seen.flops, times * seen.bytes, times)
                context[row, 0] += times * seen.weight_bytes
                context[row, 1] = max(context[row, 1], seen.activation_bytes)
        return cls(tuple(kinds), amounts, context, seconds)

    def take(self, networks: NDArray[np.int64]) -> Loads:
        """Some of the networks, by index."""
        seconds = None if self.seconds is None else self.seconds[networks]
        return Loads(self.kinds, self.amounts[networks], self.context[networks], seconds)

    def __len__(self) -> int:
        return len(self.context)

    @property
    def columns(self) -> Matrix:
        """Log of each of `COLUMNS`, [networks, 5]."""
        columns: Matrix = np.log(np.maximum(np.column_stack([self.amounts.sum(axis=1), self.context]), 1.0))
        return columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """The first stage: joules as a sum over kernels.

    Attributes:
        shared: J per operation, per byte and per kernel, of kinds that were not measured.
        kinds: the same of each kind that was.
        per_call_j: J per call.
        per_second_w: J per second of a call, whatever it does: a board that only waits draws most of what one does that is busy with small
            networks. 0 where it was learned without knowing times.
    """

    shared: tuple[float, float, float]
    kinds: Mapping[str, tuple[float, float, float]]
    per_call_j: float
    per_second_w: float = 0.0

    @classmethod
    def fit(cls, loads: Loads, joules: Matrix) -> Rates:
        """Non-negative least squares on relative errors, reweighted so that a disturbed measurement counts less."""
        whole = np.ones((len(loads), 1)) if loads.seconds is None else np.column_stack([np.ones(len(loads)), loads.seconds])
        totals = np.column_stack([loads.amounts.sum(axis=1), whole])
        scale = totals.mean(axis=0) / joules.mean()
        typical = np.maximum(_robust(totals / scale / joules[:, None], np.zeros(len(scale)), 0.0), LEAST_SHARE) / scale
        each = (loads.amounts * typical[:3]).reshape(len(loads), -1)
        design = np.column_stack([each, whole * typical[3:]]) / joules[:, None]
        factors = _robust(design, np.ones(design.shape[1]), LOYALTY)
        own = factors[: each.shape[1]].reshape(-1, 3) * typical[:3]
        per_call_j, *per_second_w = (factors[each.shape[1] :] * typical[3:]).tolist()
        return cls(
            shared=(float(typical[0]), float(typical[1]), float(typical[2])),
            kinds={kind: (row[0], row[1], row[2]) for kind, row in zip(loads.kinds, own.tolist(), strict=True)},
            per_call_j=per_call_j,
            per_second_w=sum(per_second_w),
        )

    def joules(self, loads: Loads) -> tuple[Matrix, Matrix]:
        """Of networks, in J; and that part of it which stands on kinds that were not measured, [networks] each.

        Raises:
            ValueError: it was learned from times, and these networks have none.
        """
        rates = np.array([self.kinds.get(kind, self.shared) for kind in loads.kinds])
        parts: Matrix = (loads.amounts * rates).sum(axis=2)
        unknown = np.array([kind not in self.kinds for kind in loads.kinds])
        total = self.per_call_j + parts.sum(axis=1)
        if self.per_second_w:
            if loads.seconds is None:
                raise ValueError("energy that was learned from times is predicted from times")
            total = total + self.per_second_w * loads.seconds
        return total, parts[:, unknown].sum(axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A logarithm as a quadratic function of the standardised `COLUMNS`: of energy / sum of kernels, and of the error to expect.

    Attributes:
        mean: of each column.
        scale: standard deviation of each column.
        weights: intercept, linear, then quadratic terms.
        low: smallest value of each column on which it was fitted; outside, the column is held at the edge.
        high: largest.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def fit(cls, columns: Matrix, target: Matrix) -> Curve:
        """Ridge regression, reweighted (Huber); its penalty is the one with the least absolute leave-one-out error."""
        mean, scale = columns.mean(axis=0), np.maximum(columns.std(axis=0), 1e-9)
        design = quadratic((columns - mean) / scale)
        weight, solution = np.ones(len(target)), np.zeros(design.shape[1])
        for _ in range(ROUNDS):
            gram, moment = design.T @ (design * weight[:, None]), design.T @ (weight * target)
            best = np.inf
            for penalty in PENALTIES:
                inverse = np.linalg.inv(gram + np.diag([0.0, *[penalty] * (design.shape[1] - 1)]))
                leverage = np.minimum(np.einsum("ij,jk,ik->i", design, inverse, design) * weight, 0.99)
                residual = (target - design @ inverse @ moment) / (1 - leverage)
                error = float(np.abs(residual).mean())
                if error < best:
                    best, solution, left = error, inverse @ moment, residual
            weight = huber(left)
        return cls(
            mean=tuple(mean.tolist()),
            scale=tuple(scale.tolist()),
            weights=tuple(solution.tolist()),
            low=tuple(columns.min(axis=0).tolist()),
            high=tuple(columns.max(axis=0).tolist()),
        )

    @classmethod
    def flat(cls, columns: Matrix, value: float) -> Curve:
        """The curve that is the same everywhere, for networks like these."""
        count = columns.shape[1]
        return cls(
            mean=(0.0,) * count,
            scale=(1.0,) * count,
            weights=(value, *[0.0] * (quadratic(columns[:1]).shape[1] - 1)),
            low=tuple(columns.min(axis=0).tolist()),
            high=tuple(columns.max(axis=0).tolist()),
        )

    def factor(self, columns: Matrix) -> Matrix:
        """The exponential of the curve, [networks]."""
        held = (np.clip(columns, self.low, self.high) - np.array(self.mean)) / np.array(self.scale)
        factor: Matrix = np.exp(np.clip(quadratic(held) @ np.array(self.weights), -MOST_LOG, MOST_LOG))
        return factor

    def shifted(self, shift: float) -> Curve:
        """The same curve, higher by so much in the logarithm."""
        intercept, *rest = self.weights
        return replace(self, weights=(intercept + shift, *rest))

    def reaches(self, columns: Matrix) -> NDArray[np.bool_]:
        """Which networks are of sizes that were measured, give or take a factor of `REACH`."""
        margin = np.log(REACH)
        inside: NDArray[np.bool_] = ((columns >= np.array(self.low) - margin) & (columns <= np.array(self.high) + margin)).all(axis=1)
        return inside


def quadratic(columns: Matrix) -> Matrix:
    """One, the columns, and the products of every two of them; [n, 1 + p + p (p + 1) / 2]."""
    left, right = np.triu_indices(columns.shape[1])
    design: Matrix = np.column_stack([np.ones(len(columns)), columns, columns[:, left] * columns[:, right]])
    return design


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyModel:
    """What was learned of a setting's energy.

    Attributes:
        rates: per kernel.
        curve: per network, what the sum of its kernels is multiplied by.
        doubt: per network, the absolute log error to expect.
        half_width: conformal half width of log(energy / prediction), both ways, in multiples of the doubt.
        source: how the energies were measured, one of `SOURCES`.
        held_out: cross-fitted figures.
    """

    rates: Rates
    curve: Curve
    doubt: Curve
    half_width: float
    source: str
    held_out: HeldOut

    def joules(self, loads: Loads) -> Matrix:
        """Energy of one call of each network in J."""
        return sums_bent(self.rates, self.curve, loads)

    def bounds(self, loads: Loads) -> Bounds:
        """Energies in J with their intervals, and the share of each that stands on what was measured."""
        value, columns = self.joules(loads), loads.columns
        sums, unknown = self.rates.joules(loads)
        coverage = np.where(self.curve.reaches(columns), 1 - unknown / sums, 0.0)
        known, rest = value * coverage, value * (1 - coverage)
        width = np.minimum(self.half_width * self.doubt.factor(columns), MOST_WIDTH)
        down, up = np.exp(-width), np.exp(width)
        return Bounds(value=value, low=known * down + rest / UNKNOWN, high=known * up + rest * UNKNOWN, coverage=coverage)

    def recalibrated(self, loads: Loads, joules: Matrix) -> EnergyModel:
        """This model after networks were measured that a search chose with it.

        As with latency, their median error moves every prediction, and the interval never narrows.

        Args:
            loads: of the networks, with predicted times where energy was learned together with time.
            joules: measured, by the model's source, [networks].
        """
        log_ratio = np.log(joules / self.joules(loads))
        shift = float(np.median(log_ratio))
        left = np.abs(log_ratio - shift) / self.doubt.factor(loads.columns)
        own = quantile(left, LEVEL)
        half_width = max(self.half_width, own if np.isfinite(own) else float(left.max()))
        return replace(self, curve=self.curve.shifted(shift), half_width=half_width)


def fit(records: Sequence[EnergyRecord]) -> EnergyModel:
    """Learns a setting from networks whose energy was measured.

    Raises:
        UsageError: the energies come from several sources.
        MeasurementError: there are fewer than `LEAST_NETWORKS` records.
    """
    return learn(
        Loads.of([record.kernels for record in records], _all([record.seconds for record in records])),
        np.array([record.joules for record in records]),
        one_source(record.source for record in records),
        _all([record.foretold_s for record in records]),
    )


def _all(seconds: Sequence[float | None]) -> Matrix | None:
    """Times of networks; None where one is not known."""
    known = [one for one in seconds if one is not None]
    return np.array(known) if len(known) == len(seconds) else None


def one_source(sources: Iterable[str]) -> str:
    """The source that all have in common.

    Raises:
        UsageError: there are several, or none.
    """
    counts = Counter(sources)
    if len(counts) != 1:
        found = " and ".join(f"{count} by '{name}'" for name, count in sorted(counts.items())) or "none"
        raise UsageError(f"energies that one predictor learns from must be measured in one way, got {found}; train one for each")
    return next(iter(counts))


def learn(loads: Loads, joules: Matrix, source: str, foretold_s: Matrix | None = None) -> EnergyModel:
    """Learns a setting from what networks ask of it and their energy in J.

    Args:
        loads: of the networks, with their times as measured, where they were.
        joules: measured, [networks].
        source: how, one of `SOURCES`.
        foretold_s: times as they were predicted without the network, [networks]. Rates are learned from measured times, since those are
            what the energy was spent in; errors, and so the interval, are those of predictions that start from a predicted time.

    Raises:
        MeasurementError: there are fewer than `LEAST_NETWORKS`.
    """
    if len(joules) < LEAST_NETWORKS:
        raise MeasurementError(
            f"an energy predictor needs at least {LEAST_NETWORKS} networks with measured energy, got {len(joules)}; profile longer"
        )
    columns = loads.columns
    folds = [(np.flatnonzero(np.arange(len(joules)) % FOLDS != k), np.arange(k, len(joules), FOLDS)) for k in range(FOLDS)]
    asked = loads if foretold_s is None or loads.seconds is None else replace(loads, seconds=foretold_s)
    crossed, doubt = np.empty(len(joules)), np.empty(len(joules))
    for train, test in folds:
        crossed[test] = sums_bent(*stages(loads.take(train), joules[train]), asked.take(test))
    error = np.abs(np.log(joules / crossed))
    for train, test in folds:
        doubt[test] = _doubt(columns[train], error[train]).factor(columns[test])
    rates, curve = stages(loads, joules)
    return EnergyModel(
        rates=rates,
        curve=curve,
        doubt=_doubt(columns, error),
        half_width=quantile(error / doubt, LEVEL),
        source=source,
        held_out=HeldOut.of(crossed, joules, doubt),
    )


def stages(loads: Loads, joules: Matrix) -> tuple[Rates, Curve]:
    """Both stages from networks with their energy in J."""
    rates = Rates.fit(loads, joules)
    return rates, Curve.fit(loads.columns, np.log(joules / rates.joules(loads)[0]))


def sums_bent(rates: Rates, curve: Curve, loads: Loads) -> Matrix:
    """Energies in J by both stages."""
    value: Matrix = rates.joules(loads)[0] * curve.factor(loads.columns)
    return value


def _doubt(columns: Matrix, error: Matrix) -> Curve:
    """The error to expect, from absolute log errors; near zero they say little, and their logarithm would say much."""
    return Curve.fit(columns, np.log(np.maximum(error, np.median(error) / 10 + 1e-9)))


def huber(residual: Matrix) -> Matrix:
    """Weights that hold back what lies beyond `HUBER` robust deviations."""
    size = np.abs(residual)
    weight: Matrix = np.minimum(1.0, HUBER * 1.4826 * np.median(size) / np.maximum(size, 1e-12))
    return weight


def _robust(design: Matrix, prior: Matrix, loyalty: float) -> Matrix:
    """Non-negative x that brings design x near one in every row, and near the prior."""
    weight, x = np.ones(len(design)), prior
    for _ in range(ROUNDS):
        gram = design.T @ (design * weight[:, None]) + loyalty * np.eye(len(prior))
        x = _non_negative(gram, design.T @ weight + loyalty * prior)
        weight = huber(np.log(np.maximum(design @ x, 1e-12)))
    return x


def _non_negative(gram: Matrix, moment: Matrix) -> Matrix:
    """The x >= 0 that minimises x' gram x / 2 - moment' x, by coordinate descent."""
    x = np.zeros(len(moment))
    for _ in range(SWEEPS):
        for j in range(len(x)):
            x[j] = max(0.0, x[j] + (moment[j] - gram[j] @ x) / gram[j, j])
    return x
