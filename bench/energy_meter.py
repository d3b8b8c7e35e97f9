"""How far the energy meter is off, beside what is usually done, on cards whose true energy is known because it is scripted.

The real NVML client runs over a scripted driver (`tests/fake_nvml.c`) in virtual time. Sensors are those of the catalogue. Nothing here was
measured on a card: what is tested is the protocol, against sensors as they are described.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pynvml

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from _common import publish
from fake_nvml import FakeDriver, Work, build
from virtual_clock import VirtualClock

from hwnas.devices import Unavailable, nvml
from hwnas.devices.catalogue import Part, entry
from hwnas.devices.energy import DELAYS, Measured, Plan, measure
from hwnas.devices.nvidia import sensor
from hwnas.devices.nvml_energy import NvmlMeter, nvml_meter

PARTS = ("v100", "a100", "h100", "l4")
SEEDS = 3
RANDOM = 200
IDLE_W = 60.0
JITTER = 0.002  # of the runs' times, as a standard deviation


@dataclass(frozen=True)
class Wave:
    """What a network does to a card's power.

    Attributes:
        name: as printed.
        script: of the fake driver, without the board's sensor.
        run_s: time of a run.
        moving: energy of a run differs all the while, so that the truth is that of the runs which were watched.
    """

    name: str
    script: str
    run_s: float
    moving: bool = False


RESPONSE = "rise 0.05\nfall 0.05\n"
WAVES = (
    Wave("constant, 4 ms", "power constant 300\n", 0.004),
    Wave("square, 20 ms", f"power square 350 100 0.02 0.3\n{RESPONSE}", 0.02),
    Wave("square, 50 ms", "power square 350 100 0.05 0.3\n", 0.05),
    Wave("square, 98.5 ms", "power square 350 100 0.0985 0.3\n", 0.0985),
    Wave("square, 100 ms", "power square 350 100 0.1 0.3\n", 0.1),
    Wave("square, 101 ms", "power square 350 100 0.101 0.3\n", 0.101),
    Wave("square, 400 ms", "power square 350 100 0.4 0.5\n", 0.4),
    Wave("saw tooth, 100 ms", "power saw 80 400 0.1\n", 0.1),
    Wave("slow response", "power square 350 100 0.1 0.3\nrise 0.1\nfall 0.2\n", 0.1),
    Wave("ramp over 3 min", "power ramp 200 300 180\n", 0.01, moving=True),
    Wave("counter 0.3 s late", f"power square 350 100 0.1 0.3\nlag 0.3\n{RESPONSE}", 0.1),
    Wave("power cap", "power constant 300\nevent 0x4 0 ever 0.85\n", 0.01),
    Wave("slow for 5 s", "power constant 300\nevent 0x40 20 25 0.5\n", 0.01),
)
REFUSED = (
    Wave("slow for good", "power constant 300\nevent 0x40 20 ever 0.5\n", 0.01),
    Wave("counter 2.5 s late", "power constant 300\nlag 2.5\n", 0.01),
    Wave("counter 8 % low", "power constant 300\ngain 0.92 1\n", 0.01),
    Wave("counter goes missing", "power constant 300\nfail energy 3 20 ever\n", 0.01),
    Wave("second process", "power constant 300\nprocess 1 20 ever\n", 0.01),
    Wave("MIG", "power constant 300\nmig 1\n", 0.01),
    Wave("card is lost", "power constant 300\nfail all 15 20 ever\n", 0.01),
)


def random_wave(rng: np.random.Generator) -> Wave:
    """A network of 5-300 ms with a power of its own, on a card with a response and a lag of its own."""
    run_s = float(np.exp(rng.uniform(np.log(0.005), np.log(0.3))))
    low, high = float(rng.uniform(80, 200)), float(rng.uniform(220, 450))
    shape = (f"square {high} {low} {run_s} {rng.uniform(0.1, 0.9)}", f"saw {low} {high} {run_s}", f"constant {high}")[rng.integers(3)]
    response = rng.uniform(0.0, 0.15)
    return Wave("random", f"power {shape}\nrise {response}\nfall {response}\nlag {rng.uniform(0.0, 0.3)}\n", run_s)


def lengths(rng: np.random.Generator) -> list[float]:
    """Times of runs in s: of all magnitudes, and around the period of an A100's sensor."""
    return [*np.exp(rng.uniform(np.log(0.02), np.log(0.3), 60)).tolist(), *np.linspace(0.09, 0.11, 41).tolist()]


