"""hwnas calls CUDA's client as `cuda.bindings` has it, and the stand-ins for CUDA and TensorRT have nothing that the real ones lack."""

from __future__ import annotations

import ast
import inspect
import json
import re
from pathlib import Path

import pytest
from tensorrt_api import Api

from hwnas.runtimes import cuda
from hwnas.testing import fake_tensorrt
from hwnas.testing.fake_cuda import FakeCuda

CONTRACT = json.loads(Path(__file__).with_name("cuda-13.5.json").read_text())
FUNCTIONS, ENUMS = CONTRACT["functions"], CONTRACT["enums"]
MEMBERS = {member for members in ENUMS.values() for member in members}
SOURCE = Path(cuda.__file__).read_text()


def calls(source: str) -> list[tuple[str, int]]:
    """Functions of CUDA that a file calls, each with the number of its arguments, whether by name or through `ask` and `drop`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Attribute) and node.func.attr.startswith("cuda"):
            found.append((node.func.attr, len(node.args)))
        for i, arg in enumerate(node.args):
            if isinstance(arg, ast.Constant) and str(arg.value) in FUNCTIONS:
                found.append((arg.value, len(node.args) - i - 1))
    return found


def test_every_name_is_in_the_contract() -> None:
    """Each function, enumeration, member and constant of CUDA that is used exists."""
    names = set(re.findall(r"\bcuda[A-Z]\w*", SOURCE))
    assert len(names) > 20
    assert names <= {*FUNCTIONS, *ENUMS, *MEMBERS, *CONTRACT["constants"]}


def test_every_call_has_the_arguments_of_the_contract() -> None:
    """No argument too few or too many."""
    used = calls(SOURCE)
    assert {"cudaMemcpyAsync", "cudaGraphInstantiate", "cudaGetDeviceCount", "cudaEventDestroy"} <= {name for name, _ in used}
    assert [(name, count) for name, count in used if len(FUNCTIONS[name]) != count] == []


@pytest.mark.parametrize("source", ["ask('cudaMalloc')", "weakref.finalize(self, drop, 'cudaFree', 1, 2)", "api.cudaSetDevice()"])
def test_a_call_that_does_not_fit_is_found(source: str) -> None:
    """The check counts arguments in every way of calling."""
    ((name, count),) = calls(source)
    assert len(FUNCTIONS[name]) != count


def test_the_stand_in_for_cuda_has_nothing_of_its_own() -> None:
    """Each of its functions is one of CUDA's, with the same parameters; so are its enumerations."""
    for name, member in inspect.getmembers(FakeCuda):
        if name in ENUMS:
            assert set(member.__members__) <= set(ENUMS[name])
        elif name in FUNCTIONS:
            assert list(inspect.signature(member).parameters)[1:] == FUNCTIONS[name]
        else:
            assert not name.startswith("cuda") or name in CONTRACT["constants"]


@pytest.mark.parametrize("contract", ["tensorrt-10.16", "tensorrt-11.4"])
def test_the_stand_in_for_tensorrt_has_nothing_of_its_own(contract: str) -> None:
    """Each of its public methods, properties and attributes is one of the real class, and so are members of its enumerations."""
    api = Api.load(contract)
    for name in ("Runtime", "ICudaEngine", "EngineInspector", "IExecutionContext", "IProfiler", "ILogger"):
        stand_in = getattr(fake_tensorrt, name)
        public = {member for member in vars(stand_in) if not member.startswith("_")} - {"Severity"}
        assert public <= set(api.classes[name]), f"{name} of {contract}"
    for name in ("TensorIOMode", "LayerInformationFormat"):
        assert set(getattr(fake_tensorrt, name).__members__) <= set(api.enums[name])
    assert {"profiler", "enqueue_emits_profile"} <= set(api.classes["IExecutionContext"])
    assert set(fake_tensorrt.ILogger.Severity.__members__) <= set(api.enums["ILogger.Severity"])
