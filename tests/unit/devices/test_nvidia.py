"""A card of this machine as a device."""

from __future__ import annotations

from dataclasses import replace

from fake_nvml import A100, FakeDriver

from hwnas.devices import Unavailable, catalogue
from hwnas.devices.nvidia import NvidiaDevice, sensor
from hwnas.devices.nvml import cards
from hwnas.devices.nvml_energy import UNKNOWN, NvmlMeter

SXM = catalogue.entry("a100").part("sxm4-40gb")


def test_the_sensor_is_the_one_that_lags_least() -> None:
    """The power of now where the part tells it apart from an average, else the reading that all have, else the worst of all."""
    h100 = catalogue.entry("h100").part()
    assert (sensor(h100).reading, sensor(h100).cadence) == ("instant", h100.power["instant"])
    assert (sensor(SXM).reading, sensor(SXM).cadence) == ("usage", SXM.power["usage"])
    assert sensor(replace(SXM, power={})) == UNKNOWN


def test_what_nobody_looked_up_is_not_relied_on() -> None:
    """The L4's readings are written from memory, so its meter assumes the worst."""
    l4 = catalogue.entry("l4").part()
    assert not l4.power["instant"].part_time
    assert "power" in l4.unverified
    assert sensor(l4) == UNKNOWN


def test_the_meter_knows_the_part(driver: FakeDriver) -> None:
    """Its cadence is that of the part's sensor."""
    driver.load(A100)
    meter = NvidiaDevice(cards()[0], SXM).energy_meter()
    assert isinstance(meter, NvmlMeter)
    assert meter.cadence == SXM.power["usage"]


def test_a_split_card_has_no_meter(driver: FakeDriver) -> None:
    """Under MIG the counter counts all instances, so there is none."""
    driver.load(A100 + "mig 1\n")
    device = NvidiaDevice(cards()[0], SXM)
    assert device.state().mig
    assert isinstance(device.energy_meter(), Unavailable)
