"""NVIDIA cards as their driver describes them, through NVML.

Every question may go unanswered: old cards, consumer cards and containers each keep silent about something. Silence is a value (None), and
only a driver or a card that cannot be used at all is an error. Not yet run on hardware: tests drive the real client over a scripted driver.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any, Literal

import psutil

from hwnas.devices.base import DeviceState
from hwnas.errors import DeviceUnavailable, one_line, require

PowerReading = Literal["usage", "average", "instant"]
"""Which of a card's power readings: the one that all have, or one of the two that Hopper and later tell apart."""

# nvml.h, nvmlClocksEventReasons
EVENTS = {
    0x1: "idle",
    0x2: "applications clock setting",
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
    0x100: "display clock setting",
}
SLOWDOWNS = frozenset({EVENTS[0x8], EVENTS[0x20], EVENTS[0x40], EVENTS[0x80]})
"""Events under which what a card does is not what it would do."""

IDLE, POWER_CAP = EVENTS[0x1], EVENTS[0x4]


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """An NVIDIA card of this machine.

    Attributes:
        index: in NVML's order, which is that of the PCI bus and not always CUDA's.
        name: as NVML reports it, such as `NVIDIA A100-SXM4-40GB`.
        uuid: such as `GPU-5f3b...`.
        compute_capability: major and minor.
        memory_bytes: of the whole card.
        mig: whether it is split into instances; None where it does not tell.
    """

    index: int
    name: str
    uuid: str
    compute_capability: tuple[int, int]
    memory_bytes: int
    mig: bool | None


def connect() -> Any:
    """NVML's client, connected to the driver; it stays connected while the process lives.

    Raises:
        MissingExtraError: the client is not installed.
        DeviceUnavailable: no driver answers; says why and what to do.
    """
    pynvml = require("pynvml", "gpu")
    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded) as error:
        raise DeviceUnavailable(
            f"no NVIDIA driver (libnvidia-ml.so.1: {one_line(error)}); install one, or run this on a machine that has a card"
        ) from error
    except pynvml.NVMLError as error:
        raise DeviceUnavailable(f"the NVIDIA driver does not answer ({one_line(error)}); see what 'nvidia-smi' says") from error
    return pynvml


