"""Energy of processors from counters in files, as Linux shows them."""

from __future__ import annotations

from collections.abc import Mapping
from math import hypot
from pathlib import Path

import numpy as np
import pytest
from virtual_clock import VirtualClock

from hwnas.devices import Energy, EnergyMeter, Unavailable
from hwnas.devices.energy import Measured, measure
from hwnas.devices.rapl import RaplMeter, rapl_meter
from hwnas.testing.conformance import EnergyMeterConformance

RANGE_UJ = 262_143_328_850


class Machine:
    """A powercap tree whose counters go on with the power of each zone, as time passes."""

    def __init__(self, tree: Path, watts: Mapping[str, float], *, range_uj: int = RANGE_UJ, start_uj: int = 0) -> None:
        self.tree, self.watts, self.range_uj = tree, dict(watts), range_uj
        self.exact_uj = dict.fromkeys(self.watts, float(start_uj))
        for zone in self.watts:
            folder, name = self.folder(zone), zone.split("=")[1]
            folder.mkdir(parents=True)
            (folder / "name").write_text(name + "\n")
            (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
        self.clock = VirtualClock(self.go_on)
        self.go_on(0.0)

    def folder(self, zone: str) -> Path:
        return self.tree / zone.split("=")[0]

    def go_on(self, seconds: float) -> None:
        for zone, watts in self.watts.items():
            self.exact_uj[zone] += 1e6 * watts * seconds
            (self.folder(zone) / "energy_uj").write_text(f"{int(self.exact_uj[zone]) % self.range_uj}\n")

    def meter(self) -> RaplMeter:
        found = rapl_meter(self.tree, self.clock)
        assert isinstance(found, RaplMeter)
        return found

    def window(self, meter: RaplMeter, seconds: float) -> Energy | Unavailable:
        meter.start()
        self.clock.sleep(seconds)
        return meter.stop()


SERVER = {
    "intel-rapl:0=package-0": 100.0,
    "intel-rapl:0:0=dram": 10.0,
    "intel-rapl:0:1=core": 70.0,
    "intel-rapl:1=package-1": 80.0,
    "intel-rapl:1:0=dram": 8.0,
    "intel-rapl:2=psys": 300.0,
    "intel-rapl-mmio:0=package-0": 100.0,
}


def test_packages_and_their_memory_count_once(tmp_path: Path) -> None:
    """Parts of packages, the platform that holds them, and the second door to the same counter are left out."""
    machine = Machine(tmp_path, SERVER)
    energy = machine.window(machine.meter(), 5.0)
    assert isinstance(energy, Energy)
    assert energy.joules == pytest.approx(198.0 * 5)
    assert energy.uncertainty == pytest.approx(energy.joules * hypot(0.05, 0.001 / 5 / 6**0.5))


def test_a_counter_that_begins_anew(tmp_path: Path) -> None:
    """A counter that passes its range within a window goes on from 0, and no energy is lost; each zone does so at its own time."""
    machine = Machine(tmp_path, {"intel-rapl:0=package-0": 100.0, "intel-rapl:1=package-1": 1.0}, start_uj=RANGE_UJ - 150_000_000)
    energy = machine.window(machine.meter(), 5.0)
    assert isinstance(energy, Energy)
    assert energy.joules == pytest.approx(505.0, rel=1e-6)


def test_a_counter_that_begins_anew_again_and_again(tmp_path: Path) -> None:
    """In a long window a small counter wraps many times; it is looked at meanwhile."""
    machine = Machine(tmp_path, {"intel-rapl:0=package-0": 100.0}, range_uj=3_000_000_000)
    energy = machine.window(machine.meter(), 600.0)
    assert isinstance(energy, Energy)
    assert energy.joules == pytest.approx(60_000.0)


def test_no_counters(tmp_path: Path) -> None:
    """A machine without the tree, or without packages in it, has no meter, and never 0 J."""
    for tree in (tmp_path / "none", tmp_path):
        found = rapl_meter(tree)
        assert isinstance(found, Unavailable)
        assert "no energy counter (no RAPL under" in found.reason
    Machine(tmp_path, {"intel-rapl:2=psys": 300.0})
    assert isinstance(rapl_meter(tmp_path), Unavailable)


def test_counters_for_root_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counters that may not be read: which, and how to open them."""
    Machine(tmp_path, SERVER)
    real = Path.read_text

    def closed(path: Path) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_text", closed)
    found = rapl_meter(tmp_path)
    assert isinstance(found, Unavailable)
    assert f"closed to this user ('{tmp_path}/intel-rapl:0/energy_uj'); run as root" in found.reason
    assert "\n" not in found.reason


def test_counters_that_hold_no_number(tmp_path: Path) -> None:
    """A tree that cannot be read is a reason, not a traceback."""
    machine = Machine(tmp_path, SERVER)
    (machine.folder("intel-rapl:1=package-1") / "energy_uj").write_text("")
    found = rapl_meter(tmp_path)
    assert isinstance(found, Unavailable)
    assert "cannot be read (ValueError" in found.reason


def test_a_counter_that_goes_missing(tmp_path: Path) -> None:
    """A counter that is gone at the end, or for a moment in a long window, makes the whole window unavailable."""
    machine = Machine(tmp_path, {"intel-rapl:0=package-0": 100.0})
    meter = machine.meter()
    meter.start()
    machine.clock.sleep(5.0)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    found = meter.stop()
    assert isinstance(found, Unavailable)
    assert "FileNotFoundError" in found.reason
    machine.go_on(0.0)
    assert isinstance(machine.window(meter, 5.0), Energy)


def test_windows_that_say_nothing(tmp_path: Path) -> None:
    """A window of a millisecond, and counters that stand still."""
    machine = Machine(tmp_path, {"intel-rapl:0=package-0": 100.0})
    short = machine.window(machine.meter(), 0.002)
    assert isinstance(short, Unavailable)
    assert "too short" in short.reason
    machine.watts["intel-rapl:0=package-0"] = 0.0
    still = machine.window(machine.meter(), 5.0)
    assert isinstance(still, Unavailable)
    assert "did not move" in still.reason


class TestRaplMeter(EnergyMeterConformance):
    @pytest.fixture(autouse=True)
    def server(self, tmp_path: Path) -> None:
        self.machine = Machine(tmp_path, SERVER)

    @pytest.fixture
    def meter(self) -> EnergyMeter:
        return self.machine.meter()

    def wait(self, seconds: float) -> None:
        self.machine.clock.sleep(seconds)


def test_the_energy_of_a_run(tmp_path: Path) -> None:
    """Measured like a card's, without delays: a processor's counters always look."""
    machine = Machine(tmp_path, {"intel-rapl:0=package-0": 20.0})

    def work(runs: int) -> None:
        machine.watts["intel-rapl:0=package-0"] = 120.0
        machine.clock.sleep(0.02 * runs)
        machine.watts["intel-rapl:0=package-0"] = 20.0

    found = measure(machine.meter(), work, rng=np.random.default_rng(0), clock=machine.clock)
    assert isinstance(found, Measured)
    assert found.source == "rapl"
    assert found.gross.joules == pytest.approx(120.0 * 0.02, rel=1e-4)
    assert found.net.joules == pytest.approx(100.0 * 0.02, rel=1e-4)
    assert all(trial.delay_s == 0 and trial.seconds >= 5.0 - 1e-6 for trial in found.trials)
