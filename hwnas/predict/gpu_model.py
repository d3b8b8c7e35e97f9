"""Learning GPUs from operators that were measured one by one, on several devices at once, and predicting any device from its figures.

An operator alone takes what the host needs to launch it, and then what the GPU needs for it; the two are told apart by the smallest
operators of each kind. In a network the host runs ahead: the network takes the longer of both sums.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwnas.devices import DeviceSpec
from hwnas.errors import MeasurementError, require
from hwnas.predict.conformal import quantile
from hwnas.predict.features import Matrix, Table
from hwnas.predict.fitting import PARAMETERS
from hwnas.predict.gpu import COLUMNS, PRODUCTS, Figures, Seen, look
from hwnas.predict.model import LEVEL, Bounds, HeldOut, Kernels, KindModel, bounded

OF_ROWS = tuple(
    COLUMNS.index(name)
    for name in (
        "compute_capability",
        "over_launch",
        "over_cache",
        "aligned",
        "log_m",
        "log_n",
        "tensors_read",
        "rows_per_unit",
        "element_waves",
        "last_element_wave",
    )
)
ROWS_ONLY = ("tensors_read", "rows_per_unit", "element_waves", "last_element_wave", "window")
OF_PRODUCTS = tuple(i for i, name in enumerate(COLUMNS) if name not in ROWS_ONLY)
MONOTONE = {i: 1 for i, name in enumerate(COLUMNS) if name.startswith("traffic_")}  # more traffic for the same arithmetic is never faster
GAP_S = 1.5e-6  # between two kernels on a busy GPU
SMALL_S = 3e-6  # an operator whose bound is below takes its launch and little else
LEAST_SMALL = 10  # operators from which a launch is told
LAUNCH_QUANTILE = 0.1
TIMER_NOISE = 0.03  # of an operator's time: an operator that is mostly launch says little of its kernel
KERNEL_NOISE = 0.1
LEAST_SHARE = 0.5  # of its bound that a kernel takes, whatever is left of its time after the launch
LARGE = 0.85  # quantile of a kind's bounds above which operators calibrate its interval, unseen
MOST_ROWS = 12_000  # of a kind and device: more make no difference


class Growth(NamedTuple):
    """How many trees, how deep, and how much of each counts."""

    trees: int
    depth: int
    eta: float


PRODUCT_GROWTH = Growth(trees=80, depth=5, eta=0.15)
ROW_GROWTH = Growth(trees=60, depth=4, eta=0.15)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """Operators measured on one device, each alone.

    Attributes:
        spec: of the device.
        table: the operators; one row each.
        seconds: the time of each call, its launch included.
        session: what was measured in one go; launches are told apart by session, since they belong to the host.
    """

    spec: DeviceSpec
    table: Table
    seconds: Matrix
    session: NDArray[np.str_]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuKind:
    """The model of one kind of kernel on GPUs.

    Attributes:
        part: its booster predicts log(time on the GPU / bound).
        launch_s: what the host takes to launch it, the median of the hosts that measured.
        half_width: conformal half width of log(time / prediction) on devices and sizes that the model did not see.
    """

    part: KindModel
    launch_s: float
    half_width: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuModel:
    """A GPU by its specification. Satisfies `hwnas.predict.model.NetworkModel`.

    Attributes:
        kinds: learned on several devices.
        spec: of the device that is predicted.
        half_width: conformal half width of log(latency / prediction) of a network of usual difficulty.
        usual_doubt: of the networks that calibrated it (`Kernels.doubt`, per network); 0 where there were none.
        held_out: of those networks.
        scale: by which measured networks moved the predictions (`shifted`).
    """

    kinds: Mapping[str, GpuKind]
    spec: DeviceSpec
    half_width: float
    usual_doubt: float
    held_out: HeldOut
    scale: float = 1.0

    @property
    def call_s(self) -> float:
        """An empty call costs nothing: the host's part is in the launches."""
        return 0.0

    @property
    def exposures(self) -> tuple[float, ...]:
        """None: operators were measured alone."""
        return ()

    @property
    def launch_s(self) -> float:
        """What the host takes to launch a kernel, over all kinds."""
        return float(np.median([kind.launch_s for kind in self.kinds.values()]))

    def kernels(self, table: Table) -> Kernels:
        """What every kernel takes on the GPU, without its launch."""
        seen = look(table, self.spec)
        seconds, covered = gpu_seconds(self.kinds, seen), seen.measured.copy()
        doubt, sizes = np.zeros(len(seconds)), np.column_stack([table.counted, table.bytes])
        for name in np.unique(seen.models).tolist():
            rows = seen.models == name
            covered[rows] &= self.kinds[name].part.covers(sizes[rows])
            doubt[rows] = self.kinds[name].half_width
        return Kernels.of(seconds, covered, doubt)

    def networks(self, context: Matrix, seconds: Matrix, unknown: Matrix, doubt: Matrix, by_exposure: Matrix) -> Bounds:
        """Networks from sums over their kernels; arguments as `LatencyModel.networks`."""
        value = self.scale * np.maximum(seconds, self.launch_s * context[:, 2])
        coverage = np.clip(1 - unknown / seconds, 0.0, 1.0)
        difficulty = (1 + doubt / seconds / self.usual_doubt) / 2 if self.usual_doubt else np.ones(len(seconds))
        width = self.half_width * difficulty
        return bounded(value, coverage, width, width)

    def bounds(self, table: Table) -> Bounds:
        """Both stages."""
        return self.networks(table.context, *self.kernels(table).sums(table))

    def in_place(self, table: Table) -> Matrix:
        """Time of every kernel in s, the same in every network."""
        return self.kernels(table).seconds

    def limits(self, table: Table) -> NDArray[np.str_]:
        """What limits each kernel: `overhead` where the GPU is done before the host could launch the next one."""
        figures = Figures.of(self.spec)
        compute, memory = table.counted / figures.flops_per_s, table.bytes / figures.bytes_per_s
        busy = np.where(compute >= memory, "compute", "memory")
        return np.where(self.kernels(table).seconds < self.launch_s, "overhead", busy)

    def shifted(self, shift: float, half_width: float) -> GpuModel:
        """This model after measured networks moved it."""
        return replace(self, scale=self.scale * float(np.exp(shift)), half_width=half_width)

    def operators(self, table: Table) -> Matrix:
        """What a call of each operator takes alone, its launch included, in s."""
        seen = look(table, self.spec)
        launch = {name: kind.launch_s for name, kind in self.kinds.items()}
        alone: Matrix = gpu_seconds(self.kinds, seen) + np.array([launch[name] for name in seen.models.tolist()])
        return alone


