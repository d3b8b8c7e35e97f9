"""Samples count only while the device does what it would do undisturbed."""

from __future__ import annotations

import pytest
from virtual_clock import VirtualClock

from hwnas.devices import DeviceState
from hwnas.errors import MeasurementError
from hwnas.profiling import Batch, Guard
from hwnas.profiling.steady import graded
from hwnas.testing import FakeDevice

CALM = DeviceState(clock_hz=1.4e9, default_clock_hz=1.1e9, clock_events=())
HOT = DeviceState(clock_hz=0.7e9, default_clock_hz=1.1e9, clock_events=("software thermal slowdown",))


@pytest.mark.parametrize(
    ("state", "grade"),
    [
        (CALM, "A"),
        (HOT, "C"),
        (DeviceState(clock_hz=0.82e9, default_clock_hz=1.1e9, clock_events=()), "C"),
        (DeviceState(clock_hz=0.83e9, default_clock_hz=1.1e9, clock_events=()), "A"),
        (DeviceState(clock_hz=0.2e9, default_clock_hz=1.1e9, clock_events=("idle",)), "A"),
        (DeviceState(clock_hz=1e9, default_clock_hz=1.1e9, clock_events=("software power cap",)), "B"),
        (DeviceState(clock_hz=0.2e9, clock_events=()), "A"),
        (DeviceState(), "B"),
    ],
)
def test_grades(state: DeviceState, grade: str) -> None:
    """Slowdowns and clocks under 75 % of the default are dropped, save on an idle card; power caps and silence are flagged."""
    found, reason = graded(state)
    assert found == grade
    assert bool(reason) == (grade != "A")


def test_a_batch_is_taken_until_it_counts() -> None:
    """Each attempt waits longer than the last; only what was taken undisturbed comes back, and every batch is on record."""
    clock, told, taken = VirtualClock(), list[Batch](), iter(range(9))
    guard = Guard(FakeDevice(states=[HOT, HOT, CALM]).state, clock)
    assert guard.take(7, lambda: next(taken), round_=3, note=told.append) == 2
    assert [(batch.grade, batch.item, batch.round, batch.when_s) for batch in told] == [("C", 7, 3, 0), ("C", 7, 3, 2), ("A", 7, 3, 6)]
    assert told[0].clock_events == ("software thermal slowdown",)


def test_a_device_that_stays_slow() -> None:
    """It is given up, in one line that says what to do."""
    guard = Guard(FakeDevice(states=[HOT]).state, VirtualClock(), (1.0, 2.0))
    told: list[Batch] = []
    with pytest.raises(MeasurementError, match=r"stays slow: .*3 times in a row over 3 s.*--resume"):
        guard.take(0, lambda: None, round_=0, note=told.append)
    assert [batch.grade for batch in told] == ["C", "C", "C"]
