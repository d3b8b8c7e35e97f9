"""The energy of a run: within its stated uncertainty of what is true, or refused."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import hypot

import numpy as np
import pytest
from fake_nvml import A100, FakeDriver, Work
from virtual_clock import VirtualClock

from hwnas.devices import Cadence, DeviceState, Energy, Unavailable
from hwnas.devices.energy import Measured, Plan, Trial, measure, quantisation, resolved
from hwnas.devices.nvml import cards, state
from hwnas.devices.nvml_energy import PowerSensor, nvml_meter

AMPERE = PowerSensor(cadence=Cadence(period_s=0.1, seen_s=0.025))
ADA = PowerSensor(cadence=Cadence(period_s=0.1, seen_s=0.1, lag_s=1.0))
VOLTA = PowerSensor(cadence=Cadence(period_s=0.02, seen_s=0.01))
HOPPER = PowerSensor(reading="average", cadence=Cadence(period_s=0.1, seen_s=0.025, lag_s=1.0))
ADA_SCRIPT, VOLTA_SCRIPT = "sensor 0.1 0.1\nusage average\n", "sensor 0.02 0.01\n"


def measured(
    driver: FakeDriver, script: str, run_s: float, sensor: PowerSensor = AMPERE, plan: Plan | None = None, seed: int = 0
) -> tuple[Measured | Unavailable, Work]:
    """What is found on an A100 with that script."""
    clock = driver.load(A100 + script)
    (card,) = cards()
    work, meter = Work(driver, clock, run_s, jitter=0.002), nvml_meter(card, sensor, clock)
    assert not isinstance(meter, Unavailable)
    rng = np.random.default_rng(seed)
    return measure(meter, work, rng=rng, state=lambda: state(card), plan=plan, clock=clock), work


def refused(found: Measured | Unavailable) -> str:
    assert isinstance(found, Unavailable)
    assert "\n" not in found.reason
    return found.reason


def steady_j(driver: FakeDriver, script: str, run_s: float) -> float:
    """True energy of a run that follows many others without a pause."""
    return Work(driver, driver.load(A100 + script), run_s).steady_joules()


WAVES = {
    "constant": ("power constant 300\n", 0.004),
    "square of the sensor's period": ("power square 350 100 0.1 0.3\n", 0.1),
    "square of half the period": ("power square 350 100 0.05 0.3\n", 0.05),
    "square that drifts back": ("power square 350 100 0.0985 0.3\n", 0.0985),
    "square that drifts on": ("power square 350 100 0.101 0.3\n", 0.101),
    "square of long runs": ("power square 350 100 0.4 0.5\n", 0.4),
    "saw tooth": ("power saw 80 400 0.1\n", 0.1),
    "slow rise and fall": ("power square 350 100 0.1 0.3\nrise 0.15\nfall 0.15\n", 0.1),
    "slow fall": ("power square 350 100 0.1 0.3\nrise 0.02\nfall 0.2\n", 0.1),
    "lag of 0.3 s": ("power square 350 100 0.1 0.3\nlag 0.3\nrise 0.1\nfall 0.1\n", 0.1),
}


@pytest.mark.parametrize("counter", ["exact", "sampled"])
@pytest.mark.parametrize("wave", WAVES)
def test_within_its_uncertainty(driver: FakeDriver, wave: str, counter: str) -> None:
    """Whether the counter sees all or only what the sensor sees: the truth is within the uncertainty, and within 5 %."""
    script, run_s = WAVES[wave]
    script += f"counter {counter} 0.1\n"
    found, _ = measured(driver, script, run_s)
    truth = steady_j(driver, script, run_s)
    assert isinstance(found, Measured)
    for energy, true in ((found.gross, truth), (found.net, truth - 60.0 * run_s)):
        assert abs(energy.joules - true) <= energy.uncertainty
    assert found.gross.joules == pytest.approx(truth, rel=0.05)
    assert found.gross.uncertainty >= 0.05 * found.gross.joules
    assert found.run_s == pytest.approx(run_s, rel=0.005)
    assert found.idle_w == pytest.approx((60.0, 60.0), rel=0.03)


@pytest.mark.parametrize(
    ("sensor", "part", "run_s"),
    [(ADA, ADA_SCRIPT, 0.1), (VOLTA, VOLTA_SCRIPT + "counter sampled 0.02\n", 0.02), (HOPPER, "counter sampled 0.1\n", 0.1)],
    ids=["averages over a second", "looks half the time", "two readings"],
)
def test_parts_with_other_sensors(driver: FakeDriver, sensor: PowerSensor, part: str, run_s: float) -> None:
    """Sensors that average over a second, or look half the time, give the same truth; those that always look need no delays."""
    script = part + f"power square 350 100 {run_s} 0.3\nrise 0.02\nfall 0.02\n"
    found, _ = measured(driver, script, run_s, sensor)
    assert isinstance(found, Measured)
    assert found.gross.joules == pytest.approx(steady_j(driver, script, run_s), rel=0.05)
    assert all((trial.delay_s > 0) == sensor.cadence.part_time for trial in found.trials)


def test_a_ramp(driver: FakeDriver) -> None:
    """Power that rises all the while: the trials differ, the uncertainty says so, the mean over their windows is right."""
    found, work = measured(driver, "power ramp 150 350 200\n", 0.01)
    assert isinstance(found, Measured)
    truth = work.joules((trial.start_s, trial.seconds) for trial in found.trials)
    assert found.gross.joules == pytest.approx(truth, rel=0.02)
    assert found.gross.uncertainty > 0.055 * found.gross.joules


def test_the_plan_is_kept(driver: FakeDriver) -> None:
    """At least so many trials, seconds and runs; eight delays, the same work between them; a rise before each window, random gaps."""
    found, work = measured(driver, "power constant 300\n", 0.4)
    assert isinstance(found, Measured)
    assert len(found.trials) == 4
    for trial in found.trials:
        assert trial.runs >= 32
        assert trial.seconds - trial.delay_s >= 5.0
        before = [began for began, _ in work.truth if began < trial.start_s and began > trial.start_s - 1.25]
        assert trial.start_s - min(before) >= 0.99
        begun = np.array([began for began, _ in work.truth if trial.start_s <= began < trial.start_s + trial.seconds])
        pauses = np.flatnonzero(np.diff(begun) > 0.4 * 1.02)
        assert 7 <= len(pauses) <= 8  # a pause may be shorter than the runs' jitter
        assert trial.state.power_w == pytest.approx(300.0, rel=0.01)
    short, _ = measured(driver, "power constant 300\n", 0.001)
    assert isinstance(short, Measured)
    assert all(trial.runs >= 4900 and trial.seconds - trial.delay_s >= 4.99 for trial in short.trials)


def test_trials_follow_at_random(driver: FakeDriver) -> None:
    """Where nothing has to cool, what lies between trials still differs, by the seed: edges fall anywhere between the counter's updates."""
    gaps = []
    for seed in (0, 1):
        found, _ = measured(driver, "power constant 300\nfail temperature 3 0 ever\n", 0.01, seed=seed)
        assert isinstance(found, Measured)
        gaps.append([later.start_s - former.start_s - former.seconds for former, later in pairwise(found.trials)])
    assert np.std(gaps[0]) > 0.05
    assert max(gaps[0]) - min(gaps[0]) <= 1.05
    assert np.abs(np.subtract(*gaps)).max() > 0.05