def board(part: Part, counter: str) -> str:
    """The script of a part's sensor, as the catalogue has it; the meter assumes the worst where nobody looked that up."""
    usage, fine = part.power["usage"], part.power.get("instant", part.power["usage"])
    return (
        f"card\nname {part.spec.model}\nidle {IDLE_W}\nsensor {fine.period_s} {fine.seen_s}\ncounter {counter} {fine.period_s}\n"
        f"average {usage.lag_s or 1}\nusage {'average' if usage.lag_s else 'instant'}\n"
    )


@dataclass
class Bench:
    """A card with a script, and a network on it."""

    driver: FakeDriver
    part: Part
    script: str
    wave: Wave
    seed: int
    clock: VirtualClock = field(init=False)
    work: Work = field(init=False)

    def __post_init__(self) -> None:
        self.clock = self.driver.load(self.script)
        self.work = Work(self.driver, self.clock, self.wave.run_s, jitter=JITTER)
        self.rng = np.random.default_rng(self.seed)
        self.card = nvml.cards()[0]

    def since(self, start_s: float) -> float:
        """True energy of the runs since then, each, in J."""
        return self.work.joules([(start_s, self.clock.now() - start_s)])

    def one_run(self) -> tuple[float, float]:
        """Power polled every 10 ms during a single run."""
        return self._polled(1, 0.01)

    def five_seconds(self) -> tuple[float, float]:
        """Power polled every 100 ms while the network runs for 5 s."""
        return self._polled(max(1, round(5 / self.wave.run_s)), 0.1)

    def counter(self) -> tuple[float, float]:
        """Counter before and after 5 s."""
        link, runs = nvml.Link(self.card), max(1, round(5 / self.wave.run_s))
        self.clock.sleep(float(self.rng.uniform(1, 2)))
        before, start_s = link.energy_j(), self.clock.now()
        self.work(runs)
        after = link.energy_j()
        return (float("nan") if before is None or after is None else (after - before) / runs), self.since(start_s)

    def fixed_delays(self) -> tuple[float, float]:
        """Our windows, with delays of one length: a window of the sensor each."""
        meter = nvml_meter(self.card, sensor(self.part), self.clock)
        assert isinstance(meter, NvmlMeter)
        found, windows, runs = [], [], max(32, round(5 / self.wave.run_s))
        for _ in range(Plan().trials):
            self.clock.sleep(float(self.rng.uniform(2, 3)))
            self.work(round((1 + meter.cadence.lag_s) / self.wave.run_s) + 1)
            meter.start()
            start_s = self.clock.now()
            delay_s = meter.cadence.seen_s if meter.cadence.part_time else 0.0
            parts = np.diff(np.round(np.linspace(0, runs, DELAYS + 2)).astype(int)).tolist()
            for number, part in enumerate(parts):
                self.clock.sleep(delay_s if number else 0.0)
                self.work(part)
            energy = meter.stop()
            if isinstance(energy, Unavailable):
                return float("nan"), 1.0
            found.append((energy.joules - IDLE_W * DELAYS * delay_s) / runs)
            windows.append((start_s, self.clock.now() - start_s))
        return float(np.mean(found)), self.truth(windows)

    def ours(self) -> Measured | Unavailable:
        """The whole protocol."""
        meter = nvml_meter(self.card, sensor(self.part), self.clock)
        if isinstance(meter, Unavailable):
            return meter
        return measure(meter, self.work, rng=self.rng, state=lambda: nvml.state(self.card), clock=self.clock)

    def truth(self, windows: list[tuple[float, float]]) -> float:
        """True energy of a run among many, without delays, in J; where it moves, of those in the windows."""
        if self.wave.moving or "event" in self.script:
            return self.work.joules(windows)
        return Work(self.driver, self.driver.load(self.script), self.wave.run_s, jitter=JITTER).steady_joules()

    def _polled(self, runs: int, every_s: float) -> tuple[float, float]:
        link = nvml.Link(self.card)
        self.clock.sleep(float(self.rng.uniform(1, 2)))
        readings, start_s = [link.power_w()], self.clock.now()
        with self.clock.every(every_s, lambda: readings.append(link.power_w())):
            self.work(runs)
        seconds = self.clock.now() - start_s
        return float(np.mean([watts for watts in readings if watts is not None])) * seconds / runs, self.since(start_s)


USUAL: dict[str, Callable[[Bench], tuple[float, float]]] = {
    "one run polled": Bench.one_run,
    "5 s polled": Bench.five_seconds,
    "5 s counter": Bench.counter,
    "equal delays": Bench.fixed_delays,
}


