"""What a device is, in what state it is, and how its energy is read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSpec:
    """What does not change about a device.

    Attributes:
        name: as given to `--device`: `cpu`, `a100`.
        kind: `cpu` or `gpu`.
        model: as the maker calls it.
        units: cores or streaming multiprocessors.
        clock_hz: highest clock, or None where the machine does not say.
        peak_flops: floating-point operations per second of all units by precision, from clock and instruction set.
        caches_bytes: size of each cache level, `l1d`, `l2`, `l3`.
        memory_bytes: main or device memory.
        features: instruction sets that change how kernels run, such as `avx2`.
        base_clock_hz: clock that the maker guarantees within the power limit.
        memory_bytes_per_s: peak rate of the device memory.
        power_limit_w: of the whole board.
        compute_capability: of an NVIDIA part, such as `8.0`: its generation, which decides which kernels a library has for it.
        lanes: float32 lanes of a streaming multiprocessor.
        process_nm: class of the semiconductor process.
    """

    name: str
    kind: Literal["cpu", "gpu"]
    model: str
    units: int
    clock_hz: float | None
    peak_flops: Mapping[str, float]
    caches_bytes: Mapping[str, int]
    memory_bytes: int
    features: tuple[str, ...] = ()
    base_clock_hz: float | None = None
    memory_bytes_per_s: float | None = None
    power_limit_w: float | None = None
    compute_capability: str | None = None
    lanes: int | None = None
    process_nm: float | None = None

    @property
    def fingerprint(self) -> str:
        """12 hexadecimal digits that change when a profile taken on this device no longer applies to another."""
        stable = (self.kind, self.model, self.units, sorted(self.caches_bytes.items()), self.features)
        return hashlib.sha256(repr(stable).encode()).hexdigest()[:12]

    def as_dict(self) -> dict[str, object]:
        """Plain values for TOML or JSON, unknown ones left out, with the fingerprint."""
        plain = {key: value for key, value in asdict(self).items() if value is not None}
        return {**plain, "features": list(self.features), "fingerprint": self.fingerprint}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """What was observed about a device at one moment; None where it does not say.

    Attributes:
        clock_hz: of the compute units now.
        temperature_c: of the die.
        load: share of the device that others used just before, 0-1.
        governor: the policy that sets the clock.
    """

    clock_hz: float | None = None
    temperature_c: float | None = None
    load: float | None = None
    governor: str | None = None


@dataclass(frozen=True, slots=True)
class Energy:
    """Energy that a meter read, in J above nothing (gross)."""

    joules: float
    uncertainty: float


@dataclass(frozen=True, slots=True)
class Unavailable:
    """There is no reading, and why. Never counted as 0 J."""

    reason: str


class EnergyMeter(Protocol):
    """Reads the energy that a device used between `start` and `stop`.

    Both are called with the device idle and synchronised. `stop` answers `Unavailable` when the reading cannot be trusted.
    """

    def start(self) -> None:
        """Begins a window."""
        ...

    def stop(self) -> Energy | Unavailable:
        """Ends the window."""
        ...


class Device(Protocol):
    """A device that is on this machine."""

    @property
    def spec(self) -> DeviceSpec:
        """What does not change about it."""
        ...

    def state(self) -> DeviceState:
        """Its state now."""
        ...

    def energy_meter(self) -> EnergyMeter | Unavailable:
        """Its meter, or why it has none."""
        ...
