"""What a runtime is: it builds a network, runs it, times it, and says which kernels it runs and what each takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hwnas.errors import GraphError, one_line
from hwnas.ir import Graph, KernelCall
from hwnas.ir.node import Array
from hwnas.runtimes.fusions import Fusions
from hwnas.runtimes.samples import Samples, StoppingRule

Model = Graph | bytes | Path


def graph_of(model: Model) -> Graph:
    """A model as a graph.

    Raises:
        GraphError: it is no model, or one that hwnas does not represent.
    """
    if isinstance(model, Graph):
        return model
    import onnx
    from google.protobuf.message import DecodeError

    from hwnas.ir.onnx import from_model, load

    if isinstance(model, Path):
        return load(model)
    try:
        return from_model(onnx.load_from_string(model))
    except DecodeError as error:
        raise GraphError(f"this is no ONNX model: {one_line(error)}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelTime:
    """What a kernel took at its place in a network.

    Attributes:
        call: the kernel and where it stands.
        seconds: mean of its undisturbed runs in s, by the runtime's own profiler. A profiler slows what it watches, so
            these are shares: `profiling` rescales them to the end-to-end time.
    """

    call: KernelCall
    seconds: float


class Session(Protocol):
    """A network that is ready to run."""

    @property
    def graph(self) -> Graph:
        """The network as a graph; read from the model where it was given as a file."""
        ...

    def run(self, feed: Mapping[str, Array]) -> Sequence[Array]:
        """The outputs for these inputs."""
        ...

    def time(self, feed: Mapping[str, Array], rule: StoppingRule) -> Samples:
        """End-to-end durations in s, with no profiler on."""
        ...

    def kernels(self) -> tuple[KernelCall, ...]:
        """Every kernel that the runtime runs, in execution order, as the runtime itself fused them.

        Each node of the graph belongs to exactly one kernel, unless the runtime folded it away when it built the network.
        """
        ...

    def kernel_times(self, feed: Mapping[str, Array], runs: int) -> tuple[KernelTime, ...]:
        """The same kernels with the time of each in the context of the whole network."""
        ...


class Runtime(Protocol):
    """Builds sessions for one device with fixed settings.

    Attributes:
        name: such as `onnxruntime-cpu`; part of the identity of every profile.
        version: of the library.
        threads: that compute.
    """

    name: str
    version: str
    threads: int

    @property
    def fusions(self) -> Fusions:
        """What it fuses on this device."""
        ...

    def call_s(self) -> float:
        """What a call costs that computes next to nothing, in s."""
        ...

    def build(self, model: Model, *, precision: str = "fp32") -> Session:
        """A session for a network.

        Raises:
            GraphError: the runtime refuses the network; gives its reason in one line.
            UsageError: the runtime has no such precision.
        """
        ...
