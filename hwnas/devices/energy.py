"""The energy of one run of a network, from a meter that is too slow to see one run.

Meters move every millisecond to every 100 ms, some look only at a quarter of the time, and what they say lags behind. So a network runs for
seconds, in several trials, and each source of error has its answer:

- **Rise.** A trial begins before its window does: by then power is steady, and a meter that lags reports the work on both edges alike.
- **Part-time meters.** Work whose period fits the meter's shows it the same moment again and again. Eight delays, evenly spaced over the
  window, slide its view over the work. Delays of a fixed length fail where the work's own drift undoes them (runs of 98.5 ms under a meter
  of 100 ms), so each lasts until the next part of the work begins at an eighth of the meter's period at which none began yet, the nearest
  first. What the delays cost is taken off at idle power.
- **Whole updates.** Windows begin a random time after one another, so that what the counter holds back at their edges averages out.
- **Heat.** Between trials the device cools to what it was at the start; idle power is measured before and after, with the context alive.

After Yang, Adamek and Armour, "Part-time Power Measurements", SC'24, where delays have one length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil, hypot, sqrt
from typing import TypeVar

import numpy as np

from hwnas.devices.base import Cadence, DeviceState, Energy, EnergyMeter, Unavailable
from hwnas.devices.clock import Clock, SystemClock
from hwnas.errors import DeviceUnavailable

T = TypeVar("T")

SYSTEMATIC = 0.05  # what is left of a board's own error under these rules, after the study above
DELAYS = 8

Work = Callable[[int], None]
"""Runs the network so many times and returns when the device has finished the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long to measure.

    Attributes:
        trials: windows with work.
        seconds: at least so long each.
        runs: at least so many in each.
        rise_s: work before a window opens, beside the meter's lag.
        gap_s: longest random pause before a trial.
        idle_s: length of the idle windows; `settle_s` passes before them, beside the meter's lag.
        band_c: a trial begins at most so much warmer than the first one, or after waiting `cool_s` in vain there is no result.
        retries: of a window that failed for a passing reason, each after `back_off_s`.
    """

    trials: int = 4
    seconds: float = 5.0
    runs: int = 32
    rise_s: float = 1.0
    gap_s: float = 1.0
    idle_s: float = 5.0
    settle_s: float = 1.0
    band_c: float = 5.0
    cool_s: float = 120.0
    retries: int = 2
    back_off_s: float = 10.0

    def __post_init__(self) -> None:
        if self.trials < 2 or self.runs < 1 or self.retries < 0 or min(self.seconds, self.idle_s) <= 0:
            raise ValueError(f"an error needs two trials, and a trial needs runs and time: got {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One window with work.

    Attributes:
        start_s: by the clock.
        seconds: its length.
        delay_s: part of it that was waited.
        runs: in it.
        joules: of the whole window.
        state: of the device at its end.
    """

    start_s: float
    seconds: float
    delay_s: float
    runs: int
    joules: float
    state: DeviceState


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The energy of a run, and the windows that it stands on.

    Attributes:
        source: which meter, as in `EnergyMeter.source`.
        cadence: of the meter.
        trials: as measured.
        idle_w: power without work, before and after.
        notes: what the meter said beside its figures.
    """

    source: str
    cadence: Cadence
    trials: tuple[Trial, ...]
    idle_w: tuple[float, float]
    notes: tuple[str, ...] = ()

    @property
    def run_s(self) -> float:
        """Time of a run in s, as one of many."""
        return float(np.mean([(trial.seconds - trial.delay_s) / trial.runs for trial in self.trials]))

    @property
    def gross(self) -> Energy:
        """Energy of a run with the device's idle power in it."""
        idle_w = float(np.mean(self.idle_w))
        each = np.array([(trial.joules - idle_w * trial.delay_s) / trial.runs for trial in self.trials])
        joules = float(each.mean())
        standard_error = float(each.std(ddof=1)) / sqrt(len(each))
        shortest = min(trial.seconds for trial in self.trials)
        return Energy(joules, hypot(standard_error, SYSTEMATIC * joules, quantisation(self.cadence, shortest) * joules), self.notes)

    @property
    def net(self) -> Energy:
        """Energy of a run above idle; as uncertain in J as the gross one, and by what idle power changed meanwhile."""
        gross, (before, after) = self.gross, self.idle_w
        idle_j, drift_j = self.run_s * (before + after) / 2, self.run_s * abs(before - after) / 2
        return Energy(gross.joules - idle_j, hypot(gross.uncertainty, drift_j), self.notes)


def quantisation(cadence: Cadence, seconds: float) -> float:
    """Standard deviation of a window's energy, as a part of it, since its edges fall anywhere between two renewals of the counter."""
    return cadence.period_s / seconds / sqrt(6)


def resolved(one: Energy, other: Energy) -> bool:
    """Whether two energies differ by more than a meter can tell: by more than 5 % of the larger, and more than both uncertainties allow.

    For two boards. Two networks on one board share its systematic error, and only that of their trials tells them apart.
    """
    apart = abs(one.joules - other.joules)
    return apart > max(SYSTEMATIC * max(one.joules, other.joules), hypot(one.uncertainty, other.uncertainty))


def measure(
    meter: EnergyMeter,
    work: Work,
    *,
    rng: np.random.Generator,
    state: Callable[[], DeviceState] = DeviceState,
    plan: Plan | None = None,
    clock: Clock | None = None,
) -> Measured | Unavailable:
    """The energy of one run.

    Args:
        meter: of the device.
        work: the network; built, warm, and its context alive.
        rng: draws the pauses.
        state: of the device now; where it does not tell its temperature, nothing waits for that.
        plan: how long to measure.
        clock: time, and waiting.

    Returns:
        What was measured, or why it cannot be trusted; so too where the device is gone meanwhile. What else `work` raises is raised.
    """
    try:
        return _Bench(meter, work, rng, state, plan or Plan(), clock or SystemClock()).run()
    except DeviceUnavailable as error:
        return Unavailable(str(error))


