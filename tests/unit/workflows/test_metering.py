"""The meter of a search: that of the device, if it reads what was predicted."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from stand_ins import SPACE, FormulaRuntime, ladder
from virtual_clock import VirtualClock

from hwnas.devices import Energy, Unavailable
from hwnas.devices.energy import Plan
from hwnas.errors import DeviceUnavailable
from hwnas.testing import FakeDevice
from hwnas.testing.fake_device import FakeMeter
from hwnas.testing.replay import ReplaySession
from hwnas.workflows import metering as module
from hwnas.workflows.metering import Metering, metering

(A,) = ladder(1)


class RaplLike(FakeMeter):
    """Reads what a processor's counter would."""

    source = "rapl"


def learned(source: str) -> Any:
    """An energy predictor, as far as a meter asks."""
    return SimpleNamespace(model=SimpleNamespace(source=source))


def on(monkeypatch: pytest.MonkeyPatch, meter: Any) -> None:
    monkeypatch.setattr(module, "find", lambda _: FakeDevice(meter=meter))


def test_sources_never_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predicted by one meter and read by another: refused, both named, with the remedy; where nothing was predicted any meter will do."""
    on(monkeypatch, RaplLike([Energy(1.0, 0.1)]))
    assert isinstance(metering("cpu", learned("rapl")), Metering)
    assert isinstance(metering("cpu", None), Metering)
    refused = metering("cpu", learned("nvml-counter"))
    assert isinstance(refused, Unavailable)
    assert "'nvml-counter'" in refused.reason
    assert "'rapl'" in refused.reason
    assert "hwnas profile --device cpu --energy" in refused.reason


def test_no_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device's own reason, or that of a device that is not here."""
    on(monkeypatch, Unavailable("no counter"))
    assert metering("cpu", None) == Unavailable("no counter")

    def absent(_: str) -> FakeDevice:
        raise DeviceUnavailable("no 'a100' on this machine")

    monkeypatch.setattr(module, "find", absent)
    assert metering("a100", None) == Unavailable("no 'a100' on this machine")


def test_a_reading_outlives_its_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Joules of a call with and above idle power, from windows as they are on record: JSON brings the same back."""
    clock = VirtualClock()
    monkeypatch.setattr(ReplaySession, "repeat", lambda _, feed: lambda runs: clock.sleep(0.01 * runs), raising=False)
    device = FakeDevice(meter=RaplLike([Energy(50.0, 0.1)]))
    meter = device.energy_meter()
    assert not isinstance(meter, Unavailable)
    plan = Plan(trials=2, seconds=1.0, idle_s=1.0)
    found = Metering(device=device, meter=meter, plan=plan, clock=clock).take(FormulaRuntime(), SPACE.graph(A), "fp32", (0, *A))
    assert not isinstance(found, Unavailable)
    reading = Metering.read(found)
    trials = found["trials"]
    assert reading.joules == pytest.approx(np.mean([50.0 / trial["runs"] for trial in trials]))
    assert reading.net_joules == pytest.approx(reading.joules - 50.0 * np.mean([trial["seconds"] / trial["runs"] for trial in trials]))
    assert reading.uncertainty_j >= 0.05 * reading.joules
    assert reading.told == "measured by rapl: the processor package's energy counter"
    assert replace(reading) == Metering.read(found)
