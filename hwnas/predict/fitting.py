"""Learning a `LatencyModel` from measured networks.

Every error that decides anything is one of networks that the models did not see: the correction is fitted on cross-fitted sums, each
network's from models that did not see it, and the interval comes from residuals that neither stage saw.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import MeasurementError, require
from hwnas.ir import Kernel
from hwnas.predict.conformal import quantile
from hwnas.predict.features import Matrix, Table, tabulate
from hwnas.predict.model import (
    LEAST_DOUBT,
    LEVEL,
    HeldOut,
    Kernels,
    KindModel,
    LatencyModel,
    first_stage,
    reaching,
    reaching_up,
    with_exposure,
)
from hwnas.predict.roofline import Roofline
from hwnas.predict.second_stage import Correction, Reuse, exposure, spread
from hwnas.profiling import NetworkRecord

Learned = TypeVar("Learned")

UPPER_LEVEL = 0.95  # one-sided: with `LEVEL` on both sides, 5 % lie above
FOLDS = 5
LEAST_NETWORKS = 20  # a 90 % interval needs 9 residuals; below this the cross-fit has nothing to learn from
PARAMETERS: Mapping[str, Any] = {
    "objective": "reg:squarederror",
    "max_depth": 5,
    "subsample": 0.7,
    "colsample_bynode": 0.7,
    "min_child_weight": 8,
    "tree_method": "hist",
    "nthread": 1,  # the tables are small: more threads wait for each other
    "seed": 0,
}


class Growth(NamedTuple):
    """How many trees, and how much of each counts."""

    trees: int
    eta: float


THOROUGH = Growth(trees=400, eta=0.05)
QUICK = Growth(trees=100, eta=0.15)  # for a look at the error while a profile is measured
LEAST_TIME_S = 3e-7  # below the profiler's resolution
FAMILY_FOLDS = 6
WELL_COVERED = 0.9  # share of a held-out network's time in kinds and sizes that were seen, for it to calibrate the interval
UNKNOWN = 7.0  # what is not covered may take so many times more or less: nine of ten networks held out with their family (ADR 0015)
DOUBT: Mapping[str, Any] = {"max_depth": 3, "eta": 0.1}
DOUBT_TREES = 40
MOST_DOUBT = 1.0  # absolute log error of a kernel beyond which one more factor makes no difference


def fit_kinds(table: Table, seconds: Matrix, roofline: Roofline, growth: Growth | None = None) -> dict[str, KindModel]:
    """The first stage: a booster per kind from kernels with their times in s."""
    growth, sizes = growth or THOROUGH, table.sizes

    def of(kind: str) -> KindModel:
        rows = table.kinds == kind
        columns = table.columns(rows, detailed=True)
        return KindModel(
            booster=_grow_kind(table, rows, seconds, roofline, growth, columns),
            rows=int(rows.sum()),
            low=tuple(sizes[rows].min(axis=0).tolist()),
            high=tuple(sizes[rows].max(axis=0).tolist()),
        )

    return _by_kind(table, of)


def exposed(
    kinds: Mapping[str, KindModel], table: Table, seconds: Matrix, roofline: Roofline, where: Matrix, growth: Growth | None = None
) -> dict[str, KindModel]:
    """The same with another booster each that knows the exposure of the kernels' networks, `where`, [networks]."""
    growth = growth or THOROUGH

    def of(kind: str) -> KindModel:
        rows = table.kinds == kind
        columns = with_exposure(table.columns(rows, detailed=True), where[table.owner[rows]])
        return replace(kinds[kind], reuse=_grow_kind(table, rows, seconds, roofline, growth, columns))

    return _by_kind(table, of)