class _Bench:
    def __init__(
        self,
        meter: EnergyMeter,
        work: Work,
        rng: np.random.Generator,
        state: Callable[[], DeviceState],
        plan: Plan,
        clock: Clock,
    ) -> None:
        self.meter, self.work, self.rng, self.state, self.plan, self.clock = meter, work, rng, state, plan, clock
        start_c = state().temperature_c
        self.warmest_c = None if start_c is None else start_c + plan.band_c
        self.notes: dict[str, None] = {}

    def run(self) -> Measured | Unavailable:
        before = self.patiently(self.idle_w)
        if isinstance(before, Unavailable):
            return before
        trials: list[Trial] = []
        for _ in range(self.plan.trials):
            trial = self.patiently(self.trial)
            if isinstance(trial, Unavailable):
                return trial
            trials.append(trial)
        after = self.patiently(self.idle_w)
        if isinstance(after, Unavailable):
            return after
        meter = self.meter
        return Measured(source=meter.source, cadence=meter.cadence, trials=tuple(trials), idle_w=(before, after), notes=tuple(self.notes))

    def patiently(self, attempt: Callable[[], T | Unavailable]) -> T | Unavailable:
        """What an attempt gives on a cool device; again where the reason for its failure may pass."""
        for left in reversed(range(self.plan.retries + 1)):
            found: T | Unavailable | None = self.cool()
            if found is None:
                found = attempt()
            if not (isinstance(found, Unavailable) and found.passing and left):
                return found
            self.clock.sleep(self.plan.back_off_s)
        raise AssertionError("the last attempt returns")

    def cool(self) -> Unavailable | None:
        """Waits until the device is in the band of temperatures; why not, if it stays warmer."""
        give_up = self.clock.now() + self.plan.cool_s
        while self.warmest_c is not None and (now_c := self.state().temperature_c) is not None and now_c > self.warmest_c:
            if self.clock.now() >= give_up:
                waited = f"after {self.plan.cool_s:.0f} s it is still at {now_c:.0f} °C"
                return Unavailable(f"the device does not cool to {self.warmest_c:.0f} °C between trials ({waited})")
            self.clock.sleep(1.0)
        return None

    def idle_w(self) -> float | Unavailable:
        """Power without work."""
        self.clock.sleep(self.plan.settle_s + self.meter.cadence.lag_s)
        self.meter.start()
        began = self.clock.now()
        self.clock.sleep(self.plan.idle_s)
        energy, seconds = self.meter.stop(), self.clock.now() - began
        return energy if isinstance(energy, Unavailable) else energy.joules / seconds

    def trial(self) -> Trial | Unavailable:
        """One window with work."""
        self.clock.sleep(float(self.rng.uniform(0.0, self.plan.gap_s)))
        run_s = self.rise()
        runs = max(self.plan.runs, ceil(self.plan.seconds / run_s))
        delays = _Delays(self.meter.cadence, self.clock)
        self.meter.start()
        start_s = self.clock.now()
        try:
            for part in delays.parts(runs):
                self.work(part)
            while (missing_s := start_s + self.plan.seconds + delays.seconds - self.clock.now()) > run_s / 100:
                more = ceil(missing_s / run_s)
                self.work(more)
                runs += more
        finally:
            energy, seconds = self.meter.stop(), self.clock.now() - start_s
        if isinstance(energy, Unavailable):
            return energy
        self.notes.update(dict.fromkeys(energy.notes))
        return Trial(start_s=start_s, seconds=seconds, delay_s=delays.seconds, runs=runs, joules=energy.joules, state=self.state())

    def rise(self) -> float:
        """Works until power is steady and the meter knows it; the time of a run in s."""
        began, runs = self.clock.now(), 1
        while True:
            before = self.clock.now()
            self.work(runs)
            run_s = (self.clock.now() - before) / runs
            left_s = began + self.plan.rise_s + self.meter.cadence.lag_s - self.clock.now()
            if left_s <= 0:
                return run_s
            runs = min(2 * runs, ceil(left_s / run_s))


class _Delays:
    """Pauses in a window that make a part-time meter see all of the work; none for one that always looks.

    Attributes:
        seconds: waited so far.
    """

    def __init__(self, cadence: Cadence, clock: Clock) -> None:
        self.seconds = 0.0
        self._cadence, self._clock = cadence, clock

    def parts(self, runs: int) -> Iterator[int]:
        """How many runs to do next, and a pause before all but the first.

        The parts are equal save the first and the last, which are one in two halves: so both edges of the window are far from a pause.
        """
        if not self._cadence.part_time:
            yield runs
            return
        parts = np.diff(np.round(runs * np.r_[0.0, (np.arange(DELAYS) + 0.5) / DELAYS, 1.0]).astype(int)).tolist()
        period_s, start_s = self._cadence.period_s, self._clock.now()
        yield parts[0]
        half_s = self._clock.now() - start_s
        unseen = [period_s * eighth / DELAYS for eighth in range(1, DELAYS)]
        for part in parts[1:-1]:
            phase_s = self._clock.now() - start_s
            waits = [(begin - phase_s) % period_s for begin in unseen]
            nearest = int(np.argmin(waits))
            del unseen[nearest]
            self._wait(waits[nearest])
            yield part
        self._wait((start_s + half_s - self._clock.now()) % period_s)
        yield parts[-1]

    def _wait(self, seconds: float) -> None:
        began = self._clock.now()
        self._clock.sleep(seconds)
        self.seconds += self._clock.now() - began
