"""The worker answers a request in a folder; TensorRT's own path through it is driven with TensorRT-RTX, whose classes are the same."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from trained import residual

from hwnas.errors import DeviceUnavailable
from hwnas.ir.fold import fold
from hwnas.ir.onnx import to_bytes
from hwnas.runtimes import trt_native, trt_worker
from hwnas.runtimes.trt_build import Options
from hwnas.runtimes.trt_layers import from_json

rtx = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX is not installed: pip install 'hwnas[rtx]'")
MODEL = to_bytes(fold(residual()))


def request(folder: Path, options: Options, **more: Any) -> Path:
    """A folder with a request to build."""
    folder.mkdir()
    (folder / "model.onnx").write_bytes(MODEL)
    asked = {"job": "build", "flavor": options.flavor, "options": asdict(options), "caches": "", "device": "any", **more}
    (folder / "request.json").write_text(json.dumps(asked))
    return folder


@rtx
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_timings_are_kept_for_each_version_and_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build leaves its timing cache under version and card, and the next one starts from it; a damaged one is replaced."""
    monkeypatch.setattr(trt_worker, "MODULES", {"tensorrt": "tensorrt_rtx"})
    given: list[bytes] = []
    really = trt_native.compile_engine

    def spying(trt: Any, model: bytes, options: Options, *, cache: bytes) -> trt_native.Built:
        given.append(cache)
        return really(trt, model, options, cache=cache)

    monkeypatch.setattr(trt_native, "compile_engine", spying)
    caches = tmp_path / "caches"
    for i in range(2):
        folder = request(tmp_path / str(i), Options(), caches=str(caches), device="NVIDIA A100-SXM4-40GB")
        answer = trt_worker.work(folder)
        assert "error" not in answer
    (kept,) = caches.rglob("*.cache")
    assert kept.relative_to(caches).parts == (f"tensorrt-{answer['version']}", "nvidia-a100-sxm4-40gb.cache")
    assert given == [b"", kept.read_bytes()]
    assert (folder / "timing.cache").read_bytes() == kept.read_bytes() != b""
    kept.write_bytes(b"damaged")
    assert "error" not in trt_worker.work(request(tmp_path / "2", Options(), caches=str(caches), device="NVIDIA A100-SXM4-40GB"))
    assert kept.read_bytes() != b"damaged"


@rtx
def test_a_build_leaves_plan_and_layers(tmp_path: Path) -> None:
    """The plan and the parser's view lie in the folder, and the answer gives version and time."""
    folder = request(tmp_path / "request", Options(flavor="rtx", capabilities=("sm86",)))
    answer = trt_worker.work(folder)
    assert answer["seconds"] > 0
    assert (folder / "model.plan").stat().st_size > 10_000
    view, layers = from_json((folder / "layers.json").read_text())
    assert view == "parser"
    assert {layer.kind for layer in layers} >= {"CONVOLUTION", "ACTIVATION", "ELEMENTWISE"}


@rtx
def test_a_failure_is_an_answer(tmp_path: Path) -> None:
    """What goes wrong is written down with the class of our error, for the parent to raise."""
    folder = request(tmp_path / "request", Options(flavor="rtx"))
    (folder / "model.onnx").write_bytes(b"nothing")
    answer = trt_worker.work(folder)
    assert answer["error"] == "GraphError"
    assert "does not take the model" in answer["message"]


def test_a_builder_that_does_not_start_has_no_card() -> None:
    """TensorRT without a driver raises a TypeError from inside its bindings; it becomes the absence of a device."""

    class Logger:
        pass

    def nothing(log: object) -> object:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    bare: Any = SimpleNamespace(ILogger=Logger, Builder=nothing, Runtime=nothing, __name__="tensorrt")
    with pytest.raises(DeviceUnavailable, match=r"builds on the card that the engine is for, and finds no NVIDIA card .* --flavor rtx$"):
        trt_native.compile_engine(bare, MODEL, Options(), cache=b"")
    loads, reason, layers = trt_native.look(bare, b"")
    assert (loads, layers) == (False, "")
    assert "no NVIDIA card or driver" in reason


def test_what_cuda_said_is_kept_of_a_long_error() -> None:
    """An error that CUDA gave is told in CUDA's words; another in the library's."""
    long = "IRuntime::x: Error Code 1: Cuda Runtime (In S at /a.cpp:25 (cudaError 35: CUDA driver version is insufficient))"
    assert trt_native.reason([("WARNING", "w"), ("ERROR", long)]) == "CUDA driver version is insufficient (CUDA error 35)"
    assert trt_native.reason([("ERROR", "first"), ("ERROR", "second")]) == "first"
    assert trt_native.reason([]) == "it gives no reason"
