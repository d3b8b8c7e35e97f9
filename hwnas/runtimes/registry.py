"""The runtimes that hwnas can drive, and whether they work on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from hwnas.errors import HwnasError, UsageError, did_you_mean
from hwnas.ir import Graph, KernelCall
from hwnas.runtimes import eager, ort_int8_fusion
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


def _onnxruntime(threads: int) -> Runtime:
    from hwnas.runtimes.ort import OrtRuntime

    return OrtRuntime(threads)


_MAKERS: Mapping[str, Callable[[int], Runtime]] = {"onnxruntime-cpu": _onnxruntime}
EAGER = "torch-eager"  # PyTorch, not compiled: predicted, not driven
_FUSERS: Mapping[tuple[str, str], Fuser] = {
    ("onnxruntime-cpu", "fp32"): fuse,
    ("onnxruntime-cpu", "int8"): ort_int8_fusion.fuse,
    (EAGER, "fp32"): eager.fuse,
}
_DEFAULT = {"cpu": "onnxruntime-cpu"}


def make(name: str, threads: int) -> Runtime:
    """The runtime of that name.

    Raises:
        UsageError: hwnas has no such runtime.
        MissingExtraError: its library is not installed.
    """
    if name not in _MAKERS:
        raise UsageError(f"unknown runtime '{name}'{did_you_mean(name, _MAKERS)}; this version has: {', '.join(_MAKERS)}")
    return _MAKERS[name](threads)


def default(device: str) -> str:
    """The runtime that measures a device unless another is asked for."""
    if device not in _DEFAULT:
        raise UsageError(f"this version of hwnas has no runtime for '{device}'; it measures: {', '.join(_DEFAULT)}")
    return _DEFAULT[device]


def fuser(name: str, precision: str = "fp32") -> Fuser:
    """Tells a runtime's kernels from the graph alone: a function of graph and of what the runtime fuses, or its channel block.

    Raises:
        UsageError: the runtime does not compute in that precision.
    """
    if (name, precision) not in _FUSERS:
        known = ", ".join(f"{runtime} in {precision}" for runtime, precision in _FUSERS)
        raise UsageError(f"this version of hwnas does not know which kernels '{name}' runs in '{precision}'; it knows: {known}")
    return _FUSERS[name, precision]


def _tensorrt() -> Status:
    """TensorRT, which this version knows of and does not drive."""
    problem = "this version of hwnas does not drive it yet"
    if find_spec("tensorrt") is None:
        problem = f"not installed (pip install 'hwnas[tensorrt]', on a machine with an NVIDIA driver); {problem}"
    return Status(name="tensorrt", version="", problem=problem)


def statuses() -> tuple[Status, ...]:
    """Every runtime with its version, or why it does not work here."""
    found = [_tensorrt()]
    for name, maker in _MAKERS.items():
        try:
            found.append(Status(name=name, version=maker(1).version, problem=""))
        except HwnasError as error:
            found.append(Status(name=name, version="", problem=str(error)))
    return tuple(sorted(found, key=lambda status: bool(status.problem)))
