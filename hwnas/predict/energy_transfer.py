"""Energy on a device of which little or nothing was measured, from what is known of other devices.

What a network takes on the new device differs from what it takes on the usual known one, in the logarithm, by a level, by the ways
in which known devices differ from each other, and by a smooth curve of its own. All three are normally distributed a priori, so that
a few measurements give a posterior (a Gaussian process; Rasmussen and Williams, 2006); how large the own curve and the noise are is
averaged over a grid, by how well each explains the measurements. Where nothing was measured, the specification gives the level, and
the known devices the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from hwnas.devices import DeviceSpec
from hwnas.errors import MeasurementError, UsageError
from hwnas.predict.conformal import quantile
from hwnas.predict.energy import Curve, EnergyModel, Loads, one_source, quadratic, stages
from hwnas.predict.features import Matrix
from hwnas.predict.model import LEVEL, HeldOut

LEAST_KNOWN = 2
LEAST_NETWORKS = 9  # a 90 % interval needs as many errors
LEVEL_SPREAD = 1.0  # of the logarithm of a new device's level about that of the usual one
OWN_SPREADS = (0.03, 0.1, 0.3)  # of the logarithm of the new device's own curve
NOISES = (0.02, 0.05, 0.1, 0.2)  # of the logarithm of a measurement


def adapt(known: Sequence[EnergyModel], loads: Loads, joules: Matrix, source: str, pool: Loads) -> EnergyModel:
    """Learns a new device from a few networks.

    Args:
        known: models of other devices.
        loads: what the measured networks ask of a device.
        joules: their energy on the new device.
        source: how it was measured; the known devices' must have been measured in the same way.
        pool: networks like those that will be predicted, measured nowhere.

    Raises:
        UsageError: there are fewer than two known devices, or the sources differ.
        MeasurementError: there are fewer than `LEAST_NETWORKS` measured networks.
    """
    _check(known, source)
    if len(joules) < LEAST_NETWORKS:
        raise MeasurementError(
            f"adapting an energy predictor needs at least {LEAST_NETWORKS} networks with measured energy, got {len(joules)}; measure more"
        )
    here, there = _logs(known, loads), _logs(known, pool)
    centre, mean, scale = (there - there.mean(axis=1, keepdims=True)).mean(axis=0), pool.columns.mean(axis=0), pool.columns.std(axis=0)

    def features(logs: Matrix, columns: Matrix) -> tuple[Matrix, Matrix]:
        apart = (logs - logs.mean(axis=1, keepdims=True) - centre) / np.sqrt(len(known) - 1)
        own = quadratic((columns - mean) / np.maximum(scale, 1e-9))[:, 1:]
        return np.column_stack([np.full(len(logs), LEVEL_SPREAD), apart]), own / np.sqrt(own.shape[1])

    (shared, own), (shared_there, own_there) = features(here, loads.columns), features(there, pool.columns)
    target = np.log(joules) - here.mean(axis=1)
    evidence, errors, values = [], [], []
    for spread, noise in product(OWN_SPREADS, NOISES):
        covariance = shared @ shared.T + spread**2 * own @ own.T + noise**2 * np.eye(len(target))
        inverse = np.linalg.inv(covariance)
        solution = inverse @ target
        evidence.append(-(target @ solution + np.linalg.slogdet(covariance)[1]) / 2)
        errors.append(solution / np.diag(inverse))  # leave-one-out, in closed form
        values.append(shared_there @ (shared.T @ solution) + spread**2 * own_there @ (own.T @ solution))
    weight = np.exp(np.array(evidence) - max(evidence))
    weight /= weight.sum()
    error = weight @ np.array(errors)
    return _spread(
        pool=pool,
        joules=np.exp(there.mean(axis=1) + weight @ np.array(values)),
        half_width=quantile(np.abs(error), LEVEL),
        source=source,
        held_out=HeldOut.of(joules / np.exp(error), joules),
    )


def from_specification(known: Sequence[tuple[DeviceSpec, EnergyModel]], spec: DeviceSpec, precision: str, pool: Loads) -> EnergyModel:
    """Guesses a device from its power limit and its roofline, without any measurement of it.

    The known devices say how much of its limit a device draws, and how much longer than by its roofline it takes. The interval holds
    for a device that differs from them as they differ from each other.

    Args:
        known: other devices with their models.
        spec: of the new one.
        precision: whose peak rate counts.
        pool: networks like those that will be predicted, measured nowhere.

    Raises:
        UsageError: there are fewer than two known devices, the sources differ, or a specification lacks a figure.
    """
    models = [model for _, model in known]
    source = one_source(model.source for model in models)
    _check(models, source)
    logs = _logs(models, pool) - np.column_stack([_roofline(each, precision, pool) for each, _ in known])
    others = [np.median(np.delete(logs, i, axis=1), axis=1) for i in range(len(models))]
    apart = [logs[:, i] - other for i, other in enumerate(others)]  # of each known device, from what the others say of it
    error = np.abs(np.expm1(-np.array(apart)))
    inside = [np.mean(np.abs(own) <= quantile(np.abs(np.concatenate([*apart[:i], *apart[i + 1 :]])), LEVEL)) for i, own in enumerate(apart)]
    return _spread(
        pool=pool,
        joules=np.exp(np.median(logs, axis=1) + _roofline(spec, precision, pool)),
        half_width=quantile(np.abs(np.concatenate(apart)), LEVEL),
        source=source,
        held_out=HeldOut(
            networks=error.size,
            mape=float(error.mean()),
            within_5=float(np.mean(error <= 0.05)),
            within_10=float(np.mean(error <= 0.10)),
            coverage=float(np.mean(inside)),
        ),
    )


def _check(known: Sequence[EnergyModel], source: str) -> None:
    if len(known) < LEAST_KNOWN:
        raise UsageError(f"a device is learned from at least {LEAST_KNOWN} known ones, got {len(known)}; give more predictors")
    one_source([source, *(model.source for model in known)])


def _logs(models: Sequence[EnergyModel], loads: Loads) -> Matrix:
    """Logarithm of each network's energy on each device, [networks, devices]."""
    return np.column_stack([np.log(model.joules(loads)) for model in models])


def _roofline(spec: DeviceSpec, precision: str, loads: Loads) -> Matrix:
    """Logarithm of the energy at the power limit, for as long as arithmetic and memory take one after the other."""
    peak = spec.peak_flops.get(precision)
    if not (peak and spec.memory_bytes_per_s and spec.power_limit_w):
        raise UsageError(f"'{spec.model}' is described without {precision} rate, memory rate or power limit; complete its description")
    flops, moved = loads.amounts.sum(axis=1).T[:2]
    energy: Matrix = np.log(spec.power_limit_w * (flops / peak + moved / spec.memory_bytes_per_s))
    return energy


def _spread(*, pool: Loads, joules: Matrix, half_width: float, source: str, held_out: HeldOut) -> EnergyModel:
    """The model that says of every network of the pool what it takes, with the same doubt about all."""
    rates, curve = stages(pool, joules)
    doubt = Curve.flat(pool.columns, 0.0)
    return EnergyModel(rates=rates, curve=curve, doubt=doubt, half_width=half_width, source=source, held_out=held_out)
