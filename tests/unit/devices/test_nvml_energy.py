"""A window of the energy counter of an NVIDIA card, through the real client: a reading, or why there is none."""

from __future__ import annotations

from collections.abc import Callable
from math import hypot

import pytest
from fake_nvml import A100, FakeDriver, Work
from virtual_clock import VirtualClock

from hwnas.devices import Cadence, Energy, EnergyMeter, Unavailable
from hwnas.devices.clock import SystemClock
from hwnas.devices.nvml import cards
from hwnas.devices.nvml_energy import UNKNOWN, NvmlMeter, PowerSensor, nvml_meter
from hwnas.testing.conformance import EnergyMeterConformance

AMPERE = PowerSensor(cadence=Cadence(period_s=0.1, seen_s=0.025))
NOT_SUPPORTED, LOST, UNKNOWN_ERROR = 3, 15, 999
Load = Callable[[str], tuple[VirtualClock, NvmlMeter]]


@pytest.fixture
def load(driver: FakeDriver) -> Load:
    """`load(script)`: an A100 with that script, and its meter."""

    def loaded(script: str, sensor: PowerSensor = AMPERE) -> tuple[VirtualClock, NvmlMeter]:
        clock = driver.load(A100 + script)
        meter = nvml_meter(cards()[0], sensor, clock)
        assert isinstance(meter, NvmlMeter)
        return clock, meter

    return loaded


def window(driver: FakeDriver, clock: VirtualClock, meter: EnergyMeter, seconds: float = 5.0, run_s: float = 0.01) -> Energy | Unavailable:
    """A window that is full of work; the card worked before it already."""
    work = Work(driver, clock, run_s)
    work(round(1 / run_s))
    meter.start()
    work(round(seconds / run_s))
    return meter.stop()


def refused(found: Energy | Unavailable, *, passing: bool = False) -> str:
    assert isinstance(found, Unavailable)
    assert found.passing is passing
    assert "\n" not in found.reason
    return found.reason


def test_a_window_of_constant_power(driver: FakeDriver, load: Load) -> None:
    """Power times time; uncertain by 5 % and by where the edges fall between the counter's updates."""
    clock, meter = load("power constant 300\n")
    energy = window(driver, clock, meter)
    assert isinstance(energy, Energy)
    assert energy.joules == pytest.approx(1500.0, rel=0.021)  # one update of 0.1 s at either edge
    assert energy.uncertainty == pytest.approx(energy.joules * hypot(0.05, 0.1 / 5 / 6**0.5), rel=1e-6)
    assert energy.notes == ()
    assert meter.source == "nvml-counter"


class TestNvmlMeter(EnergyMeterConformance):
    @pytest.fixture(autouse=True)
    def card(self, load: Load) -> None:
        self.clock, self.card_meter = load("power constant 300\n")

    @pytest.fixture
    def meter(self) -> EnergyMeter:
        return self.card_meter

    def wait(self, seconds: float) -> None:
        self.clock.sleep(seconds)


def test_the_counter_is_read_at_the_edges_only(driver: FakeDriver, load: Load) -> None:
    """A counter that fails within a window, and answers at its edges, is not missed."""
    clock, meter = load(f"power constant 300\nfail energy {NOT_SUPPORTED} 2 5\n")
    assert isinstance(window(driver, clock, meter), Energy)


def test_the_check_reads_the_power_that_it_was_told_to(driver: FakeDriver, load: Load) -> None:
    """A part's average reading may be right where its other one is not."""
    script = f"power constant 300\nfail power {NOT_SUPPORTED} 0 ever\n"
    averaged = PowerSensor(reading="average", cadence=Cadence(period_s=0.1, seen_s=0.1, lag_s=1.0))
    clock, meter = load(script, averaged)
    work = Work(driver, clock, 0.01)
    work(200)
    meter.start()
    work(500)
    assert isinstance(meter.stop(), Energy)


def test_mig_is_refused(driver: FakeDriver, load: Load) -> None:
    """A card split into instances has no meter; one that is split later gives no reading."""
    driver.load(A100 + "mig 1\n")
    assert "MIG" in refused(nvml_meter(cards()[0]))
    clock, meter = load("power constant 300\n")
    driver.load(A100 + "mig 1\n")  # the driver is told anew; the meter asks it again
    import pynvml

    pynvml.nvmlInit()
    assert "MIG" in refused(window(driver, clock, meter))


def test_a_card_without_a_counter_has_no_meter(driver: FakeDriver) -> None:
    """Without the counter, or without the power that checks it, there is no meter."""
    driver.load(A100 + f"fail energy {NOT_SUPPORTED} 0 ever\n")
    assert "no energy counter" in refused(nvml_meter(cards()[0]))
    driver.load(A100 + f"fail power {NOT_SUPPORTED} 0 ever\n")
    assert "does not tell its power ('usage')" in refused(nvml_meter(cards()[0]))
    driver.load(A100 + f"fail average {NOT_SUPPORTED} 0 ever\n")
    assert "does not tell its power ('average')" in refused(nvml_meter(cards()[0], PowerSensor(reading="average")))


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("process 1 0 ever\n", "the card is shared: other processes compute on it (1)"),
        ("process 1 4 ever\n", "the card is shared"),
        (f"fail processes {NOT_SUPPORTED} 0 ever\nfail processes_v2 {NOT_SUPPORTED} 0 ever\n", "does not tell which processes"),
        (f"fail energy {NOT_SUPPORTED} 4 ever\n", "the card's energy counter went missing"),
        (f"fail energy {NOT_SUPPORTED} 0.5 1.5\n", "the card's energy counter went missing"),
        (f"fail energy {UNKNOWN_ERROR} 4 ever\n", "does not answer: Unknown Error"),
        (f"fail energy {UNKNOWN_ERROR} 0.5 1.5\n", "does not answer: Unknown Error"),
        (f"fail power {NOT_SUPPORTED} 2 3\n", "power readings, by which its energy counter is checked, went missing"),
        (f"fail power {UNKNOWN_ERROR} 2 3\n", "does not answer: Unknown Error"),
        (f"fail all {LOST} 3 ever\n", "card 0 (NVIDIA A100-SXM4-40GB) does not answer: GPU is lost"),
        ("gain 0.94 1\n", "energy counter and power readings disagree: the power integrates to +6.4%; at most 5% is accepted"),
        ("gain 1 0.94\n", "energy counter and power readings disagree: the power integrates to -6.0%"),
        ("gain 0 1\n", "did not go on (by 0 J in 5 s)"),
        ("lag 2\n", "energy counter and power readings disagree"),
    ],
)
def test_what_cannot_be_trusted_is_refused(driver: FakeDriver, load: Load, script: str, said: str) -> None:
    """Others on the card, a counter or a check that fails, and two that disagree: each is a reason, and never a number."""
    clock, meter = load("power constant 300\n" + script)
    assert said in refused(window(driver, clock, meter))


