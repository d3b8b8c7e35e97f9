"""The calls to TensorRT that load an engine and run it, which are the same in 10.x and in 11.x. Not yet run on hardware.

They happen in this process, so an engine comes here only after a driver was found and a child process has loaded the same engine
(`hwnas.runtimes.trt_build.probe`): without a driver TensorRT's runtime crashes. As in `trt_native`, annotations are what the contract
test follows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwnas.errors import DeviceUnavailable, MeasurementError
from hwnas.runtimes.trt_layers import precision_of
from hwnas.runtimes.trt_native import logger, reason

if TYPE_CHECKING:
    from types import ModuleType

    import tensorrt


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """An input or an output of an engine.

    Attributes:
        name: of the tensor.
        is_input: whether it is read.
        shape: all sizes are known; -1 where one is open.
        precision: `fp32` ...
    """

    name: str
    is_input: bool
    shape: tuple[int, ...]
    precision: str


class Loaded:
    """An engine in this process.

    Args:
        trt: `tensorrt`.
        plan: the engine.

    Raises:
        DeviceUnavailable: TensorRT does not start, or does not load it; gives its reason.
    """

    def __init__(self, trt: ModuleType, plan: bytes) -> None:
        self._trt = trt
        self._log, self._said = logger(trt)  # TensorRT keeps pointing to it
        self._runtime, self._engine = _load(trt, plan, self._log, self._said)

    @property
    def ends(self) -> tuple[End, ...]:
        """What it reads and writes."""
        return _ends(self._trt, self._engine)

    def layers(self) -> str:
        """What the engine inspector says of its layers, in JSON."""
        return _inspected(self._trt, self._engine)

    def context(self, addresses: Mapping[str, int]) -> tensorrt.IExecutionContext:
        """Ready to run with its tensors at these addresses on the card.

        Raises:
            MeasurementError: there is no memory for it, or TensorRT does not take an address.
        """
        return _context(self._engine, addresses, self._said)

    def watched(self, addresses: Mapping[str, int]) -> Watched:
        """Another context, with a profiler."""
        return Watched(self._trt, self.context(addresses))


class Watched:
    """A context whose layers are timed, one run at a time."""

    def __init__(self, trt: ModuleType, context: tensorrt.IExecutionContext) -> None:
        self._context = context
        self._times: list[tuple[str, float]] = []
        self._profiler = _profiler(trt, self._times)  # TensorRT does not hold it
        _watch(context, self._profiler)

    def run(self, stream: int, synchronise: Callable[[], None]) -> tuple[tuple[str, float], ...]:
        """Name and time in s of every layer of one run, in the order in which TensorRT tells them."""
        self._times.clear()
        enqueue(self._context, stream)
        synchronise()
        _report(self._context)
        return tuple(self._times)


def enqueue(context: tensorrt.IExecutionContext, stream: int) -> None:
    """Puts a run into a stream.

    Raises:
        MeasurementError: TensorRT does not.
    """
    if not context.execute_async_v3(stream):
        raise MeasurementError("TensorRT does not run the engine (execute_async_v3 fails); see what 'nvidia-smi' says of the card")


def _load(
    trt: ModuleType, plan: bytes, log: tensorrt.ILogger, said: list[tuple[str, str]]
) -> tuple[tensorrt.Runtime, tensorrt.ICudaEngine]:
    try:
        runtime: tensorrt.Runtime = trt.Runtime(log)
    except TypeError as error:
        raise DeviceUnavailable("TensorRT's runtime does not start: it finds no NVIDIA card or driver; see 'nvidia-smi'") from error
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise DeviceUnavailable(f"TensorRT does not load the engine on this card: {reason(said)}")
    return runtime, engine


def _ends(trt: ModuleType, engine: tensorrt.ICudaEngine) -> tuple[End, ...]:
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    return tuple(
        End(
            name=name,
            is_input=engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT,
            shape=tuple(engine.get_tensor_shape(name)),
            precision=precision_of(engine.get_tensor_dtype(name).name),
        )
        for name in names
    )


def _inspected(trt: ModuleType, engine: tensorrt.ICudaEngine) -> str:
    inspector = engine.create_engine_inspector()
    text: str = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    return text


def _context(engine: tensorrt.ICudaEngine, addresses: Mapping[str, int], said: list[tuple[str, str]]) -> tensorrt.IExecutionContext:
    context = engine.create_execution_context()
    if context is None:
        raise MeasurementError(f"TensorRT has no memory to run the engine: {reason(said)}")
    for name, address in addresses.items():
        if not context.set_tensor_address(name, address):
            raise MeasurementError(f"TensorRT does not take the memory for tensor '{name}': {reason(said)}")
    return context


def _profiler(trt: ModuleType, times: list[tuple[str, float]]) -> tensorrt.IProfiler:
    class Profiler(trt.IProfiler):  # type: ignore[misc, name-defined]  # TensorRT has its profilers made so
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            times.append((layer_name, ms * 1e-3))

    return Profiler()


def _watch(context: tensorrt.IExecutionContext, profiler: tensorrt.IProfiler) -> None:
    """Has layers timed; told after the stream is synchronised, since a run that tells by itself waits for the card in between."""
    context.profiler = profiler
    context.enqueue_emits_profile = False


def _report(context: tensorrt.IExecutionContext) -> None:
    if not context.report_to_profiler():
        raise MeasurementError("TensorRT's profiler does not tell what the layers of a run took (report_to_profiler fails)")
