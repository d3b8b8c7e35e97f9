"""TensorRT 10.x and 11.x on an NVIDIA card: engines strongly typed, timed by CUDA events and layer by layer. Not yet run on hardware.

An engine is built, and loaded once, in a process of its own (`trt_build`); only one that loaded there is loaded here. The card is the one
with the UUID that the driver tells, in that process as in this one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from hwnas.assets import Workspace
from hwnas.devices import nvml
from hwnas.devices.nvml import Card
from hwnas.errors import DeviceUnavailable, GraphError, UsageError, require
from hwnas.ir import Graph, KernelCall
from hwnas.ir.fold import fold
from hwnas.ir.node import Array
from hwnas.runtimes import cuda as cuda_api
from hwnas.runtimes import trt_build
from hwnas.runtimes.base import KernelTime, Model, graph_of
from hwnas.runtimes.cuda import Buffer, Cuda, Stream
from hwnas.runtimes.fusions import UNFUSED, Fusions
from hwnas.runtimes.ort_int8 import Range
from hwnas.runtimes.ort_probe import call_overhead_s
from hwnas.runtimes.samples import Samples, StoppingRule, faster_half_s, sample
from hwnas.runtimes.trt_build import Engine, Options
from hwnas.runtimes.trt_kernels import Written, attribute
from hwnas.runtimes.trt_layers import from_inspector
from hwnas.runtimes.trt_precision import Precisions, activations, quantisable, write
from hwnas.runtimes.trt_run import Loaded, enqueue

PRECISIONS = ("fp32", "fp16", "int8")
WARMUP = 3  # profiled runs that do not count
LEAST_S = 1e-9  # of a layer that the profiler does not tell, or tells as 0
_WEIGHTS_SEED = 0


class Builder(Protocol):
    """Makes an engine of an ONNX model; raises as `hwnas.runtimes.trt_build.build`."""

    def __call__(self, model: bytes, options: Options) -> Engine:
        """The engine."""
        ...


class TrtSession:
    """An engine with its memory on the card; satisfies `hwnas.runtimes.base.Session`.

    Attributes:
        graph: the network as a graph.
        launch: how a run is launched: `graph` where it could be captured as a CUDA graph, else `stream`.
    """

    def __init__(self, graph: Graph, written: Written, precisions: Mapping[str, str], loaded: Loaded, cuda: Cuda, stream: Stream) -> None:
        self.graph = graph
        self._written = written
        self._precisions = precisions
        self._loaded = loaded
        self._stream = stream
        self._buffers = _buffers(graph, loaded, cuda)
        self._addresses = {name: buffer.address for name, buffer in self._buffers.items()}
        self._context = loaded.context(self._addresses)

    @cached_property
    def _launch(self) -> tuple[Literal["graph", "stream"], Callable[[], None]]:
        """One launch for the whole network: its kernels are shorter than the time in which the host launches them one by one."""
        plain = partial(enqueue, self._context, self._stream.handle)
        plain()  # what TensorRT does once must not be captured
        self._stream.synchronise()
        captured = self._stream.captured(plain)
        return ("stream", plain) if captured is None else ("graph", captured)

    @property
    def launch(self) -> Literal["graph", "stream"]:
        """How a run is launched."""
        return self._launch[0]

    def run(self, feed: Mapping[str, Array]) -> Sequence[Array]:
        """The outputs for these inputs."""
        self._load(feed)
        self._launch[1]()
        self._stream.synchronise()
        specs = ((name, self.graph.specs[name]) for name in self.graph.outputs)
        return [self._stream.download(self._buffers[name], spec.shape, spec.dtype) for name, spec in specs]

    def time(self, feed: Mapping[str, Array], rule: StoppingRule) -> Samples:
        """End-to-end durations in s of the card's own work, by CUDA events around each run.

        Inputs are on the card already and outputs stay there, caches are warm, runs do not overlap. Time in which the host launches
        counts only as far as the card waits for it (see `launch`). Whether the card was slowed down meanwhile is not judged here: the
        caller looks at its clocks before and after (`hwnas.devices.nvml.state`), drops what is not its usual speed, and keeps others
        off the card.
        """
        self._load(feed)
        launch, now_ns = self._launch[1], 0

        def once() -> None:
            nonlocal now_ns
            now_ns += max(1, round(self._stream.timed_s(launch) * 1e9))

        return sample(once, rule, lambda: now_ns)

    def repeat(self, feed: Mapping[str, Array]) -> Callable[[int], None]:
        """Runs it so many times, one after the other, and returns when the card has finished: work for an energy meter."""
        self._load(feed)
        launch = self._launch[1]

        def work(runs: int) -> None:
            for _ in range(runs):
                launch()
            self._stream.synchronise()

        return work

    def layers(self) -> str:
        """What TensorRT's inspector says of the engine's layers, in JSON."""
        return self._loaded.layers()

    def layer_times(self, feed: Mapping[str, Array], runs: int) -> list[tuple[tuple[str, float], ...]]:
        """For each of so many runs, layers with their times in s, as TensorRT's profiler tells them."""
        self._load(feed)
        watched = self._loaded.watched(self._addresses)
        return [watched.run(self._stream.handle, self._stream.synchronise) for _ in range(WARMUP + runs)][WARMUP:]

    def kernels(self) -> tuple[KernelCall, ...]:
        """Every kernel in execution order, by the engine inspector."""
        return tuple(dict.fromkeys(self._calls().values()))

    def kernel_times(self, feed: Mapping[str, Array], runs: int) -> tuple[KernelTime, ...]:
        """Time of every kernel in context: the mean of the faster half of its runs by TensorRT's profiler, in s; no CUDA graph."""
        told = self.layer_times(feed, runs)
        calls = self._calls(tuple(name for run in told for name, _ in run))
        durations: dict[KernelCall, list[float]] = {call: [0.0] * runs for call in calls.values()}
        for i, run in enumerate(told):
            for name, seconds in run:
                durations[calls[name]][i] += seconds
        return tuple(KernelTime(call=call, seconds=max(LEAST_S, faster_half_s(values))) for call, values in durations.items())

    def _calls(self, names: Sequence[str] = ()) -> Mapping[str, KernelCall]:
        return attribute(self.graph, self._written, from_inspector(self.layers()), self._precisions, names)

    def _load(self, feed: Mapping[str, Array]) -> None:
        for name, spec in self.graph.inputs.items():
            self._stream.upload(self._buffers[name], np.asarray(feed[name], spec.dtype))