def test_part_time_sensors_see_each_moment_of_the_work_alike(driver: FakeDriver) -> None:
    """Between the delays, work begins at all eighths of the sensor's period, however its runs drift."""
    for run_s in (0.1, 0.0985, 0.0731):
        found, work = measured(driver, f"power square 350 100 {run_s} 0.3\n", run_s)
        assert isinstance(found, Measured)
        trial = found.trials[0]
        begun = np.array([began for began, _ in work.truth if trial.start_s <= began < trial.start_s + trial.seconds])
        parts = begun[1:][np.diff(begun) > run_s * 1.02]
        phases = np.round((parts - trial.start_s) % 0.1 / 0.0125, 2)
        assert set(phases[:7]) == {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0}


def test_the_device_cools_between_trials(driver: FakeDriver) -> None:
    """No trial begins more than 5 degrees above the start, however long that takes."""
    found, work = measured(driver, "power constant 300\nheat 30 0.1 30\n", 0.01)
    assert isinstance(found, Measured)
    clock_s = work.truth[-1][0]
    calm, _ = measured(driver, "power constant 300\nheat 30 0.001 30\n", 0.01)
    assert isinstance(calm, Measured)
    assert max(trial.state.temperature_c or 0 for trial in found.trials) < 50.0
    assert clock_s > 1.5 * (calm.trials[-1].start_s + calm.trials[-1].seconds)


