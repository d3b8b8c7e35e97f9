"""A runtime that replays what was recorded on another machine, or what a test wants it to say: no hardware, no clock, always the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle

import numpy as np

from hwnas.errors import NotFoundError, UsageError
from hwnas.ir import Graph, KernelCall
from hwnas.ir.node import Array
from hwnas.profiling import NetworkRecord
from hwnas.runtimes.base import KernelTime, Model, Runtime, graph_of
from hwnas.runtimes.fusions import Fusions
from hwnas.runtimes.samples import Samples, StoppingRule, sample

_WEIGHTS_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What a runtime said of a network.

    Attributes:
        seconds: end-to-end durations in s, in the order taken; replayed from the start for every measurement, over and over.
        kernels: each kernel with its time by the runtime's profiler, in execution order.
    """

    seconds: Sequence[float]
    kernels: tuple[KernelTime, ...]

    def __post_init__(self) -> None:
        if not self.seconds or min(self.seconds) <= 0:
            raise ValueError(f"a recording needs durations above 0 s, got {list(self.seconds)[:5]}")

    @classmethod
    def of(cls, network: NetworkRecord) -> Recording:
        """From a network of a profile: its samples, and each kernel's time by the profiler."""
        times = (KernelTime(call=kernel.call, seconds=kernel.profiled_s) for kernel in network.kernels)
        return cls(seconds=network.samples.seconds.tolist(), kernels=tuple(times))


Recorded = Mapping[str, Recording] | Callable[[Graph], Recording]


def digest(graph: Graph) -> str:
    """SHA-256 of a graph's structure: equal for graphs that differ in the values of their weights, or in their own name, alone."""
    specs = [[value, spec.dtype, *spec.shape] for value, spec in graph.specs.items()]
    nodes = [[node.name, node.op, node.inputs, node.outputs, node.attrs] for node in graph.nodes]
    text = json.dumps([list(graph.inputs), graph.outputs, sorted(graph.weights), sorted(specs), nodes])
    return hashlib.sha256(text.encode()).hexdigest()


def record(runtime: Runtime, graphs: Iterable[Graph], *, rule: StoppingRule, runs: int = 15) -> dict[str, Recording]:
    """What a runtime says of some graphs, for a `ReplayRuntime` to repeat elsewhere.

    Args:
        runtime: that measures.
        graphs: to measure.
        rule: when to stop sampling each of them.
        runs: profiled runs of each of them.

    Returns:
        A recording per graph, by its digest.
    """
    found = {}
    for graph in graphs:
        session = runtime.build(graph)
        feed = graph.random_inputs(np.random.default_rng(0))
        found[digest(graph)] = Recording(seconds=session.time(feed, rule).seconds.tolist(), kernels=session.kernel_times(feed, runs))
    return found


class ReplaySession:
    """A network whose times are replayed; satisfies `hwnas.runtimes.base.Session`."""

    def __init__(self, graph: Graph, recording: Recording) -> None:
        self.graph = graph
        self._recording = recording

    def run(self, feed: Mapping[str, Array]) -> Sequence[Array]:
        """The outputs for these inputs, computed by torch."""
        import torch

        from hwnas.ir.torch import lower

        with torch.no_grad():
            outputs = lower(self.graph).eval()(*(torch.from_numpy(feed[name]) for name in self.graph.inputs))
        return [output.numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]

    def time(self, feed: Mapping[str, Array], rule: StoppingRule) -> Samples:
        """The recorded durations, in order, until the rule is content."""
        now_ns = 0
        durations_ns = cycle([max(1, round(seconds * 1e9)) for seconds in self._recording.seconds])

        def run() -> None:
            nonlocal now_ns
            now_ns += next(durations_ns)

        return sample(run, replace(rule, warmup=0), lambda: now_ns)

    def kernels(self) -> tuple[KernelCall, ...]:
        """The recorded kernels."""
        return tuple(row.call for row in self._recording.kernels)

    def kernel_times(self, feed: Mapping[str, Array], runs: int) -> tuple[KernelTime, ...]:
        """The recorded kernels with their recorded times."""
        return self._recording.kernels


class ReplayRuntime:
    """Satisfies `hwnas.runtimes.base.Runtime` without measuring anything.

    Args:
        recorded: recordings by the `digest` of their graph, or a function that makes up the recording of any graph.
        name: of the runtime that it stands for.
        version: of its library.
        threads: with which it was recorded.
        precisions: that it builds.
        fusions: what it fuses; usual ones by default.
        call_s: what an empty call costs, in s.
    """

    def __init__(
        self,
        recorded: Recorded,
        *,
        name: str = "replay",
        version: str = "1",
        threads: int = 1,
        precisions: Sequence[str] = ("fp32",),
        fusions: Fusions | None = None,
        call_s: float = 0.0,
    ) -> None:
        self.name = name
        self.version = version
        self.threads = threads
        self._recorded = recorded
        self._precisions = tuple(precisions)
        self.fusions = fusions or Fusions()
        self._call_s = call_s

    def call_s(self) -> float:
        """What it was told."""
        return self._call_s

    def build(self, model: Model, *, precision: str = "fp32") -> ReplaySession:
        """A session for a graph, serialised ONNX, or a file.

        Raises:
            GraphError: the model cannot be read.
            UsageError: the precision is none of this runtime's.
            NotFoundError: the graph was not recorded.
        """
        if precision not in self._precisions:
            raise UsageError(f"runtime '{self.name}' replays {', '.join(self._precisions)}, not '{precision}'")
        graph = graph_of(model).materialize(np.random.default_rng(_WEIGHTS_SEED))
        if callable(self._recorded):
            return ReplaySession(graph, self._recorded(graph))
        if (key := digest(graph)) not in self._recorded:
            raise NotFoundError(f"graph '{graph.name}' ({key[:12]}) is not among the {len(self._recorded)} recorded ones; record it first")
        return ReplaySession(graph, self._recorded[key])
