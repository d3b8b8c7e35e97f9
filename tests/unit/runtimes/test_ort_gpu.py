"""ONNX Runtime's path to a card: refusals for real, and all else with the processor in the card's place."""

from __future__ import annotations

import subprocess
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from hwnas.devices.nvml import Card
from hwnas.errors import DeviceUnavailable, GraphError, MissingExtraError, UsageError
from hwnas.ir import Graph, GraphBuilder
from hwnas.ir.onnx import to_bytes
from hwnas.runtimes.base import Model
from hwnas.runtimes.fusions import UNFUSED
from hwnas.runtimes.ort import OrtRuntime
from hwnas.runtimes.ort_cuda_fusion import RULES, fuse
from hwnas.runtimes.ort_gpu import (
    CPU,
    CUDA,
    TARGETS,
    TENSORRT,
    OrtGpuRuntime,
    OrtGpuSession,
    Target,
    assignment,
    check,
    layers_of,
    number_of,
    open_session,
)
from hwnas.runtimes.trt_kernels import Written, attribute
from hwnas.testing.conformance import GRAPHS, RuntimeConformance

PROCESSOR = Target(provider=CPU, memory="cpu")
HALF = replace(PROCESSOR, precisions=("fp32", "fp16"))


class TestOrtGpuConforms(RuntimeConformance):
    """The same code with the processor's provider: binding, timing, the profiled child and the way back to the graph."""

    @pytest.fixture
    def runtime(self):
        return OrtGpuRuntime("onnxruntime-cuda", target=PROCESSOR, fusions=OrtRuntime(1).fusions)


class Half(OrtGpuRuntime):
    """Builds in fp16 what nobody asked for in another precision."""

    def build(self, model: Model, *, precision: str = "fp16") -> OrtGpuSession:
        return super().build(model, precision=precision)


class TestOrtGpuConformsInHalfPrecision(RuntimeConformance):
    """The processor has few kernels in fp16: ONNX Runtime converts around the others, and every conversion has its owner."""

    tolerance = 1e-2

    @pytest.fixture
    def runtime(self):
        return Half("onnxruntime-cuda", target=HALF, fusions=OrtRuntime(1).fusions)

    def test_precision_is_part_of_every_kernel(self, runtime: Half, graph: Graph) -> None:
        """No kernel is in another, and conversions are none of their own."""
        kernels = [call.kernel for call in runtime.build(graph).kernels()]
        assert {kernel.precision for kernel in kernels} == {"fp16"}
        assert all(kernel.op != "Cast" for kernel in kernels)


def card(index: int = 0) -> Card:
    """A card as its driver lists it."""
    return Card(index=index, name="NVIDIA T4", uuid=f"GPU-{index}a", compute_capability=(7, 5), memory_bytes=2**34, mig=None)


def graph() -> Graph:
    """A small network with its weights."""
    return GRAPHS["residual"]().materialize(np.random.default_rng(0))


on_processor = pytest.mark.skipif(CUDA in onnxruntime.get_available_providers(), reason="this is the build for NVIDIA cards")


@on_processor
@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_build_without_the_provider_is_refused(name: str) -> None:
    """One line with what the build has and what to install, for making the runtime and for its status alike."""
    with pytest.raises(
        MissingExtraError, match=r"has no (CUDA|Tensorrt)ExecutionProvider \(it has: .*CPUExecutionProvider\).*hwnas\[gpu\]"
    ):
        OrtGpuRuntime(name, card())
    with pytest.raises(MissingExtraError, match="pip uninstall onnxruntime"):
        check(name)


class Deceiving:
    """ONNX Runtime as it is where the provider is compiled in and does not start: it is said to be there, and the processor computes."""

    __version__ = onnxruntime.__version__
    SessionOptions = onnxruntime.SessionOptions
    GraphOptimizationLevel = onnxruntime.GraphOptimizationLevel
    InferenceSession = staticmethod(onnxruntime.InferenceSession)

    @staticmethod
    def get_available_providers() -> list[str]:
        """What was compiled in."""
        return [TENSORRT, CUDA, CPU]


