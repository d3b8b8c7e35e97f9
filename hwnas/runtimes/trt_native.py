"""The calls to TensorRT's own classes, which are the same in 10.x, in 11.x and in TensorRT-RTX.

Only `hwnas.runtimes.trt_worker` imports this, in a process of its own. Every name of TensorRT that is used here is held against the
introspected API of each version (tests/contract); the annotations are what that test follows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hwnas.errors import DeviceUnavailable, GraphError, HwnasError, UsageError, one_line
from hwnas.runtimes.trt_build import Options
from hwnas.runtimes.trt_layers import LayerRecord, TensorRecord, origins, precision_of

if TYPE_CHECKING:
    from types import ModuleType

    import tensorrt
    import tensorrt_rtx

_NO_BUILDER = (
    "TensorRT's builder does not start: it builds on the card that the engine is for, and finds no NVIDIA card or driver here; "
    "run this on a machine with the card, or build with --flavor rtx"
)

_CUDA = re.compile(r"\(cudaError (\d+): ([^()]*)\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What a build gives: the plan, the parser's view of its layers, the timing cache, and what TensorRT warned of."""

    plan: bytes
    layers: tuple[LayerRecord, ...]
    cache: bytes
    warnings: tuple[str, ...]


def compile_engine(trt: ModuleType, model: bytes, options: Options, *, cache: bytes) -> Built:
    """Builds an engine.

    Args:
        trt: `tensorrt` or `tensorrt_rtx`.
        model: serialised ONNX.
        options: how.
        cache: timings of earlier builds for the same card with the same version, or nothing.

    Raises:
        GraphError: the parser or the builder refuses the network.
        DeviceUnavailable: the builder does not start.
        UsageError: profiles and inputs do not fit.
    """
    log, said = logger(trt)
    try:
        builder: tensorrt.Builder = trt.Builder(log)
    except TypeError as error:  # "factory function returned nullptr"
        raise DeviceUnavailable(_NO_BUILDER) from error
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(trt, network, log, model)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    _set(trt, config, options)
    _add_profile(builder, network, config, options)
    timings = _attach(config, cache) if options.flavor == "tensorrt" else None
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise GraphError(f"{trt.__name__} does not build the network: {reason(said)}")
    return Built(
        plan=bytes(plan),
        layers=_layers(trt, network),
        cache=b"" if timings is None else bytes(timings.serialize()),
        warnings=tuple(dict.fromkeys(text for severity, text in said if severity == "WARNING")),
    )


def look(trt: ModuleType, plan: bytes) -> tuple[bool, str, str]:
    """Tries to load an engine: whether it does, why not, and what the engine inspector says of it, in JSON."""
    log, said = logger(trt)
    try:
        runtime: tensorrt.Runtime = trt.Runtime(log)
    except TypeError:
        return False, f"{trt.__name__} does not start here: no NVIDIA card or driver is found", ""
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return False, f"{trt.__name__} does not load the engine: {reason(said)}", ""
    inspector = engine.create_engine_inspector()
    return True, "", inspector.get_engine_information(trt.LayerInformationFormat.JSON)


def logger(trt: ModuleType) -> tuple[tensorrt.ILogger, list[tuple[str, str]]]:
    """A logger, and the list into which it writes what matters: severity and text."""
    said: list[tuple[str, str]] = []

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]  # TensorRT has its loggers made so
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: tensorrt.ILogger.Severity, msg: str) -> None:
            if severity.name in ("INTERNAL_ERROR", "ERROR", "WARNING"):
                said.append((severity.name, " ".join(msg.split())))

    return Log(), said


def reason(said: Sequence[tuple[str, str]]) -> str:
    """The first error that was logged: those that follow are its consequences. Of one that CUDA gave, what CUDA said."""
    first = next((text for severity, text in said if severity != "WARNING"), "it gives no reason")
    cuda = _CUDA.search(first)
    return f"{cuda.group(2)} (CUDA error {cuda.group(1)})" if cuda else first


def _parse(trt: ModuleType, network: tensorrt.INetworkDefinition, log: tensorrt.ILogger, model: bytes) -> None:
    """Fills a network.

    Raises:
        GraphError: the parser refuses; names the node.
    """
    parser: tensorrt.OnnxParser = trt.OnnxParser(network, log)  # the caller holds the network: the parser dies without it
    if parser.parse(model):
        return
    if parser.num_errors == 0:
        raise GraphError(f"{trt.__name__} does not parse the model and gives no reason; check it with onnx.checker")
    error: tensorrt.ParserError = parser.get_error(0)
    node = f"node '{error.node_name()}' ({error.node_operator()})" if error.node_operator() else "the model"
    raise GraphError(f"{trt.__name__} does not take {node}: {one_line(HwnasError(error.desc()))}")


