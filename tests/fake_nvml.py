"""A scripted NVIDIA driver under the real client, and a clock that moves only when it is told to.

`fake_nvml.c` says what a script can hold. The library is handed to pynvml directly, not through the loader: a library that was once loaded
by its name stays visible under that name, and the tests of machines without a driver would find it.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_suffix(".c")
LIBRARY = "libnvidia-ml.so.1"
A100 = """card
name NVIDIA A100-SXM4-40GB
uuid GPU-0a
capability 8 0
memory 42949672960
clocks 1410 1215 1095
"""


def build(folder: Path) -> Path:
    """Compiles the driver; the folder is then fit for LD_LIBRARY_PATH."""
    library = folder / LIBRARY
    subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", library, SOURCE, "-lm"], check=True)
    return library


class FakeDriver:
    """The driver, loaded into this process under no name."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))
        self.library.fake_nvml_now.restype = self.library.fake_nvml_joules.restype = ctypes.c_double
        self.library.fake_nvml_advance.argtypes = [ctypes.c_double]
        self._script = library.with_name(f"script-{id(self)}")

    @contextmanager
    def under(self, pynvml: Any) -> Iterator[FakeDriver]:
        """Stands in for the driver behind the client."""
        before, pointers = pynvml.nvmlLib, dict(pynvml._nvmlGetFunctionPointer_cache)
        pynvml.nvmlLib = self.library
        pynvml._nvmlGetFunctionPointer_cache.clear()
        try:
            yield self
        finally:
            pynvml.nvmlLib = before
            pynvml._nvmlGetFunctionPointer_cache.clear()
            pynvml._nvmlGetFunctionPointer_cache.update(pointers)

    def load(self, script: str) -> VirtualClock:
        """Begins a script at time 0."""
        self._script.write_text(script)
        assert self.library.fake_nvml_load(str(self._script).encode()) == 0
        return VirtualClock(self.library)

    def joules(self, card: int = 0) -> float:
        """The true energy of a card until now."""
        return float(self.library.fake_nvml_joules(card))


class VirtualClock:
    """Satisfies `hwnas.devices.clock.Clock` with the time of the fake driver."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._due: list[tuple[float, float, Callable[[], None]]] = []

    def now(self) -> float:
        """Seconds since the script began."""
        return float(self._library.fake_nvml_now())

    def sleep(self, seconds: float) -> None:
        """Lets time pass, and whatever is to be called meanwhile be called."""
        end = self.now() + seconds
        while self._due and min(self._due)[0] <= end:
            when, period, callback = min(self._due, key=lambda row: row[0])
            self._library.fake_nvml_advance(max(0.0, when - self.now()))
            self._due.remove((when, period, callback))
            self._due.append((when + period, period, callback))
            callback()
        self._library.fake_nvml_advance(max(0.0, end - self.now()))

    @contextmanager
    def every(self, period_s: float, callback: Callable[[], None]) -> Iterator[None]:
        """Calls back again and again while the context is open."""
        self._due.append((self.now() + period_s, period_s, callback))
        try:
            yield
        finally:
            self._due = [row for row in self._due if row[2] is not callback]


class Work:
    """A network that runs on the fake card: each run takes so long, and draws the power that the script says."""

    def __init__(self, driver: FakeDriver, clock: VirtualClock, seconds: float, card: int = 0) -> None:
        self.driver, self.clock, self.seconds, self.card = driver, clock, seconds, card
        self.truth: list[tuple[float, float]] = []
        """Of each run: when it began, and its true energy in J."""

    def __call__(self, runs: int) -> None:
        """Runs it so many times; synchronised when it returns."""
        for _ in range(runs):
            began, before = self.clock.now(), self.driver.joules(self.card)
            self.driver.library.fake_nvml_run(self.card)
            self.clock.sleep(self.seconds)
            self.truth.append((began, self.driver.joules(self.card) - before))
        self.driver.library.fake_nvml_idle(self.card)
