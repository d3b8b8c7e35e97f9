"""The GPU predictors that ship."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwnas import spaces
from hwnas.assets import Workspace
from hwnas.devices import catalogue
from hwnas.errors import NotFoundError
from hwnas.workflows.predict import load_predictor, warnings

DEVICES = ("a100", "h100", "l4", "t4", "v100")


@pytest.mark.parametrize("device", DEVICES)
def test_they_plan_for_cards_that_are_not_here(tmp_path: Path, device: str) -> None:
    """Each answers for any batch, describes the catalogue's part, and says whose measurements it stands on and what is missing."""
    predictor = load_predictor(Workspace.at(tmp_path), device, threads=1, batch=8)
    assert predictor.fingerprint == catalogue.entry(device).part().spec.fingerprint
    space = spaces.load("mobilenet-small")
    (estimate,) = predictor.estimate([space.graph(space.reference(), batch=8)])
    assert 0 < estimate.low < estimate.value < estimate.high
    assert estimate.coverage < 0.5
    for part in ("NeuSight", "MIT", "eager FP32", "TF32 off", "not fused TensorRT engines"):
        assert part in estimate.source
    (note,) = warnings(predictor)
    assert "nothing was measured by hwnas" in note
    assert "depthwise" in note


def test_a_faster_card_is_faster(tmp_path: Path) -> None:
    """On large batches, where the GPU and not the host is the limit, the cards come in the order of their figures."""
    space = spaces.load("resnet")
    graph = space.graph(space.reference(), batch=256)
    home = Workspace.at(tmp_path)
    times = [load_predictor(home, device, threads=1, batch=256).estimate([graph])[0].value for device in ("h100", "a100", "v100", "t4")]
    assert times == sorted(times)


def test_other_precisions_are_not_made_up(tmp_path: Path) -> None:
    """Only float32 was measured."""
    with pytest.raises(NotFoundError, match="no latency predictor for 't4'"):
        load_predictor(Workspace.at(tmp_path), "t4", threads=1, batch=1, precision="int8")