def _set(trt: ModuleType, config: tensorrt.IBuilderConfig, options: Options) -> None:
    if not options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.refittable:
        config.set_flag(trt.BuilderFlag.REFIT)
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.targets:
        _target(trt, config, options.targets)


def _target(trt: ModuleType, config: tensorrt_rtx.IBuilderConfig, capabilities: Sequence[str]) -> None:
    config.num_compute_capabilities = len(capabilities)
    for index, name in enumerate(capabilities):
        if not config.set_compute_capability(trt.ComputeCapability.__members__[name.upper()], index):
            raise UsageError(f"{trt.__name__} {trt.__version__} does not build for '{name}'; leave it out")


def _add_profile(
    builder: tensorrt.Builder, network: tensorrt.INetworkDefinition, config: tensorrt.IBuilderConfig, options: Options
) -> None:
    """Says which shapes the open inputs may have.

    Raises:
        UsageError: an open input has no shapes, a fixed one has some, or TensorRT does not take them.
    """
    inputs = {tensor.name: tuple(tensor.shape) for tensor in _inputs(network)}
    wanted = {profile.input: profile for profile in options.profiles}
    for name in wanted:
        if name not in inputs:
            raise UsageError(f"the network has no input '{name}'; it has: {', '.join(inputs)}")
    opened = [name for name, shape in inputs.items() if -1 in shape]
    missing = [name for name in opened if name not in wanted]
    if missing:
        raise UsageError(f"the shape of input '{missing[0]}' is open ({inputs[missing[0]]}); say which it may have")
    if not wanted:
        return
    shapes = builder.create_optimization_profile()
    for name, profile in wanted.items():
        fits = len(profile.usual) == len(inputs[name]) and all(
            size in (-1, given) for size, given in zip(inputs[name], profile.usual, strict=True)
        )
        if not fits:
            raise UsageError(f"input '{name}' has the shape {inputs[name]}, where -1 is open; {profile.usual} does not fit it")
        shapes.set_shape(name, profile.least, profile.usual, profile.most)
    if config.add_optimization_profile(shapes) < 0:
        raise UsageError(f"TensorRT does not take the shapes of {', '.join(wanted)}")


def _inputs(network: tensorrt.INetworkDefinition) -> list[tensorrt.ITensor]:
    return [network.get_input(i) for i in range(network.num_inputs)]


def _attach(config: tensorrt.IBuilderConfig, cache: bytes) -> tensorrt.ITimingCache:
    """Gives a build the timings of earlier ones; those of another card or version are refused by TensorRT, and left out."""
    timings = config.create_timing_cache(cache)
    if not config.set_timing_cache(timings, False):
        timings = config.create_timing_cache(b"")
        config.set_timing_cache(timings, False)
    return timings


def _layers(trt: ModuleType, network: tensorrt.INetworkDefinition) -> tuple[LayerRecord, ...]:
    """The parser's view of a network: layers before fusion, with the types that a strongly typed engine keeps."""
    records: list[LayerRecord] = []
    bits: dict[str, str] = {}  # what is dequantised -> the precision that it has before
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        inputs = [tensor for tensor in (layer.get_input(i) for i in range(layer.num_inputs)) if tensor is not None]
        outputs = [layer.get_output(i) for i in range(layer.num_outputs)]
        record = LayerRecord(
            name=layer.name,
            kind=layer.type.name,
            inputs=_tensors(inputs),
            outputs=_tensors(outputs),
            origins=origins(layer.metadata),
        )
        if layer.type == trt.LayerType.DEQUANTIZE:
            bits[record.outputs[0].name] = record.inputs[0].precision
        records.append(_narrowed(record, bits))
    return tuple(records)


def _narrowed(record: LayerRecord, bits: dict[str, str]) -> LayerRecord:
    """With the precision of the arithmetic, where both operands of a product are dequantised right before it."""
    operands = {bits.get(tensor.name, "") for tensor in record.inputs[:2]}
    narrow = record.kind in ("CONVOLUTION", "MATRIX_MULTIPLY") and len(record.inputs) > 1 and len(operands) == 1
    if not narrow:
        return record

    return replace(record, compute=operands.pop())


def _tensors(tensors: Sequence[tensorrt.ITensor]) -> tuple[TensorRecord, ...]:
    return tuple(TensorRecord(name=tensor.name, precision=precision_of(tensor.dtype.name), shape=tuple(tensor.shape)) for tensor in tensors)