@on_processor
@pytest.mark.parametrize("target", TARGETS.values(), ids=sorted(TARGETS))
def test_the_processor_never_steps_in_silently(target: Target) -> None:
    """The real ONNX Runtime, asked for a provider that does not start, is made to refuse instead of computing elsewhere."""
    with pytest.raises(GraphError, match=f"does not load the network on {target.provider}: .*fallback to CPU EP has been") as caught:
        open_session(Deceiving, to_bytes(graph()), target)
    assert "\n" not in str(caught.value)


class Session:
    """A session whose nodes are where the test wants them."""

    def __init__(self, providers: list[str], parts: dict[str, list[str]]) -> None:
        self._providers, self._parts = providers, parts

    def get_providers(self) -> list[str]:
        """That it has."""
        return self._providers

    def get_provider_graph_assignment_info(self) -> list[Any]:
        """Who computes what."""
        nodes = {provider: [SimpleNamespace(name=name) for name in names] for provider, names in self._parts.items()}
        return [SimpleNamespace(ep_name=provider, get_nodes=lambda p=provider: nodes[p]) for provider in self._parts]


@pytest.mark.parametrize(
    ("providers", "parts", "error", "reason"),
    [
        ([CPU], {}, DeviceUnavailable, "does not start CUDAExecutionProvider, it gives CPUExecutionProvider"),
        ([CUDA, CPU], {CUDA: ["conv_0"], CPU: ["shape_0"]}, GraphError, "node 'shape_0' would compute on CPUExecutionProvider"),
        ([CUDA, CPU], {}, None, ""),
    ],
)
def test_what_was_asked_for_is_what_computes(providers: list[str], parts: dict[str, list[str]], error: Any, reason: str) -> None:
    """A session that lacks the provider is refused, and so is one of whose nodes another takes a part."""

    class Ort(Deceiving):
        InferenceSession = staticmethod(lambda *_, **__: Session(providers, parts))

    if error is None:
        assert open_session(Ort, b"", TARGETS["onnxruntime-cuda"]).get_providers() == providers
    else:
        with pytest.raises(error, match=reason):
            open_session(Ort, b"", TARGETS["onnxruntime-cuda"])


def test_tensorrt_takes_something_or_there_is_no_point() -> None:
    """CUDA may take what TensorRT leaves, not all of it."""

    class Ort(Deceiving):
        InferenceSession = staticmethod(lambda *_, **__: Session([TENSORRT, CUDA], {CUDA: ["conv_0"]}))

    with pytest.raises(GraphError, match="TensorrtExecutionProvider takes no node of the network"):
        open_session(Ort, b"", TARGETS["onnxruntime-tensorrt"])


def test_nodes_are_told_with_their_provider() -> None:
    """The real ONNX Runtime tells who computes each node, under the names of the graph."""
    session = open_session(onnxruntime, to_bytes(graph()), PROCESSOR)
    parts = assignment(session)
    assert {provider for provider, _ in parts} == {CPU}
    assert {"conv_0", "gemm_0"} <= {name for _, names in parts for name in names}


@pytest.mark.parametrize(
    ("visible", "number"),
    [(None, 1), ("1", 0), ("0,1", 1), ("GPU-1a", 0), ("gpu-0a, gpu-1A", 1)],
)
def test_a_card_has_the_number_that_cuda_gives_it(visible: str | None, number: int) -> None:
    """CUDA counts what it is let see, by number or UUID."""
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert number_of(card(1), environment) == number


@pytest.mark.parametrize("visible", ["", "0", "GPU-", "-1"])
def test_a_card_that_is_hidden(visible: str) -> None:
    """It is refused with the variable that hides it."""
    with pytest.raises(DeviceUnavailable, match=f"CUDA_VISIBLE_DEVICES={visible} hides card 1"):
        number_of(card(1), {"CUDA_VISIBLE_DEVICES": visible})


def test_options_of_the_providers() -> None:
    """Full fp32 unless asked otherwise, graphs where the one that computes can, fp16 for TensorRT when the model is in it."""
    ((name, options),) = TARGETS["onnxruntime-cuda"].providers("fp32", graph=True)
    assert (name, options["use_tf32"], options["enable_cuda_graph"]) == (CUDA, "0", "1")
    (_, first), (name, second) = replace(TARGETS["onnxruntime-tensorrt"], number=2).providers("fp16", graph=True)
    assert (first["trt_fp16_enable"], first["trt_cuda_graph_enable"], first["device_id"]) == ("1", "1", "2")
    assert (name, second["enable_cuda_graph"], second["device_id"]) == (CUDA, "0", "2")


