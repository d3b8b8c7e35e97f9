"""Samples of a device only while it does what it would do undisturbed; what it said of itself stays on record.

Nobody here may lock a card's clock, so the card is asked instead: after every batch of samples it tells its clocks, its temperature, its
power and what holds its clock back. Samples taken on a slowdown, or below 75 % of the default clock, are dropped; the batch is taken again
after a pause, a longer one each time. A software power cap is flagged: that is how the card runs such work. Not yet run on hardware.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import pyarrow as pa

from hwnas.devices import DeviceState
from hwnas.devices.clock import Clock, SystemClock
from hwnas.devices.nvml import IDLE, POWER_CAP, SLOWDOWNS
from hwnas.devices.nvml_energy import SLOW
from hwnas.errors import MeasurementError

T = TypeVar("T")

Grade = Literal["A", "B", "C"]
BACK_OFF_S = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0)  # before each further attempt: two minutes in all, in which a hot card cools
WATCHED = -1
TOLD = ("clock_hz", "memory_clock_hz", "temperature_c", "power_w", "clock_events")
SCHEMA = pa.schema(
    [
        ("round", pa.int32()),
        ("item", pa.int32()),
        ("when_s", pa.float64()),
        ("grade", pa.string()),
        ("reason", pa.string()),
        ("clock_hz", pa.float64()),
        ("memory_clock_hz", pa.float64()),
        ("temperature_c", pa.float64()),
        ("power_w", pa.float64()),
        ("clock_events", pa.list_(pa.string())),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Some samples of a network in a row, and what the device said of itself right after them.

    Attributes:
        round: in which they were taken; `WATCHED` for the runs with the runtime's profiler on.
        item: number of the network; canaries are -1, -2, ...
        when_s: by the clock of that session.
        grade: A is undisturbed; B is flagged, by a software power cap or by a device that does not tell what slows it down; C was dropped.
        reason: of a grade below A, for people.
        clock_hz: and the others as in `DeviceState`.
        memory_clock_hz: of the device memory.
        temperature_c: of the die.
        power_w: of the board.
        clock_events: what held the clock back.
    """

    round: int
    item: int
    when_s: float
    grade: Grade
    reason: str = ""
    clock_hz: float | None = None
    memory_clock_hz: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    clock_events: tuple[str, ...] | None = None

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Batch:
        """From plain values, as a table or a journal gives them."""
        events = plain["clock_events"]
        return cls(**{**plain, "clock_events": None if events is None else tuple(events)})


def graded(state: DeviceState) -> tuple[Grade, str]:
    """The grade of samples after which a device says this, and why it is not the best."""
    events = state.clock_events
    slowdowns = sorted(SLOWDOWNS.intersection(events or ()))
    if slowdowns:
        return "C", f"slowed down ({', '.join(slowdowns)})"
    idle = events is not None and IDLE in events  # then its clock has fallen since
    if state.clock_hz and state.default_clock_hz and not idle and state.clock_hz < SLOW * state.default_clock_hz:
        return "C", f"its clock was low ({state.clock_hz / 1e6:.0f} MHz; the default is {state.default_clock_hz / 1e6:.0f} MHz)"
    if events is None:
        return "B", "does not tell what slows it down"
    return ("B", POWER_CAP) if POWER_CAP in events else ("A", "")


class Guard:
    """Lets samples pass that were taken on an undisturbed device.

    Args:
        state: of the device now.
        clock: time, and waiting.
        back_off_s: pauses before further attempts.
        remedy: what to do where the device stays slow.
    """

    def __init__(
        self,
        state: Callable[[], DeviceState],
        clock: Clock | None = None,
        back_off_s: tuple[float, ...] = BACK_OFF_S,
        remedy: str = "what was measured is kept: let it cool, or free it, and go on with --resume",
    ) -> None:
        self._state, self._clock, self._back_off_s, self._remedy = state, clock or SystemClock(), back_off_s, remedy

    def take(self, item: int, take: Callable[[], T], *, round_: int, note: Callable[[Batch], None]) -> T:
        """What `take` measures, taken again while the device is slowed down.

        Args:
            item: number of the network, for the record.
            take: measures; device synchronised when it returns.
            round_: for the record.
            note: told of every batch, of those that were dropped too.

        Raises:
            MeasurementError: the device stays slow.
        """
        for pause_s in (*self._back_off_s, None):
            found, state = take(), self._state()
            grade, reason = graded(state)
            told = {name: getattr(state, name) for name in TOLD}
            note(Batch(round=round_, item=item, when_s=self._clock.now(), grade=grade, reason=reason, **told))
            if grade != "C":
                return found
            if pause_s is not None:
                self._clock.sleep(pause_s)
        raise MeasurementError(
            f"the device stays slow: {reason}, {len(self._back_off_s) + 1} times in a row over {sum(self._back_off_s):.0f} s; "
            f"{self._remedy}"
        )
