"""The runtimes of NVIDIA cards on a card: `make test-gpu`. Nothing here runs without one; docs/gpu.md is the checklist around it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from hwnas import spaces
from hwnas.devices import Unavailable
from hwnas.devices.nvml import Card
from hwnas.devices.registry import nvidia_cards
from hwnas.errors import MissingExtraError
from hwnas.ir import Graph
from hwnas.runtimes.base import Runtime
from hwnas.runtimes.ort_cuda_fusion import RULES, fuse
from hwnas.runtimes.ort_gpu import OrtGpuRuntime
from hwnas.runtimes.samples import StoppingRule
from hwnas.runtimes.trt import PRECISIONS, TrtRuntime
from hwnas.runtimes.trt_fusion import FUSERS
from hwnas.runtimes.trt_layers import from_inspector
from hwnas.testing.conformance import RuntimeConformance

pytestmark = pytest.mark.gpu
RULE = StoppingRule(relative_error=0.02, min_samples=50, max_seconds=5)


@pytest.fixture(scope="module")
def card() -> Card:
    """The first card of this machine."""
    cards = nvidia_cards()
    if isinstance(cards, Unavailable) or not cards:
        pytest.skip(cards.reason if isinstance(cards, Unavailable) else "the NVIDIA driver lists no card")
    return cards[0]


def made(runtime: Callable[[], Runtime]) -> Runtime:
    """The runtime, where its library is installed; a card that is there and does not work fails the test."""
    try:
        return runtime()
    except MissingExtraError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def tensorrt(card: Card) -> TrtRuntime:
    """TensorRT on the card."""
    runtime = made(lambda: TrtRuntime(card))
    assert isinstance(runtime, TrtRuntime)
    return runtime


class TestTensorrt(RuntimeConformance):
    """The suite, with engines that are really built."""

    tolerance = 1e-3
    moves = frozenset({"Reformat"})

    @pytest.fixture
    def runtime(self, tensorrt: TrtRuntime) -> Runtime:
        """The runtime under test."""
        return tensorrt


class TestCuda(RuntimeConformance):
    """ONNX Runtime's CUDA provider."""

    tolerance = 1e-3

    @pytest.fixture
    def runtime(self, card: Card) -> Runtime:
        """The runtime under test."""
        return made(lambda: OrtGpuRuntime("onnxruntime-cuda", card))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_cuda_fuses_what_is_foretold(card: Card, precision: str) -> None:
    """What the provider shows of itself are the rules that stand for it without a card, and its kernels are those that they foretell."""
    runtime = made(lambda: OrtGpuRuntime("onnxruntime-cuda", card))
    assert runtime.fusions == RULES
    graph = network()
    kernels = Counter(call.kernel for call in runtime.build(graph, precision=precision).kernels())
    assert kernels == Counter(call.kernel for call in fuse(graph, precision=precision))


class TestCudaTensorrt(RuntimeConformance):
    """ONNX Runtime's TensorRT provider, which may round to TF32."""

    tolerance = 1e-2

    @pytest.fixture
    def runtime(self, card: Card) -> Runtime:
        """The runtime under test."""
        return made(lambda: OrtGpuRuntime("onnxruntime-tensorrt", card))


def network() -> Graph:
    """A network of the larger space."""
    space = spaces.load("mobilenet")
    return space.graph(space.sample(np.random.default_rng(0))).materialize(np.random.default_rng(0))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_kernels_add_up(tensorrt: TrtRuntime, precision: str) -> None:
    """Kernels by the profiler take between half and four times the undisturbed run, and their precision is the one asked for."""
    graph = network()
    session = tensorrt.build(graph, precision=precision)
    feed = graph.random_inputs(np.random.default_rng(0))
    whole = session.time(feed, RULE)
    times = session.kernel_times(feed, runs=20)
    assert 0.5 < sum(row.seconds for row in times) / whole.p10_s < 4
    assert any(row.call.kernel.precision == precision for row in times if row.call.kernel.op == "Conv")


def test_a_run_is_one_launch(tensorrt: TrtRuntime) -> None:
    """A network without control flow is captured as a CUDA graph."""
    assert tensorrt.build(network()).launch == "graph"


def test_the_profiler_tells_layers_of_the_inspector(tensorrt: TrtRuntime) -> None:
    """Every layer that is timed has its record: a new version that names them otherwise shows here, and not as wrong shares."""
    graph = network()
    session = tensorrt.build(graph, precision="fp16")
    known = {layer.name for layer in from_inspector(session.layers())}
    (times,) = session.layer_times(graph.random_inputs(np.random.default_rng(0)), runs=1)
    told = {name for name, _ in times}
    assert told <= known


def test_most_kernels_were_foretold(tensorrt: TrtRuntime) -> None:
    """Half of the computing kernels at least are those that the rules tell without the card."""
    graph = network()
    met = {call.nodes for call in tensorrt.build(graph, precision="fp16").kernels() if call.kernel.op != "Reformat"}
    foretold = {call.nodes for call in FUSERS["fp16"](graph, 0)}
    assert len(met & foretold) >= 0.5 * len(met)
