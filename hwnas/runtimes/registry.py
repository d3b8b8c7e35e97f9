"""The runtimes that hwnas can drive, and whether they work on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from functools import partial

from hwnas.assets import Workspace
from hwnas.devices import Device
from hwnas.devices import registry as devices
from hwnas.devices.nvidia import NvidiaDevice
from hwnas.devices.nvml import Card
from hwnas.errors import HwnasError, UsageError, did_you_mean
from hwnas.ir import Graph, KernelCall
from hwnas.runtimes import eager, ort_cuda_fusion, ort_int8_fusion, trt_fusion
from hwnas.runtimes.base import Runtime
from hwnas.runtimes.fusions import Fusions
from hwnas.runtimes.ort_fusion import fuse

Fuser = Callable[[Graph, Fusions | int], tuple[KernelCall, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Whether a runtime works here.

    Attributes:
        name: of the runtime.
        version: of its library, empty where it is not installed.
        problem: why it does not work, empty where it does.
    """

    name: str
    version: str
    problem: str


def _onnxruntime(threads: int, *_: object) -> Runtime:
    from hwnas.runtimes.ort import OrtRuntime

    return OrtRuntime(threads)


def _onnxruntime_gpu(name: str, threads: int, device: Device | None = None, *_: object) -> Runtime:
    from hwnas.runtimes.ort_gpu import OrtGpuRuntime

    return OrtGpuRuntime(name, _card(device))


def _tensorrt(threads: int, device: Device | None = None, workspace: Workspace | None = None) -> Runtime:
    from hwnas.runtimes.trt import TrtRuntime

    return TrtRuntime(_card(device), caches=workspace.timing_caches if workspace else None)


def _card(device: Device | None) -> Card | None:
    return device.card if isinstance(device, NvidiaDevice) else None


def _onnxruntime_gpu_version(name: str) -> str:
    from hwnas.runtimes.ort_gpu import check

    return check(name)


def _tensorrt_version() -> str:
    from hwnas.runtimes.trt import check

    return check()


CPU, TENSORRT, CUDA, CUDA_TENSORRT = "onnxruntime-cpu", "tensorrt", "onnxruntime-cuda", "onnxruntime-tensorrt"
EAGER = "torch-eager"  # PyTorch, not compiled: predicted, not driven
ON_REQUEST = frozenset({CUDA, CUDA_TENSORRT})  # no device's usual one: they are named with --runtime
_MAKERS: Mapping[str, Callable[..., Runtime]] = {
    CPU: _onnxruntime,
    TENSORRT: _tensorrt,
    CUDA: partial(_onnxruntime_gpu, CUDA),
    CUDA_TENSORRT: partial(_onnxruntime_gpu, CUDA_TENSORRT),
}
_VERSIONS: Mapping[str, Callable[[], str]] = {
    CPU: lambda: make(CPU, 1).version,
    TENSORRT: _tensorrt_version,
    CUDA: partial(_onnxruntime_gpu_version, CUDA),
    CUDA_TENSORRT: partial(_onnxruntime_gpu_version, CUDA_TENSORRT),
}
_FUSERS: Mapping[tuple[str, str], Fuser] = {
    (CPU, "fp32"): fuse,
    (CPU, "int8"): ort_int8_fusion.fuse,
    **{(CUDA, precision): one for precision, one in ort_cuda_fusion.FUSERS.items()},
    **{(TENSORRT, precision): one for precision, one in trt_fusion.FUSERS.items()},
    **{(CUDA_TENSORRT, precision): trt_fusion.FUSERS[precision] for precision in ("fp32", "fp16")},
    (EAGER, "fp32"): eager.fuse,
}


def make(name: str, threads: int, device: Device | None = None, workspace: Workspace | None = None) -> Runtime:
    """The runtime of that name.

    Args:
        name: of the runtime.
        threads: that compute, where it computes on the processor.
        device: to run on; the first of its kind unless given.
        workspace: where a runtime keeps what it finds out while it builds; the user's own unless given.

    Raises:
        UsageError: hwnas has no such runtime.
        MissingExtraError: its library is not installed.
        DeviceUnavailable: it needs a card, and there is none.
    """
    if name not in _MAKERS:
        raise UsageError(f"unknown runtime '{name}'{did_you_mean(name, _MAKERS)}; this version has: {', '.join(_MAKERS)}")
    return _MAKERS[name](threads, device, workspace)


def choices(device: str) -> tuple[str, ...]:
    """The runtimes that measure a device; the first one unless another is asked for.

    Raises:
        UsageError: hwnas knows no such device.
    """
    if device == devices.CPU:
        return (CPU,)
    devices.check_name(device)
    return (TENSORRT, CUDA, CUDA_TENSORRT)


def default(device: str) -> str:
    """The runtime that measures a device unless another is asked for; raises as `choices`."""
    return choices(device)[0]


def fuser(name: str, precision: str = "fp32", left: Set[str] = frozenset()) -> Fuser:
    """Tells a runtime's kernels from the graph alone: a function of graph and of what the runtime fuses, or its channel block.

    Args:
        name: of the runtime.
        precision: in which it computes.
        left: names of the nodes that a quantised network leaves in floats.

    Raises:
        UsageError: the runtime does not compute in that precision, or nodes left in floats are not told for it.
    """
    if (name, precision) not in _FUSERS:
        known = ", ".join(f"{runtime} in {precision}" for runtime, precision in _FUSERS)
        raise UsageError(f"this version of hwnas does not know which kernels '{name}' runs in '{precision}'; it knows: {known}")
    if not left:
        return _FUSERS[name, precision]
    if _FUSERS[name, precision] is not ort_int8_fusion.fuse:
        raise UsageError(f"a network that is quantised in part is not told for '{name}' in '{precision}'; give the network in fp32")
    return partial(ort_int8_fusion.fuse, left=left)


def statuses() -> tuple[Status, ...]:
    """Every runtime with its version, or why it does not work here; those that work come first."""
    found = []
    for name, version in _VERSIONS.items():
        try:
            found.append(Status(name=name, version=version(), problem=""))
        except HwnasError as error:
            found.append(Status(name=name, version="", problem=str(error)))
    return tuple(sorted(found, key=lambda status: bool(status.problem)))
