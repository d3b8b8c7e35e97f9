"""Reads ONNX models into graphs, and says in one line why it cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import checker, external_data_helper, helper, inliner, numpy_helper, shape_inference, version_converter

from hwnas.errors import GraphError, did_you_mean
from hwnas.ir.graph import Graph
from hwnas.ir.node import Array, Node, TensorSpec, Weight
from hwnas.ir.onnx_fold import FOLDABLE, Folder
from hwnas.ir.onnx_forms import OPSETS, SCALAR_SLOTS, SLOTS, TENSOR, from_element_type
from hwnas.ir.onnx_quantised import DEQUANTIZE, QUANTIZE, in_floats, is_quantised, left_in_floats
from hwnas.ir.onnx_translate import translate
from hwnas.ir.ops import OPS, canonical, infer

Read = TypeVar("Read")

SMALL_WEIGHT = 1024  # elements
OLDEST_OPSET = 7  # the oldest that onnx converts upwards
# Whose inputs' values decide the shape of what they write: readable where these are constants.
_DATA_SHAPED = frozenset({"Compress", "ConstantOfShape", "NonMaxSuppression", "NonZero", "Range", "Unique"})
_READABLE = frozenset(OPS) | FOLDABLE | _DATA_SHAPED | {"Constant", "Dropout"}
_NEWER = frozenset({"Attention", "RMSNormalization", "RotaryEmbedding", "Swish", "TensorScatter"})  # of opsets that do not convert back
# Operators that changed their form: read in the last one.
_CHANGED = {
    "DFT": 20,  # before, its axis was an attribute
    "GridSample": 20,  # before, its modes had other names
    "GroupNormalization": 21,  # before, its scale and bias were per group
}


def load(path: str | Path, *, batch: int | None = None) -> Graph:
    """Reads an ONNX file, with its external data.

    Args:
        path: of the file.
        batch: the batch size, for files that leave it open; for others it must be the one that the file states.

    Raises:
        GraphError: names the file, and the node, input or weight that is at fault, when the file is missing, damaged,
            dynamic-shaped or uses something that hwnas does not represent.
    """
    return _load(Path(path), lambda model: from_model(model, batch=batch))


@dataclass(frozen=True, slots=True)
class Shipped:
    """A network as a file has it, in floats or in 8 bits.

    Attributes:
        graph: in floats (`onnx_quantised.in_floats`).
        precision: `int8` where the file is quantised, else `fp32`.
        left: names of the nodes that a quantised file leaves in floats.
    """

    graph: Graph
    precision: str = "fp32"
    left: Set[str] = frozenset()


def load_shipped(path: str | Path, *, batch: int | None = None) -> Shipped:
    """Reads an ONNX file that may be quantised, as `hwnas export` writes it.

    Args:
        path: of the file.
        batch: as for `load`.

    Raises:
        GraphError: as `load`.
    """

    def read(model: onnx.ModelProto) -> Shipped:
        if not is_quantised(model):
            return Shipped(from_model(model, batch=batch))
        try:
            floats = in_floats(model)
        except (LookupError, TypeError, ValueError) as error:
            raise GraphError(f"is damaged: {_one_line(error)}") from error
        return Shipped(from_model(floats, batch=batch), "int8", left_in_floats(model))

    return _load(Path(path), read)


def _load(path: Path, read: Callable[[onnx.ModelProto], Read]) -> Read:
    try:
        model = onnx.ModelProto.FromString(path.read_bytes())
        _load_external_data(model, path.parent)
        return read(model)
    except OSError as error:
        raise GraphError(f"{path}: cannot be read: {error.strerror}") from error
    except DecodeError as error:
        raise GraphError(f"{path}: is not an ONNX file, or a damaged or truncated one") from error
    except GraphError as error:
        raise GraphError(f"{path}: {' '.join(str(error).split())}") from error  # names in a damaged file may hold anything


def from_model(model: onnx.ModelProto, *, batch: int | None = None) -> Graph:
    """The graph of an ONNX model, whose external data is loaded already.

    Constants become weights, or attributes where the graph wants attributes; Dropout vanishes; arithmetic on shapes is evaluated.
    Nothing else is folded.

    Args:
        model: is left as it is.
        batch: as for `load`.

    Raises:
        GraphError: as `load`.
    """
    if not model.HasField("graph") or not (model.graph.node or model.graph.output):
        raise GraphError("holds no graph: the file is empty or truncated")
    if model.functions:
        model = inliner.inline_local_functions(model)
    _refuse_unsupported(model.graph)
    inputs = _inputs(model.graph, batch)
    model = _converted(model)
    try:
        graph = _Reader(model, inputs).read()  # before the checker: it can name nodes that have no name
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        _check(model)
        raise GraphError(f"is damaged: {_one_line(error)}") from error
    _check(model)
    return graph


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]


def _load_external_data(model: onnx.ModelProto, folder: Path) -> None:
    for tensor in model.graph.initializer:
        if not external_data_helper.uses_external_data(tensor):
            continue
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        if not (folder / location).is_file():
            raise GraphError(f"initialiser '{tensor.name}' is stored in '{location}', which is missing; put it beside the model")
    try:
        external_data_helper.load_external_data_for_model(model, str(folder))
    except (checker.ValidationError, ValueError) as error:
        raise GraphError(f"external data cannot be read: {_one_line(error)}") from error


def _names(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, str]]:
    """Every node with a name that is its own: files may leave names out or repeat them."""
    taken = {node.name for node in graph.node}
    seen: set[str] = set()
    for index, node in enumerate(graph.node):
        name = node.name
        if not name or name in seen:
            name = stem = node.name or f"{node.op_type.lower()}_{index}"
            count = 1
            while name in taken:
                name = f"{stem}_{count}"
                count += 1
            taken.add(name)
        seen.add(name)
        yield node, name


def _refuse_unsupported(graph: onnx.GraphProto) -> None:
    if graph.sparse_initializer:
        raise GraphError(f"initialiser '{graph.sparse_initializer[0].values.name}' is sparse; only dense weights are supported")
    for node, name in _names(graph):
        if any(attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for attribute in node.attribute):
            raise GraphError(f"node '{name}' ({node.op_type}) holds a subgraph; control flow is not supported: export the model without it")
        if node.domain not in ("", "ai.onnx"):
            raise GraphError(f"node '{name}': operator '{node.domain}.{node.op_type}' is not supported; only ONNX's own operators are")
        if node.op_type not in _READABLE:
            if node.op_type in (QUANTIZE, DEQUANTIZE):
                raise GraphError(f"node '{name}' ({node.op_type}): the file is quantised; give the network in fp32, as it was before")
            if node.op_type in _NEWER:
                raise GraphError(
                    f"node '{name}': operator '{node.op_type}' came with opset 23 and is not supported; export the model at opset "
                    f"{OPSETS[0]} to {OPSETS[-1]}, where it is written in others"
                )
            hint = did_you_mean(node.op_type, OPS)
            raise GraphError(f"node '{name}': operator '{node.op_type}' is not supported{hint}; supported: {', '.join(sorted(OPS))}")


def _inputs(graph: onnx.GraphProto, batch: int | None) -> dict[str, TensorSpec]:
    constants = {tensor.name for tensor in graph.initializer}
    specs: dict[str, TensorSpec] = {}
    leading: list[int] = []
    for info in graph.input:
        if info.name in constants:
            continue
        if not info.type.HasField("tensor_type") or not info.type.tensor_type.HasField("shape"):
            raise GraphError(f"input '{info.name}' is no tensor of known rank; export the model with static shapes")
        shape = []
        for index, dim in enumerate(info.type.tensor_type.shape.dim):
            size = dim.dim_value
            if size < 1 and index == 0 and batch is not None:
                size = batch
            if size < 1:
                remedy = "give a batch size (batch=1)" if index == 0 else "export the model with static shapes"
                raise GraphError(f"input '{info.name}': dimension {index} is dynamic ('{dim.dim_param or '?'}'); {remedy}")
            shape.append(size)
        leading.append(shape[0] if shape else 1)
        try:
            specs[info.name] = TensorSpec(tuple(shape), from_element_type(info.type.tensor_type.elem_type))
        except GraphError as error:
            raise GraphError(f"input '{info.name}': {error}") from error
    if batch is not None and leading and batch not in leading:
        raise GraphError(
            f"input '{next(iter(specs))}' has batch {leading[0]} in the file, {batch} was asked for; "
            f"ask for {leading[0]}, or export the model anew"
        )
    return specs


def _opset(model: onnx.ModelProto) -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if not versions:
        raise GraphError("states no opset; the file is damaged or not a model of ONNX operators")
    return int(versions[0])


def _converted(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model at an opset that is read without conversion."""
    opset = _opset(model)
    target = min(max(opset, OPSETS[0]), OPSETS[-1])
    if any(opset < _CHANGED.get(node.op_type, 0) for node in model.graph.node):
        target = OPSETS[-1]
    if target == opset:
        return model
    if opset < OLDEST_OPSET:
        raise GraphError(f"opset {opset} is too old; export the model at opset {OPSETS[0]} to {OPSETS[-1]}")
    try:
        return version_converter.convert_version(model, target)
    except (version_converter.ConvertError, RuntimeError, ValueError, LookupError) as error:
        raise GraphError(
            f"opset {opset} does not convert to {target} ({_one_line(error)}); export it at {OPSETS[0]} to {OPSETS[-1]}"
        ) from error


