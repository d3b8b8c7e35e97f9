"""A scripted NVIDIA driver under the real client, and work on its cards.

`fake_nvml.c` says what a script can hold. The library is handed to pynvml directly, not through the loader: a library that was once loaded
by its name stays visible under that name, and the tests of machines without a driver would find it.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from virtual_clock import VirtualClock

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
        self.library = ctypes.PyDLL(str(library))  # keeps the interpreter's lock: the driver is not made for threads
        self.library.fake_nvml_joules.restype = ctypes.c_double
        self.library.fake_nvml_advance.argtypes = [ctypes.c_double]
        self.library.fake_nvml_draw.argtypes = [ctypes.c_int, ctypes.c_double]
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
        return VirtualClock(self.library.fake_nvml_advance)

    def joules(self, card: int = 0) -> float:
        """The true energy of a card until now."""
        return float(self.library.fake_nvml_joules(card))


class Work:
    """A network that runs on a fake card and draws the power that the script says.

    Args:
        driver: of the card.
        clock: that the runs move.
        seconds: of each run.
        jitter: by which part of it runs differ, as a standard deviation.
        card: its index.
    """

    def __init__(self, driver: FakeDriver, clock: VirtualClock, seconds: float, *, jitter: float = 0.0, card: int = 0) -> None:
        self.driver, self.clock, self.seconds, self.jitter, self.card = driver, clock, seconds, jitter, card
        self._rng = np.random.default_rng(0)
        self.truth: list[tuple[float, float]] = []
        """Of each run: when it began, and its true energy in J."""

    def __call__(self, runs: int) -> None:
        """Runs it so many times; synchronised when it returns."""
        for _ in range(runs):
            began, before = self.clock.now(), self.driver.joules(self.card)
            self.driver.library.fake_nvml_run(self.card)
            self.clock.sleep(self.seconds * max(0.0, 1 + self.jitter * self._rng.standard_normal()))
            self.truth.append((began, self.driver.joules(self.card) - before))
        self.driver.library.fake_nvml_idle(self.card)

    def joules(self, windows: Iterable[tuple[float, float]]) -> float:
        """True energy of a run, the mean over those that began in a window; each window is given by its start and its length."""
        return float(
            np.mean([joules for start, length in windows for began, joules in self.truth if start - 1e-4 <= began < start + length])
        )

    def steady_joules(self, runs: int = 100) -> float:
        """True energy of a run after many others, without a pause anywhere; moves the clock."""
        self(round(2 / self.seconds) + runs)
        return float(np.mean([joules for _, joules in self.truth[-runs:]]))