def _grow_kind(table: Table, rows: NDArray[np.bool_], seconds: Matrix, roofline: Roofline, growth: Growth, columns: Matrix) -> Any:
    """A booster of log(time / roofline) of some rows from these columns of them."""
    target = np.log(np.maximum(seconds[rows], LEAST_TIME_S) / roofline.time_s(table.flops[rows], table.bytes[rows]))
    parameters = {
        **PARAMETERS,
        "eta": growth.eta,
        "min_child_weight": min(PARAMETERS["min_child_weight"], max(1, len(target) // 10)),
        "base_score": float(target.mean()),
    }
    return _grow(parameters, target, growth.trees, columns)


def _by_kind(table: Table, learn: Callable[[str], Learned]) -> dict[str, Learned]:
    """What is learned of every kind, on as many threads as there are processors: XGBoost computes outside the interpreter's lock."""
    names, counts = np.unique(table.kinds, return_counts=True)
    kinds = names[np.argsort(-counts, kind="stable")].tolist()  # what takes longest begins first
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return dict(zip(kinds, pool.map(learn, kinds), strict=True))


def _grow(parameters: Mapping[str, Any], target: Matrix, trees: int, columns: Matrix) -> Any:
    xgboost = require("xgboost")
    return xgboost.train(parameters, xgboost.DMatrix(columns, target, nthread=1), num_boost_round=trees)


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """A profile as arrays.

    Attributes:
        table: of all networks' kernels.
        seconds: attributed time of each row.
        latency: end-to-end p10 of each network in s, undisturbed.
        median: end-to-end median of each network in s, as it was measured.
        call_s: of an empty call.
    """

    table: Table
    seconds: Matrix
    latency: Matrix
    median: Matrix
    call_s: float

    @classmethod
    def of(cls, networks: Sequence[NetworkRecord]) -> Training:
        """From measured networks."""
        kernels: list[list[Kernel]] = [[record.call.kernel for record in network.kernels] for network in networks]
        return cls(
            table=tabulate(kernels),
            seconds=np.array([record.nanoseconds for network in networks for record in network.kernels]) * 1e-9,
            latency=np.array([network.latency_s for network in networks]),
            median=np.array([network.samples.median_s for network in networks]),
            call_s=float(np.median([network.call_ns for network in networks])) * 1e-9,
        )

    def take(self, networks: NDArray[np.int64]) -> Training:
        """Some of the networks, by ascending index."""
        rows = np.isin(self.table.owner, networks)
        return Training(self.table.take(networks), self.seconds[rows], self.latency[networks], self.median[networks], self.call_s)


def fit(networks: Sequence[NetworkRecord], roofline: Roofline, families: Sequence[str] = ()) -> LatencyModel:
    """Learns a setting from its measured networks.

    Args:
        networks: measured.
        roofline: of the device.
        families: of each network. Where there are several, the interval is calibrated on networks whose family the models did not
            see at all, since that is what a network that nobody here wrote is; the held-out figures are of such networks too.

    Raises:
        MeasurementError: there are fewer than `LEAST_NETWORKS`.
    """
    if len(networks) < LEAST_NETWORKS:
        raise MeasurementError(
            f"a predictor needs at least {LEAST_NETWORKS} measured networks, the profile has {len(networks)}; profile longer"
        )
    data = Training.of(networks)
    table, latency = data.table, data.latency
    typical = float(np.median(data.seconds / roofline.time_s(table.flops, table.bytes)))
    folds = np.arange(len(networks)) % FOLDS
    mixed, where, exposures = _cross_fit(data, folds, roofline, typical)
    apart = _family_folds(families)
    crossed = mixed if apart is None else _cross_fit(data, apart, roofline, typical, exposures).kernels
    apart = folds if apart is None else apart
    missing = ~crossed.covered
    sums, held_sums = mixed.sums(table), crossed.sums(table)
    predicted = np.empty(len(networks))
    doubt = np.empty(len(data.seconds))
    # What only one family has, the models do not know without it, and know when they ship: its doubt is that of networks held out singly.
    error = _log_error(data.seconds, np.where(missing, mixed.seconds, crossed.seconds))
    for k in np.unique(apart):
        train, test = np.flatnonzero(apart != k), np.flatnonzero(apart == k)
        correction, reuse = _second_stage(data, sums, exposures, train)
        value = correction.apply(table.context[test], data.call_s + held_sums[0][test])
        predicted[test] = reuse.apply(value, table.context[test], data.call_s, held_sums[-1][test])
        seen = np.isin(table.owner, train)
        doubters = _fit_doubt(table.take(train), error[seen])
        doubt[~seen] = _doubt(doubters, table.take(test))
    network_doubt = table.total(data.seconds * doubt) / latency
    usual = float(np.median(network_doubt))
    difficulty = (1 + network_doubt / usual) / 2
    known = _well_covered(data, crossed)
    if known.sum() < LEAST_NETWORKS:
        known[:] = True
    covered = np.clip(1 - held_sums[1] / (data.call_s + held_sums[0]), 0.0, 1.0)
    half_width = quantile((reaching(predicted, covered, latency, UNKNOWN) / difficulty)[known], LEVEL)
    above = reaching_up(predicted, covered, data.median, UNKNOWN) - half_width * (difficulty - 1)
    doubters = _fit_doubt(table, error)
    models = exposed(fit_kinds(table, data.seconds, roofline), table, data.seconds, roofline, where)
    correction, reuse = _second_stage(data, sums, exposures, np.arange(len(networks)))
    return LatencyModel(
        kinds={kind: replace(model, doubt=doubters[kind]) for kind, model in models.items()},
        roofline=roofline,
        correction=correction,
        reuse=reuse,
        call_s=data.call_s,
        half_width=half_width,
        median_width=quantile(above[known], UPPER_LEVEL),
        usual_doubt=usual,
        typical=typical,
        unknown=UNKNOWN,
        held_out=HeldOut.of(predicted, latency, difficulty),
    )


def _second_stage(
    data: Training, sums: tuple[Matrix, ...], exposures: tuple[float, ...], networks: NDArray[np.int64]
) -> tuple[Correction, Reuse]:
    """Learns both opinions on networks, and how much each counts, from cross-fitted sums over their kernels, of some of them."""
    context, latency = data.table.context[networks], data.latency[networks]
    seconds, by_exposure = data.call_s + sums[0][networks], sums[-1][networks]
    correction = Correction.fit(context, seconds, latency)
    reuse = Reuse.fit(exposures, context, data.call_s, by_exposure, correction.apply(context, seconds), latency)
    return correction, reuse


def _well_covered(data: Training, told: Kernels) -> NDArray[np.bool_]:
    """Networks that stand on kinds and sizes that were seen, by the times that they took and by those that were predicted.

    The roofline knows some kinds only to a factor of a hundred: by their predicted time alone such kernels seem to be a small part. An
    error of that size says nothing about networks that are covered, and of the others an estimate says that they are not.
    """
    taken, predicted = (data.table.total(np.where(told.covered, 0.0, seconds)) for seconds in (data.seconds, told.seconds))
    sums = data.call_s + data.table.total(told.seconds)
    known: NDArray[np.bool_] = np.maximum(taken / data.latency, predicted / sums) < 1 - WELL_COVERED
    return known


def _family_folds(families: Sequence[str]) -> NDArray[np.int64] | None:
    """A fold for each network so that no family is in two of them; None where there are too few families for that."""
    names = sorted(set(families))
    if len(names) < FAMILY_FOLDS:
        return None
    fold = {name: i % FAMILY_FOLDS for i, name in enumerate(names)}
    return np.array([fold[name] for name in families])


class _Crossed(NamedTuple):
    """What models say of networks that they did not see.

    Attributes:
        kernels: of all networks.
        where: exposure of each network, by the first opinion, [networks].
        exposures: for which kernels are told.
    """

    kernels: Kernels
    where: Matrix
    exposures: tuple[float, ...]


def _cross_fit(
    data: Training, folds: NDArray[np.int64], roofline: Roofline, typical: float, exposures: tuple[float, ...] | None = None
) -> _Crossed:
    """The first stage on every kernel, each from models that did not see its fold.

    Exposures follow from the first opinion on networks, since those to be predicted have no other; what was measured would also tell the
    models how disturbed a network was.
    """
    table, models = data.table, dict[int, dict[str, KindModel]]()
    seconds, covered = np.empty(len(data.seconds)), np.empty(len(data.seconds), bool)
    parts = {int(k): (np.flatnonzero(folds != k), np.flatnonzero(folds == k)) for k in np.unique(folds)}
    for k, (train, test) in parts.items():
        part, rows = data.take(train), np.isin(table.owner, test)
        models[k] = fit_kinds(part.table, part.seconds, roofline)
        found = first_stage(models[k], roofline, typical, table.take(test))
        seconds[rows], covered[rows] = found.seconds, found.covered
    sums, first = data.call_s + table.total(seconds), np.empty(table.networks)
    for train, test in parts.values():
        correction = Correction.fit(table.context[train], sums[train], data.latency[train])
        first[test] = correction.apply(table.context[test], sums[test])
    where = exposure(table.context, first)
    exposures = exposures or spread(where)
    by_exposure = np.empty((len(seconds), len(exposures)))
    for k, (train, test) in parts.items():
        part = data.take(train)
        models[k] = exposed(models[k], part.table, part.seconds, roofline, where[train])
        by_exposure[np.isin(table.owner, test)] = first_stage(models[k], roofline, typical, table.take(test), exposures).by_exposure
    return _Crossed(Kernels(seconds, covered, np.zeros(len(seconds)), by_exposure), where, exposures)


def _log_error(seconds: Matrix, predicted: Matrix) -> Matrix:
    error: Matrix = np.minimum(np.abs(np.log(np.maximum(seconds, LEAST_TIME_S) / predicted)), MOST_DOUBT)
    return error


def _fit_doubt(table: Table, error: Matrix) -> dict[str, Any]:
    """A booster per kind that predicts the absolute log error of a kernel."""

    def of(kind: str) -> Any:
        rows = table.kinds == kind
        parameters = {**PARAMETERS, **DOUBT, "base_score": float(error[rows].mean())}
        return _grow(parameters, error[rows], DOUBT_TREES, table.columns(rows, detailed=True))

    return _by_kind(table, of)


def _doubt(boosters: Mapping[str, Any], table: Table) -> Matrix:
    xgboost = require("xgboost")
    doubt = np.full(len(table.kinds), MOST_DOUBT)
    for kind in np.unique(table.kinds):
        if kind in boosters:
            rows = table.kinds == kind
            data = xgboost.DMatrix(table.columns(rows, detailed=True), nthread=1)
            doubt[rows] = np.maximum(LEAST_DOUBT, boosters[str(kind)].predict(data))
    return doubt


def judge(train: Sequence[NetworkRecord], test: Sequence[NetworkRecord], roofline: Roofline) -> tuple[HeldOut, LatencyModel]:
    """A quick look at how good a predictor some networks make, while profiling goes on.

    The kernels are learned from the first two thirds of them, the correction and the doubt from the rest: one fit instead of many, and
    a little pessimistic.

    Returns:
        How good it is on the second networks, and the predictor.
    """
    data, unseen = Training.of(train), Training.of(test)
    cut = max(1, len(train) * 2 // 3)
    first, second = data.take(np.arange(cut)), data.take(np.arange(cut, len(train)))
    models = fit_kinds(first.table, first.seconds, roofline, QUICK)
    typical = float(np.median(first.seconds / roofline.time_s(first.table.flops, first.table.bytes)))
    found = first_stage(models, roofline, typical, second.table)
    sums = data.call_s + second.table.total(found.seconds)
    doubters = _fit_doubt(second.table, _log_error(second.seconds, found.seconds))
    kinds = {kind: replace(model, doubt=doubters.get(kind)) for kind, model in models.items()}
    model = LatencyModel(
        kinds=kinds,
        roofline=roofline,
        correction=Correction.fit(second.table.context, sums, second.latency),
        call_s=data.call_s,
        half_width=1.0,
        median_width=0.0,
        usual_doubt=1.0,
        typical=typical,
        held_out=HeldOut.of(np.ones(1), np.ones(1)),
    )
    held_out = HeldOut.of(model.bounds(unseen.table).value, unseen.latency)
    return held_out, replace(model, held_out=held_out)


def foretold_s(networks: Sequence[NetworkRecord], roofline: Roofline) -> Matrix:
    """Latency of each network in s, as a predictor says that did not see it: quick ones, which are a little worse than the one that ships.

    Raises:
        MeasurementError: there are fewer than `LEAST_NETWORKS`.
    """
    if len(networks) < LEAST_NETWORKS:
        raise MeasurementError(f"predicting networks from each other needs at least {LEAST_NETWORKS}, got {len(networks)}; profile longer")
    found = np.empty(len(networks))
    for k in range(FOLDS):
        train = [network for i, network in enumerate(networks) if i % FOLDS != k]
        test = networks[k::FOLDS]
        _, model = judge(train, test, roofline)
        found[k::FOLDS] = model.bounds(Training.of(test).table).value
    return found
