"""Time, and what is called back meanwhile."""

from __future__ import annotations

import threading

import pytest

from hwnas.devices.clock import Clock, SystemClock


def test_time_passes() -> None:
    """Time does not go back, and a sleep lasts at least as long as it was told to."""
    clock: Clock = SystemClock()
    before = clock.now()
    clock.sleep(0.01)
    assert clock.now() - before >= 0.01


def test_calls_back_while_open() -> None:
    """Calls come beside what runs, again and again, and never after the context is closed."""
    calls: list[int] = []
    twice = threading.Event()

    def call() -> None:
        calls.append(threading.get_ident())
        if len(calls) == 2:
            twice.set()

    with SystemClock().every(0.001, call):
        assert twice.wait(60.0)
    closed = len(calls)
    assert threading.get_ident() not in calls
    assert not any(thread.name == "hwnas-watch" for thread in threading.enumerate())
    SystemClock().sleep(0.01)
    assert len(calls) == closed


def test_an_error_closes_it() -> None:
    """What fails inside ends the calls."""
    with pytest.raises(RuntimeError, match="inside"), SystemClock().every(0.001, lambda: None):
        raise RuntimeError("inside")
    assert not any(thread.name == "hwnas-watch" for thread in threading.enumerate())
