"""An NVIDIA card of this machine, described by the catalogue and observed through NVML. Not yet run on hardware."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from hwnas.devices import nvml
from hwnas.devices.base import DeviceSpec, DeviceState, EnergyMeter, Unavailable
from hwnas.devices.catalogue import Part
from hwnas.devices.nvml import Card, PowerReading
from hwnas.devices.nvml_energy import UNKNOWN, PowerSensor, nvml_meter

_PREFERRED = ("instant", "usage")  # of the readings that a part has: the one that lags least


@dataclass(frozen=True, slots=True)
class NvidiaDevice:
    """A card and the part that it is; satisfies `hwnas.devices.base.Device`.

    Attributes:
        card: as its driver lists it.
        part: as the catalogue describes it.
    """

    card: Card
    part: Part

    @property
    def spec(self) -> DeviceSpec:
        """What the catalogue says of the part."""
        return self.part.spec

    def state(self) -> DeviceState:
        """Its clocks, temperature and power now, and who else uses it; raises as `hwnas.devices.nvml.state`."""
        return nvml.state(self.card)

    def energy_meter(self) -> EnergyMeter | Unavailable:
        """Its energy counter, checked by the power reading that the part has; raises as `hwnas.devices.nvml_energy.nvml_meter`."""
        return nvml_meter(self.card, sensor(self.part))


def sensor(part: Part) -> PowerSensor:
    """How a part reads its own power.

    The most absent-minded of all sensors where the catalogue does not say, or says what nobody looked up: what is written from memory must
    not make a measurement look better than it is.
    """
    for reading in _PREFERRED:
        if reading in part.power and "power" not in part.unverified:
            return PowerSensor(reading=cast(PowerReading, reading), cadence=part.power[reading])
    return UNKNOWN
