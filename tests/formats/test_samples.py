"""Files of every format version that users may have keep loading, and keep saying what they said."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from paper_device import SETTING

from hwnas.assets import Workspace
from hwnas.predict import Predictor, store
from hwnas.predict.store import load
from hwnas.profiling import ProfileStore
from hwnas.profiling import store as profiles
from hwnas.runtimes.fusions import Fusions
from hwnas.testing import FakeDevice

FORMATS = Path(__file__).parent
sys.path.insert(0, str(FORMATS))

from make_samples import FACTS, asked  # noqa: E402  (the path comes first)

OLDEST = Fusions(block=8)  # files of format 1, and early ones of format 2, keep the block alone
PROFILES, PREDICTORS, ADAPTED = profiles.READABLE, store.READABLE, store.READABLE[1:]


@pytest.mark.parametrize("version", PROFILES)
def test_profile(version: int) -> None:
    """A profile: device, setting, fusions and raw samples as they were, and each kernel's part by the present statistics."""
    folder = FORMATS / f"profile-{version}"
    profile = ProfileStore(folder).load(SETTING)
    expected = json.loads((folder / "expected.json").read_text())
    assert profile.device["fingerprint"] == profile.fingerprint == FakeDevice().spec.fingerprint
    assert (profile.space, profile.seed, profile.ended_by, profile.spent_s) == ("mobilenet-small", 0, "count", 2.5)
    assert profile.fusions == (OLDEST if version == 1 else FACTS)
    assert profile.environment == {"hwnas": "0.1", "onnxruntime": "1.22"}
    assert [point.networks for point in profile.curve] == [20]
    assert len(profile.canaries) == 2
    for network, said in zip(profile.networks, expected, strict=True):
        assert list(network.genotype) == said["genotype"]
        assert network.total_ns == said["total_ns"]
        assert [kernel.nanoseconds for kernel in network.kernels] == said["parts_ns"]
        assert network.samples.n == 6


@pytest.mark.parametrize("version", PREDICTORS)
def test_predictor(version: int) -> None:
    """A predictor gives the estimate that it gave, and knows where it was learned."""
    predictor = assert_as_before(f"predictor-{version}")
    assert (predictor.space, predictor.model.held_out.networks, predictor.transferred) == ("mobilenet-small", 20, None)
    assert predictor.fusions == (OLDEST if version == 1 else FACTS)


@pytest.mark.parametrize("version", ADAPTED)
def test_adapted(version: int) -> None:
    """So does one that was adapted to another device, the known device's model inside it."""
    predictor = assert_as_before(f"adapted-{version}")
    assert predictor.model.held_out.networks == 6
    assert predictor.fusions == (OLDEST if version == 1 else FACTS)
    assert predictor.transferred is not None
    assert (predictor.transferred.source, predictor.transferred.networks) == ("cpu/onnxruntime-cpu-t1-b1-fp32 (mobilenet-small)", 6)


def assert_as_before(name: str) -> Predictor:
    """A stored predictor, once it has said what is written beside it."""
    predictor = load(Workspace(FORMATS / name), SETTING)
    (estimate,) = predictor.estimate([asked()])
    expected = json.loads((FORMATS / name / "expected.json").read_text())
    assert {**estimate.bounds(), "coverage": estimate.coverage} == pytest.approx(expected, rel=1e-6)
    assert predictor.fingerprint == FakeDevice().spec.fingerprint
    return predictor


def test_samples_are_small() -> None:
    """All of them together stay below 500 KB."""
    samples = [path for name in ("profile", "predictor", "adapted") for path in FORMATS.glob(f"{name}-*/**/*") if path.is_file()]
    assert len(samples) > 40
    assert sum(path.stat().st_size for path in samples) < 500_000