def _check(model: onnx.ModelProto) -> None:
    """Has ONNX's own checker look at everything but the values of large weights.

    It takes one protobuf message of 2 GB at most, and serialising the weights once more takes longer than all else.
    """
    try:
        checker.check_model(_light(model), full_check=True)
    except (checker.ValidationError, shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise GraphError(f"is not a valid ONNX model: {_one_line(error)}") from error


def _light(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its large weights as inputs of the same type."""
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph, whole = light.graph, model.graph
    graph.name = whole.name
    graph.node.extend(whole.node)
    graph.input.extend(whole.input)
    graph.output.extend(whole.output)
    graph.value_info.extend(whole.value_info)
    given = {value.name for value in whole.input}
    for tensor in whole.initializer:
        if prod(tensor.dims) <= SMALL_WEIGHT:  # it may be a shape, which the checker follows
            graph.initializer.append(tensor)
        elif tensor.name not in given:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return light


def _array(tensor: onnx.TensorProto, what: str) -> Array:
    try:
        from_element_type(tensor.data_type)
        if external_data_helper.uses_external_data(tensor):
            raise GraphError("its data is in another file, which was not loaded")
        array: Array = numpy_helper.to_array(tensor)
    except (GraphError, ValueError, TypeError) as error:
        raise GraphError(f"{what} '{tensor.name}' cannot be read: {_one_line(error)}") from error
    return array


class _Reader:
    """Walks the nodes of a model in order; the state is what is known so far."""

    def __init__(self, model: onnx.ModelProto, inputs: dict[str, TensorSpec]) -> None:
        self._proto = model.graph
        self._inputs = inputs
        self._specs = dict(inputs)
        self._folder = Folder(_opset(model))
        self._weights: dict[str, Weight] = {}
        self._same: dict[str, str] = {}  # the value that stands for one which a removed node wrote
        self._nodes: list[Node] = []
        self._outputs = [info.name for info in model.graph.output]
        self._read = {value for node in model.graph.node for value in node.input} | set(self._outputs)

    def read(self) -> Graph:
        self._folder.known.update({tensor.name: _array(tensor, "initialiser") for tensor in self._proto.initializer})
        for proto, name in _names(self._proto):
            self._node(proto, name)
        for value in self._outputs:
            self._tensor(value)
        return Graph.make(name=self._proto.name, inputs=self._inputs, outputs=self._outputs, nodes=self._nodes, weights=self._weights)

    def _node(self, proto: onnx.NodeProto, name: str) -> None:
        attrs = {attribute.name: _attribute(attribute, name) for attribute in proto.attribute}
        if proto.op_type == "Constant":
            self._folder.known[proto.output[0]] = _constant(attrs, name)
            return
        if any(value in self._same for value in proto.input):
            resolved = onnx.NodeProto()
            resolved.CopyFrom(proto)
            resolved.input[:] = [self._same.get(value, value) for value in proto.input]
            proto = resolved
        if self._folder.fold(proto, name, self._specs):
            return
        if proto.op_type in _DATA_SHAPED:
            raise GraphError(
                f"node '{name}' ({proto.op_type}): the shape of what it writes depends on the network's input; only static shapes are "
                "supported: export the model without it, or cut it off there"
            )
        slots = SLOTS.get(proto.op_type)
        for slot, value in zip(slots or (), proto.input[1:], strict=False):
            if value and slot != TENSOR:
                attrs |= self._slot(slot, value, f"node '{name}' ({proto.op_type})")
        if proto.op_type == "Dropout":
            self._drop(proto, name, attrs)
            return
        inputs = [value for i, value in enumerate(proto.input) if slots is None or i == 0 or slots[i - 1] == TENSOR]
        while inputs and not inputs[-1]:
            inputs.pop()
        for value in inputs:
            self._tensor(value)
        specs = [self._spec(value, name) for value in inputs if value]
        outputs = self._written(proto, name)
        op, attrs = translate(proto.op_type, name, attrs, specs, outputs)
        node = canonical(Node(name=name, op=op, inputs=tuple(inputs), outputs=outputs, attrs=tuple(sorted(attrs.items()))), specs)
        self._specs.update(zip(outputs, infer(node, specs), strict=True))
        self._nodes.append(node)

    def _spec(self, value: str, name: str) -> TensorSpec:
        if value not in self._specs:
            raise GraphError(f"node '{name}' reads '{value}', which nothing before it writes")
        return self._specs[value]

    def _tensor(self, value: str) -> None:
        """Makes a constant that is read as a tensor a weight."""
        if value in self._folder.known and value not in self._weights:
            try:
                self._weights[value] = Weight.of(self._folder.known[value])
            except GraphError as error:
                raise GraphError(f"constant '{value}': {error}") from error
            self._specs[value] = self._weights[value].spec

    def _slot(self, slot: str, value: str, where: str) -> dict[str, Any]:
        if value not in self._folder.known:
            raise GraphError(f"{where}: '{slot}' is computed at run time (by '{value}'); only constants are supported")
        array = self._folder.known[value]
        if array.size == 0 and slot not in ("shape", "axes"):
            return {}  # ONNX's older way to leave an input out
        if slot in SCALAR_SLOTS:
            if array.size != 1:
                raise GraphError(f"{where}: '{slot}' must be one number, got {array.size}")
            return {slot: array.item()}
        return {slot: tuple(array.reshape(-1).tolist())}

    def _drop(self, proto: onnx.NodeProto, name: str, attrs: dict[str, Any]) -> None:
        if attrs.get("training_mode"):
            raise GraphError(f"node '{name}' (Dropout) is in training mode; export the model for inference")
        if any(value and value in self._read for value in proto.output[1:]):
            raise GraphError(f"node '{name}' (Dropout): its mask is read, which is not supported")
        source, target = proto.input[0], proto.output[0]
        self._tensor(source)
        if target in self._outputs:  # the name must survive
            spec = self._spec(source, name)
            self._nodes.append(canonical(Node(name=name, op="Identity", inputs=(source,), outputs=(target,)), [spec]))
            self._specs[target] = spec
        else:
            self._same[target] = self._same.get(source, source)

    def _written(self, proto: onnx.NodeProto, name: str) -> tuple[str, ...]:
        outputs = list(proto.output)
        while len(outputs) > 1 and outputs[-1] not in self._read - {""} and proto.op_type not in ("Split", "TopK"):
            outputs.pop()  # an optional output, such as the indices of a MaxPool
        return tuple(value or f"{name}.unused_{index}" for index, value in enumerate(outputs))


def _attribute(attribute: onnx.AttributeProto, name: str) -> Any:
    try:
        value = helper.get_attribute_value(attribute)
    except (ValueError, TypeError) as error:
        raise GraphError(f"node '{name}': attribute '{attribute.name}' cannot be read: {_one_line(error)}") from error
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if attribute.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS):
        return tuple(value)
    return value


def _constant(attrs: dict[str, Any], name: str) -> Array:
    kinds = {"value_int": "int64", "value_ints": "int64", "value_float": "float32", "value_floats": "float32"}
    if "value" in attrs:
        return _array(attrs["value"], f"node '{name}' (Constant): value")
    for kind, dtype in kinds.items():
        if kind in attrs:
            return np.asarray(attrs[kind], dtype)
    raise GraphError(f"node '{name}' (Constant) holds no dense numbers: {', '.join(attrs) or 'it is empty'}")
