"""What TensorRT says of the layers of an engine, as records: what runs, in which precision, for which nodes of the network.

Two views have the same form. The engine inspector's tells kernels, after fusion, and needs a card. The parser's tells layers before
fusion, with the types that a strongly typed engine has to keep, and needs none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from hwnas.errors import FormatError

FORMAT = 1
View = Literal["engine", "parser"]

_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_FOREIGN = re.compile(r"\{ForeignNode\[(.*)\]\}")
_REFORMATTED = re.compile(r"^Reformatting CopyNode for (?:Input|Output) Tensor \d+ to (.*)$")
# The inspector of TensorRT 10.x and 11.x writes a word for fused blocks ("Half") and a sentence for single kernels ("Channel major FP16
# format where channel % 8 == 0"). The first pattern that is found counts, so narrower names stand before those that they contain.
_PRECISIONS: Sequence[tuple[str, str]] = (
    (r"bfloat16|bf16", "bf16"),
    (r"fp16|half|float16", "fp16"),
    (r"fp8|float8|e4m3", "fp8"),
    (r"fp4|e2m1", "fp4"),
    (r"uint8", "uint8"),
    (r"int8", "int8"),
    (r"int4", "int4"),
    (r"int64", "int64"),
    (r"int32", "int32"),
    (r"bool", "bool"),
    (r"fp32|float", "fp32"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRecord:
    """A tensor at the edge of a layer.

    Attributes:
        name: as the network has it, or TensorRT's own where it made the tensor.
        precision: `fp32`, `fp16`, `int8` ...; empty where TensorRT does not say.
        shape: -1 for a dimension that is not fixed.
        layout: TensorRT's own words, empty where it gives none.
    """

    name: str
    precision: str
    shape: tuple[int, ...]
    layout: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRecord:
    """A layer of an engine.

    Attributes:
        name: as TensorRT made it.
        kind: TensorRT's type of layer: `CaskConvolution`, `Reformat`, `kgen`, `Myelin`; in the parser's view `CONVOLUTION` ...
        tactic: name of the kernel; empty in the parser's view and where TensorRT gives none.
        inputs: what it reads.
        outputs: what it writes.
        origins: names of the ONNX nodes that it computes, in order; Cast and Q/DQ that were written for precision are among them.
        compute: precision of the arithmetic, where it is narrower than what is written: `int8` for a layer whose operands are
            dequantised right before it. Empty otherwise.
    """

    name: str
    kind: str
    tactic: str = ""
    inputs: tuple[TensorRecord, ...] = ()
    outputs: tuple[TensorRecord, ...] = ()
    origins: tuple[str, ...] = ()
    compute: str = ""

    @property
    def precision(self) -> str:
        """Of the arithmetic: int8 where it reads int8, else the precision of what it writes; empty where TensorRT does not say."""
        if self.compute:
            return self.compute
        if self.inputs and self.inputs[0].precision == "int8" and not self.is_reformat:
            return "int8"
        return self.outputs[0].precision if self.outputs else ""

    @property
    def is_reformat(self) -> bool:
        """Whether it only copies a tensor into another layout or type, for the layer that `caused_by` names."""
        return self.kind == "Reformat" or _REFORMATTED.match(self.name) is not None

    @property
    def caused_by(self) -> str:
        """Name of the layer for which a reformat copies; empty for any other layer and where TensorRT does not say."""
        found = _REFORMATTED.match(self.name)
        return found.group(1) if found else ""

    @property
    def is_foreign(self) -> bool:
        """Whether it is a block that TensorRT compiles as a whole (`ForeignNode`): one kernel with many members."""
        return _FOREIGN.search(self.name) is not None


def from_inspector(text: str) -> tuple[LayerRecord, ...]:
    """The records of what `EngineInspector.get_engine_information` gives in JSON, or of `trtexec --exportLayerInfo`.

    An engine that was built without detailed profiling verbosity gives names only; the records have nothing else then.

    Raises:
        FormatError: it is no such text.
    """
    try:
        plain = json.loads(text)
        layers = plain["Layers"] if isinstance(plain, dict) else plain
        return tuple(_from_inspector(layer) for layer in layers)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"this is no layer information of TensorRT ({type(error).__name__}: {error}); build the engine again") from error


def _from_inspector(layer: Any) -> LayerRecord:
    if isinstance(layer, str):
        return LayerRecord(name=layer, kind="", origins=_foreign_members(layer))
    name = str(layer["Name"])
    return LayerRecord(
        name=name,
        kind=str(layer.get("LayerType", "")),
        tactic=str(layer.get("TacticName", "")),
        inputs=tuple(_tensor(tensor) for tensor in layer.get("Inputs", ())),
        outputs=tuple(_tensor(tensor) for tensor in layer.get("Outputs", ())),
        origins=origins(str(layer.get("Metadata", ""))) or _foreign_members(name),
    )


def origins(metadata: str) -> tuple[str, ...]:
    """The ONNX nodes that a layer's metadata names, each once, in order."""
    return tuple(dict.fromkeys(_NODE.findall(metadata)))


def _foreign_members(name: str) -> tuple[str, ...]:
    """The first and the last member that the name of a block gives, where its metadata say nothing."""
    found = _FOREIGN.search(name)
    return tuple(member for member in found.group(1).split("...") if member) if found else ()


def _tensor(plain: Mapping[str, Any]) -> TensorRecord:
    layout = str(plain.get("Format/Datatype", plain.get("Datatype", "")))
    return TensorRecord(
        name=str(plain["Name"]),
        precision=precision_of(layout),
        shape=tuple(int(size) for size in plain.get("Dimensions", ())),
        layout=layout,
    )


def precision_of(words: str) -> str:
    """The precision that TensorRT's name of a format or an element type means; empty where it names none.

    >>> precision_of("Thirty-two wide channel vectorized row major Int8 format"), precision_of("Half"), precision_of("N/A")
    ('int8', 'fp16', '')
    """
    lower = words.lower()
    return next((precision for pattern, precision in _PRECISIONS if re.search(pattern, lower)), "")


def to_json(layers: Iterable[LayerRecord], *, view: View) -> str:
    """The text of a layer-information file."""
    return json.dumps({"format": FORMAT, "view": view, "layers": [asdict(layer) for layer in layers]}, indent=1) + "\n"


def from_json(text: str) -> tuple[View, tuple[LayerRecord, ...]]:
    """Whose view a layer-information file holds, and its records.

    Raises:
        FormatError: it is damaged, or of a format that this hwnas does not read.
    """
    try:
        plain = json.loads(text)
        if plain["format"] != FORMAT:
            raise FormatError(f"layer information of format {plain['format']}: this hwnas reads {FORMAT}; export again")
        if plain["view"] not in ("engine", "parser"):
            raise ValueError(f"unknown view '{plain['view']}'")
        return plain["view"], tuple(_layer(layer) for layer in plain["layers"])
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"the layer information is damaged ({type(error).__name__}: {error}); export again") from error


def _layer(plain: Mapping[str, Any]) -> LayerRecord:
    tensors = {
        side: tuple(TensorRecord(**{**tensor, "shape": tuple(tensor["shape"])}) for tensor in plain[side]) for side in ("inputs", "outputs")
    }
    return LayerRecord(**{**plain, **tensors, "origins": tuple(plain["origins"])})
