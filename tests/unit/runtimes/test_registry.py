"""The runtimes by name."""

from __future__ import annotations

import sys

import pytest

from hwnas.errors import MissingExtraError, UsageError
from hwnas.runtimes import ort_int8_fusion, registry
from hwnas.runtimes.ort_fusion import fuse


def test_a_runtime_by_name() -> None:
    """The default runtime of a device can be made, with the threads asked for, and knows how it fuses."""
    name = registry.default("cpu")
    runtime = registry.make(name, 1)
    assert (runtime.name, runtime.threads) == (name, 1)
    assert registry.fuser(name) is fuse
    assert registry.fuser(name, "int8") is ort_int8_fusion.fuse


def test_a_precision_whose_kernels_nobody_knows() -> None:
    """It is refused with those that are known."""
    with pytest.raises(UsageError, match="does not know which kernels 'onnxruntime-cpu' runs in 'fp16'; it knows: onnxruntime-cpu in fp32"):
        registry.fuser("onnxruntime-cpu", "fp16")


def test_an_unknown_runtime() -> None:
    """A name that is none is refused with the nearest one and the list."""
    with pytest.raises(UsageError, match=r"unknown runtime 'onnxruntime' \(did you mean 'onnxruntime-cpu'\?\); this version has:"):
        registry.make("onnxruntime", 1)


def test_a_device_without_a_runtime() -> None:
    """A device that this version cannot measure is refused with those that it can."""
    with pytest.raises(UsageError, match="no runtime for 'a100'; it measures: cpu"):
        registry.default("a100")


def test_statuses() -> None:
    """A runtime that works says its version and no problem, and comes first; one that does not says why."""
    status, other = registry.statuses()
    assert status.name == "onnxruntime-cpu"
    assert status.version
    assert status.problem == ""
    assert other.name == "tensorrt"
    assert "does not drive it yet" in other.problem


def test_a_runtime_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing library is a status with what to install, and an error when the runtime is made."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    status = next(status for status in registry.statuses() if status.name == "onnxruntime-cpu")
    assert status.version == ""
    assert "pip install 'hwnas[cpu]'" in status.problem
    with pytest.raises(MissingExtraError):
        registry.make("onnxruntime-cpu", 1)
