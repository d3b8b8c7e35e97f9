"""`hwnas predict` shows energy where it was measured, and says why not where it was not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from time import perf_counter

import numpy as np
import pytest
from commands import TINY, invoke
from tiny_space import TinySpace

from hwnas.assets import Workspace, write_atomically
from hwnas.devices import Unavailable, cpu
from hwnas.devices.energy import Plan
from hwnas.devices.rapl import rapl_meter
from hwnas.ir import onnx
from hwnas.predict import energy, energy_store
from hwnas.profiling import ProfileStore, Setting
from hwnas.workflows import metering

SETTING = Setting(device="cpu", runtime="onnxruntime-cpu")
WATTS = 6.0


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A network of the tiny space as an ONNX file."""
    space = TinySpace()
    return onnx.save(space.graph(space.reference()).materialize(np.random.default_rng(0)), tmp_path / "model.onnx")


def test_unavailable(model: Path, learned: Path) -> None:
    """Without measured energy everything else works; energy is null, never 0, and the reason is given."""
    said = invoke("predict", model, "--home", learned, "--json").json
    assert said["energy_j"] is None
    assert said["energy"].startswith("unavailable: no energy of 'cpu' with onnxruntime-cpu-t1-b1-fp32 was measured; ")
    assert "power_w" not in said
    assert said["latency_s"]["value"] > 0
    assert f"energy   {said['energy']}" in invoke("predict", model, "--home", learned).out


def learn_energy(home: Path) -> None:
    """Teaches a workspace that every network draws `WATTS`, as a processor's counter would tell."""
    profile = ProfileStore(home / "profiles" / "cpu").load(SETTING, TINY)
    records = [energy.EnergyRecord.of(network, WATTS * network.latency_s, "rapl") for network in profile.networks]
    predictor = energy_store.EnergyPredictor(
        setting=SETTING,
        space=profile.space,
        model=energy.fit(records),
        fingerprint=profile.fingerprint,
        profile_digest=profile.digest,
        environment=profile.environment,
    )
    energy_store.save(predictor, Workspace(home).predictors)


@pytest.fixture
def powercap(tmp_path: Path) -> Iterator[Path]:
    """A tree of counters, as Linux shows them, of a processor that always draws `WATTS`."""
    zone = tmp_path / "powercap" / "intel-rapl:0"
    zone.mkdir(parents=True)
    (zone / "name").write_text("package-0\n")
    (zone / "max_energy_range_uj").write_text("262143328850\n")
    ended, began = Event(), perf_counter()

    def go_on() -> None:
        while not ended.wait(0.002):
            write_atomically(zone / "energy_uj", lambda place: place.write_text(f"{int(1e6 * WATTS * (perf_counter() - began))}\n"))

    (zone / "energy_uj").write_text("0\n")
    counting = Thread(target=go_on)
    counting.start()
    yield zone.parent
    ended.set()
    counting.join()


SEARCH = ("search", "--space", TINY, "--num-evals", "8", "--population", "8", "--trainings", "0", "--finalists", "1", "--seeds", "1")


def test_search_with_a_meter(home: Path, powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a processor with counters a finalist's energy is predicted, read, and held against the limit; report and JSON say from where."""
    learn_energy(home)
    monkeypatch.setattr(cpu, "rapl_meter", lambda: rapl_meter(powercap))
    quick = Plan(trials=2, seconds=0.3, runs=2, rise_s=0.05, gap_s=0.05, idle_s=0.3, settle_s=0.05)
    monkeypatch.setattr(metering, "Trials", lambda: quick)
    said = invoke(*SEARCH, "--constraint", "energy<=1000J", "--home", home, "--json").json
    (one,) = said["finalists"]
    assert (said["limits_kept"], one["limit_kept"], one["energy_source"]) == (1, True, "rapl")
    assert one["energy"] == "measured by rapl: the processor package's energy counter"
    assert 0 < one["predicted_energy_j"]["low"] < one["predicted_energy_j"]["value"] < one["predicted_energy_j"]["high"]
    assert one["measured_energy_j"] > 0
    assert abs(one["measured_net_energy_j"]) < one["measured_energy_j"]  # it draws as much when it waits
    page = Path(invoke("report", "--home", home).out.strip()).read_text()
    assert "Energy measured by rapl: the processor package&#39;s energy counter." in page


def test_search_without_a_meter(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything else works; what was predicted is told, what could not be read is null, and why is told by table, JSON and report."""
    monkeypatch.setattr(cpu, "rapl_meter", lambda: Unavailable("no counter of energy in this machine"))
    learn_energy(home)
    shown = invoke(*SEARCH, "--home", home)
    assert "energy unavailable: no counter of energy in this machine" in shown.out
    said = invoke("search", "--resume", "--home", home, "--json").json
    (one,) = said["finalists"]
    assert (one["measured_energy_j"], one["energy"]) == (None, "unavailable: no counter of energy in this machine")
    assert one["predicted_energy_j"]["value"] > 0
    assert (said["limits_kept"], one["limit_kept"]) == (1, None)
    assert "Energy unavailable: no counter of energy in this machine." in Path(invoke("report", "--home", home).out.strip()).read_text()


def test_available(model: Path, home: Path) -> None:
    """With it: joules with their interval, the source with its meter, and the power that follows from energy and time."""
    learn_energy(home)
    said = invoke("predict", model, "--home", home, "--json").json
    assert 0 < said["energy_j"]["low"] < said["energy_j"]["value"] < said["energy_j"]["high"]
    assert said["power_w"] == pytest.approx(said["energy_j"]["value"] / said["latency_s"]["value"])
    assert WATTS / 2 < said["power_w"] < WATTS * 2
    assert "measured by rapl" in said["energy"]
    assert 0 < said["energy_coverage"] <= 1
    text = invoke("predict", model, "--home", home).out
    assert f"{said['power_w']:.3g} W" in text
    assert "measured by rapl" in text


def test_damaged(model: Path, home: Path) -> None:
    """A card that cannot be read is named in one line; it does not pass for a device without a meter."""
    card = home / "predictors/cpu/energy" / SETTING.key / "generic" / "card.toml"
    card.parent.mkdir(parents=True)
    card.write_text("format = 7\n")
    done = invoke("predict", model, "--home", home)
    assert done.code == 1
    assert str(card) in done.complaint