def _buffers(graph: Graph, loaded: Loaded, cuda: Cuda) -> dict[str, Buffer]:
    """Memory for what the engine reads and writes."""
    for end in loaded.ends:
        spec = graph.specs.get(end.name)
        if spec is None or end.shape != spec.shape:
            raise GraphError(
                f"TensorRT's engine has an input or output '{end.name}' of shape {end.shape}, which graph '{graph.name}' has not"
            )
    return {end.name: cuda.buffer(graph.specs[end.name].nbytes) for end in loaded.ends}


class TrtRuntime:
    """TensorRT on one card; satisfies `hwnas.runtimes.base.Runtime`.

    Args:
        card: to run on; the driver's first one unless given.
        trt: `tensorrt`, or what stands in for it.
        api: `cuda.bindings.runtime`, or what stands in for it.
        builder: builds engines; in child processes unless given.
        caches: folder of timing caches (`Workspace.timing_caches`); that of the user's workspace unless given.

    Raises:
        MissingExtraError: TensorRT or CUDA's client is not installed.
        DeviceUnavailable: there is no driver or no card; or TensorRT or CUDA do not work with it.
    """

    name = "tensorrt"
    threads = 1  # launches; the card computes

    def __init__(
        self, card: Card | None = None, *, trt: Any = None, api: Any = None, builder: Builder | None = None, caches: Path | None = None
    ) -> None:
        self.card = card or first_card()  # before anything of TensorRT is loaded: without a driver it crashes
        if trt is None:
            trt_build.check_installed("tensorrt")
        self._trt = require("tensorrt", "tensorrt") if trt is None else trt
        self.version = str(self._trt.__version__)
        self._cuda = Cuda(self.card, api)
        self._stream = self._cuda.stream()
        self._caches = caches
        self._builder = builder or self._build

    def build(self, model: Model, *, precision: str = "fp32") -> TrtSession:
        """A session for a graph (weights that are still recipes are drawn), serialised ONNX, or a file.

        Args:
            model: the network, in fp32.
            precision: `fp32` (never TF32), `fp16`, or `int8`: products in 8 bits with ranges that are made up and answers that mean
                nothing, the rest in fp16, in the form in which hwnas exports it.

        Raises:
            GraphError: TensorRT refuses the network.
            UsageError: for a precision that this runtime does not have.
            DeviceUnavailable: the engine does not load on the card.
        """
        if precision not in PRECISIONS:
            raise UsageError(f"TensorRT computes in {', '.join(PRECISIONS)}, not in '{precision}'")
        graph = graph_of(model).materialize(np.random.default_rng(_WEIGHTS_SEED))
        folded = fold(graph)
        how = precisions_of(folded, precision)
        written = write(folded, how, made_up(folded))
        engine = self._builder(written.SerializeToString(), Options())
        if engine.view != "engine":
            raise DeviceUnavailable(
                f"TensorRT {self.version} builds an engine for card {self.card.index} ({self.card.name}) that does not load there; "
                "see what 'nvidia-smi' says of the card's memory and the driver's version"
            )
        loaded = Loaded(self._trt, engine.plan)
        asked = {node.name: how.of(node) for node in folded.nodes}
        return TrtSession(graph, Written.of(written, graph), asked, loaded, self._cuda, self._stream)

    @property
    def fusions(self) -> Fusions:
        """Nothing that ONNX Runtime's facts could tell: its rules are its own (`hwnas.runtimes.trt_fusion`)."""
        return UNFUSED

    def call_s(self) -> float:
        """What a call costs that computes next to nothing, in s."""
        return call_overhead_s(self)

    def _build(self, model: bytes, options: Options) -> Engine:
        caches = self._caches or Workspace.at().timing_caches
        return trt_build.build(model, options, caches=caches, device=self.card.name, environment=cuda_api.only(self.card, os.environ))


