"""Finding a device by what a user types: `cpu`, a device of the catalogue, `cuda:1`, or the UUID of a card."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

from hwnas.assets import Workspace
from hwnas.devices import catalogue, nvml
from hwnas.devices.base import Device, Unavailable
from hwnas.devices.cpu import CpuDevice
from hwnas.devices.nvidia import NvidiaDevice
from hwnas.devices.nvml import Card
from hwnas.devices.select import identify, select, selects, undescribed
from hwnas.errors import DeviceUnavailable, MissingExtraError, UsageError, did_you_mean

CPU = "cpu"


@cache
def _cpu() -> CpuDevice:
    """The same object every time, since asking a processor what it is takes a second."""
    return CpuDevice()


def names() -> tuple[str, ...]:
    """The devices that hwnas knows by name, here or not."""
    return (CPU, *catalogue.names(_trees()))


def here() -> tuple[Device, ...]:
    """The devices of this machine that hwnas knows: its processor, then its cards in the driver's order."""
    cards, parts = nvidia_cards(), catalogue.parts(_trees())
    if isinstance(cards, Unavailable):
        return (_cpu(),)
    return (_cpu(), *(NvidiaDevice(card, part) for card in cards if (part := identify(card, parts))))


def unknown() -> tuple[str, ...]:
    """What to say of the cards of this machine that the catalogue does not describe."""
    cards, parts = nvidia_cards(), catalogue.parts(_trees())
    if isinstance(cards, Unavailable):
        return ()
    return tuple(undescribed(card) for card in cards if identify(card, parts) is None)


def _trees() -> tuple[Path, ...]:
    """Where users describe their own devices: in the workspace that is theirs, whichever one a command works in."""
    return (Workspace.at().profiles,)


def nvidia_cards() -> tuple[Card, ...] | Unavailable:
    """The cards that the NVIDIA driver lists, or why it lists none."""
    try:
        return nvml.cards()
    except DeviceUnavailable as error:
        return Unavailable(str(error).partition("; ")[0])
    except MissingExtraError as error:
        return Unavailable(str(error) if _driver() else "no NVIDIA driver (libnvidia-ml.so.1 is not there)")


def _driver() -> bool:
    """Whether there is a driver, asked without its client."""
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


def check_name(name: str) -> None:
    """Refuses what means no device, here or elsewhere.

    Raises:
        UsageError: hwnas knows no such device.
    """
    known = names()
    if name not in known and not selects(name):
        raise UsageError(f"unknown device '{name}'{did_you_mean(name, known)}; known: {', '.join(known)}, cuda:N, or the UUID of a card")


def name_of(asked: str) -> str:
    """The device that is meant, as profiles and predictors name it: `a100` for a `cuda:1` that is one.

    Raises:
        UsageError: hwnas knows no such device.
        DeviceUnavailable: it is a card that is not here.
        NotFoundError: it is a card that the catalogue does not describe.
    """
    check_name(asked)
    return find(asked).spec.name if selects(asked) else asked


def find(name: str) -> Device:
    """The device that is meant, on this machine.

    Raises:
        UsageError: hwnas knows no such device.
        DeviceUnavailable: this machine has none, or several; says what is here and what to do.
        NotFoundError: it is a card that the catalogue does not describe.
    """
    check_name(name)
    if name == CPU:
        return _cpu()
    cards = nvidia_cards()
    if isinstance(cards, Unavailable):
        processor = f"cpu ({_cpu().spec.model}, {_cpu().spec.units} cores)"
        command = "this" if selects(name) else f"'hwnas profile --device {name}'"
        raise DeviceUnavailable(
            f"no '{name}' on this machine: {cards.reason}; here: {processor}; run {command} on a machine that has one, or use --device cpu"
        )
    return NvidiaDevice(*select(name, cards, catalogue.parts(_trees())))
