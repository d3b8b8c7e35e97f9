"""The energy of a search's candidates and finalists, measured as `hwnas profile --energy` does, by the meter that was learned from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from hwnas.devices import Device, EnergyMeter, Unavailable, find
from hwnas.devices.clock import Clock, SystemClock
from hwnas.devices.energy import Measured
from hwnas.devices.energy import Plan as Trials
from hwnas.errors import DeviceUnavailable
from hwnas.ir import Graph
from hwnas.predict.energy import SOURCES
from hwnas.predict.energy_store import EnergyPredictor
from hwnas.profiling.energies import from_row, measure_call, to_row
from hwnas.runtimes.base import Runtime

NOT_MEASURED = Unavailable("it was not measured")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The energy of one call of a network, as a meter read it.

    Attributes:
        joules: with the device's idle power in it: what was predicted, and what limits are about.
        uncertainty_j: of it, as a standard deviation; that of the meter, which all networks share, included.
        net_joules: above idle power.
        net_uncertainty_j: of that.
        source: which meter, one of `hwnas.predict.energy.SOURCES`.
        notes: of the meter.
    """

    joules: float
    uncertainty_j: float
    net_joules: float
    net_uncertainty_j: float
    source: str
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, measured: Measured) -> Self:
        """What windows with work and without amount to."""
        gross, net = measured.gross, measured.net
        return cls(
            joules=gross.joules,
            uncertainty_j=gross.uncertainty,
            net_joules=net.joules,
            net_uncertainty_j=net.uncertainty,
            source=measured.source,
            notes=measured.notes,
        )

    @property
    def told(self) -> str:
        """How it was measured, for people."""
        return f"measured by {self.source}: {SOURCES[self.source]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metering:
    """A device whose energy can be read.

    Attributes:
        device: on this machine.
        meter: of it.
        plan: how long to measure.
        clock: time, and waiting.
    """

    device: Device
    meter: EnergyMeter
    plan: Trials
    clock: Clock

    def take(self, runtime: Runtime, graph: Graph, precision: str, seed: tuple[int, ...]) -> Mapping[str, Any] | Unavailable:
        """The windows of one network, as plain values for a record; takes most of a minute."""
        found = measure_call(self.device, self.meter, runtime, graph, precision=precision, seed=seed, plan=self.plan, clock=self.clock)
        return found if isinstance(found, Unavailable) else to_row(0, found)

    @staticmethod
    def read(row: Mapping[str, Any]) -> Reading:
        """What a record says."""
        return Reading.of(from_row(row))


def metering(device: str, learned: EnergyPredictor | None) -> Metering | Unavailable:
    """The meter of a device, or why none can be held against what was predicted.

    Args:
        device: as given to `--device`.
        learned: what predicted energy in this search, if anything did: energies of two meters are different quantities.
    """
    try:
        found = find(device)
        meter = found.energy_meter()
    except DeviceUnavailable as error:
        return Unavailable(str(error))
    if isinstance(meter, Unavailable):
        return meter
    if learned is not None and learned.model.source != meter.source:
        return Unavailable(
            f"energy was predicted as '{learned.model.source}' reads it, and this machine's meter is '{meter.source}', which are different "
            f"quantities; run 'hwnas profile --device {device} --energy' here"
        )
    return Metering(device=found, meter=meter, plan=Trials(), clock=SystemClock())