@pytest.mark.parametrize(
    ("bits", "said"),
    [
        ("0x8", "hardware slowdown"),
        ("0x20", "software thermal slowdown"),
        ("0x40", "hardware thermal slowdown"),
        ("0x80", "hardware power brake"),
        ("0x60", "hardware thermal slowdown, software thermal slowdown"),
    ],
)
def test_a_slowed_card_is_refused_for_now(driver: FakeDriver, load: Load, bits: str, said: str) -> None:
    """A slowdown of a moment, anywhere in the window, spoils it; the reason may pass."""
    clock, meter = load(f"power constant 300\nevent {bits} 3 3.1 0.5\n")
    assert refused(window(driver, clock, meter), passing=True) == f"the card was slowed down ({said})"


def test_a_low_clock_is_refused_for_now(driver: FakeDriver, load: Load) -> None:
    """Work at less than 75 % of the default clock is not the work that was meant; an idle card may clock down."""
    clock, meter = load("power constant 300\nclocks 800 1215 1095\n")
    assert "clock was low (800 MHz, 75% of the default would be 821)" in refused(window(driver, clock, meter), passing=True)
    clock.sleep(1.0)
    meter.start()
    clock.sleep(5.0)
    assert isinstance(meter.stop(), Energy)
    clock, meter = load(f"power constant 300\nclocks 800 1215 1095\nfail default_clock {NOT_SUPPORTED} 0 ever\n")
    assert isinstance(window(driver, clock, meter), Energy)


def test_a_power_cap_is_noted(driver: FakeDriver, load: Load) -> None:
    """A card at its power limit does what it always does there: the reading stands, with a note. So does a card that is silent."""
    clock, meter = load("power constant 300\nevent 0x4 0 ever 0.8\n")
    capped = window(driver, clock, meter)
    assert isinstance(capped, Energy)
    assert capped.notes == ("software power cap",)
    clock, meter = load(f"power constant 300\nfail events {NOT_SUPPORTED} 0 ever\nfail throttle {NOT_SUPPORTED} 0 ever\n")
    silent = window(driver, clock, meter)
    assert isinstance(silent, Energy)
    assert silent.notes == ("the card does not tell what slows it down",)


def test_in_a_container_this_process_is_no_stranger(driver: FakeDriver, load: Load) -> None:
    """The driver lists this process under a number that its container does not know: one such is this one, two are not."""
    clock, meter = load("power constant 300\nown 0\nprocess 4194301 0 ever\n")
    assert isinstance(window(driver, clock, meter), Energy)
    clock, meter = load("power constant 300\nown 0\nprocess 4194301 0 ever\nprocess 4194302 0 ever\n")
    assert "other processes compute on it (4194302)" in refused(window(driver, clock, meter))


def test_a_short_window_is_refused(driver: FakeDriver, load: Load) -> None:
    """The counter moves every 0.1 s: a window of half a second says nothing."""
    clock, meter = load("power constant 300\n")
    assert "a window of 0.5 s is too short" in refused(window(driver, clock, meter, seconds=0.5))


def test_in_real_time(driver: FakeDriver) -> None:
    """By the system's clock, with the thread that reads the power: what the card used between the edges, to an update of either.

    Where this process is held up between the counter and the clock, the two disagree, and the window is refused: then there is another.
    """
    driver.load("clock real\n" + A100 + "sensor 0.01 0.01\ncounter exact 0.01\n")
    meter = nvml_meter(cards()[0], PowerSensor(cadence=Cadence(period_s=0.01, seen_s=0.01)))
    assert isinstance(meter, NvmlMeter)
    for _ in range(20):
        outer_j = driver.joules()
        meter.start()
        inner_j = driver.joules()
        SystemClock().sleep(0.4)
        inner_j = driver.joules() - inner_j
        energy = meter.stop()
        outer_j = driver.joules() - outer_j
        if isinstance(energy, Energy):
            assert inner_j - 60.0 * 0.02 <= energy.joules <= outer_j + 60.0 * 0.02
            return
        assert "disagree" in energy.reason
    pytest.fail("this process was held up at the edges of twenty windows")


def test_unknown_cards_are_taken_for_the_worst(driver: FakeDriver) -> None:
    """Where nothing is known of a card's sensor, it is taken to look a quarter of the time and to lag for a second."""
    driver.load(A100)
    meter = nvml_meter(cards()[0])
    assert isinstance(meter, NvmlMeter)
    assert meter.sensor == UNKNOWN
    assert meter.cadence.part_time
    assert meter.cadence.lag_s == 1.0
