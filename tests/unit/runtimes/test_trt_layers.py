"""Layer information of TensorRT becomes records that name precision, kernel and the nodes behind a layer."""

from __future__ import annotations

import json

import pytest

from hwnas.errors import FormatError
from hwnas.runtimes.trt_layers import LayerRecord, TensorRecord, from_inspector, from_json, precision_of, to_json


def tensor(name: str, words: str, *shape: int) -> dict[str, object]:
    """A tensor as the inspector writes it."""
    return {"Name": name, "Location": "Device", "Dimensions": list(shape), "Format/Datatype": words}


CONV = {
    "Name": "conv_0 + relu_0",
    "LayerType": "CaskConvolution",
    "Inputs": [tensor("x", "Thirty-two wide channel vectorized row major Int8 format", 1, 32, 8, 8)],
    "Outputs": [tensor("y", "Channel major FP16 format where channel % 8 == 0", 1, 16, 8, 8)],
    "TacticName": "sm80_xmma_fprop_implicit_gemm_i8i8_i8i32_f32",
    "Metadata": "[ONNX Layer: conv_0_weight_QuantizeLinear]\x1e[ONNX Layer: conv_0]\x1e[ONNX Layer: relu_0]\x1f[ONNX Layer: relu_0]",
}
BLOCK = {"Name": "{ForeignNode[matmul_0...add_3]}", "LayerType": "Myelin", "Inputs": [tensor("y", "Half", 1, 4)], "Outputs": []}
COPY = {
    "Name": "Reformatting CopyNode for Input Tensor 0 to conv_0 + relu_0",
    "LayerType": "Reformat",
    "Inputs": [tensor("x", "Row major linear FP32", 1, 3, 8, 8)],
    "Outputs": [tensor("Reformatted Input Tensor 0", "Channel major FP16 format where channel % 4 == 0", 1, 3, 8, 8)],
}


def test_a_kernel_tells_its_precision_its_tactic_and_its_nodes() -> None:
    """A fused convolution that reads int8 and writes fp16 computes in int8; its nodes are named once each, in order."""
    (record,) = from_inspector(json.dumps({"Layers": [CONV], "Bindings": ["x"]}))
    assert (record.kind, record.tactic) == ("CaskConvolution", CONV["TacticName"])
    assert record.precision == "int8"
    assert (record.inputs[0].precision, record.outputs[0].precision) == ("int8", "fp16")
    assert record.inputs[0].shape == (1, 32, 8, 8)
    assert record.origins == ("conv_0_weight_QuantizeLinear", "conv_0", "relu_0")
    assert not record.is_reformat
    assert not record.is_foreign


def test_a_reformat_copy_names_its_cause() -> None:
    """A copy into another layout belongs to the layer for which it is made, and its precision is what it writes."""
    (record,) = from_inspector(json.dumps([COPY]))
    assert record.is_reformat
    assert record.caused_by == "conv_0 + relu_0"
    assert record.precision == "fp16"


def test_a_block_names_its_ends_where_nothing_else_is_said() -> None:
    """A `ForeignNode` is one record that tells its first and last member."""
    (record,) = from_inspector(json.dumps({"Layers": [BLOCK]}))
    assert record.is_foreign
    assert record.origins == ("matmul_0", "add_3")


def test_an_engine_without_details_gives_names() -> None:
    """Where an engine was built without detailed verbosity the inspector lists names; they are all that is known."""
    (record,) = from_inspector(json.dumps({"Layers": ["conv_0 + relu_0"]}))
    assert record == LayerRecord(name="conv_0 + relu_0", kind="")
    assert record.precision == ""


@pytest.mark.parametrize(
    ("words", "precision"),
    [
        ("Float", "fp32"),
        ("Half", "fp16"),
        ("HALF", "fp16"),
        ("BFloat16", "bf16"),
        ("BF16", "bf16"),
        ("Int8", "int8"),
        ("UINT8", "uint8"),
        ("FP8", "fp8"),
        ("FP4", "fp4"),
        ("INT4", "int4"),
        ("Int64", "int64"),
        ("Row major Int32 format", "int32"),
        ("Bool", "bool"),
        ("Two wide channel vectorized row major FP16 format", "fp16"),
        ("N/A due to dynamic shapes", ""),
    ],
)
def test_every_way_to_write_a_type_is_understood(words: str, precision: str) -> None:
    """The inspector writes a word or a sentence, the API a member of an enumeration."""
    assert precision_of(words) == precision


def test_records_survive_their_file() -> None:
    """What is written is read back, with whose view it is."""
    records = from_inspector(json.dumps({"Layers": [CONV, COPY, BLOCK]}))
    parsed = LayerRecord(name="c", kind="CONVOLUTION", outputs=(TensorRecord(name="y", precision="fp16", shape=(-1, 3)),), compute="int8")
    assert from_json(to_json((*records, parsed), view="parser")) == ("parser", (*records, parsed))
    assert parsed.precision == "int8"


@pytest.mark.parametrize("text", ["", "{}", "[3]", '{"Layers": [{"LayerType": "x"}]}'])
def test_what_is_no_layer_information_is_refused(text: str) -> None:
    """Other text is one of our errors."""
    with pytest.raises(FormatError, match="no layer information of TensorRT"):
        from_inspector(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("{", "is damaged"), ('{"format": 2}', "this hwnas reads 1"), ('{"format": 1, "view": "x", "layers": []}', "unknown view 'x'")],
)
def test_a_damaged_file_is_refused(text: str, reason: str) -> None:
    """Damage, other formats and unknown views are told apart."""
    with pytest.raises(FormatError, match=reason):
        from_json(text)