def test_a_device_that_stays_hot_is_refused(driver: FakeDriver) -> None:
    """If it does not cool in time there is no result; if it does not tell its temperature, nothing waits for it."""
    hot = "power constant 300\nheat 30 0.2 2000\n"
    assert "does not cool to 47 °C between trials (after 1 s it is still at" in refused(
        measured(driver, "power constant 300\nheat 30 0.2 20\n", 0.01, plan=Plan(cool_s=1.0))[0]
    )
    assert isinstance(measured(driver, hot + "fail temperature 3 0 ever\n", 0.01)[0], Measured)


def test_a_slowdown_that_passes_costs_a_trial(driver: FakeDriver) -> None:
    """A slowed trial is dropped and taken again after a while; its energy is in no figure."""
    found, _ = measured(driver, "power constant 300\nevent 0x40 20 25 0.5\n", 0.01)
    assert isinstance(found, Measured)
    assert found.gross.joules == pytest.approx(3.0, rel=0.01)
    assert not any(15.0 < trial.start_s < 25.0 for trial in found.trials)


def test_a_slowdown_that_stays_is_refused(driver: FakeDriver) -> None:
    """After two retries the reason is the result."""
    found, work = measured(driver, "power constant 300\nevent 0x40 20 ever 0.5\n", 0.01)
    assert refused(found) == "the card was slowed down (hardware thermal slowdown)"
    assert work.clock.now() > 50.0


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("fail energy 3 25 ever\n", "counter went missing"),
        ("fail all 15 25 ever\n", "GPU is lost"),
        ("process 1 25 ever\n", "the card is shared"),
        ("lag 2.5\n", "disagree"),
        ("gain 0.9 1\n", "disagree"),
    ],
)
def test_what_does_not_pass_is_refused_at_once(driver: FakeDriver, script: str, said: str) -> None:
    """A counter that goes missing, a card that is lost or shared, readings that disagree: no retries."""
    found, work = measured(driver, "power constant 300\n" + script, 0.01)
    assert said in refused(found)
    assert work.clock.now() < 40.0


def test_a_card_may_be_lost_at_any_moment(driver: FakeDriver) -> None:
    """While it is idle, works, cools, or is asked for its state: the result is always the same reason."""
    for moment in np.arange(1.0, 30.0, 1.7):
        assert "GPU is lost" in refused(measured(driver, f"power constant 300\nfail all 15 {moment} ever\n", 0.02)[0])


def test_what_goes_wrong_while_idle_is_refused_too(driver: FakeDriver) -> None:
    """A meter that fails before the work, or after it, gives no result."""
    assert "the card is shared" in refused(measured(driver, "process 1 0 ever\n", 0.01)[0])
    whole, _ = measured(driver, "power constant 300\n", 0.01)
    assert isinstance(whole, Measured)
    end_s = whole.trials[-1].start_s + whole.trials[-1].seconds
    assert "the card is shared" in refused(measured(driver, f"power constant 300\nprocess 1 {end_s + 0.1} ever\n", 0.01)[0])


def test_notes_are_handed_on(driver: FakeDriver) -> None:
    """A power cap in any trial stands beside the figures."""
    found, _ = measured(driver, "power constant 300\nevent 0x4 20 30 0.9\n", 0.01)
    assert isinstance(found, Measured)
    assert found.notes == found.gross.notes == found.net.notes == ("software power cap",)


class Scripted:
    """A meter whose windows take what a script says."""

    source = "scripted"
    cadence = Cadence(period_s=0.001, seen_s=0.001)

    def __init__(self, reading: Callable[[int], Energy | Unavailable]) -> None:
        self.open, self.windows, self._reading = False, 0, reading

    def start(self) -> None:
        assert not self.open
        self.open = True

    def stop(self) -> Energy | Unavailable:
        assert self.open
        self.open, self.windows = False, self.windows + 1
        return self._reading(self.windows - 1)


