"""Energy of a profile's networks: which, in which order, how it is kept, when it ends."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from paper_device import SETTING, measured
from virtual_clock import VirtualClock

from hwnas import spaces
from hwnas.devices import Cadence, DeviceState, Energy, Unavailable
from hwnas.devices.energy import Measured, Plan, Trial
from hwnas.errors import FormatError, UsageError
from hwnas.profiling import Energies, EnergyPlan, EnergyProfiler, Profile, ProfileStore
from hwnas.profiling.energies import PATIENCE, from_row, in_order, to_row
from hwnas.runtimes.fusions import Fusions
from hwnas.testing import FakeDevice, Recording, ReplayRuntime
from hwnas.testing.fake_device import FakeMeter
from hwnas.testing.replay import ReplaySession

SPACE = spaces.load("mobilenet-small")
NETWORKS = measured(8)
PROFILE = Profile(
    setting=SETTING,
    space=SPACE.name,
    seed=0,
    fingerprint="f" * 12,
    device=FakeDevice().spec.as_dict(),
    environment={},
    fusions=Fusions(),
    networks=NETWORKS,
)
TRIAL = Trial(start_s=1.0, seconds=5.0, delay_s=0.5, runs=50, joules=100.0, state=DeviceState(clock_hz=1e9, clock_events=("idle",)))
FOUND = Measured(
    source="fake",
    cadence=Cadence(period_s=0.1, seen_s=0.025),
    trials=(TRIAL, replace(TRIAL, joules=101.0)),
    idle_w=(5.0, 5.5),
    notes=("n",),
)
QUICK = Plan(trials=2, seconds=1.0, idle_s=1.0)


class Timed(ReplayRuntime):
    """Runs that move the clock."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(lambda _: Recording(seconds=[0.01], kernels=()))
        self.clock, self.built = clock, 0

    def build(self, model: object, *, precision: str = "fp32") -> ReplaySession:
        self.built += 1
        session = super().build(model, precision=precision)  # type: ignore[arg-type]
        session.repeat = lambda feed: lambda runs: self.clock.sleep(0.01 * runs)  # type: ignore[attr-defined]
        return session


def run(store: ProfileStore, seconds: float, reading: Energy | Unavailable, profile: Profile = PROFILE) -> tuple[Energies, Timed]:
    clock = VirtualClock()
    runtime = Timed(clock)
    profiler = EnergyProfiler(FakeDevice(meter=FakeMeter([reading])), runtime, SPACE, clock)
    found = profiler.run(profile, store.energy_journal(SETTING, SPACE.name), EnergyPlan(max_time_s=seconds, trials=QUICK))
    assert isinstance(found, Energies)
    return found, runtime


def test_the_first_few_are_spread() -> None:
    """The fastest, the slowest, the middle, the quarters: every network once, and a prefix of any length reaches everywhere."""
    networks = measured(33)
    ranks = {network.id: i for i, network in enumerate(sorted(networks, key=lambda network: network.latency_s))}
    order = [ranks[network.id] for network in in_order(networks)]
    assert sorted(order) == list(range(33))
    assert order[:5] == [0, 32, 16, 8, 24]
    for count in range(2, 33):
        assert max(np.diff(sorted(order[:count]))) <= 2 * 33 / (count - 1)
    assert list(in_order([])) == []


def test_a_row_holds_all(tmp_path: Path) -> None:
    """What was measured survives a journal and a profile's table; one that is altered is refused, and without any there is no table."""
    assert from_row(json.loads(json.dumps(to_row(3, FOUND)))) == FOUND
    store = ProfileStore(tmp_path)
    store.save(PROFILE)
    assert not list(tmp_path.glob("energy-*"))
    before = store.load(SETTING)
    store.save_energies(replace(before, energies={3: FOUND}, energy_reason="why"))
    after = store.load(SETTING)
    assert (after.energies, after.energy_reason, after.digest) == ({3: FOUND}, "why", before.digest)
    (table,) = tmp_path.glob("energy-*.parquet")
    raw = table.read_bytes()
    table.write_bytes(raw + b"x")
    with pytest.raises(FormatError, match="energy"):
        store.load(SETTING)
    table.write_bytes(raw)
    store.save(PROFILE)
    assert (store.load(SETTING).energies, list(tmp_path.glob("energy-*"))) == ({}, [])


def test_time_ends_it_and_it_goes_on(tmp_path: Path) -> None:
    """It ends before the network that would not fit, and goes on with the journal's, none measured again."""
    store = ProfileStore(tmp_path)
    first, runtime = run(store, 40, Energy(10.0, 0.1))
    assert 2 <= len(first.measured) == runtime.built < len(NETWORKS)
    assert first.spent_s <= 40
    second, runtime = run(store, 1e6, Energy(10.0, 0.1))
    assert len(second.measured) == len(NETWORKS)
    assert runtime.built == len(NETWORKS) - len(first.measured)
    assert all(second.measured[network].gross == found.gross for network, found in first.measured.items())


def test_in_vain(tmp_path: Path) -> None:
    """After some networks in a row without a reading it gives up, and says why."""
    found, runtime = run(ProfileStore(tmp_path), 1e6, Unavailable("the card is shared"))
    assert (dict(found.measured), found.reason, runtime.built) == ({}, "the card is shared", PATIENCE)


def test_another_meter_or_profile(tmp_path: Path) -> None:
    """Energies of two meters are different quantities; a journal belongs to one profile."""
    store = ProfileStore(tmp_path)
    with pytest.raises(UsageError, match=r"'rapl'.*'fake'"):
        run(store, 1, Energy(10.0, 0.1), replace(PROFILE, energies={3: replace(FOUND, source="rapl")}))
    run(store, 1, Energy(10.0, 0.1))
    with pytest.raises(UsageError, match=r"profile.*--restart"):
        run(store, 1, Energy(10.0, 0.1), replace(PROFILE, digest="other"))
