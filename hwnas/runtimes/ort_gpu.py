"""ONNX Runtime on an NVIDIA card, through its CUDA or its TensorRT provider. Not yet run on hardware.

ONNX Runtime is content with less than it was asked for: without a card, or with a node that a provider lacks, it computes on the processor
and says so in a log at most. Here a provider that is asked for is the one that computes, or there is an error.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hwnas.devices.nvml import Card
from hwnas.errors import DeviceUnavailable, GraphError, HwnasError, MissingExtraError, UsageError, one_line, require
from hwnas.ir import Graph, KernelCall
from hwnas.ir.fold import fold
from hwnas.ir.node import Array
from hwnas.ir.onnx import to_bytes
from hwnas.runtimes.base import KernelTime, Model, graph_of
from hwnas.runtimes.cuda import ORDER, VISIBLE
from hwnas.runtimes.fusions import UNFUSED, Fusions
from hwnas.runtimes.ort_casts import without_casts
from hwnas.runtimes.ort_cuda_fusion import in_precision
from hwnas.runtimes.ort_kernels import attribute, named
from hwnas.runtimes.ort_probe import call_overhead_s
from hwnas.runtimes.ort_probe import fusions as probed
from hwnas.runtimes.ort_watch import EVENT, kernel_events
from hwnas.runtimes.samples import Clock, Samples, StoppingRule, faster_half_s, sample
from hwnas.runtimes.trt import LEAST_S, first_card
from hwnas.runtimes.trt_kernels import Written
from hwnas.runtimes.trt_kernels import attribute as attribute_layers
from hwnas.runtimes.trt_layers import LayerRecord
from hwnas.runtimes.trt_precision import Precisions
from hwnas.runtimes.trt_precision import write as write_types

CUDA, TENSORRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"
WARMUP = 3
_WEIGHTS_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where ONNX Runtime computes.

    Attributes:
        provider: that is to compute.
        others: that may compute what it does not take.
        memory: kind of memory that inputs and outputs are in.
        number: of the card, as CUDA counts those that it sees.
        precisions: that it is profiled in.
    """

    provider: str
    others: tuple[str, ...] = ()
    memory: Literal["cuda", "cpu"] = "cuda"
    number: int = 0
    precisions: tuple[str, ...] = ("fp32",)

    def providers(self, precision: str, *, graph: bool) -> list[tuple[str, dict[str, str]]]:
        """As a session takes them, with their options."""
        switch = "1" if graph else "0"
        options: Mapping[str, dict[str, str]] = {
            CUDA: {"device_id": str(self.number), "use_tf32": "0", "enable_cuda_graph": switch if self.provider == CUDA else "0"},
            TENSORRT: {
                "device_id": str(self.number),
                "trt_fp16_enable": "1" if precision == "fp16" else "0",  # 10.x: whether types of the model may be fp16
                "trt_cuda_graph_enable": switch,
            },
        }
        return [(name, dict(options.get(name, {}))) for name in (self.provider, *self.others)]


TARGETS: Mapping[str, Target] = {
    "onnxruntime-cuda": Target(provider=CUDA, precisions=("fp32", "fp16")),
    "onnxruntime-tensorrt": Target(provider=TENSORRT, others=(CUDA,), precisions=("fp32", "fp16")),
}


def check(name: str) -> str:
    """The version of ONNX Runtime, if it has the provider of that runtime and there is a card.

    Raises:
        MissingExtraError: ONNX Runtime is not installed, or is the build without the provider.
        DeviceUnavailable: there is no driver or no card.
    """
    ort = require("onnxruntime", "gpu")
    _check_provider(ort, TARGETS[name].provider)
    first_card()
    return str(ort.__version__)


def _check_provider(ort: Any, provider: str) -> None:
    there = ort.get_available_providers()
    if provider not in there:
        raise MissingExtraError(
            f"this build of ONNX Runtime has no {provider} (it has: {', '.join(there)}); on a machine with an NVIDIA card: pip uninstall "
            "onnxruntime, then pip install 'hwnas[gpu]'"
        )


def number_of(card: Card, environment: Mapping[str, str]) -> int:
    """The number under which CUDA knows a card, from what the environment lets it see; for CUDA_DEVICE_ORDER=PCI_BUS_ID.

    Raises:
        DeviceUnavailable: it does not see the card.
    """
    seen = environment.get(VISIBLE)
    if seen is None:
        return card.index
    for number, name in enumerate(part.strip() for part in seen.split(",")):
        if name == str(card.index) or (len(name) > len("GPU-") and card.uuid.lower().startswith(name.lower())):
            return number
    raise DeviceUnavailable(f"{VISIBLE}={seen} hides card {card.index} ({card.name}, {card.uuid}); add it, or unset that")


