"""From a stored profile to a predictor, on a machine that is not the one that was profiled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from paper_device import SETTING, measured

from hwnas import spaces
from hwnas.assets import Workspace
from hwnas.ir.onnx import load, save
from hwnas.predict import fitting, store
from hwnas.profiling import Profile, ProfileStore
from hwnas.runtimes.fusions import PATTERNS, Fusions
from hwnas.runtimes.ort_fusion import fuse
from hwnas.testing import FakeDevice
from hwnas.workflows.profile import fit_profile

ELSEWHERE = Fusions(block=16, conv_activations=frozenset({"Relu"}), patterns=PATTERNS - {"BlockedScale", "ConvNorm", "QuickGelu"})
SPACE = spaces.load("mobilenet-small")
SPEC = FakeDevice().spec


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The profile of a board whose runtime fuses less, copied here."""
    monkeypatch.setattr("hwnas.assets.root", lambda tree: tmp_path / "shipped" / tree)
    monkeypatch.setattr(fitting.fit_kinds, "__defaults__", (fitting.Growth(trees=5, eta=0.5),))
    workspace = Workspace.at(tmp_path / "home")
    profile = Profile(
        setting=replace(SETTING, device="board"),
        space=SPACE.name,
        seed=0,
        fingerprint=SPEC.fingerprint,
        device=SPEC.as_dict(),
        environment={"onnxruntime": "1.14"},
        fusions=ELSEWHERE,
        networks=measured(40, fusions=ELSEWHERE),
    )
    ProfileStore(workspace.profiles / "board").save(profile)
    return workspace


def test_kernels_are_told_by_what_the_profile_says(workspace: Workspace, tmp_path: Path) -> None:
    """What is learned from a profile fuses any network as the profiled runtime does, not as the one that is here."""
    (learned,) = fit_profile(workspace, replace(SETTING, device="board"), SPACE.name)
    found = store.load(workspace, replace(SETTING, device="board"), SPACE.name)
    assert learned.predictor.fusions == found.fusions == ELSEWHERE
    save(SPACE.graph(SPACE.sample(np.random.default_rng(3))).materialize(np.random.default_rng(0)), tmp_path / "asked.onnx")
    graph = load(tmp_path / "asked.onnx")
    calls = found.kernels(graph)
    assert calls == fuse(graph, ELSEWHERE) != fuse(graph, Fusions(block=16))
    assert {"BatchNormalization"} <= {call.kernel.op for call in calls}
    (estimate,) = found.estimate([graph])
    assert estimate.coverage > 0.99
