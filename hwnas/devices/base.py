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
        memory_clock_hz: of the device memory now.
        power_w: of the whole board now, as its sensor averages it.
        clock_events: why the clock is not higher, such as `hardware thermal slowdown`; empty where nothing holds it back.
        driver: its version.
        mig: whether the card is split into instances.
        others: compute processes on the card, other than this one.
        default_clock_hz: at which the compute units work unless told otherwise.
        unsupported: the fields that the device was asked for and does not tell.
    """

    clock_hz: float | None = None
    temperature_c: float | None = None
    load: float | None = None
    governor: str | None = None
    memory_clock_hz: float | None = None
    power_w: float | None = None
    clock_events: tuple[str, ...] | None = None
    driver: str | None = None
    mig: bool | None = None
    others: int | None = None
    default_clock_hz: float | None = None
    unsupported: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Energy:
    """Energy that a meter read, in J above nothing (gross).

    Attributes:
        joules: how much.
        uncertainty: of it, in J, as a standard deviation.
        notes: what does not make it wrong but should be known, such as `software power cap`.
    """

    joules: float
    uncertainty: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unavailable:
    """There is no reading, and why. Never counted as 0 J.

    Attributes:
        reason: one clause.
        passing: the reason may be gone in a while, such as a card that is too hot.
    """

    reason: str
    passing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cadence:
    """How a meter's reading follows the truth.

    Attributes:
        period_s: time between two renewals of the reading.
        seen_s: part of every period that the meter looks at.
        lag_s: time for which a reading still speaks of what was before.
    """

    period_s: float
    seen_s: float
    lag_s: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.seen_s <= self.period_s or self.lag_s < 0:
            raise ValueError(f"a meter sees a part of each period, and then lags: got {self}")

    @property
    def part_time(self) -> bool:
        """Whether work can hide in what the meter does not look at."""
        return self.seen_s < self.period_s


class EnergyMeter(Protocol):
    """Reads the energy that a device used between `start` and `stop`.

    Both are called with the device synchronised: what was launched has finished. One window is open at a time. `stop` answers
    `Unavailable` when the reading cannot be trusted; `hwnas.devices.energy.measure` is the way to a network's energy from there.
    """

    @property
    def source(self) -> str:
        """What it reads: `nvml-counter`, `rapl`. Energies of two sources are different quantities."""
        ...

    @property
    def cadence(self) -> Cadence:
        """How its reading follows the truth."""
        ...

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
