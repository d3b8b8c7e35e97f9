"""A clock that moves only when it is told to: a minute of measuring takes a test no time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class VirtualClock:
    """Satisfies `hwnas.devices.clock.Clock`.

    Args:
        passing: told of all time that passes, in s; whatever else lives by this clock moves then.
    """

    def __init__(self, passing: Callable[[float], object] = lambda seconds: None) -> None:
        self._passing = passing
        self._now_s = 0.0
        self._due: list[tuple[float, float, Callable[[], None]]] = []

    def now(self) -> float:
        """Seconds since it was made."""
        return self._now_s

    def sleep(self, seconds: float) -> None:
        """Lets time pass, and whatever is due meanwhile be called."""
        end = self._now_s + seconds
        while self._due and (row := min(self._due, key=lambda row: row[0]))[0] <= end:
            when, period_s, callback = row
            self._pass(when)
            self._due[self._due.index(row)] = (when + period_s, period_s, callback)
            callback()
        self._pass(end)

    @contextmanager
    def every(self, period_s: float, callback: Callable[[], None]) -> Iterator[None]:
        """Calls back again and again while the context is open."""
        self._due.append((self._now_s + period_s, period_s, callback))
        try:
            yield
        finally:
            self._due = [row for row in self._due if row[2] is not callback]

    def _pass(self, until: float) -> None:
        self._passing(until - self._now_s)
        self._now_s = until
