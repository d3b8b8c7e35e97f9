"""A device that follows a script."""

from __future__ import annotations

import pytest

from hwnas.devices import Device, DeviceState, Energy, EnergyMeter, Unavailable
from hwnas.testing import FakeDevice, FakeMeter


def test_it_satisfies_the_protocol() -> None:
    """A fake stands wherever a device does; without a meter it says why."""
    device: Device = FakeDevice()
    assert device.spec.fingerprint
    assert isinstance(device.energy_meter(), Unavailable)


def test_states_follow_the_script() -> None:
    """States come in order, the last one again and again."""
    warm, hot = DeviceState(temperature_c=50.0), DeviceState(temperature_c=90.0)
    device = FakeDevice(states=[warm, hot])
    assert [device.state() for _ in range(4)] == [warm, hot, hot, hot]


def test_readings_follow_the_script() -> None:
    """Each window gives the next reading, which may be that there is none."""
    meter: EnergyMeter = FakeMeter([Energy(2.0, 0.1), Unavailable("the card was shared")])
    device = FakeDevice(meter=meter)
    assert device.energy_meter() is meter
    found = []
    for _ in range(2):
        meter.start()
        found.append(meter.stop())
    assert found == [Energy(2.0, 0.1), Unavailable("the card was shared")]


def test_windows_open_and_close_in_turn() -> None:
    """A meter that is started twice, or stopped before it was started, is a mistake of its caller."""
    meter = FakeMeter([Energy(1.0, 0.1)])
    with pytest.raises(RuntimeError, match="no window"):
        meter.stop()
    meter.start()
    with pytest.raises(RuntimeError, match="open already"):
        meter.start()
