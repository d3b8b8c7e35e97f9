"""The energy of some of a profile's networks: few, since a meter needs most of a minute for each, and spread over all latencies.

Which networks are measured, and in which order, follows from the profile alone: however early the time is up, those that were measured are
spread. Every network is in a journal as soon as it was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, count
from typing import Any

import numpy as np
import pyarrow as pa

from hwnas.devices import Cadence, Device, DeviceState, EnergyMeter, Unavailable
from hwnas.devices.clock import Clock, SystemClock
from hwnas.devices.energy import Measured, Trial, measure
from hwnas.devices.energy import Plan as Trials
from hwnas.errors import UsageError
from hwnas.ir import Graph
from hwnas.profiling.lines import Lines
from hwnas.profiling.profile import NetworkRecord, Profile
from hwnas.profiling.waves import Stage
from hwnas.runtimes.base import Runtime
from hwnas.spaces import SearchSpace

PATIENCE = 3  # networks in a row without a reading after which the device is given up
USUAL_S = 45.0  # that a network takes

_STATE = ("clock_hz", "memory_clock_hz", "temperature_c", "power_w", "clock_events")
_TRIAL = pa.struct(
    [
        *((name, pa.float64()) for name in ("start_s", "seconds", "delay_s", "joules")),
        ("runs", pa.int64()),
        *((name, pa.float64()) for name in _STATE[:-1]),
        ("clock_events", pa.list_(pa.string())),
    ]
)
SCHEMA = pa.schema(
    [
        ("network", pa.int32()),
        ("source", pa.string()),
        *((name, pa.float64()) for name in ("period_s", "seen_s", "lag_s", "idle_before_w", "idle_after_w")),
        ("notes", pa.list_(pa.string())),
        ("trials", pa.list_(_TRIAL)),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyPlan:
    """How much energy to measure.

    Attributes:
        max_time_s: wall-clock limit, over all sessions of an energy measurement that is resumed.
        trials: of each network.
    """

    max_time_s: float = 1200.0
    trials: Trials = field(default_factory=Trials)

    def __post_init__(self) -> None:
        if self.max_time_s <= 0:
            raise UsageError(f"the time for measuring energy must be positive, got {self.max_time_s} s; try --energy-time 20m")


@dataclass(frozen=True, slots=True, kw_only=True)
class Energies:
    """What is known of a profile's energy.

    Attributes:
        measured: by number of the network.
        refused: why there is no reading of a network, by its number.
        reason: why there are no more, empty where the time or the networks ran out.
        spent_s: wall-clock time.
    """

    measured: Mapping[int, Measured]
    refused: Mapping[int, str]
    reason: str = ""
    spent_s: float = 0.0


class EnergyProfiler:
    """Measures the energy of a profile's networks.

    Args:
        device: with the meter.
        runtime: builds and runs.
        space: whose networks the profile holds.
        clock: time, and waiting.
    """

    def __init__(self, device: Device, runtime: Runtime, space: SearchSpace, clock: Clock | None = None) -> None:
        self._device, self._runtime, self._space, self._clock = device, runtime, space, clock or SystemClock()

    def run(
        self, profile: Profile, journal: Lines, plan: EnergyPlan, *, report: Callable[[int, float], None] = lambda *_: None
    ) -> Energies | Unavailable:
        """Measures until the time is up, going on with what the profile and the journal hold.

        The journal stays until the caller has stored what was measured.

        Args:
            profile: finished.
            journal: of its energy.
            plan: how long to measure.
            report: called with the number of networks measured and the seconds spent, after every network.

        Returns:
            What was measured, or why the device has no meter.

        Raises:
            UsageError: what is there is of another profile or another meter.
        """
        meter = self._device.energy_meter()
        if isinstance(meter, Unavailable):
            return meter
        measured, refused, before_s = self._open(profile, journal, meter)
        start_s = self._clock.now()

        def spent_s() -> float:
            return before_s + self._clock.now() - start_s

        longest_s, in_vain, reason = USUAL_S, 0, ""
        report(len(measured), spent_s())
        for network in in_order(profile.networks):
            if network.id in measured or network.id in refused:
                continue
            began = spent_s()
            if measured and began + longest_s > plan.max_time_s:
                break
            found = self._measure(profile, network, meter, plan.trials)
            longest_s = spent_s() - began
            if isinstance(found, Unavailable):
                refused[network.id], reason, in_vain = found.reason, found.reason, in_vain + 1
                journal.append({"network": network.id, "refused": found.reason, "spent_s": spent_s()})
            else:
                measured[network.id], reason, in_vain = found, "", 0
                journal.append({"network": network.id, "measured": to_row(network.id, found), "spent_s": spent_s()})
            report(len(measured), spent_s())
            if in_vain == PATIENCE:
                break
        return Energies(measured=measured, refused=refused, reason=reason if in_vain == PATIENCE else "", spent_s=spent_s())

    @staticmethod
    def _open(profile: Profile, journal: Lines, meter: EnergyMeter) -> tuple[dict[int, Measured], dict[int, str], float]:
        """What was measured already: that of the profile, and that of the journal."""
        measured = dict(profile.energies)
        sources = {found.source for found in measured.values()} - {meter.source}
        if sources:
            raise UsageError(
                f"the profile's energy was read by '{sources.pop()}', and this device is read by '{meter.source}', which are different "
                f"quantities; profile again with --energy"
            )
        header = {"profile": profile.digest, "source": meter.source}
        if not journal.exists():
            journal.start(header)
            return measured, {}, 0.0
        recorded, rows = journal.read_lines()
        for key, value in header.items():
            if recorded.get(key) != value:
                device = profile.setting.device
                raise UsageError(
                    f"the unfinished energy of '{device}' has {key} '{recorded.get(key)}', this call '{value}'; drop it with --restart"
                )
        measured |= {row["network"]: from_row(row["measured"]) for row in rows if "measured" in row}
        refused = {row["network"]: str(row["refused"]) for row in rows if "refused" in row}
        return measured, refused, rows[-1]["spent_s"] if rows else 0.0

    def _measure(self, profile: Profile, network: NetworkRecord, meter: EnergyMeter, trials: Trials) -> Measured | Unavailable:
        graph = self._space.graph(network.genotype, batch=profile.setting.batch)
        seed, precision = (profile.seed, network.id), profile.setting.precision
        return measure_call(self._device, meter, self._runtime, graph, precision=precision, seed=seed, plan=trials, clock=self._clock)


def measure_call(
    device: Device,
    meter: EnergyMeter,
    runtime: Runtime,
    graph: Graph,
    *,
    precision: str,
    seed: tuple[int, ...],
    plan: Trials | None = None,
    clock: Clock | None = None,
) -> Measured | Unavailable:
    """The energy of one call of a network.

    Args:
        device: that tells its state.
        meter: of the device.
        runtime: builds and runs.
        graph: at the batch size that a call has.
        precision: of the arithmetic.
        seed: of the pauses before trials.
        plan: how long to measure.
        clock: time, and waiting.
    """
    stage = Stage.build(runtime, graph, precision=precision, seed=0)
    stage.work(2)  # what is loaded or allocated at first belongs to no trial
    return measure(meter, stage.work, rng=np.random.default_rng(seed), state=device.state, plan=plan, clock=clock)


def in_order(networks: Sequence[NetworkRecord]) -> Iterator[NetworkRecord]:
    """All networks, so that the first few are always spread over the ranks of latency: the ends, the middle, the quarters, ...

    Positions are those of van der Corput's sequence in base 2.
    """
    ranked = sorted(networks, key=lambda network: (network.latency_s, network.id))
    positions = chain((0.0, 1.0), map(_mirrored, count(1)))
    told: set[int] = set()
    while len(told) < len(ranked):
        place = round(next(positions) * (len(ranked) - 1))
        if place not in told:
            told.add(place)
            yield ranked[place]


def _mirrored(number: int) -> float:
    """A whole number's binary digits behind the point, in reverse."""
    found, weight = 0.0, 0.5
    while number:
        found += weight * (number & 1)
        number, weight = number >> 1, weight / 2
    return found


def to_row(network: int, measured: Measured) -> dict[str, Any]:
    """A row of the table, of plain values."""
    before, after = measured.idle_w
    trials = []
    for trial in measured.trials:
        plain = asdict(trial)
        state = plain.pop("state")
        trials.append({**plain, **{name: state[name] for name in _STATE}})
    cadence = asdict(measured.cadence)
    idle = {"idle_before_w": before, "idle_after_w": after}
    return {"network": network, "source": measured.source, **cadence, **idle, "notes": list(measured.notes), "trials": trials}


def from_row(row: Mapping[str, Any]) -> Measured:
    """What `to_row` wrote."""
    trials = []
    for plain in row["trials"]:
        events = plain["clock_events"]
        state = DeviceState(**{name: plain[name] for name in _STATE[:-1]}, clock_events=None if events is None else tuple(events))
        trials.append(Trial(**{key: value for key, value in plain.items() if key not in _STATE}, state=state))
    return Measured(
        source=row["source"],
        cadence=Cadence(period_s=row["period_s"], seen_s=row["seen_s"], lag_s=row["lag_s"]),
        trials=tuple(trials),
        idle_w=(row["idle_before_w"], row["idle_after_w"]),
        notes=tuple(row["notes"]),
    )
