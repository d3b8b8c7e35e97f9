"""What every verb needs: settings that can be, spaces with the classes of the data, versions."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_space import TinySpace

from hwnas import __version__
from hwnas.assets import Workspace
from hwnas.errors import DeviceUnavailable, UsageError
from hwnas.workflows.context import device_and_runtime, roofline_of, runtime_there, setting_of, space_for, versions

TINY = f"{Path(__file__).parents[2] / 'tiny_space.py'}:TinySpace"


def test_settings() -> None:
    """A setting takes the runtime of its device unless it is told another; a device without one here may still have a predictor."""
    assert setting_of("cpu", threads=2, batch=3).key == "onnxruntime-cpu-t2-b3-fp32"
    assert setting_of("a100", runtime="tensorrt", precision="fp16").key == "tensorrt-t1-b1-fp16"


@pytest.mark.parametrize(
    ("device", "load", "message"),
    [
        ("cpu", {"threads": 0}, "--threads must be at least 1, got 0"),
        ("cpu", {"batch": -2}, "--batch must be at least 1, got -2"),
        ("cpuu", {}, r"unknown device 'cpuu' \(did you mean 'cpu'\?\)"),
        (
            "a100",
            {"runtime": "tensort"},
            r"unknown runtime 'tensort' \(did you mean 'tensorrt'\?\); 'a100' has: tensorrt, onnxruntime-cuda, ",
        ),
        ("a100", {"runtime": "onnxruntime-cpu"}, "unknown runtime 'onnxruntime-cpu'.*; 'a100' has"),
    ],
)
def test_settings_that_cannot_be(device: str, load: dict[str, Any], message: str) -> None:
    """They are refused with the rule and the value."""
    with pytest.raises(UsageError, match=message):
        setting_of(device, **load)


@pytest.mark.parametrize(
    ("there", "meant"),
    [
        ({"tensorrt", "onnxruntime-cuda"}, "tensorrt"),
        ({"onnxruntime-tensorrt"}, "onnxruntime-tensorrt"),
        (set(), "tensorrt"),
    ],
)
def test_the_runtime_that_is_meant(there: set[str], meant: str) -> None:
    """The usual one where it is there, else the only one; the usual one where nothing is."""
    assert runtime_there(setting_of("a100", precision="fp16"), lambda one: one.precision == "fp16" and one.runtime in there) == meant


def test_several_runtimes_that_may_be_meant() -> None:
    """They are listed, and nothing is chosen."""
    with pytest.raises(UsageError, match=r"'a100' was profiled with onnxruntime-cuda and with onnxruntime-tensorrt; .* --runtime"):
        runtime_there(setting_of("a100"), lambda one: one.runtime != "tensorrt")


def test_a_device_is_looked_for_before_its_runtime(tmp_path: Path) -> None:
    """A device that is not here is not a mistake of the caller."""
    with pytest.raises(DeviceUnavailable, match="no 'h100' on this machine"):
        device_and_runtime(Workspace.at(tmp_path), "h100", threads=1, batch=1)


def test_spaces_take_the_classes_of_the_data() -> None:
    """A space that has as many classes is taken as it is, even if its constructor takes none; another one is made with them."""
    assert space_for(TINY, 10).num_classes == TinySpace.num_classes
    assert space_for("mobilenet", 10).num_classes == 10
    with pytest.raises(UsageError, match="TinySpace"):
        space_for(TINY, 7)


def test_versions() -> None:
    """Figures depend on these."""
    found = versions()
    assert found["hwnas"] == __version__
    assert {"python", "os", "numpy", "onnx", "onnxruntime", "torch"} <= set(found)


@pytest.mark.parametrize(("precision", "threads", "rate"), [("fp32", 1, 50.0), ("fp32", 2, 100.0), ("int8", 1, 100.0), ("fp16", 1, 50.0)])
def test_the_roofline_is_that_of_the_precision(precision: str, threads: int, rate: float) -> None:
    """The threads' share of what all units do at their best; the rate of fp32 where the device does not say."""
    setting = SimpleNamespace(precision=precision, threads=threads)
    profile = SimpleNamespace(device={"peak_flops": {"fp32": 100.0, "int8": 200.0}, "units": 2}, setting=setting)
    assert roofline_of(profile).flops_per_s == rate
