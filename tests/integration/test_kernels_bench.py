"""`hwnas kernels bench` whole: TensorRT's runtime over engines with scripted times, on a card of the scripted driver."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pynvml
import pytest
import torch
from commands import invoke
from fake_nvml import A100, FakeDriver, build

from hwnas.devices.nvidia import NvidiaDevice
from hwnas.ir import GraphBuilder
from hwnas.ir.fold import fold
from hwnas.ir.onnx import save
from hwnas.kernels import Case, KernelSource, Tuning, all_kernels, find
from hwnas.kernels.chain import Chain, chain
from hwnas.runtimes import registry, trt_build
from hwnas.runtimes.trt import TrtRuntime, precisions_of
from hwnas.runtimes.trt_build import Engine, Options
from hwnas.runtimes.trt_precision import write
from hwnas.testing.fake_cuda import FakeCuda
from hwnas.testing.fake_tensorrt import FakeBuilder, FakeTensorrt, RecordedEngine, made_up
from hwnas.workflows import kernels_bench, kernels_card
from hwnas.workflows.kernels_card import RUNS, Run

UUID = "0a0a0a0a-0a0a-0a0a-0a0a-0a0a0a0a0a0a"
OTHER_US = 3.0  # a layer that is no depthwise convolution
COPY_US = 1.0


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


class PluggedIn:
    """A card, by the scripted driver, on which TensorRT's layers and the kernels take scripted times.

    Args:
        depthwise_us: a layer with a depthwise convolution.
        kernel_us: a launch of a kernel, by its warps; those not named take 10.
        copies: whether engines copy values into other layouts.
    """

    def __init__(self, depthwise_us: float, kernel_us: dict[int, float], *, copies: bool = False) -> None:
        self.cuda = FakeCuda((UUID,))
        self._depthwise_us, self._kernel_us, self._copies = depthwise_us, kernel_us, copies
        self.built = 0

    def clock(self) -> int:
        """The card's time in nanoseconds."""
        return round(self.cuda.now_ms * 1e6)

    def builder(self, model: bytes, options: Options) -> Engine:
        """Engines in TensorRT's manner with times of our own."""
        import onnx

        self.built += 1
        groups = {node.name: attr.i for node in onnx.load_from_string(model).graph.node for attr in node.attribute if attr.name == "group"}
        layers = json.loads(made_up(model).layers)["Layers"]
        layers = [layer for layer in layers if self._copies or layer["LayerType"] != "Reformat"]
        times = [(layer["Name"], 1e-3 * self._takes_us(layer, groups)) for layer in layers]
        engine = RecordedEngine(model=model, layers=json.dumps({"Layers": layers, "Bindings": []}), times_ms=tuple(times))
        return FakeBuilder({model: engine})(model, options)

    def _takes_us(self, layer: dict[str, Any], groups: dict[str, int]) -> float:
        if layer["LayerType"] == "Reformat":
            return COPY_US
        return self._depthwise_us if any(groups.get(name, 1) > 1 for name in layer["Name"].split(" + ")) else OTHER_US

    def runtime(self, threads: int, device: NvidiaDevice, *_: object) -> TrtRuntime:
        """TensorRT on this card."""
        return TrtRuntime(device.card, trt=FakeTensorrt(self.cuda), api=self.cuda, builder=self.builder)

    def launches(self, name: str, precision: str, *, compiled: bool) -> Any:
        """The kernels on this card."""

        def row(source: KernelSource, case: Case, tuning: Tuning, chain: Chain, *, bare: bool) -> Run:
            products = len(chain.places)
            micros = products * OTHER_US + (1 if bare else products) * self._kernel_us.get(tuning.warps, 10.0)

            def run() -> None:
                self.cuda.now_ms += RUNS * micros * 1e-3

            return run

        return SimpleNamespace(where=f"{name}, {precision}", row=row)


