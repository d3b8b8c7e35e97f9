"""The energy counter of an NVIDIA card, read only where it can be trusted.

The counter is read at the edges of a window. Meanwhile the card's power is read again and again; where its integral and the counter are
more than 5 % apart, one of them is wrong, and there is no reading. What the card's clock, its events and its other processes say is heard
too.
NVML sees the board: not the host, not the wall. Not yet run on hardware.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from math import hypot

import numpy as np

from hwnas.devices.base import Cadence, Energy, Unavailable
from hwnas.devices.clock import Clock, SystemClock
from hwnas.devices.energy import SYSTEMATIC, quantisation
from hwnas.devices.nvml import IDLE, POWER_CAP, SLOWDOWNS, Card, Link, PowerReading
from hwnas.errors import DeviceUnavailable

AGREEMENT = 0.05  # counter and integral of power, apart by a larger part of the counter, do not measure the same
SLOW = 0.75  # of the default clock: work below it is not the work that was meant
FEWEST_RENEWALS = 10  # of the counter in a window
LOOKS = 4  # at the power in each of its periods, but none sooner than NEXT_LOOK_S
NEXT_LOOK_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerSensor:
    """How a card reads its own power, as the catalogue says.

    Attributes:
        reading: that checks the counter.
        cadence: `period_s` and `seen_s` of the sensor; `lag_s` is the time over which the reading averages, where that is longer.
    """

    reading: PowerReading = "usage"
    cadence: Cadence = field(default_factory=lambda: Cadence(period_s=0.1, seen_s=0.025, lag_s=1.0))


UNKNOWN = PowerSensor()
"""For cards of which nothing is known: the slowest, the most absent-minded of all known sensors."""


@dataclass(slots=True)
class _Window:
    start_s: float = 0.0
    counter_j: float | None = None
    power: list[tuple[float, float | None]] = field(default_factory=list)
    clocks_hz: list[float] = field(default_factory=list)
    events: dict[str, None] = field(default_factory=dict)
    lost: str = ""


def nvml_meter(card: Card, sensor: PowerSensor = UNKNOWN, clock: Clock | None = None) -> NvmlMeter | Unavailable:
    """The meter of a card, or why it has none.

    Raises:
        MissingExtraError: NVML's client is not installed.
        DeviceUnavailable: the driver or the card does not answer.
    """
    link = Link(card)
    if link.mig():
        return Unavailable(_MIG)
    if link.energy_j() is None:
        return Unavailable("the card has no energy counter (NVML: not supported; cards before Volta have none)")
    if link.power_w(sensor.reading) is None:
        return Unavailable(f"the card does not tell its power ('{sensor.reading}'), by which its energy counter is checked")
    return NvmlMeter(link, sensor, clock or SystemClock())


class NvmlMeter:
    """Satisfies `hwnas.devices.EnergyMeter`; `nvml_meter` makes one.

    Args:
        link: to the card.
        sensor: how the card reads its power.
        clock: time, and the thread that reads the power meanwhile.
    """

    source = "nvml-counter"

    def __init__(self, link: Link, sensor: PowerSensor, clock: Clock) -> None:
        self.sensor = sensor
        self._link, self._clock = link, clock
        self._window: _Window | None = None
        self._watch: AbstractContextManager[None] | None = None
        self._default_hz = link.default_clock_hz()

    @property
    def cadence(self) -> Cadence:
        """That of the power sensor: whether the counter sees more than the sensor is not documented, so it is not relied on."""
        return self.sensor.cadence

    def start(self) -> None:
        """Begins a window; why it cannot be trusted, if so, is told by `stop`."""
        if self._window is not None:
            raise RuntimeError("the window of this meter is open already: stop() it before the next start()")
        self._window = window = _Window()
        self._watch = self._clock.every(max(NEXT_LOOK_S, self.cadence.period_s / LOOKS), lambda: self._look(window))
        self._watch.__enter__()
        self._look(window)
        try:
            window.counter_j = self._link.energy_j()
        except DeviceUnavailable as error:
            window.lost = str(error)
        window.start_s = self._clock.now()

    def stop(self) -> Energy | Unavailable:
        """Ends the window."""
        window, watch = self._window, self._watch
        if window is None or watch is None:
            raise RuntimeError("no window of this meter is open: start() it first")
        try:
            counter_j, end_s = self._link.energy_j(), self._clock.now()
            refusal = self._refusal()
        except DeviceUnavailable as error:
            window.lost = window.lost or str(error)
        finally:
            watch.__exit__(None, None, None)
            self._window = self._watch = None
        if window.lost:
            return Unavailable(window.lost)
        return refusal or self._slowed(window) or self._reading(window, counter_j, end_s)

    def _look(self, window: _Window) -> None:
        """One look at the card; called from a thread, so that what goes wrong is kept."""
        try:
            self._record(window)
        except DeviceUnavailable as error:
            window.lost = window.lost or str(error)

    def _record(self, window: _Window) -> None:
        window.power.append((self._clock.now(), self._link.power_w(self.sensor.reading)))
        events, clock_hz = self._link.clock_events(), self._link.clock_hz()
        window.events.update(dict.fromkeys((_SILENT,) if events is None else events))
        if events is not None and IDLE not in events and clock_hz is not None:
            window.clocks_hz.append(clock_hz)

    def _refusal(self) -> Unavailable | None:
        """Why no energy is measured on this card, now that work is on it."""
        if self._link.mig():
            return Unavailable(_MIG)
        others = self._link.others(computing=True)
        if others is None:
            return Unavailable("the card does not tell which processes compute on it, so its energy may be another's")
        if others:
            numbers = ", ".join(map(str, others))
            return Unavailable(f"the card is shared: other processes compute on it ({numbers}), and its counter counts them too")
        return None

    def _slowed(self, window: _Window) -> Unavailable | None:
        slowdowns = sorted(SLOWDOWNS & set(window.events))
        if slowdowns:
            return Unavailable(f"the card was slowed down ({', '.join(slowdowns)})", passing=True)
        if self._default_hz and window.clocks_hz and np.median(window.clocks_hz) < SLOW * self._default_hz:
            clock = f"{np.median(window.clocks_hz) / 1e6:.0f} MHz, {SLOW:.0%} of the default would be {SLOW * self._default_hz / 1e6:.0f}"
            return Unavailable(f"the card's clock was low ({clock})", passing=True)
        return None

    def _reading(self, window: _Window, counter_j: float | None, end_s: float) -> Energy | Unavailable:
        seconds = end_s - window.start_s
        if seconds < FEWEST_RENEWALS * self.cadence.period_s * (1 - 1e-6):
            least = f"measure {FEWEST_RENEWALS * self.cadence.period_s:.2g} s or more"
            return Unavailable(
                f"a window of {seconds:.2g} s is too short for a counter that moves every {self.cadence.period_s} s; {least}"
            )
        if counter_j is None or window.counter_j is None:
            return Unavailable("the card's energy counter went missing")
        joules = counter_j - window.counter_j
        if joules <= 0:
            return Unavailable(f"the card's energy counter did not go on (by {joules:.3g} J in {seconds:.2g} s)")
        looked = [(when, power) for when, power in window.power if power is not None and when <= end_s]
        if len(looked) < len(window.power):
            return Unavailable("the card's power readings, by which its energy counter is checked, went missing")
        held = np.diff([*(when for when, _ in looked), end_s])  # a reading stands until the next one
        apart = float(np.dot(held, [power for _, power in looked])) / float(held.sum()) * seconds / joules - 1
        if abs(apart) > AGREEMENT:
            most = f"at most {AGREEMENT:.0%} is accepted"
            return Unavailable(f"energy counter and power readings disagree: the power integrates to {apart:+.1%}; {most}")
        notes = tuple(note for note in (POWER_CAP, _SILENT) if note in window.events)
        return Energy(joules, joules * hypot(SYSTEMATIC, quantisation(self.cadence, seconds)), notes)


_MIG = "the card is split into instances (MIG), and its energy counter counts them all"
_SILENT = "the card does not tell what slows it down"