def open_session(
    ort: Any,
    model: bytes,
    target: Target,
    precision: str = "fp32",
    *,
    graph: bool = False,
    profile: Path | None = None,
    optimized: Path | None = None,
    alone: bool = True,
) -> Any:
    """An `onnxruntime.InferenceSession` in which the target computes.

    Args:
        ort: `onnxruntime`.
        model: serialised ONNX.
        target: where it is to compute.
        precision: of the model.
        graph: whether runs are launched as CUDA graphs.
        profile: where its profiler writes, as the prefix of a file name; no profiler without.
        optimized: where the graph as it runs is written; TensorRT's provider cannot.
        alone: whether the target has to compute all of it.

    Raises:
        MissingExtraError: this build does not have the provider.
        DeviceUnavailable: the provider does not start.
        GraphError: a node would compute elsewhere, or ONNX Runtime refuses the network; names the node.
    """
    _check_provider(ort, target.provider)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if alone and target.provider != CPU:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    if optimized:
        options.optimized_model_filepath = str(optimized)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is missing is an error below
            session = ort.InferenceSession(model, options, providers=target.providers(precision, graph=graph), enable_fallback=0)
    except Exception as error:  # its exceptions share no narrower base class
        raise GraphError(f"ONNX Runtime {ort.__version__} does not load the network on {target.provider}: {one_line(error)}") from error
    got = session.get_providers()
    if target.provider not in got:
        raise DeviceUnavailable(
            f"ONNX Runtime {ort.__version__} does not start {target.provider}, it gives {', '.join(got)}; "
            "see that its CUDA and cuDNN are installed, and what 'nvidia-smi' says"
        )
    if alone:
        _check_assignment(session, target)
    return session


def assignment(session: Any) -> list[tuple[str, list[str]]]:
    """Which provider takes which nodes: one entry for each part of the network that it computes as a whole."""
    return [(str(part.ep_name), [str(node.name) for node in part.get_nodes()]) for part in session.get_provider_graph_assignment_info()]


def _check_assignment(session: Any, target: Target) -> None:
    parts = assignment(session)
    allowed = {target.provider, *target.others}
    stray = next(((provider, names) for provider, names in parts if provider not in allowed), None)
    if stray is not None:
        raise GraphError(
            f"node '{stray[1][0]}' would compute on {stray[0]}, not on {target.provider}; use another runtime for this network"
        )
    if parts and not any(provider == target.provider for provider, _ in parts):
        raise GraphError(f"{target.provider} takes no node of the network; use another runtime for it")


class Bound:
    """A session with its inputs and outputs in the target's memory, where they stay."""

    def __init__(self, ort: Any, session: Any, target: Target, feed: Mapping[str, Array]) -> None:
        self._session = session
        self._binding = session.io_binding()
        place = (target.memory, target.number)
        self._inputs = {name: ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value), *place) for name, value in feed.items()}
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for output in session.get_outputs():
            dtype = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}
            value = ort.OrtValue.ortvalue_from_shape_and_type(output.shape, dtype[output.type], *place)
            self._binding.bind_ortvalue_output(output.name, value)

    def load(self, feed: Mapping[str, Array]) -> None:
        """Other inputs in the same places: a CUDA graph knows their addresses."""
        for name, value in self._inputs.items():
            value.update_inplace(np.ascontiguousarray(feed[name]))

    def run(self) -> None:
        """A run; the target has finished when it returns."""
        self._session.run_with_iobinding(self._binding)

    def outputs(self) -> Sequence[Array]:
        """Of the last run."""
        values: Sequence[Array] = self._binding.copy_outputs_to_cpu()
        return values


