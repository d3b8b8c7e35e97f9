"""The energy of processor packages and their memory, from RAPL counters that Linux shows as a powercap tree.

The counters count all that runs on the packages, not this process alone. They move about every millisecond and begin again at 0 after
`max_energy_range_uj`. Kernels since 5.10 show them to root only.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import hypot
from pathlib import Path

from hwnas.devices.base import Cadence, Energy, Unavailable
from hwnas.devices.clock import Clock, SystemClock
from hwnas.devices.energy import SYSTEMATIC, quantisation

POWERCAP = Path("/sys/class/powercap")
LOOK_S = 10.0  # between two looks in a long window; the smallest counters begin anew after a minute at the earliest
FEWEST_RENEWALS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """One counter: a package, or the memory beside it.

    Attributes:
        folder: in the tree.
        range_j: energy after which the counter begins again at 0.
    """

    folder: Path
    range_j: float

    def joules(self) -> float:
        """What the counter says now; `OSError` or `ValueError` where it does not."""
        return int((self.folder / "energy_uj").read_text()) * 1e-6


def rapl_meter(tree: Path = POWERCAP, clock: Clock | None = None) -> RaplMeter | Unavailable:
    """The meter of this machine's processors, or why there is none.

    Args:
        tree: of powercap zones.
        clock: time, and the thread that looks at the counters in long windows.
    """
    folders = sorted(folder for folder in tree.glob("intel-rapl:*") if _counts(folder))  # AMD's too are called so
    if not folders:
        return Unavailable(f"this machine has no energy counter (no RAPL under {tree}; usual in virtual machines)")
    try:
        zones = tuple(Zone(folder=folder, range_j=int((folder / "max_energy_range_uj").read_text()) * 1e-6) for folder in folders)
        for zone in zones:
            zone.joules()
    except PermissionError as error:
        remedy = f"run as root, or let root run: chmod a+r {tree}/intel-rapl:*/energy_uj {tree}/intel-rapl:*/intel-rapl:*/energy_uj"
        return Unavailable(f"this machine's RAPL counters are closed to this user ('{error.filename}'); {remedy}")
    except (OSError, ValueError) as error:
        return Unavailable(_unreadable(error))
    return RaplMeter(zones, clock or SystemClock())


def _counts(folder: Path) -> bool:
    """Whether a zone is to be added up: packages, and memory beside them; not parts of packages, nor the platform that holds them all."""
    try:
        name = (folder / "name").read_text().strip()
    except OSError:
        return False
    return name.startswith("package") or name == "dram"


def _unreadable(error: Exception) -> str:
    return f"this machine's RAPL counters cannot be read ({type(error).__name__}: {error})"


class RaplMeter:
    """Satisfies `hwnas.devices.EnergyMeter`; `rapl_meter` makes one.

    Args:
        zones: that are added up.
        clock: time, and the thread that looks at the counters in long windows.
    """

    source = "rapl"
    cadence = Cadence(period_s=0.001, seen_s=0.001)

    def __init__(self, zones: tuple[Zone, ...], clock: Clock) -> None:
        self.zones = zones
        self._clock = clock
        self._watch: AbstractContextManager[None] | None = None
        self._last_j: list[float] = []
        self._joules, self._start_s, self._lost = 0.0, 0.0, ""

    def start(self) -> None:
        """Begins a window; why it cannot be trusted, if so, is told by `stop`."""
        if self._watch is not None:
            raise RuntimeError("the window of this meter is open already: stop() it before the next start()")
        self._last_j, self._joules, self._lost = [], 0.0, ""
        self._look()
        self._start_s = self._clock.now()
        self._watch = self._clock.every(LOOK_S, self._look)
        self._watch.__enter__()

    def stop(self) -> Energy | Unavailable:
        """Ends the window."""
        if self._watch is None:
            raise RuntimeError("no window of this meter is open: start() it first")
        watch, self._watch = self._watch, None
        watch.__exit__(None, None, None)
        self._look()
        seconds = self._clock.now() - self._start_s
        if self._lost:
            return Unavailable(self._lost)
        if seconds < FEWEST_RENEWALS * self.cadence.period_s:
            return Unavailable(f"a window of {seconds:.2g} s is too short for counters that move every {self.cadence.period_s} s")
        if self._joules <= 0:
            return Unavailable(f"this machine's RAPL counters did not move in {seconds:.2g} s")
        return Energy(self._joules, self._joules * hypot(SYSTEMATIC, quantisation(self.cadence, seconds)))

    def _look(self) -> None:
        """Adds what the counters counted since the last look; what goes wrong is kept, since this may run in a thread."""
        try:
            now_j = [zone.joules() for zone in self.zones]
        except (OSError, ValueError) as error:
            self._lost = self._lost or _unreadable(error)
            return
        for zone, now, last in zip(self.zones, now_j, self._last_j or now_j, strict=True):
            self._joules += now - last if now >= last else now - last + zone.range_j
        self._last_j = now_j
