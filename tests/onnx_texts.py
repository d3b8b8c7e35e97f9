"""Models from ONNX's own textual form, and what is said of those that cannot be read."""

from __future__ import annotations

import onnx
import pytest
from onnx import parser

from hwnas.errors import GraphError
from hwnas.ir.onnx import from_model


def text(body: str, *, opset: int = 17, inputs: str = "float[1,2,4,4] x", outputs: str = "float[1,2,4,4] y") -> onnx.ModelProto:
    """A model from ONNX's own textual form."""
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs}) => ({outputs}) {{ {body} }}')


def fails(model: onnx.ModelProto, *words: str, **options: int) -> None:
    with pytest.raises(GraphError) as caught:
        from_model(model, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