def test_work_that_fails_closes_the_window() -> None:
    """An error of the work is the caller's; the meter can be used again."""
    clock, meter = VirtualClock(), Scripted(lambda window: Energy(300.0, 15.0))

    def work(runs: int) -> None:
        clock.sleep(0.01 * runs)
        if meter.open:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        measure(meter, work, rng=np.random.default_rng(0), clock=clock)
    assert not meter.open


def test_retries_are_counted_for_each_window() -> None:
    """Each window may fail twice for a passing reason; a third time ends it."""

    def found(fails: set[int]) -> Measured | Unavailable:
        clock = VirtualClock()
        meter = Scripted(lambda window: Unavailable("hot", passing=True) if window in fails else Energy(300.0, 15.0))
        return measure(meter, lambda runs: clock.sleep(0.01 * runs), rng=np.random.default_rng(0), clock=clock)

    assert isinstance(found({0, 1, 3, 4, 6, 7}), Measured)
    assert found({3, 4, 5}) == Unavailable("hot", passing=True)


def trial(joules: float, *, delay_s: float = 0.0) -> Trial:
    return Trial(start_s=0.0, seconds=10.0 + delay_s, delay_s=delay_s, runs=100, joules=joules, state=DeviceState())


def test_figures_derive_from_trials() -> None:
    """Gross and net energy of a run, and what makes them uncertain, by hand."""
    cadence = Cadence(period_s=0.1, seen_s=0.1)
    found = Measured(source="x", cadence=cadence, trials=(trial(2990.0), trial(3010.0)), idle_w=(50.0, 70.0))
    assert found.run_s == 0.1
    assert found.gross.joules == 30.0
    assert found.gross.uncertainty == pytest.approx(hypot(0.1, 0.05 * 30.0, 0.1 / 10 / 6**0.5 * 30.0))
    assert found.net.joules == pytest.approx(30.0 - 60.0 * 0.1)
    assert found.net.uncertainty == pytest.approx(hypot(found.gross.uncertainty, 10.0 * 0.1))
    delayed = Measured(source="x", cadence=cadence, trials=(trial(3012.0, delay_s=0.2),) * 2, idle_w=(60.0, 60.0))
    assert delayed.run_s == 0.1
    assert delayed.gross.joules == pytest.approx(30.0)


def test_differences_that_a_meter_cannot_tell() -> None:
    """Two boards' energies under 5 % apart, or within their uncertainties, are not resolved."""
    assert not resolved(Energy(1.0, 0.001), Energy(1.049, 0.001))
    assert resolved(Energy(1.0, 0.001), Energy(1.06, 0.001))
    assert not resolved(Energy(1.0, 0.05), Energy(1.06, 0.05))


def test_quantisation_is_that_of_two_edges() -> None:
    """The standard deviation of a difference of two uniform offsets, by simulation."""
    offsets = np.random.default_rng(0).uniform(0.0, 0.1, (2, 100_000))
    assert quantisation(Cadence(period_s=0.1, seen_s=0.1), 5.0) == pytest.approx(float(np.std(offsets[0] - offsets[1])) / 5.0, rel=0.01)


@pytest.mark.parametrize("wrong", [{"trials": 1}, {"runs": 0}, {"seconds": 0.0}, {"idle_s": -1.0}, {"retries": -1}])
def test_plans_that_measure_nothing(wrong: dict[str, int]) -> None:
    """A plan without trials, runs or time is a mistake."""
    with pytest.raises(ValueError, match="two trials"):
        Plan(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"period_s": 0.1, "seen_s": 0.2}, {"period_s": 0.1, "seen_s": 0.0}, {"period_s": 0.1, "seen_s": 0.1, "lag_s": -1.0}]
)
def test_meters_that_cannot_be(wrong: dict[str, float]) -> None:
    """A meter sees part of each period, and does not foretell."""
    with pytest.raises(ValueError, match="a part of each period"):
        Cadence(**wrong)