class OrtGpuSession:
    """A network in ONNX Runtime on a card; satisfies `hwnas.runtimes.base.Session`.

    Attributes:
        graph: the network as a graph.
        launch: how a run is launched: `graph` where it could be captured as a CUDA graph, else `stream`.
    """

    def __init__(self, runtime: OrtGpuRuntime, graph: Graph, model: bytes, written: Written | None, precision: str) -> None:
        self.graph = graph
        self._runtime, self._model, self._written, self._precision = runtime, model, written, precision
        feed = graph.random_inputs(np.random.default_rng(_WEIGHTS_SEED))
        self.launch: Literal["graph", "stream"] = "graph" if runtime.target.memory == "cuda" else "stream"
        if self.launch == "graph":
            try:
                self._bound = self._open(feed, graphs=True)
            except HwnasError:
                self.launch = "stream"
        if self.launch == "stream":
            self._bound = self._open(feed, graphs=False)

    def _open(self, feed: Mapping[str, Array], *, graphs: bool) -> Bound:
        session = open_session(self._runtime.ort, self._model, self._runtime.target, self._precision, graph=graphs)
        bound = Bound(self._runtime.ort, session, self._runtime.target, feed)
        try:
            for _ in range(WARMUP):  # the first runs choose algorithms, and one of them captures
                bound.run()
        except Exception as error:  # its exceptions share no narrower base class
            raise GraphError(f"ONNX Runtime does not run the network: {one_line(error)}") from error
        return bound

    def run(self, feed: Mapping[str, Array]) -> Sequence[Array]:
        """The outputs for these inputs."""
        self._bound.load(feed)
        self._bound.run()
        return self._bound.outputs()

    def time(self, feed: Mapping[str, Array], rule: StoppingRule, clock: Clock = time.perf_counter_ns) -> Samples:
        """End-to-end durations in s of a run with inputs and outputs on the card, from its call until the card has finished.

        Whether the card was slowed down meanwhile is not judged here: see `hwnas.runtimes.trt.TrtSession.time`.
        """
        self._bound.load(feed)
        return sample(self._bound.run, rule, clock)

    def repeat(self, feed: Mapping[str, Array]) -> Callable[[int], None]:
        """Runs it so many times, one after the other, and returns when the card has finished: work for an energy meter."""
        self._bound.load(feed)

        def work(runs: int) -> None:
            for _ in range(runs):
                self._bound.run()

        return work

    def kernels(self) -> tuple[KernelCall, ...]:
        """Every kernel in execution order, read from one profiled run."""
        return tuple(row.call for row in self.kernel_times(self.graph.random_inputs(np.random.default_rng(_WEIGHTS_SEED)), runs=1))

    def kernel_times(self, feed: Mapping[str, Array], runs: int) -> tuple[KernelTime, ...]:
        """Time of every kernel in context: the mean of the faster half of its runs by ONNX Runtime's profiler, in s.

        Its profiler stands on the processor and sees launches. So a process of its own runs with CUDA_LAUNCH_BLOCKING=1, where each waits
        for its kernel: what the wait costs is in every kernel, as with any profiler, and the times are shares.
        """
        with tempfile.TemporaryDirectory(prefix="hwnas-ort-") as scratch:
            folder = Path(scratch)
            self._profile(folder, feed, runs)
            events = kernel_events(folder / "profile.json")
            parts = json.loads((folder / "parts.json").read_text(encoding="utf-8"))
            calls = self._attributed(folder / "optimized.onnx", events, parts)
        durations: dict[str, list[float]] = defaultdict(list)
        for event in events:
            durations[event["name"].removesuffix(EVENT)].append(event["dur"] * 1e-6)
        seconds: dict[KernelCall, float] = dict.fromkeys(calls.values(), 0.0)
        for name, values in durations.items():
            seconds[calls[name]] += max(LEAST_S, faster_half_s(values[len(values) * WARMUP // (WARMUP + runs) :]))
        return tuple(KernelTime(call=call, seconds=max(LEAST_S, total)) for call, total in seconds.items())

    def _profile(self, folder: Path, feed: Mapping[str, Array], runs: int) -> None:
        """Has a child process run with the profiler."""
        target = self._runtime.target
        request = {"target": asdict(target), "precision": self._precision, "runs": WARMUP + runs, "optimized": target.provider != TENSORRT}
        (folder / "model.onnx").write_bytes(self._model)
        (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
        arrays: dict[str, Any] = dict(feed)
        np.savez(folder / "feed.npz", **arrays)
        command = [sys.executable, "-m", "hwnas.runtimes.ort_gpu_worker", str(folder)]
        environment = {**os.environ, ORDER: "PCI_BUS_ID", "CUDA_LAUNCH_BLOCKING": "1"}
        child = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if child.returncode != 0 or not (folder / "profile.json").is_file():
            words = child.stderr.strip().splitlines()
            raise GraphError(f"ONNX Runtime does not run the network with its profiler: {words[-1] if words else child.returncode}")

    def _attributed(self, optimized: Path, events: Sequence[Mapping[str, Any]], parts: Sequence[Any]) -> Mapping[str, KernelCall]:
        ran = {event["name"].removesuffix(EVENT): event["args"]["op_name"] for event in events}
        if self._runtime.target.provider != TENSORRT:
            import onnx

            return self._rewritten(onnx.load(optimized), ran)
        written = self._written or Written(serves={}, holds={})
        asked = dict.fromkeys(self.graph.positions, self._precision)
        return attribute_layers(self.graph, written, layers_of(list(ran), parts), asked, ran)

    def _rewritten(self, optimized: Any, ran: Mapping[str, str]) -> Mapping[str, KernelCall]:
        """Kernels of an optimised model; a conversion between float types belongs to the one that it serves."""
        fusions = self._runtime.fusions
        if self._precision == "fp32":
            return attribute(self.graph, optimized, ran, fusions)
        for name, node in named(optimized, ran).items():
            node.name = name
        plain = without_casts(self.graph, optimized)
        calls = attribute(self.graph, plain.model, {name: ran[before] for name, before in plain.stays.items()}, fusions)
        found = {before: calls[name] for name, before in plain.stays.items()}
        found |= {name: calls[owner] for name, owner in plain.serves.items()}
        return {name: in_precision(found[name], self._precision) for name in ran}


def layers_of(ran: Sequence[str], parts: Sequence[tuple[str, Sequence[str]]]) -> tuple[LayerRecord, ...]:
    """What ran, as layers: a part that TensorRT computes is one, with the names of its nodes; any other node is called by its own.

    Args:
        ran: names by the profiler, in execution order; TensorRT's parts are called after the provider.
        parts: as `assignment` gives them.
    """
    blocks = [names for provider, names in parts if provider == TENSORRT]
    layers = []
    for name in ran:
        block = blocks.pop(0) if TENSORRT in name and blocks else None
        layers.append(LayerRecord(name=name, kind="TensorRT" if block else "", origins=tuple(block or (name,))))
    return tuple(layers)


class OrtGpuRuntime:
    """ONNX Runtime on one card; satisfies `hwnas.runtimes.base.Runtime`.

    Args:
        name: `onnxruntime-cuda` or `onnxruntime-tensorrt`.
        card: to run on; the driver's first one unless given.
        target: where it computes; follows from the name and the card unless given.
        fusions: what it fuses; asked of it unless given.

    Raises:
        UsageError: there is no such runtime.
        MissingExtraError: ONNX Runtime is not installed, or its build lacks the provider.
        DeviceUnavailable: there is no driver or no card, or CUDA does not see it.
    """

    threads = 1  # launches; the card computes

    def __init__(self, name: str, card: Card | None = None, *, target: Target | None = None, fusions: Fusions | None = None) -> None:
        if name not in TARGETS:
            raise UsageError(f"ONNX Runtime on a card is {' or '.join(TARGETS)}, not '{name}'")
        self.name = name
        self._fusions = fusions
        self.ort = require("onnxruntime", "gpu")
        self.version = str(self.ort.__version__)
        if target is None:
            _check_provider(self.ort, TARGETS[name].provider)
            os.environ.setdefault(ORDER, "PCI_BUS_ID")  # read when CUDA starts; by it a card's number is the driver's
            target = replace(TARGETS[name], number=number_of(card or first_card(), os.environ))
        self.target = target

    def build(self, model: Model, *, precision: str = "fp32") -> OrtGpuSession:
        """A session for a graph (weights that are still recipes are drawn), serialised ONNX, or a file.

        Args:
            model: the network, in fp32.
            precision: `fp32` (the CUDA provider never rounds to TF32; TensorRT's does unless NVIDIA_TF32_OVERRIDE=0) or `fp16`: weights and
                activations, with what the network reads and writes in fp32. Not `int8`: the CUDA provider has no convolution in it, and
                would compute in floats between conversions.

        Raises:
            GraphError: ONNX Runtime refuses the network, or would compute a node elsewhere.
            DeviceUnavailable: the provider does not start.
            UsageError: for a precision that this runtime does not have.
        """
        if precision not in self.target.precisions:
            raise UsageError(
                f"{self.name} computes in {' or '.join(self.target.precisions)}, not in '{precision}'; --runtime tensorrt has int8"
            )
        graph = graph_of(model).materialize(np.random.default_rng(_WEIGHTS_SEED))
        if precision == "fp32":
            return OrtGpuSession(self, graph, to_bytes(graph), None, precision)
        written = write_types(fold(graph), Precisions(base="fp16"), {})
        return OrtGpuSession(self, graph, written.SerializeToString(), Written.of(written, graph), precision)

    @cached_property
    def fusions(self) -> Fusions:
        """What the provider fuses, as its optimised graphs of small networks show; nothing that TensorRT's parts would show.

        Without a card `hwnas.runtimes.ort_cuda_fusion.RULES` stand for it.
        """
        if self._fusions is not None:
            return self._fusions
        return UNFUSED if self.target.provider == TENSORRT else probed(self)

    def open(self, model: bytes, *, optimized: Path) -> Any:
        """A session that is to show its optimised graph; the processor may compute what the card has no kernel for."""
        return open_session(self.ort, model, self.target, optimized=optimized, alone=False)

    @cached_property
    def _call_s(self) -> float:
        return call_overhead_s(self)

    def call_s(self) -> float:
        """What a call costs that computes next to nothing, in s."""
        return self._call_s
