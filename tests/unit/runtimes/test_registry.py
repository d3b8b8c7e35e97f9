"""The runtimes by name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hwnas.assets import Workspace
from hwnas.devices.nvidia import NvidiaDevice
from hwnas.devices.nvml import Card
from hwnas.errors import DeviceUnavailable, HwnasError, MissingExtraError, UsageError
from hwnas.ir import GraphBuilder
from hwnas.runtimes import ort_cuda_fusion, ort_int8_fusion, registry, trt_fusion
from hwnas.runtimes.ort_fusion import fuse

GPU = ("tensorrt", "onnxruntime-cuda", "onnxruntime-tensorrt")


def test_a_runtime_by_name() -> None:
    """The default runtime of a device can be made, with the threads asked for, and knows how it fuses."""
    name = registry.default("cpu")
    runtime = registry.make(name, 1)
    assert (runtime.name, runtime.threads) == (name, 1)
    assert registry.fuser(name) is fuse
    assert registry.fuser(name, "int8") is ort_int8_fusion.fuse


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensorrt_is_foretold_in_every_precision(precision: str) -> None:
    """Its kernels are told without the card."""
    assert registry.fuser("tensorrt", precision) is trt_fusion.FUSERS[precision]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_onnx_runtime_on_a_card_is_foretold(precision: str) -> None:
    """Its CUDA provider by rules of its own, its TensorRT provider by TensorRT's."""
    assert registry.fuser("onnxruntime-cuda", precision) is ort_cuda_fusion.FUSERS[precision]
    assert registry.fuser("onnxruntime-tensorrt", precision) is trt_fusion.FUSERS[precision]


def test_a_precision_whose_kernels_nobody_knows() -> None:
    """It is refused with those that are known."""
    with pytest.raises(UsageError, match="does not know which kernels 'onnxruntime-cpu' runs in 'fp16'; it knows: onnxruntime-cpu in fp32"):
        registry.fuser("onnxruntime-cpu", "fp16")


def test_an_unknown_runtime() -> None:
    """A name that is none is refused with the nearest one and the list."""
    with pytest.raises(UsageError, match=r"unknown runtime 'onnxruntime' \(did you mean 'onnxruntime-cpu'\?\); this version has:"):
        registry.make("onnxruntime", 1)


def test_devices_have_runtimes() -> None:
    """TensorRT measures the cards of the catalogue unless ONNX Runtime is asked for; what is no device is refused."""
    assert registry.default("a100") == "tensorrt"
    assert registry.choices("h100") == GPU
    assert registry.choices("cpu") == ("onnxruntime-cpu",)
    with pytest.raises(UsageError, match="unknown device 'a10000'"):
        registry.default("a10000")


def test_statuses() -> None:
    """A runtime that works says its version and no problem, and comes first; one that does not says why in one line."""
    first, *others = registry.statuses()
    assert first.name == "onnxruntime-cpu"
    assert first.version
    assert first.problem == ""
    assert {status.name for status in others} == set(GPU)
    assert all("\n" not in status.problem and bool(status.problem) != bool(status.version) for status in others)


@pytest.mark.parametrize("name", GPU)
def test_a_runtime_without_its_card_or_library(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no driver, making it is an error of one line, whatever is installed."""

    def none() -> tuple[Card, ...]:
        raise DeviceUnavailable("no NVIDIA driver (libnvidia-ml.so.1: not found); install one")

    monkeypatch.setattr("hwnas.devices.nvml.cards", none)
    with pytest.raises(HwnasError, match=r"has no (CUDA|Tensorrt)ExecutionProvider|no NVIDIA driver") as caught:
        registry.make(name, 1)
    assert "\n" not in str(caught.value)


def test_a_runtime_gets_the_card_that_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device that was found is handed on as its card, and timing caches go to the workspace that is worked in."""
    card = Card(index=3, name="NVIDIA T4", uuid="GPU-3", compute_capability=(7, 5), memory_bytes=1, mig=None)
    monkeypatch.setattr("hwnas.runtimes.trt.TrtRuntime", lambda card, caches: (card, caches))
    device = NvidiaDevice(card, None)  # type: ignore[arg-type]
    assert registry.make("tensorrt", 1, device) == (card, None)
    assert registry.make("tensorrt", 1, device, Workspace.at("here")) == (card, Path("here/caches/tensorrt").resolve())


def test_a_runtime_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing library is a status with what to install, and an error when the runtime is made."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    status = next(status for status in registry.statuses() if status.name == "onnxruntime-cpu")
    assert status.version == ""
    assert "pip install 'hwnas[cpu]'" in status.problem
    with pytest.raises(MissingExtraError):
        registry.make("onnxruntime-cpu", 1)


def test_networks_that_are_quantised_in_part() -> None:
    """Told for ONNX Runtime on a CPU; for others the remedy."""
    b = GraphBuilder("two")
    x = b.conv(b.conv(b.input("x", (1, 8, 6, 6)), 8, kernel=3), 8, kernel=3)
    graph = b.finish(x)
    last = graph.nodes[-1].name
    told = registry.fuser("onnxruntime-cpu", "int8", frozenset({last}))(graph, 8)
    assert {call.kernel.precision for call in told if last in call.nodes and call.kernel.op == "Conv"} == {"fp32"}
    assert "int8" in {call.kernel.precision for call in told if call.kernel.op == "Conv"}
    with pytest.raises(UsageError, match="quantised in part is not told for 'tensorrt' in 'int8'; give the network in fp32"):
        registry.fuser("tensorrt", "int8", frozenset({last}))
