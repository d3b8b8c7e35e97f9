"""From a stored profile to a predictor, on a machine that is not the one that was profiled."""

from __future__ import annotations

from dataclasses import replace
from math import isnan
from pathlib import Path

import numpy as np
import pytest
from paper_device import SETTING, measured

from hwnas import spaces
from hwnas.assets import Workspace
from hwnas.cli.measure import _print_fit
from hwnas.ir.onnx import load, save
from hwnas.predict import fitting, store
from hwnas.profiling import NetworkRecord, Profile, ProfileStore, Setting
from hwnas.profiling.profile import Raw, records_of
from hwnas.profiling.slowdowns import Slowdowns
from hwnas.profiling.waves import Pooled
from hwnas.runtimes.fusions import PATTERNS, Fusions
from hwnas.runtimes.ort_fusion import fuse
from hwnas.testing import FakeDevice
from hwnas.workflows.profile import fit_profile, profiled_setting

ELSEWHERE = Fusions(block=16, conv_activations=frozenset({"Relu"}), patterns=PATTERNS - {"BlockedScale", "ConvNorm", "QuickGelu"})
SPACE = spaces.load("mobilenet-small")
SPEC = FakeDevice().spec


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The profile of a board whose runtime fuses less, copied here."""
    monkeypatch.setattr("hwnas.assets.root", lambda tree: tmp_path / "shipped" / tree)
    monkeypatch.setattr(fitting, "THOROUGH", fitting.Growth(trees=5, eta=0.5))
    workspace = Workspace.at(tmp_path / "home")
    ProfileStore(workspace.profiles / "board").save(profile_of(replace(SETTING, device="board"), 40))
    return workspace


def profile_of(setting: Setting, networks: int) -> Profile:
    """So many networks of a device whose runtime fuses less."""
    return Profile(
        setting=setting,
        space=SPACE.name,
        seed=0,
        fingerprint=SPEC.fingerprint,
        device=SPEC.as_dict(),
        environment={"onnxruntime": "1.14"},
        fusions=ELSEWHERE,
        networks=measured(networks, fusions=ELSEWHERE),
    )


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


def test_the_setting_that_was_profiled(tmp_path: Path) -> None:
    """Unless a runtime is named, it is the one whose profile is there, of the space that is asked for."""
    workspace = Workspace.at(tmp_path)
    card = replace(SETTING, device="a100", runtime="onnxruntime-cuda")
    asked = {"threads": card.threads, "batch": card.batch, "precision": card.precision}
    assert profiled_setting(workspace, "a100", runtime=None, **asked).runtime == "tensorrt"
    ProfileStore(workspace.profiles / "a100").save(profile_of(card, 2))
    assert profiled_setting(workspace, "a100", runtime=None, **asked) == card
    assert profiled_setting(workspace, "a100", "another", runtime=None, **asked).runtime == "tensorrt"
    assert profiled_setting(workspace, "a100", runtime="tensorrt", **asked).runtime == "tensorrt"


@pytest.mark.parametrize(("scatter", "noisy"), [(0.01, False), (0.1, True)])
def test_a_noisy_machine_is_named(workspace: Workspace, capsys: pytest.CaptureFixture[str], scatter: float, noisy: bool) -> None:
    """Where visits of the same network differ, what came of it says so, with the remedy."""
    setting = replace(SETTING, device="board")
    rng = np.random.default_rng(0)
    calm = profile_of(setting, 40)

    def disturbed(network: NetworkRecord) -> NetworkRecord:
        rounds = np.repeat(np.arange(4), 10)
        seconds = network.latency_s * np.exp(scatter * rng.standard_normal(4))[rounds]
        pooled = Pooled.from_samples(seconds, rounds, Slowdowns.of({}))
        (record,) = records_of(
            [Raw(network.id, network.genotype, pooled, [(k.call, k.profiled_s) for k in network.kernels], network.call_ns)]
        )
        return record

    assert isnan(calm.scatter)
    ProfileStore(workspace.profiles / "board").save(replace(calm, networks=[disturbed(network) for network in calm.networks]))
    (found,) = fit_profile(workspace, setting, SPACE.name)
    assert found.noisy == noisy
    assert found.as_json()["scatter"] == pytest.approx(scatter, rel=0.5)
    _print_fit(found)
    assert ("measure again in a quieter hour" in " ".join(capsys.readouterr().out.split())) == noisy
