"""The TensorRT plugins: only names that TensorRT has, signatures that it takes, launches that compute the right thing."""

from __future__ import annotations

import ast
import inspect
import json
import sys
from pathlib import Path
from typing import Any

import fake_tensorrt_plugin as fake
import pytest

from hwnas.errors import HwnasError, MissingExtraError
from hwnas.kernels import all_kernels, find, plugin

API = [json.loads(path.read_text()) for path in sorted((Path(__file__).parent / "api").glob("tensorrt-plugin-*.json"))]


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake.tensorrt)
    monkeypatch.setitem(sys.modules, "tensorrt.plugin", fake)
    monkeypatch.setattr(fake, "PLUGINS", {})


def desc(shape: tuple[int, ...], dtype: str = "half", *, dynamic: bool = False) -> fake.TensorDesc:
    """A tensor as TensorRT hands it over; of a dynamic one, only the batch varies."""
    made = fake.TensorDesc([fake.ShapeExpr(size) for size in shape], dtype)
    made.shape = fake.Shape((-1, *shape[1:]) if dynamic else shape, shape)
    if dynamic:
        made.shape_expr[0].is_constant = False
    return made


@pytest.mark.parametrize("api", API, ids=[api["version"] for api in API])
def test_every_name_that_is_used_exists(api: dict[str, Any]) -> None:
    """Each `trtp.X` and `trt.DataType.X` in the code is one of TensorRT's, in 10.16 and in 11.4."""
    attributes = [node for node in ast.walk(ast.parse(inspect.getsource(plugin))) if isinstance(node, ast.Attribute)]
    names = {node.attr for node in attributes if isinstance(node.value, ast.Name) and node.value.id == "trtp"}
    assert names >= {"register", "aot_impl", "KernelLaunchParams", "SymInt32"}
    assert names <= {*api["functions"], *api["classes"]}
    types = {node.attr for node in attributes if isinstance(node.value, ast.Attribute) and node.value.attr == "DataType"}
    assert types == set(api["data_types"])


@pytest.mark.parametrize("api", API, ids=[api["version"] for api in API])
def test_the_stand_in_is_true_to_tensorrt(api: dict[str, Any]) -> None:
    """What the stand-in offers has the parameters and members of the real thing, and no operator more."""
    for name, parameters in api["functions"].items():
        assert list(inspect.signature(getattr(fake, name)).parameters) == parameters
    for name in ("KernelLaunchParams", "SymInt32", "SymIntExprs"):
        assert list(inspect.signature(getattr(fake, name)).parameters) == api["classes"][name]["init"]
    for name, used in {
        "Shape": {"opt", "is_dynamic"},
        "TensorDesc": {"shape", "shape_expr", "dtype"},
        "ShapeExpr": {"constant_value"},
    }.items():
        assert used <= set(api["classes"][name]["members"])
    for name, operators in api["operators"].items():
        mine = {f"__{side}{it}__" for side in ("", "r") for it in ("add", "sub", "mul", "floordiv", "mod")} & set(dir(getattr(fake, name)))
        assert mine <= set(operators)


@pytest.mark.usefixtures("tensorrt")
def test_each_kernel_is_a_plugin() -> None:
    """With and without its optional input, and with its attributes' own types."""
    names = [name for source in all_kernels() for name in plugin.register(source, arch="sm90")]
    assert (
        set(names)
        == set(fake.PLUGINS)
        == {
            "hwnas::depthwise_conv",
            "hwnas::depthwise_conv_residual",
            "hwnas::layer_norm_residual",
            "hwnas::squeeze_excite",
        }
    )
    assert fake.PLUGINS["hwnas::depthwise_conv"].tensors == ["x", "weight", "bias"]
    assert fake.PLUGINS["hwnas::depthwise_conv"].attrs == {"stride": int, "pad": int, "activation": str, "add": str}


@pytest.mark.usefixtures("tensorrt")
@pytest.mark.parametrize("dynamic", [False, True])
def test_what_a_plugin_launches(dynamic: bool) -> None:
    """Outputs, grid, block and integers are those of the kernel, for a batch that varies too."""
    plugin.register(find("depthwise_conv"), arch="sm90")
    made = fake.PLUGINS["hwnas::depthwise_conv"]
    tensors = [desc((2, 40, 9, 7), dynamic=dynamic), desc((40, 1, 3, 3)), desc((40,))]
    output = made.describe(*tensors, stride=2, pad=1, activation="relu6", add="none")
    assert [fake.number(size) for size in output.shape_expr] == [2, 40, 5, 4]
    assert made.implement is not None
    symbol, ptx, launch, arguments = made.implement(*tensors, 2, 1, "relu6", "none", (output,), 0)
    assert f".entry {symbol}(" in ptx
    assert [fake.number(size) for size in arguments] == [80, 40, 9, 7, 5, 4]
    tile, positions = 256, 32
    assert fake.number(launch.grid_x) == -(-80 // (tile // positions))
    assert [fake.number(size) for size in (launch.grid_y, launch.grid_z, launch.block_x)] == [1, 1, 128]
    assert ptx.split(".entry")[1].split(")")[0].count(".param") == 3 + 6 + 1


@pytest.mark.usefixtures("tensorrt")
def test_several_outputs() -> None:
    """Both results of the normalisation are tensors of the input's shape."""
    plugin.register(find("layer_norm_residual"), arch="sm80")
    outputs = fake.PLUGINS["hwnas::layer_norm_residual"].describe(
        desc((2, 5, 64)), desc((2, 5, 64)), desc((64,)), desc((64,)), epsilon=1e-5
    )
    assert [[fake.number(size) for size in output.shape_expr] for output in outputs] == [[2, 5, 64]] * 2


@pytest.mark.usefixtures("tensorrt")
def test_what_a_plugin_refuses() -> None:
    """Mixed and integer types, and a second registration."""
    plugin.register(find("layer_norm_residual"), arch="sm80")
    implement = fake.PLUGINS["hwnas::layer_norm_residual"].implement
    assert implement is not None
    with pytest.raises(HwnasError, match="takes tensors of one type, float, half or bfloat16, and got"):
        implement(desc((2, 64)), desc((2, 64)), desc((64,), "float"), desc((64,)), 1e-5, (), 0)
    with pytest.raises(HwnasError, match="can be registered once in a process"):
        plugin.register(find("layer_norm_residual"), arch="sm80")


def test_without_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the extra."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingExtraError, match=r"hwnas\[tensorrt\]"):
        plugin.register(find("layer_norm_residual"), arch="sm80")
