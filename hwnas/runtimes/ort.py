"""ONNX Runtime on the CPU: sessions at full optimisation, timed end to end and kernel by kernel."""

from __future__ import annotations

import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.errors import GraphError, UsageError, one_line, require
from hwnas.ir import Graph, KernelCall
from hwnas.ir.fold import fold
from hwnas.ir.node import Array
from hwnas.ir.onnx import load, to_bytes
from hwnas.runtimes import ort_int8_kernels
from hwnas.runtimes.apart import apart
from hwnas.runtimes.base import KernelTime, Model, graph_of
from hwnas.runtimes.fusions import Fusions
from hwnas.runtimes.ort_int8 import Scheme, scheme
from hwnas.runtimes.ort_int8_write import made_up, write
from hwnas.runtimes.ort_kernels import attribute
from hwnas.runtimes.ort_watch import EVENT, WatchingCost, kernel_events, tensors, watching_cost
from hwnas.runtimes.samples import Clock, Samples, StoppingRule, faster_half_s, sample

PROVIDER = "CPUExecutionProvider"
PRECISIONS = ("fp32", "int8")
TICK_S = 1e-6  # the profiler counts whole microseconds and rounds down
SPIN_S = 2e-3  # for so long a thread of a session stays awake when it has nothing to do, and keeps its processor from other sessions
_WEIGHTS_SEED = 0


class OrtSession:
    """A network in ONNX Runtime; satisfies `hwnas.runtimes.base.Session`.

    Args:
        runtime: that runs it.
        model: serialised ONNX.
        graph: the same as a graph, where there is one; its weights need no values.
        scheme: how it computes in 8 bits.
        again: writes the model once more. It is then kept only until its kernels have been timed: a profile holds a hundred networks.
    """

    def __init__(
        self, runtime: OrtRuntime, model: bytes, graph: Graph | None, scheme: Scheme | None = None, again: Callable[[], bytes] | None = None
    ) -> None:
        self._runtime = runtime
        self._model: bytes | None = model
        self._graph = graph
        self._scheme = scheme
        self._again = again
        self._session = runtime.open(model)
        self._outputs = [output.name for output in self._session.get_outputs()]

    @cached_property
    def graph(self) -> Graph:
        """The network as a graph; read from the model where it was given as a file."""
        return graph_of(self._written()) if self._graph is None else self._graph

    def _written(self) -> bytes:
        if self._model is None:
            assert self._again is not None, "only a model that can be written again is let go"
            self._model = self._again()
        return self._model

    def run(self, feed: Mapping[str, Array]) -> Sequence[Array]:
        """The outputs for these inputs."""
        outputs: Sequence[Array] = self._session.run(self._outputs, dict(feed))
        return outputs

    def time(self, feed: Mapping[str, Array], rule: StoppingRule, clock: Clock = time.perf_counter_ns) -> Samples:
        """End-to-end durations in s of `InferenceSession.run`, threads pinned, no profiler."""
        run, outputs, inputs = self._session.run, self._outputs, dict(feed)
        if self._runtime.threads > 1:
            time.sleep(2 * SPIN_S)

        def runs() -> Samples:
            with pinned(self._runtime.threads):
                return sample(lambda: run(outputs, inputs), rule, clock)

        return apart(runs)

    def kernels(self) -> tuple[KernelCall, ...]:
        """Every kernel in execution order, read from one profiled run and the graph that the runtime optimised."""
        return tuple(row.call for row in self.kernel_times(self.graph.random_inputs(np.random.default_rng(_WEIGHTS_SEED)), runs=1))

    def kernel_times(self, feed: Mapping[str, Array], runs: int) -> tuple[KernelTime, ...]:
        """Time of every kernel in context: the mean of the faster half of its runs, less what the profiler took for tensors, in s."""
        import onnx

        model = self._written() if self._graph is not None else to_bytes(self.graph)  # a file's nodes may lack names
        with tempfile.TemporaryDirectory(prefix="hwnas-") as folder:
            optimized = Path(folder, "optimized.onnx")
            session = self._runtime.open(model, profile=Path(folder, "profile"), optimized=optimized)
            apart(partial(self._watched, session, dict(feed), runs))
            cost = self._runtime.watching_cost
            durations: dict[str, list[float]] = defaultdict(list)
            ran: dict[str, str] = {}
            for event in kernel_events(Path(session.end_profiling())):
                name = event["name"].removesuffix(EVENT)
                durations[name].append(event["dur"] * 1e-6 - tensors(event) * cost.tensor_s)
                ran[name] = event["args"]["op_name"]
            calls = self._attributed(onnx.load(optimized), ran)
        if self._again is not None:
            self._model = None
        seconds: dict[KernelCall, float] = defaultdict(float)
        for name, values in durations.items():
            again = cost.event_s if calls[name] in seconds else 0.0  # the first goes with what the profiler adds to every kernel
            seconds[calls[name]] += max(_undisturbed_s(values) - again, TICK_S / 2)
        return tuple(KernelTime(call=call, seconds=total) for call, total in seconds.items())

    def _watched(self, session: Any, feed: Mapping[str, Array], runs: int) -> None:
        with pinned(self._runtime.threads):
            for _ in range(runs):
                session.run(self._outputs, feed)

    def _attributed(self, optimized: Any, ran: Mapping[str, str]) -> Mapping[str, KernelCall]:
        if self._scheme is None:
            return attribute(self.graph, optimized, ran, self._runtime.fusions)
        return ort_int8_kernels.attribute(self.graph, self._scheme, optimized, ran)


