"""What `hwnas kernels bench` compares, on a card: rows of launches of a kernel, and networks that a runtime or PyTorch runs.

Whatever is launched is recorded in a CUDA graph and replayed `RUNS` times to a sample, so that on both sides a sample has as many launches
by the host, and what they cost cancels where two networks are compared. Not yet run on hardware.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from hwnas.assets import Workspace
from hwnas.devices import find as find_device
from hwnas.devices.nvidia import NvidiaDevice
from hwnas.errors import DeviceUnavailable, HwnasError, UsageError, did_you_mean, one_line, require
from hwnas.ir import Graph, KernelCall
from hwnas.kernels import Case, KernelSource, Tuning
from hwnas.kernels.chain import Chain
from hwnas.kernels.launch import check, prepare, random_tensors, row
from hwnas.kernels.source import PRECISIONS
from hwnas.profiling.waves import Stage
from hwnas.runtimes import ort_gpu, registry, trt
from hwnas.runtimes.base import Runtime

RUNS = 16  # of a network to a sample
EAGER, COMPILED = "torch", "compile"
Run = Callable[[], object]
Launch = Literal["graph", "stream"]
_RUNTIMES: Mapping[str, tuple[str, ...]] = {
    registry.TENSORRT: trt.PRECISIONS,
    **{name: target.precisions for name, target in ort_gpu.TARGETS.items()},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A network that is ready to run.

    Attributes:
        run: it `RUNS` times, one after the other; the card has finished when it returns.
        launch: `graph` where the host launches it as a whole, `stream` where it launches kernel by kernel.
        calls: tells the kernels of it; None where nobody tells.
    """

    run: Run
    launch: Launch
    calls: Callable[[], tuple[KernelCall, ...]] | None = None


class Kernels(Protocol):
    """The side of the kernels.

    Attributes:
        where: they run, for people: the card, the versions, the precision.
    """

    where: str

    def row(self, source: KernelSource, case: Case, tuning: Tuning, chain: Chain, *, bare: bool) -> Run:
        """What a network of the chain does, by launches of the kernel, `RUNS` times; the card has finished when it returns.

        Raises:
            MeasurementError: the kernel's results are not within the tolerance.
        """
        ...


class Against(Protocol):
    """The side that the kernels meet.

    Attributes:
        what: runs the networks, for people.
    """

    what: str

    def network(self, graph: Graph) -> Work:
        """The network, as this side fuses it; raises as `hwnas.runtimes.base.Runtime.build`."""
        ...


class Fused:
    """Networks as a runtime fuses them.

    Args:
        runtime: that builds them.
        precision: of their arithmetic.
    """

    def __init__(self, runtime: Runtime, precision: str) -> None:
        self.what = f"{runtime.name} {runtime.version}"
        self._runtime, self._precision = runtime, precision

    def network(self, graph: Graph) -> Work:
        """See `Against.network`."""
        stage = Stage.build(self._runtime, graph, precision=self._precision, seed=0)
        launch: Launch = getattr(stage.session, "launch", "stream")  # a runtime that does not say launches as it likes
        return Work(run=lambda: stage.work(RUNS), launch=launch, calls=stage.session.kernels)


