"""int8 as a user asks for it: profiled, learned, predicted, beside fp32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import QUICK, TINY, invoke
from tiny_space import TinySpace

from hwnas.ir.onnx import save


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A network of the space, as a file in fp32."""
    space = TinySpace()
    rng = np.random.default_rng(0)
    return save(space.graph(space.sample(rng)).materialize(rng), tmp_path / "model.onnx")


def test_a_precision_is_profiled_and_predicted(tmp_path: Path, model: Path) -> None:
    """Profile, fit and predict take `--precision`; files in fp32 are predicted as what they will be once they are quantised."""
    profiled = invoke("profile", "--space", TINY, "--precision", "int8", *QUICK, "--home", tmp_path, "--json").json
    assert (profiled["precision"], profiled["held_out"]["networks"]) == ("int8", profiled["networks"])
    assert invoke("fit", "--precision", "int8", "--home", tmp_path, "--json").json == profiled
    said = invoke("predict", model, "--precision", "int8", "--home", tmp_path, "--json").json
    assert said["precision"] == "int8"
    assert said["coverage"] == 1.0
    assert said["latency_s"]["low"] < said["latency_s"]["value"] < said["latency_s"]["high"]
    assert {"Conv"} <= {kernel["kind"] for kernel in said["kernels"]}


def test_a_precision_that_was_not_profiled(learned: Path, model: Path) -> None:
    """What was learned in fp32 does not answer for int8, and the remedy names the precision."""
    refused = invoke("predict", model, "--precision", "int8", "--home", learned)
    assert refused.code == 1
    assert "--precision int8" in refused.complaint


def test_an_unknown_precision(tmp_path: Path, model: Path) -> None:
    """There are two."""
    refused = invoke("predict", model, "--precision", "int4", "--home", tmp_path)
    assert refused.code == 2
    assert "'fp32', 'int8'" in refused.complaint
