"""`--runtime`: a card that was profiled with another runtime than its usual one, whole, over a played card."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pynvml
import pytest
from commands import QUICK, TINY, invoke
from fake_nvml import FakeDriver, build
from played_card import PlayedCard, latency_s, model_of
from tiny_space import TinySpace

SPACE = TinySpace()
OTHER = ("--runtime", "onnxruntime-cuda")
TWIN = "card\nname NVIDIA A100-SXM4-40GB\nuuid GPU-0b\ncapability 8 0\nmemory 42949672960\nclocks 1410 1215 765\n"


def test_another_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Profiled with it alone, it is what `predict`, `check` and `search` mean; beside the usual one it has to be named.

    There are two such cards: what measures means the one that is given, what predicts means either.
    """
    home = tmp_path / "home"
    shared = ("--precision", "fp16", "--home", home, "--json")
    at, on = ("--device", "a100", *shared), ("--device", "cuda:0", *shared)
    graph = SPACE.graph(SPACE.sample(np.random.default_rng(100)))
    model = model_of(graph, tmp_path)
    with FakeDriver(build(tmp_path)).under(pynvml) as driver:
        PlayedCard.of(driver, script=TWIN).plug_in(monkeypatch)
        invoke("profile", *on, *OTHER, "--space", TINY, *QUICK)
        said = invoke("predict", model, *at).json
        assert said["runtime"] == "onnxruntime-cuda"
        assert said["latency_s"]["value"] == pytest.approx(latency_s(graph, "fp16"), rel=0.1)
        checked = invoke("check", *on, "--networks", "3").json
        assert (checked["runtime"], checked["verdict"]) == ("onnxruntime-cuda", "holds")
        assert "--device cuda:0 or --device cuda:1" in invoke("check", *at).complaint
        moved = ("transfer", "--to", "cuda:0", "--from", "a100", *shared, "--space", TINY, "--networks", "5")
        assert "no predictor of 'a100' to transfer to" in invoke(*moved, *OTHER).complaint  # it is that very one
        assert invoke(*moved, "--runtime", "tensorrt").json["networks"] == 5
        assert [invoke("predict", model, *at, *named).json["runtime"] for named in ((), OTHER)] == ["tensorrt", "onnxruntime-cuda"]
        assert "--runtime onnxruntime-cuda" in invoke("search", *at, *OTHER, "--space", TINY, "--dry-run").json["replay"]
