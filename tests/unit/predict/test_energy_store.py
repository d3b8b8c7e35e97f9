"""An energy predictor on disk says what it said; a damaged one is refused; where there is none, that is a value."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w
from paper_device import SETTING
from paper_meter import measured, network

from hwnas.assets import Workspace
from hwnas.devices import Unavailable
from hwnas.errors import DiskError, FormatError
from hwnas.predict.energy import learn
from hwnas.predict.energy_store import EnergyPredictor, find, folder_of, save
from hwnas.spaces import GENERIC

ASKED = [network(5, 256), network(12, 64)]


@pytest.fixture(scope="module")
def predictor() -> EnergyPredictor:
    """What was learned from 40 networks."""
    return EnergyPredictor(
        setting=SETTING,
        space="mobilenet",
        model=learn(*measured(40), "nvml-counter"),
        fingerprint="0123456789ab",
        profile_digest="a" * 64,
        environment={"driver": "580.1"},
    )


def stored(predictor: EnergyPredictor, workspace: Workspace) -> Path:
    return save(predictor, workspace.predictors) / "card.toml"


def test_round_trip(predictor: EnergyPredictor, tmp_path: Path) -> None:
    """What is read back gives the same estimates to the last digit, and knows its digest."""
    workspace = Workspace(tmp_path)
    card = stored(predictor, workspace)
    assert card == tmp_path / "predictors/cpu/energy/onnxruntime-cpu-t1-b1-fp32/mobilenet/card.toml"
    back = find(workspace, SETTING)
    assert isinstance(back, EnergyPredictor)
    assert back.estimate(ASKED) == predictor.estimate(ASKED)
    assert back == replace(predictor, digest=tomllib.loads(card.read_text())["digest"])
    assert len(back.digest) == 64


def test_recalibrated(predictor: EnergyPredictor) -> None:
    """After winners took half as much again, so does every estimate; the card that it came from is no longer its own."""
    told = predictor.recalibrated(ASKED, [1e-3, 2e-3], [1.5 * one.value for one in predictor.estimate(ASKED)])
    assert [one.value for one in told.estimate(ASKED)] == pytest.approx([1.5 * one.value for one in predictor.estimate(ASKED)])
    assert told.digest == ""
    assert told.source == predictor.source


def test_estimate(predictor: EnergyPredictor) -> None:
    """An estimate is in joules and says what was measured and by which meter; no networks, no estimates."""
    estimate, _ = predictor.estimate(ASKED)
    assert estimate.unit == "J"
    assert "cpu/onnxruntime-cpu-t1-b1-fp32 (mobilenet)" in estimate.source
    assert "nvml-counter: the board's energy counter" in estimate.source
    assert 0 < estimate.low < estimate.value < estimate.high
    assert predictor.estimate([]) == []


def test_which_is_found(predictor: EnergyPredictor, tmp_path: Path) -> None:
    """That of the space asked for, else the one for any network, else whichever there is."""
    workspace = Workspace(tmp_path)
    stored(predictor, workspace)
    assert found(workspace, "resnet") == "mobilenet"
    stored(replace(predictor, space=GENERIC), workspace)
    assert found(workspace, "resnet") == found(workspace, None) == GENERIC
    assert found(workspace, "mobilenet") == "mobilenet"


def found(workspace: Workspace, space: str | None) -> str:
    predictor = find(workspace, SETTING, space)
    assert isinstance(predictor, EnergyPredictor)
    return predictor.space


def test_none(predictor: EnergyPredictor, tmp_path: Path) -> None:
    """A setting without one: a reason, not an error, and not another setting's."""
    stored(predictor, Workspace(tmp_path))
    assert find(Workspace(tmp_path), replace(SETTING, batch=4)) == Unavailable(
        "no energy of 'cpu' with onnxruntime-cpu-t1-b4-fp32 was measured"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 99}, "has format 99, this hwnas reads 1"),
        ({"columns": ["flops", "watts"]}, "was learned from 'flops, watts', this hwnas sees 'flops, bytes, "),
        ({"half_width": 0.0}, "was altered after it was written"),
        ({"rates": {}}, "was altered after it was written"),
    ],
)
def test_changed(change: dict[str, object], said: str, predictor: EnergyPredictor, tmp_path: Path) -> None:
    """A card of another version, of other columns, or altered by hand: refused in one line that names the file."""
    card = stored(predictor, Workspace(tmp_path))
    card.write_text(tomli_w.dumps({**tomllib.loads(card.read_text()), **change}))
    with pytest.raises(FormatError, match=said) as caught:
        find(Workspace(tmp_path), SETTING)
    assert str(card) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "format = ", "format = 1", "\x00"])
def test_damaged(text: str, predictor: EnergyPredictor, tmp_path: Path) -> None:
    """A card that is no card is refused."""
    card = stored(predictor, Workspace(tmp_path))
    card.write_text(text)
    with pytest.raises(FormatError, match=r"card\.toml"):
        find(Workspace(tmp_path), SETTING)


def test_disk_refuses(predictor: EnergyPredictor, tmp_path: Path) -> None:
    """A place that cannot be written to is named."""
    (tmp_path / "cpu").write_text("in the way")
    with pytest.raises(DiskError, match="cannot write to"):
        save(predictor, tmp_path)


def test_folder() -> None:
    """Energy lies beside latency, in a folder for the setting and one for the space."""
    assert folder_of(Path("tree"), SETTING, "mobilenet") == Path("tree/cpu/energy/onnxruntime-cpu-t1-b1-fp32/mobilenet")