def gpu_seconds(kinds: Mapping[str, GpuKind], seen: Seen) -> Matrix:
    """Time of every kernel on the GPU in s.

    Raises:
        MeasurementError: a kind was not learned that stands in for others.
    """
    xgboost = require("xgboost")
    seconds = np.empty(len(seen.bound_s))
    for name in np.unique(seen.models).tolist():
        if name not in kinds:
            raise MeasurementError(f"nothing was learned of '{name}', which predicts this network's kernels; fit on operators that have it")
        rows = seen.models == name
        data = xgboost.DMatrix(seen.values[rows][:, _columns(name)], nthread=1)
        seconds[rows] = np.exp(kinds[name].part.booster.predict(data)) * (seen.bound_s[rows] + GAP_S)
    return seconds


def _columns(name: str) -> tuple[int, ...]:
    return OF_PRODUCTS if name in PRODUCTS else OF_ROWS


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Operators of one kind, of all devices: what is seen of them, their times with and without the launch."""

    values: Matrix
    bound_s: Matrix
    busy_s: Matrix
    seconds: Matrix
    flops: Matrix
    bytes: Matrix
    device: NDArray[np.int64]

    def take(self, rows: NDArray[np.bool_]) -> _Rows:
        return _Rows(*(getattr(self, name)[rows] for name in _Rows.__slots__))


def fit(parts: Sequence[Measured], *, seed: int = 0, calibrate: bool = True) -> dict[str, GpuKind]:
    """Learns every kind of kernel from operators of several devices.

    Args:
        parts: the operators, by device.
        seed: of the subsample (`MOST_ROWS`) and of the trees.
        calibrate: whether to hold out devices and sizes for the kinds' intervals (as many fits again as there are devices, and one).
    """
    seen = [look(part.table, part.spec) for part in parts]
    launches = _launches(parts, seen)
    rng = np.random.default_rng(seed)
    found = {}
    for name in sorted({name for each in seen for name in np.unique(each.models[each.measured]).tolist()}):
        rows = _gather(name, parts, seen, launches, rng)
        sizes = np.column_stack([rows.flops, rows.bytes])
        part = KindModel(
            booster=_grow(name, rows, seed),
            rows=len(rows.seconds),
            low=tuple(sizes.min(axis=0).tolist()),
            high=tuple(sizes.max(axis=0).tolist()),
        )
        width = quantile(_unseen_errors(name, rows, seed), LEVEL) if calibrate else 0.0
        found[name] = GpuKind(part=part, launch_s=_usual_launch(name, launches), half_width=width)
    return found


def _launches(parts: Sequence[Measured], seen: Sequence[Seen]) -> dict[tuple[str, str], float]:
    """The launch of each model's operators in each session that has small ones, in s."""
    found = {}
    for part, each in zip(parts, seen, strict=True):
        small = each.bound_s < SMALL_S
        for session in np.unique(part.session).tolist():
            for name in np.unique(each.models).tolist():
                rows = small & (part.session == session) & (each.models == name)
                if rows.sum() >= LEAST_SMALL:
                    found[name, session] = max(0.0, float(np.quantile(part.seconds[rows], LAUNCH_QUANTILE)) - GAP_S)
    return found


