"""`hwnas predict` shows energy where it was measured, and says why not where it was not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import TINY, invoke
from tiny_space import TinySpace

from hwnas.assets import Workspace
from hwnas.ir import onnx
from hwnas.predict import energy, energy_store
from hwnas.profiling import ProfileStore, Setting

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


def test_available(model: Path, home: Path) -> None:
    """With it: joules with their interval, the source with its meter, and the power that follows from energy and time."""
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
