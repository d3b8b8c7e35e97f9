"""Files of every format version that users may have keep loading, and keep saying what they said."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from paper_device import SETTING

from hwnas.assets import Workspace
from hwnas.predict.store import load
from hwnas.profiling import ProfileStore
from hwnas.runtimes.fusions import Fusions
from hwnas.testing import FakeDevice

FORMATS = Path(__file__).parent
sys.path.insert(0, str(FORMATS))

from make_samples import asked  # noqa: E402  (the path comes first)


def test_profile_1() -> None:
    """A profile of format 1: device, setting and raw samples as they were, and each kernel's part by the present statistics."""
    profile = ProfileStore(FORMATS / "profile-1").load(SETTING)
    expected = json.loads((FORMATS / "profile-1" / "expected.json").read_text())
    assert profile.device["fingerprint"] == profile.fingerprint == FakeDevice().spec.fingerprint
    assert (profile.space, profile.seed, profile.ended_by, profile.spent_s) == ("mobilenet-small", 0, "count", 2.5)
    assert profile.fusions == Fusions(block=8)
    assert profile.environment == {"hwnas": "0.1", "onnxruntime": "1.22"}
    assert [point.networks for point in profile.curve] == [20]
    assert len(profile.canaries) == 2
    for network, said in zip(profile.networks, expected, strict=True):
        assert list(network.genotype) == said["genotype"]
        assert network.total_ns == said["total_ns"]
        assert [kernel.nanoseconds for kernel in network.kernels] == said["parts_ns"]
        assert network.samples.n == 6


def test_predictor_1() -> None:
    """A predictor of format 1 gives the estimate that it gave."""
    predictor = load(Workspace(FORMATS / "predictor-1"), SETTING)
    expected = json.loads((FORMATS / "predictor-1" / "expected.json").read_text())
    (estimate,) = predictor.estimate([asked()])
    assert {**estimate.bounds(), "coverage": estimate.coverage} == pytest.approx(expected, rel=1e-6)
    assert (predictor.space, predictor.model.held_out.networks) == ("mobilenet-small", 20)
    assert predictor.fusions == Fusions(block=8)
    assert predictor.fingerprint == FakeDevice().spec.fingerprint


def test_samples_are_small() -> None:
    """All of them together stay below 100 KB."""
    samples = [path for name in ("profile-1", "predictor-1") for path in (FORMATS / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in samples) < 100_000
