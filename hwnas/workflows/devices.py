"""`hwnas devices`: what this machine is, and which runtimes work here."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from hwnas.devices import DeviceSpec, DeviceState, Unavailable, here, nvidia_cards, unknown
from hwnas.runtimes.registry import Status, statuses


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A device of this machine.

    Attributes:
        spec: what it is.
        state: how it is now.
        energy: empty where its energy can be metered, else why not.
    """

    spec: DeviceSpec
    state: DeviceState
    energy: str


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
                {**found.spec.as_dict(), "state": asdict(found.state), "energy": found.energy or "available"} for found in self.devices
            ],
            "runtimes": [asdict(status) for status in self.runtimes],
            "absent": self.absent,
        }


def look() -> Machine:
    """Looks at this machine."""
    found = []
    for device in here():
        meter = device.energy_meter()
        found.append(Found(spec=device.spec, state=device.state(), energy=meter.reason if isinstance(meter, Unavailable) else ""))
    cards = nvidia_cards()
    reasons = (cards.reason,) if isinstance(cards, Unavailable) else unknown() or (() if cards else ("its driver lists no card",))
    absent = {"NVIDIA GPU": "; ".join(reasons)} if reasons else {}
    return Machine(devices=tuple(found), runtimes=statuses(), absent=absent)
