"""What the machine is: its devices, their state, their energy meters."""

from hwnas.devices.base import Cadence, Device, DeviceSpec, DeviceState, Energy, EnergyMeter, Unavailable
from hwnas.devices.registry import find, here, name_of, names, nvidia_cards, unknown

__all__ = [
    "Cadence",
    "Device",
    "DeviceSpec",
    "DeviceState",
    "Energy",
    "EnergyMeter",
    "Unavailable",
    "find",
    "here",
    "name_of",
    "names",
    "nvidia_cards",
    "unknown",
]
