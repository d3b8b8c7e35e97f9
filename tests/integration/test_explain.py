"""`predict --explain` and `--plot`, from the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import invoke
from tiny_space import TinySpace

from hwnas.ir import GraphBuilder, onnx


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A network of the tiny space."""
    space = TinySpace()
    path = tmp_path / "reference.onnx"
    onnx.save(space.graph(space.reference()).materialize(np.random.default_rng(0)), path)
    return path


def test_all_kernels_are_listed_on_request(model: Path, learned: Path) -> None:
    """The shares of all, and of the call, add up; without --explain five are shown."""
    few = invoke("predict", model, "--home", learned, "--json").json
    every = invoke("predict", model, "--explain", "--home", learned, "--json").json
    assert len(few["kernels"]) == 5 < len(every["kernels"])
    assert every["kernels"][:5] == few["kernels"]
    assert 0 < sum(kernel["share"] for kernel in every["kernels"]) <= 1
    assert sum(every["bounds"].values()) == pytest.approx(sum(kernel["share"] for kernel in every["kernels"]))
    assert every["uncovered"] == []
    shown = invoke("predict", model, "--explain", "--home", learned)
    assert shown.out.count(" yes ") == len(every["kernels"]) + 1
    assert "the call itself" in shown.out
    assert "the call itself" not in invoke("predict", model, "--home", learned).out


def test_what_is_not_covered_is_named_with_its_share(tmp_path: Path, learned: Path) -> None:
    """Kinds that the profile lacks stand in a line each."""
    b = GraphBuilder("other")
    x = b.op("Erf", [b.op("Softmax", [b.conv(b.input("x", (1, 3, 32, 32)), 8, kernel=3)], axis=1)])
    onnx.save(b.finish(x).materialize(np.random.default_rng(0)), tmp_path / "other.onnx")
    said = invoke("predict", tmp_path / "other.onnx", "--home", learned, "--json").json
    assert {"Softmax", "Erf"} <= {group["kind"] for group in said["uncovered"] if group["missing"] == "kind"}
    shown = invoke("predict", tmp_path / "other.onnx", "--home", learned).out
    assert "1 x Softmax, a kind that was not measured" in shown


def test_the_plot_is_a_page(model: Path, learned: Path, tmp_path: Path) -> None:
    """With the plots of every model given; the file's name is said on standard error, so that --json stays JSON."""
    page = tmp_path / "kernels.html"
    done = invoke("predict", model, model, "--plot", page, "--home", learned, "--json")
    assert len(done.json) == 2
    assert str(page) in done.err
    assert page.read_text(encoding="utf-8").count("Kernels under the roofline") == 1  # one file given twice is one model
