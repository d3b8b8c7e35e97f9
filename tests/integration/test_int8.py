"""int8 as a user asks for it: profiled, learned, predicted, beside fp32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import QUICK, TINY, invoke
from tiny_space import TinySpace

from hwnas.assets import Workspace
from hwnas.ir.onnx import save
from hwnas.search.archive import Archive
from hwnas.workflows.report import look
from hwnas.workflows.runs import find


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


def test_a_search_in_int8_ships_int8(tmp_path: Path) -> None:
    """Predicted, measured, judged and exported in the precision that was asked for; its trainings are in fp32."""
    at = ("--home", tmp_path / "home")
    invoke("profile", "--space", TINY, "--precision", "int8", *QUICK, *at)
    budget = ("--num-evals", "12", "--population", "6", "--trainings", "1", "--finalists", "1", "--seeds", "1")
    said = invoke(
        "search", "--space", TINY, "--precision", "int8", "--constraint", "latency<=900%", *budget, "--name", "q", *at, "--json"
    ).json
    assert "--precision int8" in said["replay"]
    assert "-int8 " in said["latency_source"]
    with Archive.open(tmp_path / "home" / "runs" / "q" / "trials.sqlite", readonly=True) as archive:
        assert all("-int8 " in result.variant for result in archive.results("measurement"))
        (trained,) = [result for result in archive.results("training") if result.variant.endswith(" int8")]
    (finalist,) = said["finalists"]
    assert finalist["accuracies"] == [trained.payload["test_accuracy"]]
    assert trained.payload["fp32_test_accuracy"] == pytest.approx(trained.payload["test_accuracy"], abs=0.05)
    run = find(Workspace.at(tmp_path / "home"), "q")
    with run.archive() as archive:
        assert look(Workspace.at(tmp_path / "home"), run, archive).predictor is not None
    exported = invoke("export", "q", "-o", tmp_path / "out", *at, "--json").json
    assert exported["precision"] == "int8"
    assert invoke("export", "q", "-o", tmp_path / "exact", "--precision", "fp32", *at, "--json").json["precision"] == "fp32"


def test_a_precision_that_was_not_profiled(learned: Path, model: Path) -> None:
    """What was learned in fp32 does not answer for int8, and the remedy names the precision."""
    refused = invoke("predict", model, "--precision", "int8", "--home", learned)
    assert refused.code == 1
    assert "--precision int8" in refused.complaint


def test_an_unknown_precision(tmp_path: Path, model: Path) -> None:
    """There are three."""
    refused = invoke("predict", model, "--precision", "int4", "--home", tmp_path)
    assert refused.code == 2
    assert "'fp32', 'fp16', 'int8'" in refused.complaint
