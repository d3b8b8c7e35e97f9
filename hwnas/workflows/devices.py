"""`hwnas devices`: what this machine is, and which runtimes work here."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from hwnas.devices import DeviceSpec, DeviceState, Unavailable, here, nvidia_cards, unknown
from hwnas.devices.nvidia import NvidiaDevice
from hwnas.runtimes.registry import Status, statuses


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A device of this machine.

    Attributes:
        spec: what it is.
        state: how it is now.
        energy: empty where its energy can be metered, else why not.
        picks: what else `--device` takes for it: a card's number and its UUID.
    """

    spec: DeviceSpec
    state: DeviceState
    energy: str
    picks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """This machine.

    Attributes:
        devices: that are here.
        runtimes: that hwnas can drive.
        absent: kinds of device that are not here, and why.
    """

    devices: tuple[Found, ...]
    runtimes: tuple[Status, ...]
    absent: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "devices": [
                {**found.spec.as_dict(), "picks": found.picks, "state": asdict(found.state), "energy": found.energy or "available"}
                for found in self.devices
            ],
            "runtimes": [asdict(status) for status in self.runtimes],
            "absent": self.absent,
        }


def look() -> Machine:
    """Looks at this machine."""
    found = []
    for device in here():
        meter = device.energy_meter()
        reason = meter.reason if isinstance(meter, Unavailable) else ""
        picks = (f"cuda:{device.card.index}", device.card.uuid) if isinstance(device, NvidiaDevice) else ()
        found.append(Found(spec=device.spec, state=device.state(), energy=reason, picks=picks))
    cards = nvidia_cards()
    reasons = (cards.reason,) if isinstance(cards, Unavailable) else unknown() or (() if cards else ("its driver lists no card",))
    absent = {"NVIDIA GPU": "; ".join(reasons)} if reasons else {}
    return Machine(devices=tuple(found), runtimes=statuses(), absent=absent)
