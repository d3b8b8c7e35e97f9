"""A device that says what it is told to say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, repeat
from typing import TypeVar

from hwnas.devices import Cadence, DeviceSpec, DeviceState, Energy, EnergyMeter, Unavailable

T = TypeVar("T")

NO_METER = Unavailable("this fake device was given no meter")

# Of no machine in particular.
SPEC = DeviceSpec(
    name="cpu",
    kind="cpu",
    model="fake processor",
    units=2,
    clock_hz=2e9,
    peak_flops={"fp32": 1e11, "int8": 2e11},
    caches_bytes={"l1d": 32 * 2**10, "l2": 2**20, "l3": 16 * 2**20},
    memory_bytes=2**33,
    features=("avx2", "fma"),
)


class FakeDevice:
    """Satisfies `hwnas.devices.Device` with a script.

    Args:
        spec: what it is.
        states: what it observes, one per call; the last one is repeated.
        meter: its energy meter, or why it has none.
    """

    def __init__(
        self,
        spec: DeviceSpec = SPEC,
        states: Iterable[DeviceState] = (DeviceState(clock_hz=2e9, temperature_c=40.0, load=0.0),),
        meter: EnergyMeter | Unavailable = NO_METER,
    ) -> None:
        self.spec = spec
        self._states = _then_the_last(states)
        self._meter = meter

    def state(self) -> DeviceState:
        """The next state of the script."""
        return next(self._states)

    def energy_meter(self) -> EnergyMeter | Unavailable:
        """The meter that it was given."""
        return self._meter


class FakeMeter:
    """Satisfies `hwnas.devices.EnergyMeter` with a script.

    Args:
        readings: what each window gives; the last one is repeated.
    """

    source = "fake"
    cadence = Cadence(period_s=0.1, seen_s=0.1)

    def __init__(self, readings: Iterable[Energy | Unavailable]) -> None:
        self._readings = _then_the_last(readings)
        self._open = False

    def start(self) -> None:
        """Begins a window; a window that is open already is a mistake of the caller."""
        if self._open:
            raise RuntimeError("the window of this meter is open already: stop() it before the next start()")
        self._open = True

    def stop(self) -> Energy | Unavailable:
        """Ends the window with the next reading of the script."""
        if not self._open:
            raise RuntimeError("no window of this meter is open: start() it first")
        self._open = False
        return next(self._readings)


def _then_the_last(script: Iterable[T]) -> Iterator[T]:
    lines = tuple(script)
    return chain(lines, repeat(lines[-1]))