def cards() -> tuple[Card, ...]:
    """The cards that the driver lists, in its order.

    Raises:
        MissingExtraError: the client is not installed.
        DeviceUnavailable: no driver answers, or a card does not say what it is.
    """
    nvml = connect()
    try:
        return tuple(_card(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
    except nvml.NVMLError as error:
        raise DeviceUnavailable(f"an NVIDIA card does not say what it is ({one_line(error)}); see what 'nvidia-smi' says") from error


def state(card: Card) -> DeviceState:
    """The state of a card now; what it does not tell is None, and named in `unsupported`.

    Raises:
        MissingExtraError: the client is not installed.
        DeviceUnavailable: the driver or the card does not answer any more.
    """
    link = Link(card)
    others = link.others()
    told: dict[str, Any] = {
        "clock_hz": link.clock_hz(),
        "memory_clock_hz": link.memory_clock_hz(),
        "temperature_c": link.temperature_c(),
        "power_w": link.power_w(),
        "clock_events": link.clock_events(),
        "driver": link.ask("nvmlSystemGetDriverVersion"),
        "mig": link.mig(),
        "others": None if others is None else len(others),
        "default_clock_hz": link.default_clock_hz(),
    }
    return DeviceState(**told, unsupported=tuple(key for key, value in told.items() if value is None))


class Link:
    """One card, ready to be asked; every answer is None where the card does not tell.

    Raises:
        MissingExtraError: the client is not installed.
        DeviceUnavailable: no driver answers, or the card is gone; each question raises it too.
    """

    def __init__(self, card: Card) -> None:
        self.card = card
        self._nvml = connect()
        self._silent = (
            self._nvml.NVMLError_NotSupported,
            self._nvml.NVMLError_NoPermission,
            self._nvml.NVMLError_FunctionNotFound,
            self._nvml.NVMLError_NoData,
        )
        try:
            self._handle = self._nvml.nvmlDeviceGetHandleByUUID(card.uuid)
        except self._nvml.NVMLError as error:
            raise DeviceUnavailable(self._gone(error)) from error

    def ask(self, function: str, *arguments: Any) -> Any:
        """What a function of NVML's client answers."""
        try:
            return getattr(self._nvml, function)(*arguments)
        except self._silent:
            return None
        except self._nvml.NVMLError as error:
            raise DeviceUnavailable(self._gone(error)) from error

    def energy_j(self) -> float | None:
        """The counter of the energy that the board has used since its driver was loaded."""
        return _times(1e-3, self.ask("nvmlDeviceGetTotalEnergyConsumption", self._handle))

    def power_w(self, reading: PowerReading = "usage") -> float | None:
        """Power of the board; over which time it is averaged depends on the card and the reading."""
        if reading == "usage":
            return _times(1e-3, self.ask("nvmlDeviceGetPowerUsage", self._handle))
        field = self._nvml.NVML_FI_DEV_POWER_AVERAGE if reading == "average" else self._nvml.NVML_FI_DEV_POWER_INSTANT
        values = self.ask("nvmlDeviceGetFieldValues", self._handle, [field])
        return None if values is None or values[0].nvmlReturn != self._nvml.NVML_SUCCESS else 1e-3 * values[0].value.uiVal

    def clock_hz(self) -> float | None:
        """Clock of the streaming multiprocessors now."""
        return _times(1e6, self.ask("nvmlDeviceGetClockInfo", self._handle, self._nvml.NVML_CLOCK_SM))

    def default_clock_hz(self) -> float | None:
        """Clock at which the streaming multiprocessors work unless told otherwise."""
        return _times(1e6, self.ask("nvmlDeviceGetDefaultApplicationsClock", self._handle, self._nvml.NVML_CLOCK_SM))

    def memory_clock_hz(self) -> float | None:
        """Clock of the device memory now."""
        return _times(1e6, self.ask("nvmlDeviceGetClockInfo", self._handle, self._nvml.NVML_CLOCK_MEM))

    def temperature_c(self) -> float | None:
        """Temperature of the die."""
        return _times(1.0, self.ask("nvmlDeviceGetTemperature", self._handle, self._nvml.NVML_TEMPERATURE_GPU))

    def clock_events(self) -> tuple[str, ...] | None:
        """Why the clock is not higher; drivers before 535 know these as throttle reasons."""
        bits = self.ask("nvmlDeviceGetCurrentClocksEventReasons", self._handle)
        if bits is None:
            bits = self.ask("nvmlDeviceGetCurrentClocksThrottleReasons", self._handle)
        return None if bits is None else tuple(name for bit, name in EVENTS.items() if bits & bit)

    def memory_bytes(self) -> int:
        """Memory of the card; parts that have none of their own, and so tell none, use the machine's."""
        memory = self.ask("nvmlDeviceGetMemoryInfo", self._handle)
        return int(psutil.virtual_memory().total if memory is None else memory.total)

    def mig(self) -> bool | None:
        """Whether the card is split into instances."""
        modes = self.ask("nvmlDeviceGetMigMode", self._handle)
        return None if modes is None else modes[0] == self._nvml.NVML_DEVICE_MIG_ENABLE

    def others(self, *, computing: bool = False) -> tuple[int, ...] | None:
        """Processes that compute on the card, other than this one, by number.

        A container does not know the number under which the driver lists it.

        Args:
            computing: this process has work on the card, so one of those listed is it: if none has its number, then one of which this
                machine knows no process is taken to be it.
        """
        listed = self.ask("nvmlDeviceGetComputeRunningProcesses_v3", self._handle)
        if listed is None:  # drivers before 510
            listed = self.ask("nvmlDeviceGetComputeRunningProcesses_v2", self._handle)
        if listed is None:
            return None
        numbers = sorted({process.pid for process in listed})
        if os.getpid() in numbers:
            numbers.remove(os.getpid())
        elif computing:
            foreign = [number for number in numbers if not psutil.pid_exists(number)]
            numbers = [number for number in numbers if number not in foreign[:1]]
        return tuple(numbers)

    def _gone(self, error: Exception) -> str:
        return f"card {self.card.index} ({self.card.name}) does not answer: {one_line(error)}; see what 'nvidia-smi' says"


def _card(nvml: Any, index: int) -> Card:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    card = Card(
        index=index,
        name=nvml.nvmlDeviceGetName(handle),
        uuid=nvml.nvmlDeviceGetUUID(handle),
        compute_capability=tuple(nvml.nvmlDeviceGetCudaComputeCapability(handle)),
        memory_bytes=0,
        mig=None,
    )
    link = Link(card)
    return replace(card, memory_bytes=link.memory_bytes(), mig=link.mig())


def _times(scale: float, value: float | None) -> float | None:
    return None if value is None else scale * value
