"""Time, as something that is handed in: tests of a minute's measuring take a millisecond."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Clock(Protocol):
    """Time that passes."""

    def now(self) -> float:
        """Seconds since some moment; never goes back."""
        ...

    def sleep(self, seconds: float) -> None:
        """Returns so much later."""
        ...

    def every(self, period_s: float, callback: Callable[[], None]) -> AbstractContextManager[None]:
        """Calls back again and again while the context is open, beside what runs in it; never after it is closed."""
        ...


class SystemClock:
    """The time of this machine."""

    def now(self) -> float:
        """Seconds since some moment; never goes back."""
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        """Returns so much later."""
        time.sleep(seconds)

    @contextmanager
    def every(self, period_s: float, callback: Callable[[], None]) -> Iterator[None]:
        """Calls back again and again in a thread of its own while the context is open."""
        closed = threading.Event()

        def repeat() -> None:
            while not closed.wait(period_s):
                callback()

        thread = threading.Thread(target=repeat, name="hwnas-watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            closed.set()
            thread.join()
