"""Finding a device by the name that a user types."""

from __future__ import annotations

import ctypes
from functools import cache

from hwnas.devices.base import Device
from hwnas.devices.cpu import CpuDevice
from hwnas.errors import DeviceUnavailable, UsageError, did_you_mean

# Cards that hwnas knows by name. None has been measured by us yet: "not yet run on hardware".
GPUS = ("a10", "a100", "a30", "b200", "h100", "h200", "l4", "l40s", "orin", "rtx3090", "rtx4090", "rtx5090", "t4", "v100")
NAMES = ("cpu", *GPUS)


@cache
def here() -> tuple[Device, ...]:
    """The devices of this machine; the same objects every time, since asking a processor what it is takes a second."""
    return (CpuDevice(),)


def nvidia_absence() -> str | None:
    """Why no NVIDIA card can be used here, or None where its driver answers."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return "no NVIDIA driver (libnvidia-ml.so.1 is not there)"
    return None if library.nvmlInit_v2() == 0 else "the NVIDIA driver does not answer (nvmlInit failed)"


def check_name(name: str) -> None:
    """Refuses names that no device has, here or elsewhere.

    Raises:
        UsageError: hwnas knows no such device.
    """
    if name not in NAMES:
        raise UsageError(f"unknown device '{name}'{did_you_mean(name, NAMES)}; known: {', '.join(NAMES)}")


def find(name: str) -> Device:
    """The device of that name on this machine.

    Raises:
        UsageError: hwnas knows no such device.
        DeviceUnavailable: it does, but this machine has none; says what is here and what to do.
    """
    check_name(name)
    for device in here():
        if device.spec.name == name:
            return device
    present = ", ".join(f"{device.spec.name} ({device.spec.model}, {device.spec.units} cores)" for device in here())
    absence = nvidia_absence()
    remedy = (
        f"run 'hwnas profile --device {name}' on a machine that has one, or use --device cpu"
        if absence
        else "this version of hwnas measures CPUs only; use --device cpu"
    )
    raise DeviceUnavailable(f"no '{name}' on this machine: {absence or 'an NVIDIA driver answers'}; here: {present}; {remedy}")
