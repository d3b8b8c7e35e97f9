"""hwnas calls TensorRT as 10.16, 11.4 and TensorRT-RTX 1.7 have it, on machines that have none of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorrt_api import BOTH, Api, check, uses_tensorrt

import hwnas
from hwnas.runtimes.trt_build import CAPABILITIES

PACKAGE = Path(hwnas.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if uses_tensorrt(path.read_text()))


def function(body: str, arguments: str = "trt") -> str:
    """A file with one function."""
    return f"def work({arguments}):\n    " + "\n    ".join(body.splitlines())


def test_the_builder_is_among_the_files_that_are_followed() -> None:
    """The file that holds TensorRT's objects is found by what it imports, and its uses are followed through the code."""
    names = [path.name for path in FILES]
    assert "trt_native.py" in names
    used = check((PACKAGE / "runtimes" / "trt_native.py").read_text()).used
    assert {
        "Builder.build_serialized_network",
        "OnnxParser.parse",
        "ParserError.node_name",
        "IBuilderConfig.set_timing_cache",
        "ITimingCache.serialize",
        "IOptimizationProfile.set_shape",
        "ILayer.metadata",
        "ITensor.dtype",
        "ILogger.log",
        "BuilderFlag.TF32",
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
        "EngineInspector.get_engine_information",
        "Runtime.deserialize_cuda_engine",
    } <= used


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_name_is_in_the_contract(path: Path) -> None:
    """Each class, method, property, enum member and argument that is used exists in every version that the code is for."""
    assert check(path.read_text()).complaints == []


@pytest.mark.parametrize("contract", BOTH)
def test_engines_are_strongly_typed_everywhere(contract: str) -> None:
    """The flag that keeps the model's types exists in each version, and so do the two formats of layer information."""
    api = Api.load(contract)
    assert "STRONGLY_TYPED" in api.enums["NetworkDefinitionCreationFlag"]
    assert "JSON" in api.enums["LayerInformationFormat"]


def test_named_compute_capabilities_are_those_of_rtx() -> None:
    """What may be asked for by name is what TensorRT-RTX has a name for."""
    known = {name.lower() for name in Api.load("tensorrt_rtx-1.7").enums["ComputeCapability"]}
    assert known - {"none", "current"} == set(CAPABILITIES)


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        (function("trt.IWeakConfig"), "no IWeakConfig"),
        (function("trt.BuilderFlag.FP16"), "11.4: BuilderFlag has no member FP16"),
        (function("b = trt.Builder(None)\nb.build_engine(None)"), "Builder has no build_engine"),
        (function("trt.Builder()"), r"Builder.__init__ takes \(logger: ILogger\)"),
        (function("trt.Builder(None).create_network(1, 2)"), "create_network takes"),
        (function("c = trt.Builder(None).create_builder_config()\nc.max_workspace_size = 1"), "IBuilderConfig has no max_workspace_size"),
        (function("config.set_flag(name=1)", "trt, config: tensorrt.IBuilderConfig"), "set_flag takes"),
        (function("[t.volume for t in ts]", "ts: Sequence[tensorrt.ITensor]"), "ITensor has no volume"),
        (function("n = net.get_layer(0)\nn.precision = 1", "net: tensorrt.INetworkDefinition"), "ILayer has no precision"),
        (function("class Log(trt.ILogger):\n    def log(self, level, text): ..."), "ILogger.log is"),
        (function("trt.ComputeCapability"), "tensorrt-10.16: no ComputeCapability"),
        (function("x: tensorrt.ICalibrator = None"), "no class ICalibrator"),
        ("def _make() -> tensorrt.Builder: ...\ndef work():\n    _make().platform_has_tf32", "11.4: Builder has no platform_has_tf32"),
    ],
)
def test_what_is_not_in_the_contract_is_found(source: str, complaint: str) -> None:
    """Unknown names, arguments that do not fit, and what only one version has are reported, wherever the object comes from."""
    with pytest.raises(AssertionError, match=complaint):
        assert check(source).complaints == [], "\n".join(check(source).complaints)


def test_what_only_rtx_has_may_be_used_where_the_annotations_say_so() -> None:
    """A function whose annotations name `tensorrt_rtx` is held against that alone."""
    source = function("config.num_compute_capabilities = 1\ntrt.ComputeCapability.SM86", "trt, config: tensorrt_rtx.IBuilderConfig")
    assert check(source).complaints == []


def test_the_installed_library_is_the_one_on_record() -> None:
    """The record of TensorRT-RTX is what the library says of itself here, where that version is installed."""
    library = pytest.importorskip("tensorrt_rtx")
    api = Api.load("tensorrt_rtx-1.7")
    for name, members in api.classes.items():
        missing = [member for member in members if not hasattr(getattr(library, name), member)]
        assert not missing, f"{name} of {library.__version__}: {missing}"