def _usual_launch(name: str, launches: Mapping[tuple[str, str], float]) -> float:
    """The median over sessions; of all models where a model's own operators are never small."""
    own = [launch for (model, _), launch in launches.items() if model == name]
    known = own or list(launches.values())
    return float(np.median(known)) if known else 0.0


def _gather(
    name: str, parts: Sequence[Measured], seen: Sequence[Seen], launches: Mapping[tuple[str, str], float], rng: np.random.Generator
) -> _Rows:
    usual = _usual_launch(name, launches)
    found: list[_Rows] = []
    for number, (part, each) in enumerate(zip(parts, seen, strict=True)):
        rows = np.flatnonzero((each.models == name) & each.measured)
        if len(rows) > MOST_ROWS:
            rows = np.sort(rng.choice(rows, MOST_ROWS, replace=False))
        launch = np.array([launches.get((name, session), usual) for session in part.session[rows].tolist()])
        busy = np.maximum(part.seconds[rows] - launch, LEAST_SHARE * each.bound_s[rows])
        table = part.table
        found.append(
            _Rows(
                each.values[rows],
                each.bound_s[rows],
                busy,
                part.seconds[rows],
                table.counted[rows],
                table.bytes[rows],
                np.full(len(rows), number),
            )
        )
    return _Rows(*(np.concatenate([getattr(rows, field) for rows in found]) for field in _Rows.__slots__))


def _grow(name: str, rows: _Rows, seed: int) -> Any:
    xgboost = require("xgboost")
    growth = PRODUCT_GROWTH if name in PRODUCTS else ROW_GROWTH
    target = np.log(rows.busy_s / (rows.bound_s + GAP_S))
    weight = 1 / (KERNEL_NOISE**2 + (TIMER_NOISE * rows.seconds / rows.busy_s) ** 2)
    weight /= weight.mean()
    parameters = {
        **PARAMETERS,
        "max_depth": growth.depth,
        "eta": growth.eta,
        "seed": seed,
        "base_score": float(np.average(target, weights=weight)),
        "monotone_constraints": tuple(MONOTONE.get(column, 0) for column in _columns(name)),
    }
    data = xgboost.DMatrix(rows.values[:, _columns(name)], target, weight=weight, nthread=1)
    return xgboost.train(parameters, data, num_boost_round=growth.trees)


def _unseen_errors(name: str, rows: _Rows, seed: int) -> Matrix:
    """Absolute log errors of large operators by models that saw neither their device nor, for each device, their size."""
    large = rows.bound_s >= np.quantile(rows.bound_s, LARGE)
    devices = np.unique(rows.device)
    tests = [(rows.device == device) & large for device in devices] if len(devices) > 1 else []
    holds = [(large, ~large), *((test, rows.device != device) for test, device in zip(tests, devices, strict=False))]
    return np.concatenate(list(_errors(name, rows, holds, seed)))


def _errors(name: str, rows: _Rows, holds: Iterable[tuple[NDArray[np.bool_], NDArray[np.bool_]]], seed: int) -> Iterable[Matrix]:
    xgboost = require("xgboost")
    for test, train in holds:
        if test.any() and train.any():
            booster = _grow(name, rows.take(train), seed)
            told = booster.predict(xgboost.DMatrix(rows.values[test][:, _columns(name)], nthread=1))
            yield np.abs(np.log(rows.busy_s[test] / (rows.bound_s[test] + GAP_S)) - told)