def _drawn(graph: Graph) -> bytes:
    """A graph as ONNX, with values for all weights."""
    return to_bytes(graph.materialize(np.random.default_rng(_WEIGHTS_SEED)))


def _drawn_int8(folded: Graph, plan: Scheme) -> bytes:
    """The same in 8 bits, with scales that are made up."""
    return bytes(write(plan, made_up(folded, plan), np.random.default_rng(_WEIGHTS_SEED)).SerializeToString())


def _undisturbed_s(durations: Sequence[float]) -> float:
    return faster_half_s(durations) + TICK_S / 2


class OrtRuntime:
    """ONNX Runtime's CPU provider at ENABLE_ALL; satisfies `hwnas.runtimes.base.Runtime`.

    Args:
        threads: intra-operator threads, pinned while measuring.
    """

    name = "onnxruntime-cpu"

    def __init__(self, threads: int = 1) -> None:
        if not 1 <= threads <= len(os.sched_getaffinity(0)):
            raise UsageError(f"threads must be between 1 and {len(os.sched_getaffinity(0))} on this machine, got {threads}")
        self.threads = threads
        self._ort = require("onnxruntime")
        self.version = str(self._ort.__version__)

    def build(self, model: Model, *, precision: str = "fp32") -> OrtSession:
        """A session for a graph (weights that are still recipes are drawn), serialised ONNX, or a file.

        Args:
            model: the network, in fp32.
            precision: `fp32`, or `int8`: in the form in which hwnas ships it, with scales that are made up. Answers mean nothing then.

        Raises:
            GraphError: ONNX Runtime refuses the network.
            UsageError: for a precision that this runtime does not have.
        """
        if precision not in PRECISIONS:
            raise UsageError(f"ONNX Runtime on the CPU computes in {' or '.join(PRECISIONS)}, not in '{precision}'")
        if precision == "int8":
            return self._int8(model)
        if isinstance(model, Graph):
            again = partial(_drawn, model)
            return OrtSession(self, again(), model, again=again)
        if isinstance(model, Path):
            graph = load(model)
            return OrtSession(self, to_bytes(graph), graph)
        return OrtSession(self, model, None)

    def _int8(self, model: Model) -> OrtSession:
        graph = graph_of(model)
        folded = fold(graph, drafts=True)
        plan = scheme(folded)
        again = partial(_drawn_int8, folded, plan)
        return OrtSession(self, again(), graph, plan, again)

    def open(self, model: bytes, profile: Path | None = None, optimized: Path | None = None) -> Any:
        """An `onnxruntime.InferenceSession` with this runtime's settings.

        Args:
            model: serialised ONNX.
            profile: where its profiler writes, as the prefix of a file name; no profiler without.
            optimized: where the graph as it runs is written.
        """
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 4
        if self.threads > 1:  # the calling thread is the first; ONNX Runtime numbers processors from 1
            cpus = _cpus(self.threads)
            options.add_session_config_entry("session.intra_op_thread_affinities", ";".join(str(cpu + 1) for cpu in cpus[1:]))
            options.add_session_config_entry("session.intra_op.spin_duration_us", str(int(SPIN_S * 1e6)))
        if profile:
            options.enable_profiling, options.profile_file_prefix = True, str(profile)
        if optimized:
            options.optimized_model_filepath = str(optimized)
        try:
            return self._ort.InferenceSession(model, options, providers=[PROVIDER])
        except Exception as error:  # its exceptions share no narrower base class
            raise GraphError(f"ONNX Runtime {self.version} does not load the network: {one_line(error)}") from error

    @cached_property
    def fusions(self) -> Fusions:
        """What it fuses on this processor, probed once."""
        from hwnas.runtimes.ort_probe import fusions

        return fusions(self)

    @cached_property
    def watching_cost(self) -> WatchingCost:
        """What its profiler adds to the times that it shows."""
        return watching_cost(self)

    def call_s(self) -> float:
        """p10 of a network of one element-wise operator on one element, in s."""
        from hwnas.runtimes.ort_probe import call_overhead_s

        return call_overhead_s(self)


def _cpus(threads: int) -> list[int]:
    """The processors to use: the highest-numbered ones allowed, since interrupts are mostly served by the first."""
    return sorted(os.sched_getaffinity(0), reverse=True)[:threads]


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Keeps the calling thread on the first of its processors while it measures; the others belong to the runtime's own threads."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, _cpus(threads)[:1])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