@pytest.fixture
def plug_in(library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes this machine one that has a card."""

    def plugged(card: PluggedIn) -> PluggedIn:
        monkeypatch.setitem(registry._MAKERS, "tensorrt", card.runtime)
        monkeypatch.setattr(kernels_card, "CudaTorch", card.launches)
        monkeypatch.setattr(kernels_bench, "measure", partial(kernels_bench.measure, rounds=5, clock=card.clock))
        return card

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid=UUID))
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    with FakeDriver(library).under(pynvml) as driver:
        driver.load(A100.replace("GPU-0a", f"GPU-{UUID}"))
        yield plugged


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with two depthwise convolutions of one kind, one of another, and six layers in all."""
    b = GraphBuilder("net")
    x = b.op("Relu", [b.conv(b.input("x", (1, 3, 6, 6)), 8)])
    for stride in (1, 1, 2):
        x = b.op("Relu", [b.batch_norm(b.conv(x, 8, kernel=3, stride=stride, groups=8, bias=False))])
        x = b.conv(x, 8) if stride == 1 else b.op("GlobalAveragePool", [x])
    return save(b.finish(x).materialize(np.random.default_rng(0)), tmp_path_factory.mktemp("model") / "net.onnx")


def test_a_kernel_that_pays(plug_in: Any, model: Path) -> None:
    """8 us in TensorRT are 2 us in the kernel: the network loses 18 of its 36 us of layers, each place its own, and the verdict says so."""
    card = plug_in(PluggedIn(8.0, {8: 2.0}))
    said = invoke("kernels", "bench", model, "--device", "a100", "--precision", "fp32", "--json").json
    assert [timing["places"] for timing in said["timings"]] == [2, 1]
    for timing in said["timings"]:
        assert (timing["warps"], timing["verdict"], timing["baseline_launch"]) == (8, "pays", "graph")
        assert timing["baseline_kernels"] == {"kernels": 1, "alone": True, "copies": 0}
        assert timing["baseline_s"] == pytest.approx(8e-6, rel=1e-3)
        assert timing["kernel_s"] == pytest.approx(2e-6, rel=1e-3)
        assert timing["speedup"]["median"] == pytest.approx(4.0, rel=1e-3)
    assert said["network_s"] == pytest.approx((3 * 8 + 4 * OTHER_US) * 1e-6, rel=1e-3)
    assert said["network_speedup"]["median"] == pytest.approx(36 / 18, rel=1e-3)
    assert (said["verdict"], said["notes"]) == ("pays", [])
    assert said["where"] == "NVIDIA A100-SXM4-40GB, fp32, against tensorrt 11.4.0.106"
    assert card.built == 1 + 2 * 2


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_conversions_at_the_ends_do_not_count(plug_in: Any, model: Path, precision: str) -> None:
    """In fp16 the engine converts what it reads and writes; a place adds what its layer takes all the same."""
    plug_in(PluggedIn(5.0, {4: 4.0}))
    said = invoke("kernels", "bench", model, "--device", "a100", "--precision", precision, "--json").json
    assert {round(timing["baseline_s"] * 1e9) for timing in said["timings"]} == {5000}


def test_a_kernel_that_does_not_pay(plug_in: Any, model: Path) -> None:
    """A runtime that is as fast; said in words, with what it made of the work."""
    plug_in(PluggedIn(2.0, {4: 2.0}))
    done = invoke("kernels", "bench", model, "--device", "a100")
    text = " ".join(done.out.split())
    assert done.code == 0
    assert "does not pay: 1.000 [1.000, 1.000] times as fast on this network" in text
    assert "fused" in text
    assert "against tensorrt 11.4.0.106" in text


def test_copies_count_where_they_are_made(plug_in: Any, model: Path) -> None:
    """Work for which the runtime copies values into another layout takes the copies' time as well."""
    plug_in(PluggedIn(5.0, {4: 5.0}, copies=True))
    said = invoke("kernels", "bench", model, "--device", "a100", "--precision", "fp32", "--json").json
    assert all(5e-6 <= timing["baseline_s"] <= 7e-6 for timing in said["timings"])
    assert max(timing["baseline_s"] for timing in said["timings"]) > 5.1e-6


def test_a_card_without_tensorrt(library: Path, plug_in: Any, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The card is there, what is to be installed is said in one line."""
    monkeypatch.setattr(kernels_card, "CudaTorch", PluggedIn(1.0, {}).launches)
    done = invoke("kernels", "bench", model, "--device", "a100")
    assert (done.code, "tensorrt" in done.complaint) == (1, True)


def test_a_precision_that_the_runtime_lacks(plug_in: Any, model: Path) -> None:
    """Refused before anything is built."""
    card = plug_in(PluggedIn(1.0, {}))
    done = invoke("kernels", "bench", model, "--device", "a100", "--precision", "bf16")
    assert (done.code, card.built) == (2, 0)
    assert done.complaint.endswith("change --precision, or give --against torch or compile")


@pytest.mark.skipif(trt_build.find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX is not installed: pip install 'hwnas[rtx]'")
@pytest.mark.parametrize("kernel", [source.name for source in all_kernels()])
def test_engines_differ_by_the_work_alone(kernel: str, record_property: Callable[[str, object], None]) -> None:
    """Engines of both networks are really built, in fp16: as many conversions in both, and two places' layers more in one."""
    row = chain(kernel, find(kernel).cases[0], links=2)
    kinds = []
    for network in (row.whole, row.bare):
        graph = fold(network.materialize(np.random.default_rng(0)))
        model = write(graph, precisions_of(graph, "fp16"), {}).SerializeToString()
        engine = trt_build.build(model, Options(flavor="rtx", capabilities=("sm86",)))
        kinds.append(Counter(layer.kind for layer in engine.layers))
        assert {layer.precision for layer in engine.layers if layer.kind in ("CONVOLUTION", "MATRIX_MULTIPLY")} == {"fp16"}
        record_property("engine", f"{graph.name}, fp16 sm86: {len(engine.plan):,} bytes")
    whole, bare = kinds
    assert whole["CAST"] == bare["CAST"] > 0
    more = whole - bare
    assert all(count % row.links == 0 for count in more.values())
    work = {"depthwise_conv": "CONVOLUTION", "squeeze_excite": "REDUCE", "layer_norm_residual": "NORMALIZATION"}[kernel]
    assert more[work] == row.links
    assert not bare - whole
