"""Which predictor answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hwnas.assets import Workspace
from hwnas.errors import NotFoundError, UsageError
from hwnas.predict import store
from hwnas.workflows.predict import load_predictor


def learned(home: Workspace, *runtimes: str) -> None:
    """Puts predictors of the A100 with these runtimes into a workspace; what they have learned is what ships."""
    shipped = load_predictor(home, "a100", runtime="torch-eager", threads=1, batch=1)
    for runtime in runtimes:
        store.save(replace(shipped, setting=replace(shipped.setting, runtime=runtime)), home.predictors)


@pytest.mark.parametrize(
    ("runtimes", "answers"),
    [
        ((), "torch-eager"),
        (("onnxruntime-cuda",), "onnxruntime-cuda"),
        (("onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt"), "tensorrt"),
    ],
)
def test_the_runtime_that_nobody_named(tmp_path: Path, runtimes: tuple[str, ...], answers: str) -> None:
    """The device's usual one, else the only one that was measured here, else what others measured."""
    home = Workspace.at(tmp_path)
    learned(home, *runtimes)
    assert load_predictor(home, "a100", threads=1, batch=1).setting.runtime == answers


def test_several_that_could_be_meant(tmp_path: Path) -> None:
    """They are listed; named, each answers, and one that was not measured is missed under its name."""
    home = Workspace.at(tmp_path)
    learned(home, "onnxruntime-cuda", "onnxruntime-tensorrt")
    with pytest.raises(UsageError, match="with onnxruntime-cuda and with onnxruntime-tensorrt; say which is meant with --runtime"):
        load_predictor(home, "a100", threads=1, batch=1)
    for runtime in ("onnxruntime-cuda", "onnxruntime-tensorrt", "torch-eager"):
        assert load_predictor(home, "a100", runtime=runtime, threads=1, batch=1).setting.runtime == runtime
    with pytest.raises(NotFoundError, match="no latency predictor for 'a100' with tensorrt-t1-b1-fp32"):
        load_predictor(home, "a100", runtime="tensorrt", threads=1, batch=1)
    with pytest.raises(
        NotFoundError, match="hwnas profile --device a100 --runtime onnxruntime-cuda --threads 1 --batch 1 --precision fp16"
    ):
        load_predictor(home, "a100", runtime="onnxruntime-cuda", threads=1, batch=1, precision="fp16")