def test_a_part_that_tensorrt_computes_is_one_kernel() -> None:
    """It names its members; what CUDA computes between two parts is called after its node."""
    names = [f"TensorrtExecutionProvider_TRTKernel_graph_main_{i}_{i}" for i in range(2)]
    parts = [(TENSORRT, ["conv_0", "relu_0"]), (CUDA, ["globalaveragepool_0"]), (TENSORRT, ["gemm_0"])]
    layers = layers_of([names[0], "globalaveragepool_0", names[1]], parts)
    assert [layer.origins for layer in layers] == [("conv_0", "relu_0"), ("globalaveragepool_0",), ("gemm_0",)]
    b = GraphBuilder("parts")
    x = b.op("Relu", [b.conv(b.input("x", (1, 3, 8, 8)), 4)])
    small = b.finish(b.linear(b.op("Flatten", [b.op("GlobalAveragePool", [x])]), 3))
    calls = list(attribute(small, Written(serves={}, holds={}), layers, dict.fromkeys(small.positions, "fp16")).values())
    assert [call.nodes for call in calls] == [("conv_0", "relu_0"), ("globalaveragepool_0",), ("flatten_0", "gemm_0")]
    assert {call.kernel.precision for call in calls} == {"fp16"}


def test_refusals_of_the_runtime() -> None:
    """Names and precisions that there are not."""
    with pytest.raises(UsageError, match=r"onnxruntime-cuda or onnxruntime-tensorrt, not 'onnxruntime-rocm'"):
        OrtGpuRuntime("onnxruntime-rocm", target=PROCESSOR)
    with pytest.raises(UsageError, match=r"onnxruntime-cuda computes in fp32 or fp16, not in 'int8'; --runtime tensorrt has int8"):
        OrtGpuRuntime("onnxruntime-cuda", target=HALF).build(graph(), precision="int8")


def test_a_profiled_child_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last words are the reason."""
    session = OrtGpuRuntime("onnxruntime-cuda", target=PROCESSOR, fusions=OrtRuntime(1).fusions).build(graph())
    done = subprocess.CompletedProcess([], 1, stdout="", stderr="noise\nout of memory\n")
    monkeypatch.setattr("hwnas.runtimes.ort_gpu.subprocess.run", lambda *_, **__: done)
    with pytest.raises(GraphError, match=r"does not run the network with its profiler: out of memory$"):
        session.kernels()


def test_work_for_a_meter() -> None:
    """So many runs, one after the other, with the inputs that were given."""
    small = graph()
    session = OrtGpuRuntime("onnxruntime-cuda", target=PROCESSOR).build(small)
    feed = small.random_inputs(np.random.default_rng(3))
    expected = session.run(feed)
    session.repeat(small.random_inputs(np.random.default_rng(4)))(3)
    np.testing.assert_array_equal(session.run(feed)[0], expected[0])
    assert session.launch == "stream"


@pytest.mark.parametrize("name", ["branches", "residual"])
def test_kernels_in_half_precision_are_those_foretold(name: str, ort_runtime: OrtRuntime) -> None:
    """The same as in fp32 but for their precision: conversions, the processor's own among them, leave no trace."""
    recipe = GRAPHS[name]()
    runtime = OrtGpuRuntime("onnxruntime-cuda", target=HALF, fusions=ort_runtime.fusions)
    found = Counter(call.kernel for call in runtime.build(recipe, precision="fp16").kernels())
    assert found == Counter(call.kernel for call in fuse(recipe, runtime.fusions, precision="fp16"))


def test_what_it_fuses_is_asked_of_it(ort_runtime: OrtRuntime) -> None:
    """The probe on its own session finds on a processor what it finds there without a card's code; what is given is not asked."""
    assert OrtGpuRuntime("onnxruntime-cuda", target=PROCESSOR).fusions == ort_runtime.fusions
    assert OrtGpuRuntime("onnxruntime-cuda", target=PROCESSOR, fusions=RULES).fusions is RULES
    assert OrtGpuRuntime("onnxruntime-tensorrt", target=replace(PROCESSOR, provider=TENSORRT)).fusions == UNFUSED