@dataclass
class Errors:
    """Relative errors of each way."""

    ours: list[float] = field(default_factory=list)
    within: list[bool] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    usual: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in USUAL})

    def add(self, other: Errors) -> None:
        """Takes those of another."""
        self.ours += other.ours
        self.within += other.within
        self.reasons += other.reasons
        for name, errors in other.usual.items():
            self.usual[name] += errors

    def row(self) -> dict[str, Any]:
        """As printed."""
        return {
            "hwnas": _told(self.ours),
            "in interval": f"{sum(self.within)}/{len(self.within)}" if self.within else "",
            "refused": f"{len(self.reasons)}/{len(self.reasons) + len(self.ours)}",
            **{name: _told(errors) for name, errors in self.usual.items()},
        }


def _told(errors: list[float]) -> str:
    """Mean and largest error in %; behind a minus how many times there was none."""
    known = np.abs([error for error in errors if np.isfinite(error)])
    none = len(errors) - len(known)
    return (f"{known.mean():.1%} ({known.max():.1%})" if len(known) else "-") + (f" -{none}" if none else "")


def judge(driver: FakeDriver, part: Part, counter: str, wave: Wave, seed: int, *, usual: bool = True) -> Errors:
    """All ways on one card with one script."""
    found, script = Errors(), board(part, counter) + wave.script
    bench = Bench(driver, part, script, wave, seed)
    energy = bench.ours()
    if isinstance(energy, Unavailable):
        found.reasons.append(energy.reason)
    else:
        truth = bench.truth([(trial.start_s, trial.seconds) for trial in energy.trials])
        found.ours.append(energy.gross.joules / truth - 1)
        found.within.append(abs(energy.gross.joules - truth) <= energy.gross.uncertainty)
    for name, way in USUAL.items() if usual else ():
        joules, truth = way(Bench(driver, part, script, wave, seed))
        found.usual[name].append(joules / truth - 1)
    return found


def cases(waves: tuple[Wave, ...]) -> Iterator[tuple[str, str, Wave, int]]:
    """Every wave on every part, with a counter that sees all and one that sees what the sensor sees."""
    for wave in waves:
        for name in PARTS:
            for counter in ("exact", "sampled"):
                for seed in range(SEEDS):
                    yield name, counter, wave, seed


def main() -> None:
    parts = {name: entry(name).part() for name in PARTS}
    by_wave: dict[str, Errors] = {}
    by_part: dict[str, Errors] = {}
    with tempfile.TemporaryDirectory() as folder, FakeDriver(build(Path(folder))).under(pynvml) as driver:
        for name, counter, wave, seed in cases(WAVES):
            found = judge(driver, parts[name], counter, wave, seed)
            by_wave.setdefault(wave.name, Errors()).add(found)
        rng = np.random.default_rng(0)
        for number in range(RANDOM):
            name, counter = PARTS[number % len(PARTS)], ("exact", "sampled")[number // len(PARTS) % 2]
            found = judge(driver, parts[name], counter, random_wave(rng), number)
            by_wave.setdefault("random networks", Errors()).add(found)
            by_part.setdefault(f"random, {name}", Errors()).add(found)
        for number, run_s in enumerate(lengths(rng)):
            wave = Wave("lengths", f"power square 350 100 {run_s} 0.3\n", run_s)
            found = judge(driver, parts["a100"], "sampled", wave, number)
            by_wave.setdefault("square, any length", Errors()).add(found)
        for name, counter, wave, seed in cases(REFUSED):
            if seed == 0:
                by_wave.setdefault(wave.name, Errors()).add(judge(driver, parts[name], counter, wave, seed, usual=False))
    both = {**by_wave, **by_part}
    answered = [abs(error) for errors in by_wave.values() for error in errors.ours]
    publish(
        "energy_meter",
        "Error of the energy of a run, mean (largest), over scripted cards",
        [{"what happens": name, **errors.row()} for name, errors in both.items()],
        answered=len(answered),
        within_5_percent=f"{sum(error <= 0.05 for error in answered)} of {len(answered)}",
        largest_error=float(max(answered)),
        networks="square: 350 and 100 W; saw tooth: 80 to 400 W; ramp: 200 to 300 W; idle: 60 W; runs differ by 0.2 %",
        random="5-300 ms; constant, square or saw tooth of 80-450 W; response of 0-0.15 s; counter 0-0.3 s late",
        cards=", ".join(parts[name].spec.model for name in PARTS),
        counters="each once with a counter that sees all, once with one that sees what the power sensor sees",
        any_length="60 of 20-300 ms and 41 of 90-110 ms, on an A100 with a counter that sees what the power sensor sees",
        minus="behind a minus: refused by the meter",
        truth="hwnas and equal delays: energy of a run among many; the others: of the very runs that they watched",
        why_refused={name: sorted(set(errors.reasons)) for name, errors in by_wave.items() if errors.reasons},
    )


if __name__ == "__main__":
    main()