class CudaTorch:
    """Launches of kernels, and networks by PyTorch, on one card.

    Args:
        name: of the card.
        precision: of all tensors.
        compiled: whether networks are compiled.
        device: as torch calls it.
        cuda: `torch.cuda`, or what stands in for it.
    """

    def __init__(self, name: str, precision: str, *, compiled: bool = False, device: str = "cuda", cuda: Any = None) -> None:
        self._torch = require("torch", "gpu")
        self._cuda = self._torch.cuda if cuda is None else cuda
        self._precision, self._compiled, self._device = precision, compiled, device
        self.where = f"{name}, torch {self._torch.__version__}, triton {require('triton', 'triton').__version__}, {precision}"
        self.what = f"torch {'compiled' if compiled else 'eager'}"

    def row(self, source: KernelSource, case: Case, tuning: Tuning, chain: Chain, *, bare: bool) -> Run:
        """See `Kernels.row`."""
        tensors = random_tensors(case, self._precision, self._device)
        check(source, prepare(source, tensors, case.attrs, tuning)(), tensors, case.attrs, self._precision)
        products = len(chain.places)
        launches = row(
            source,
            case,
            tuning=tuning,
            precision=self._precision,
            device=self._device,
            products=products,
            works=1 if bare else products,
        )
        return self.recorded(launches)

    def network(self, graph: Graph) -> Work:
        """See `Against.network`."""
        from hwnas.ir.torch import lower

        dtype, rng = getattr(self._torch, PRECISIONS[self._precision]), np.random.default_rng(0)
        module = lower(graph.materialize(rng)).eval().to(self._device, dtype)
        inputs = [self._torch.from_numpy(value).to(self._device) for value in graph.random_inputs(rng).values()]
        inputs = [value.to(dtype) if value.is_floating_point() else value for value in inputs]
        run = self._torch.compile(module, dynamic=False) if self._compiled else module
        return Work(run=self.recorded(lambda: run(*inputs)), launch="graph")

    def recorded(self, run: Run) -> Run:
        """The work recorded in a CUDA graph, ready to be replayed `RUNS` times and waited for."""
        cuda = self._cuda
        try:
            with self._torch.inference_mode():
                side = cuda.Stream()
                side.wait_stream(cuda.current_stream())
                with cuda.stream(side):
                    for _ in range(3):
                        run()
                cuda.current_stream().wait_stream(side)
                graph = cuda.CUDAGraph()
                with cuda.graph(graph):
                    run()
        except RuntimeError as error:
            raise HwnasError(f"the card refuses to run or record it ({one_line(error)[:200]})") from error

        def replay() -> None:
            for _ in range(RUNS):
                graph.replay()
            cuda.synchronize()

        return replay


def chosen_side(against: str | None, device: str, precision: str) -> str:
    """What the kernels meet: the runtime with which `hwnas profile` measures the device unless another is named.

    Raises:
        UsageError: nothing is called so, it does not compute in that precision, or the device is no card.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"kernels are measured in {', '.join(PRECISIONS)}; got '{precision}'")
    if registry.CPU in registry.choices(device):
        raise UsageError("the kernels run on NVIDIA cards; give one with --device")
    name = registry.default(device) if against is None else against
    known = (*registry.choices(device), EAGER, COMPILED)
    if name not in known:
        raise UsageError(f"unknown '{name}'{did_you_mean(name, known)}; the kernels are measured against one of {', '.join(known)}")
    if precision not in _RUNTIMES.get(name, PRECISIONS):
        has = " or ".join(known for known in _RUNTIMES[name] if known in PRECISIONS)
        raise UsageError(f"hwnas drives {name} in {has}, not in {precision}; change --precision, or give --against {EAGER} or {COMPILED}")
    return name


def sides(device: str, precision: str, against: str, workspace: Workspace | None = None) -> tuple[NvidiaDevice, Kernels, Against]:
    """The card and both sides; the workspace keeps what a runtime finds out while it builds.

    Raises:
        DeviceUnavailable: the card is not here, or this torch cannot use it.
        MissingExtraError: torch, Triton or the runtime is not installed.
    """
    needs = "'hwnas kernels bench' needs the card, its driver, a CUDA build of torch and 'hwnas[triton]'"
    try:
        found = find_device(device)
    except DeviceUnavailable as error:
        raise DeviceUnavailable(f"{needs}; {str(error).split('; run ')[0]}") from error
    if not isinstance(found, NvidiaDevice):
        raise UsageError("the kernels run on NVIDIA cards; give one with --device")
    torch, uuid = require("torch", "gpu"), found.card.uuid.lower()
    seen = [str(torch.cuda.get_device_properties(index).uuid).lower() for index in range(torch.cuda.device_count())]
    index = next((index for index, name in enumerate(seen) if uuid.endswith(name)), None)
    if index is None:
        raise DeviceUnavailable(f"{needs}; '{device}' is here, but torch {torch.__version__} sees {len(seen)} cards and not this one")
    torch.cuda.set_device(index)
    kernels = CudaTorch(found.card.name, precision, compiled=against == COMPILED)
    if against in (EAGER, COMPILED):
        return found, kernels, kernels
    return found, kernels, Fused(registry.make(against, 1, found, workspace), precision)
