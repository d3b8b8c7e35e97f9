"""TensorRT without a card: engines that were recorded, or are made up in its manner, replayed over `FakeCuda`.

Stands in for the module `tensorrt` with the classes that hwnas runs engines with; each method is one of the real API in 10.16 and 11.4
(tests/contract). What an engine says of its layers is the text that the real inspector writes, outputs are computed from its model by ONNX
Runtime on the CPU, and layers take the times that were recorded.
"""

from __future__ import annotations

import base64
import ctypes
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from hwnas.errors import GraphError, one_line, require
from hwnas.ir.node import Array
from hwnas.runtimes.trt import TrtSession
from hwnas.runtimes.trt_build import Engine, Options
from hwnas.runtimes.trt_layers import from_inspector
from hwnas.testing.fake_cuda import FakeCuda

VERSION = "11.4.0.106"
_SERVING = frozenset({"Cast", "QuantizeLinear", "DequantizeLinear"})
_ABSORBED = frozenset({"Add", "Clip", "Gelu", "HardSigmoid", "HardSwish", "Relu", "Sigmoid", "Tanh"})
_SILENT = frozenset({"Flatten", "Identity", "Reshape"})  # cost nothing, so that no layer is left of them
_WORDS = {1: ("FLOAT", "Row major linear FP32"), 10: ("HALF", "Row major linear FP16 format"), 7: ("INT64", "Row major Int64 format")}
_BITS = "Thirty-two wide channel vectorized row major Int8 format"
_DTYPES = {"FLOAT": np.float32, "HALF": np.float16, "INT64": np.int64}


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedEngine:
    """An engine as it was met.

    Attributes:
        model: serialised ONNX, which it was built from.
        layers: what its inspector says, in JSON.
        times_ms: of its layers by the profiler, in the order in which they are told; one that is told twice has two.
    """

    model: bytes
    layers: str
    times_ms: tuple[tuple[str, float], ...]

    def plan(self) -> bytes:
        """It as the bytes of a plan."""
        return json.dumps({**asdict(self), "model": base64.b64encode(self.model).decode()}).encode()

    @classmethod
    def of(cls, plan: bytes) -> RecordedEngine:
        """From the bytes of a plan."""
        plain = json.loads(plan)
        times = tuple((str(name), float(ms)) for name, ms in plain["times_ms"])
        return cls(model=base64.b64decode(plain["model"]), layers=plain["layers"], times_ms=times)


def record(session: TrtSession, model: bytes, feed: Mapping[str, Array]) -> RecordedEngine:
    """An engine of a card, to be replayed elsewhere.

    Args:
        session: on the card.
        model: that TensorRT was given.
        feed: inputs for the run that is timed.
    """
    (times,) = session.layer_times(feed, runs=1)
    return RecordedEngine(model=model, layers=session.layers(), times_ms=tuple((name, seconds * 1e3) for name, seconds in times))