def check() -> str:
    """The version of TensorRT, if it can be driven here; it is not loaded.

    Raises:
        MissingExtraError: it or CUDA's client is not installed.
        DeviceUnavailable: there is no driver or no card.
    """
    trt_build.check_installed("tensorrt")
    version = metadata.version("tensorrt")
    first_card()
    require("cuda.bindings.runtime", "tensorrt")
    return version


def first_card() -> Card:
    """The first card of this machine.

    Raises:
        MissingExtraError: the driver's client is not installed.
        DeviceUnavailable: there is no driver or no card.
    """
    cards = nvml.cards()
    if not cards:
        raise DeviceUnavailable("the NVIDIA driver lists no card; run this on a machine that has one")
    return cards[0]


def precisions_of(folded: Graph, precision: str) -> Precisions:
    """In which precision each node computes when a network is profiled in one."""
    if precision == "int8":
        return Precisions(base="fp16", int8=frozenset(quantisable(folded)))
    return Precisions(base="fp16" if precision == "fp16" else "fp32")


def made_up(folded: Graph) -> dict[str, Range]:
    """Ranges of all activations, no two alike: a network whose scales agree would be fused as no calibrated one is."""
    return {value: (-2.0 - i / 1024, 2.0 + i / 1024) for i, value in enumerate(activations(folded))}
