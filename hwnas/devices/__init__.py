"""What the machine is: its devices, their state, their energy meters."""

from hwnas.devices.base import Cadence, Device, DeviceSpec, DeviceState, Energy, EnergyMeter, Unavailable
from hwnas.devices.registry import NAMES, check_name, find, here, nvidia_absence

__all__ = [
    "NAMES",
    "Cadence",
    "Device",
    "DeviceSpec",
    "DeviceState",
    "Energy",
    "EnergyMeter",
    "Unavailable",
    "check_name",
    "find",
    "here",
    "nvidia_absence",
]