def made_up(model: bytes) -> RecordedEngine:
    """An engine for a model in the manner of TensorRT: convolutions with what follows them, blocks, copies, layers that serve.

    Raises:
        GraphError: it is no model.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        proto = onnx.shape_inference.infer_shapes(onnx.load_from_string(model))
    except DecodeError as error:
        raise GraphError(f"tensorrt does not take the model: {one_line(error)}") from error
    layers = _Layers(proto).all()
    times = tuple((str(layer["Name"]), 0.002 + 0.001 * (i % 7)) for i, layer in enumerate(layers))
    return RecordedEngine(model=model, layers=json.dumps({"Layers": layers, "Bindings": []}), times_ms=times)


class _Layers:
    """Groups the nodes of a model into layers."""

    def __init__(self, proto: Any) -> None:
        self._nodes = list(proto.graph.node)
        infos = (*proto.graph.input, *proto.graph.value_info, *proto.graph.output)
        self._types = {info.name: info.type.tensor_type for info in infos}
        self._constants = {tensor.name for tensor in proto.graph.initializer}
        self._outputs = {info.name for info in proto.graph.output}
        self._readers: dict[str, list[Any]] = {}
        for node in self._nodes:
            for value in node.input:
                self._readers.setdefault(value, []).append(node)
        self._done: set[str] = set()

    def all(self) -> list[dict[str, Any]]:
        """Layers in order; a product reads what was quantised for it, so its Q and DQ are among its nodes."""
        found: list[dict[str, Any]] = []
        blocks = sum(node.op_type in ("Gemm", "MatMul") for node in self._nodes) > 1
        for node in self._nodes:
            if node.name in self._done or node.op_type in _SILENT:
                continue
            if node.op_type in _SERVING:
                if self._serves_alone(node):
                    found.append(self._layer([node], "kgen"))
                continue
            members = self._block(node) if blocks and node.op_type == "Gemm" else self._chain(node)
            convolves = node.op_type == "Conv"
            kind = "Myelin" if len(members) > 1 and not convolves else "CaskConvolution" if convolves else "kgen"
            layer = self._layer([*self._quantisers(members), *members], kind)
            if convolves and found and len(found) % 3 == 1:
                found.append(self._copy(layer))
            found.append(layer)
        return found

    def _chain(self, node: Any) -> list[Any]:
        members = [node]
        while members[-1].op_type not in ("Softmax",) and node.op_type in ("Conv", "Gemm", "MatMul"):
            reader = self._only_reader(members[-1])
            if reader is None or reader.op_type not in _ABSORBED or not self._ready(reader, members):
                break
            members.append(reader)
        self._done.update(member.name for member in members)
        return members

    def _block(self, node: Any) -> list[Any]:
        """Everything from here on that reads only what is there."""
        members: list[Any] = []
        for other in self._nodes[self._nodes.index(node) :]:
            if other.op_type not in _SERVING and other.name not in self._done and self._ready(other, members):
                members.append(other)
        self._done.update(member.name for member in members)
        return members

    def _ready(self, node: Any, members: Sequence[Any]) -> bool:
        """Whether all that a node reads is an input, a constant, or written by what ran or by its group."""
        written = {value for member in members for value in member.output}
        for value in node.input:
            writer = next((other for other in self._nodes if value in other.output), None)
            while writer is not None and writer.op_type in (_SERVING | _SILENT) and writer.output[0] not in written:
                value = writer.input[0]
                writer = next((other for other in self._nodes if value in other.output), None)
            if writer is not None and value not in written and writer.name not in self._done:
                return False
        return True

    def _only_reader(self, node: Any) -> Any:
        readers = self._readers.get(node.output[0], [])
        return readers[0] if len(readers) == 1 and node.output[0] not in self._outputs else None

    def _serves_alone(self, node: Any) -> bool:
        """A Cast is a layer; Q and DQ go into products, where they stand before one."""
        return bool(node.op_type == "Cast")

    def _quantisers(self, members: Sequence[Any]) -> list[Any]:
        found: list[Any] = []
        pending = [value for member in members for value in member.input]
        while pending:
            value = pending.pop()
            writer = next((node for node in self._nodes if value in node.output), None)
            if writer is not None and writer.op_type in ("QuantizeLinear", "DequantizeLinear") and writer not in found:
                found.insert(0, writer)
                pending.extend(writer.input)
        return found

    def _layer(self, members: Sequence[Any], kind: str) -> dict[str, Any]:
        names = [node.name for node in members]
        inside = {value for node in members for value in node.output}
        shown = [node for node in members if node.op_type not in _SERVING] or list(members)
        reads = dict.fromkeys(v for node in shown for v in node.input if v and v not in self._constants)
        narrow = kind == "CaskConvolution" and len(shown) < len(members)
        inputs = [self._tensor(value, narrow and i == 0) for i, value in enumerate(v for v in reads if narrow or v not in inside)]
        name = " + ".join(node.name for node in shown)
        return {
            "Name": f"{{ForeignNode[{shown[0].name}...{shown[-1].name}]}}" if kind == "Myelin" else name,
            "LayerType": kind,
            "Inputs": inputs,
            "Outputs": [self._tensor(shown[-1].output[0])],
            "TacticName": f"sm80_{shown[0].op_type.lower()}",
            "StreamId": 0,
            "Metadata": "\x1e".join(f"[ONNX Layer: {node}]" for node in names),
        }

    def _copy(self, layer: Mapping[str, Any]) -> dict[str, Any]:
        source = layer["Inputs"][0]
        written = {**source, "Name": f"Reformatted Input Tensor 0 to {layer['Name']}"}
        written["Format/Datatype"] = "Channel major FP16 format where channel % 8 == 0"
        name = f"Reformatting CopyNode for Input Tensor 0 to {layer['Name']}"
        return {"Name": name, "LayerType": "Reformat", "Inputs": [source], "Outputs": [written], "TacticName": "0x0", "Metadata": ""}

    def _tensor(self, value: str, narrow: bool = False) -> dict[str, Any]:
        kind = self._types.get(value)
        shape = [dim.dim_value for dim in kind.shape.dim] if kind is not None else []
        words = _BITS if narrow else _WORDS[kind.elem_type if kind is not None else 1][1]
        return {"Name": value, "Location": "Device", "Dimensions": shape, "Format/Datatype": words}


class FakeBuilder:
    """Builds engines that `FakeTensorrt` loads; satisfies `hwnas.runtimes.trt.Builder`.

    Args:
        engines: recorded ones by their model; those of other models are made up.
        loads: whether the card takes them.
    """

    def __init__(self, engines: Mapping[bytes, RecordedEngine] | None = None, *, loads: bool = True) -> None:
        self._engines = dict(engines or {})
        self._loads = loads

    def __call__(self, model: bytes, options: Options) -> Engine:
        """The engine."""
        engine = self._engines.get(model) or made_up(model)
        layers = from_inspector(engine.layers)
        view: Any = "engine" if self._loads else "parser"
        return Engine(plan=engine.plan(), layers=layers, view=view, version=VERSION, cache=b"", warnings=(), seconds=1.0)


class _Severity(IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class ILogger:
    """What TensorRT logs to."""

    Severity = _Severity

    def log(self, severity: Any, msg: str) -> None:
        """Takes a line."""
        raise NotImplementedError


class IProfiler:
    """What TensorRT tells the times of layers to."""

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        """Takes the time of a layer."""
        raise NotImplementedError


class TensorIOMode(IntEnum):
    """What a tensor of an engine is."""

    NONE = 0
    INPUT = 1
    OUTPUT = 2


class LayerInformationFormat(IntEnum):
    """How the inspector writes."""

    ONELINE = 0
    JSON = 1


class FakeTensorrt:
    """Stands in for the module `tensorrt`.

    Args:
        cuda: on which its engines run.
        driver: whether it finds one.
    """

    __version__ = VERSION
    __name__ = "tensorrt"
    ILogger: ClassVar = ILogger
    IProfiler: ClassVar = IProfiler
    TensorIOMode: ClassVar = TensorIOMode
    LayerInformationFormat: ClassVar = LayerInformationFormat

    def __init__(self, cuda: FakeCuda, *, driver: bool = True) -> None:
        self._cuda = cuda
        self._driver = driver

    def Runtime(self, logger: Any) -> Runtime:  # noqa: N802  (a class of the module)
        """Loads engines; fails as pybind11 does where there is no driver."""
        if not self._driver:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return Runtime(self._cuda, logger)


class Runtime:
    """Loads engines."""

    def __init__(self, cuda: FakeCuda, logger: ILogger) -> None:
        self._cuda, self._logger = cuda, logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        """The engine, or None, with the reason in the log."""
        try:
            return ICudaEngine(self._cuda, RecordedEngine.of(serialized_engine))
        except (ValueError, KeyError):
            self._logger.log(_Severity.ERROR, "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (magic tag does not match)")
            return None


class ICudaEngine:
    """An engine that is loaded."""

    def __init__(self, cuda: FakeCuda, recorded: RecordedEngine) -> None:
        options = require("onnxruntime").SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        self._session = require("onnxruntime").InferenceSession(recorded.model, options, providers=["CPUExecutionProvider"])
        self._cuda, self._recorded = cuda, recorded
        self._inputs = {end.name: end for end in self._session.get_inputs()}
        self._ends = {**self._inputs, **{end.name: end for end in self._session.get_outputs()}}

    @property
    def num_io_tensors(self) -> int:
        """Inputs and outputs."""
        return len(self._ends)

    def get_tensor_name(self, index: int) -> str:
        """Name of one of them."""
        return str(list(self._ends)[index])

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        """Whether it is read or written."""
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """Its sizes."""
        return tuple(self._ends[name].shape)

    def get_tensor_dtype(self, name: str) -> Any:
        """Its type."""
        names = {"tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(int64)": "INT64"}
        return SimpleNamespace(name=names[self._ends[name].type])

    def create_engine_inspector(self) -> EngineInspector:
        """Tells its layers."""
        return EngineInspector(self._recorded.layers)

    def create_execution_context(self) -> IExecutionContext:
        """Runs it."""
        return IExecutionContext(self._cuda, self, self._session, self._recorded)


class EngineInspector:
    """Tells the layers of an engine."""

    def __init__(self, layers: str) -> None:
        self._layers: str = layers

    def get_engine_information(self, format: LayerInformationFormat) -> str:
        """All of them."""
        if format is not LayerInformationFormat.JSON:
            raise ValueError("only JSON was recorded")
        return self._layers


class IExecutionContext:
    """Runs an engine.

    Attributes:
        profiler: that is told the times of layers.
        enqueue_emits_profile: whether a run tells them by itself.
    """

    def __init__(self, cuda: FakeCuda, engine: ICudaEngine, session: Any, recorded: RecordedEngine) -> None:
        self._cuda, self._engine, self._session, self._recorded = cuda, engine, session, recorded
        self._addresses: dict[str, int] = {}
        self._ran = False
        self.profiler: IProfiler | None = None
        self.enqueue_emits_profile = True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """Where a tensor is."""
        known = memory in self._cuda.blocks
        if known:
            self._addresses[name] = memory
        return known

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Queues a run; refuses where a tensor has no memory, or the stream does not take it."""
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        if any(name not in self._addresses for name in names):
            return False
        self._ran = False
        return self._cuda.queue(stream_handle, self._work)

    def report_to_profiler(self) -> bool:
        """Tells the times of the last run; refuses before it is done, and where runs tell by themselves."""
        if self.profiler is None or self.enqueue_emits_profile or not self._ran:
            return False
        for name, ms in self._recorded.times_ms:
            self.profiler.report_layer_time(name, ms)
        return True

    def _work(self) -> None:
        feed = {name: self._array(name) for name in self._engine._inputs}
        outputs = [name for name in self._engine._ends if name not in self._engine._inputs]
        for name, value in zip(outputs, self._session.run(outputs, feed), strict=True):
            value = np.ascontiguousarray(value)
            ctypes.memmove(self._addresses[name], value.ctypes.data, value.nbytes)
        self._cuda.now_ms += sum(ms for _, ms in self._recorded.times_ms)
        self._ran = True

    def _array(self, name: str) -> Any:
        dtype = np.dtype(_DTYPES[self._engine.get_tensor_dtype(name).name])
        shape = self._engine.get_tensor_shape(name)
        raw = ctypes.string_at(self._addresses[name], int(np.prod(shape)) * dtype.itemsize)
        return np.frombuffer(raw, dtype).reshape(shape)
