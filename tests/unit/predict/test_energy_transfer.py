"""A new device from a few networks, with other devices as the prior; or from its specification alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from paper_meter import measured

from hwnas.devices import DeviceSpec
from hwnas.errors import MeasurementError, UsageError
from hwnas.predict.energy import EnergyModel, Loads, learn
from hwnas.predict.energy_transfer import adapt, from_specification

PLAIN: dict[str, Any] = {"kind": "gpu", "units": 1, "clock_hz": None, "caches_bytes": {}, "memory_bytes": 1}
SPEC = DeviceSpec(name="new", model="New", peak_flops={"fp16": 1e12}, memory_bytes_per_s=1e11, power_limit_w=100.0, **PLAIN)


@pytest.fixture(scope="module")
def known() -> list[EnergyModel]:
    """Three devices that differ in level and in how load bends their energy."""
    return [learn(*measured(100, scale=scale, bend=bend), "nvml-power") for scale, bend in ((1.0, 0.05), (3.0, 0.2), (0.5, 0.35))]


@pytest.fixture(scope="module")
def pool() -> Loads:
    """Networks that were measured nowhere."""
    return measured(200, seed=7)[0]


def test_ten_networks(known: list[EnergyModel], pool: Loads) -> None:
    """Ten give the level and the bend of a new device, which the level alone does not; the interval is for nine in ten."""
    loads, energies = measured(10, seed=5, scale=20.0, bend=0.5, noise=0.01)
    unseen, truth = measured(200, seed=6, scale=20.0, bend=0.5, noise=0.01)
    bounds = adapt(known, loads, energies, "nvml-power", pool).bounds(unseen)
    error = np.abs(bounds.value / truth - 1).mean()
    usual = np.exp(np.mean([np.log(model.joules(unseen)) for model in known], axis=0))
    few = np.exp(np.mean([np.log(model.joules(loads)) for model in known], axis=0))
    level = np.abs(np.median(energies / few) * usual / truth - 1).mean()
    assert error < 0.1
    assert error < level / 2
    assert np.mean((bounds.low <= truth) & (truth <= bounds.high)) > 0.8


def test_adapted_is_a_model_like_any(known: list[EnergyModel], pool: Loads) -> None:
    """Its held-out figures are of the ten, each predicted from the others; it covers networks like the pool's."""
    loads, energies = measured(10, seed=5, scale=2.0)
    model = adapt(known, loads, energies, "nvml-power", pool)
    assert (model.source, model.held_out.networks) == ("nvml-power", 10)
    assert 0 < model.held_out.mape < 0.1
    assert (model.bounds(pool).coverage == 1).all()


def test_adapt_refuses(known: list[EnergyModel], pool: Loads) -> None:
    """Too few networks, too few known devices, energies of another meter: each is refused with its remedy."""
    loads, energies = measured(10)
    with pytest.raises(MeasurementError, match="at least 9 networks with measured energy, got 8; measure more"):
        adapt(known, loads.take(np.arange(8)), energies[:8], "nvml-power", pool)
    with pytest.raises(UsageError, match="at least 2 known ones, got 1"):
        adapt(known[:1], loads, energies, "nvml-power", pool)
    with pytest.raises(UsageError, match="got 1 by 'nvml-counter' and 3 by 'nvml-power'"):
        adapt(known, loads, energies, "nvml-counter", pool)


def test_specification(known: list[EnergyModel], pool: Loads) -> None:
    """Energy goes with the power limit, and with the time that the roofline says."""
    pairs = [(replace(SPEC, power_limit_w=watts), model) for watts, model in zip((60.0, 200.0, 30.0), known, strict=True)]
    guess = from_specification(pairs, SPEC, "fp16", pool).joules(pool)
    hot = from_specification(pairs, replace(SPEC, power_limit_w=200.0), "fp16", pool).joules(pool)
    fast = replace(SPEC, peak_flops={"fp16": 1e13}, memory_bytes_per_s=1e12)
    assert hot == pytest.approx(2 * guess, rel=1e-6)
    assert from_specification(pairs, fast, "fp16", pool).joules(pool) == pytest.approx(guess / 10, rel=1e-6)


def test_specification_says_how_far_off_it_may_be(known: list[EnergyModel], pool: Loads) -> None:
    """Known devices that differ much from what the others say of them make a wide interval, alike ones a narrow one."""
    alike = [(SPEC, known[0]), (SPEC, known[0]), (SPEC, known[0])]
    unlike = [(SPEC, model) for model in known]
    narrow, wide = (from_specification(pairs, SPEC, "fp16", pool) for pairs in (alike, unlike))
    assert narrow.half_width < 1e-6
    assert wide.half_width > 0.5
    assert narrow.held_out.mape < 1e-6 < wide.held_out.mape


def test_specification_refuses(known: list[EnergyModel], pool: Loads) -> None:
    """A figure that is missing is named; meters do not mix; one known device is too few."""
    pairs = [(SPEC, model) for model in known]
    with pytest.raises(UsageError, match="'New' is described without fp16 rate, memory rate or power limit"):
        from_specification(pairs, replace(SPEC, power_limit_w=None), "fp16", pool)
    with pytest.raises(UsageError, match="got 1 by 'nvml-power' and 1 by 'rapl'"):
        from_specification([pairs[0], (SPEC, replace(known[1], source="rapl"))], SPEC, "fp16", pool)
    with pytest.raises(UsageError, match="at least 2 known ones"):
        from_specification(pairs[:1], SPEC, "fp16", pool)
