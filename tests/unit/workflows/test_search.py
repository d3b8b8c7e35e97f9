"""What measures the finalists of a search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hwnas.assets import Workspace
from hwnas.errors import DeviceUnavailable
from hwnas.testing import FakeDevice
from hwnas.workflows import search
from hwnas.workflows.runs import SearchOptions


@pytest.mark.parametrize(
    ("predicted", "measures"),
    [("onnxruntime-cuda", "onnxruntime-cuda"), ("tensorrt", "tensorrt"), ("torch-eager", "tensorrt")],
)
def test_finalists_are_measured_with_what_was_predicted(
    predicted: str, measures: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the predictor's runtime; with the device's usual one where hwnas does not drive that. Caches go to the run's workspace."""
    device, asked = FakeDevice(), []
    monkeypatch.setattr(search, "find", lambda _: device)
    monkeypatch.setattr(search.registry, "choices", lambda _: ("tensorrt", "onnxruntime-cuda"))

    def make(name: str, *others: Any) -> str:
        asked.append(others)
        return name

    monkeypatch.setattr(search.registry, "make", make)
    home = Workspace.at(tmp_path)
    assert search._runtime(home, SearchOptions(device="a100", threads=2), predicted) == measures
    assert asked == [(2, device, home)]


def test_no_device_no_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the card is not here, nothing measures."""

    def find(_: str) -> None:
        raise DeviceUnavailable("no 'a100' on this machine")

    monkeypatch.setattr(search, "find", find)
    assert search._runtime(Workspace.at(tmp_path), SearchOptions(device="a100"), "tensorrt") is None
