"""Networks that nobody here wrote load, compute what their files say, and are measurable kernel by kernel, those that were foretold."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

from hwnas.ir import Graph, KernelCall
from hwnas.ir.kernel import FREE
from hwnas.ir.onnx import load
from hwnas.runtimes import ort_kernels
from hwnas.runtimes.ort import OrtRuntime
from hwnas.runtimes.ort_fusion import fuse
from hwnas.runtimes.ort_match import Found

RUNTIME = OrtRuntime(1)


def _bench(name: str) -> ModuleType:
    """A module of bench/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"bench_{name}", Path(__file__).parents[2] / "bench" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ZOO = _bench("zoo")
NEEDS = "networks of others need their library: pip install 'hwnas[zoo]'"
WHEEL = {name: path for name, _, path in ZOO.wheel()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where networks are kept that several tests look at."""
    return tmp_path_factory.mktemp("zoo")


def assert_same_outputs(path: Path, graph: Graph, answers: list[np.ndarray], feed: dict[str, Any]) -> None:
    """The file, run as it is, answers what the graph does that was read from it and written again."""
    expected = RUNTIME.open(path.read_bytes()).run(None, feed)
    assert [answer.shape for answer in answers] == [graph.specs[name].shape for name in graph.outputs]
    for answer, wanted in zip(answers, expected, strict=True):
        np.testing.assert_allclose(answer, wanted, rtol=1e-4, atol=1e-5 * max(1.0, float(np.abs(wanted).max())))


def assert_covered(graph: Graph, calls: tuple[KernelCall, ...]) -> None:
    """Each node belongs to exactly one kernel, unless it is a constant or was folded away; so does the work of moving data."""
    members = Counter(name for call in calls for name in call.nodes if call.kernel.op != "Transpose" and "Reorder" not in call.kernel.op)
    assert {name for name, count in members.items() if count > 1} == set()
    covered = {name for call in calls for name in call.nodes}
    missing = [node.op for node in graph.nodes if node.name not in covered and not graph.constants.issuperset(node.outputs)]
    assert set(missing) <= FREE
    assert all(call.output in graph.specs for call in calls)


def assert_measurable(path: Path) -> None:
    graph = load(path)
    session = RUNTIME.build(path)
    feed = graph.random_inputs(np.random.default_rng(0))
    assert_same_outputs(path, graph, list(session.run(feed)), feed)
    rows = session.kernel_times(feed, runs=1)
    assert_covered(graph, tuple(row.call for row in rows))
    assert len({row.call for row in rows}) == len(rows)
    assert {row.call for row in rows} == set(fuse(graph, RUNTIME.fusions))
    assert all(row.seconds > 0 for row in rows)


@pytest.mark.parametrize("name", ["resnet50", "shufflenet", "squeezenet"])
def test_networks_of_the_onnx_wheel(name: str) -> None:
    """Files of 2017: IR version 3, opset 9, weights made by ConstantOfShape and listed among the inputs."""
    model = onnx.load(WHEEL[name])
    assert (model.ir_version, model.opset_import[0].version) == (3, 9)
    assert_measurable(WHEEL[name])


@pytest.mark.parametrize("recipe", ZOO.SHALLOW, ids=lambda recipe: recipe.name)
def test_networks_of_transformers(recipe: Any, folder: Path) -> None:
    """One of every family, with few layers of real widths, as both exporters of torch write them."""
    pytest.importorskip("transformers", reason=NEEDS)
    if recipe.dynamo:
        pytest.importorskip("onnxscript", reason=NEEDS)
    assert_measurable(ZOO.exported(recipe, folder))


@pytest.mark.parametrize("recipe", ZOO.UNCOVERED, ids=lambda recipe: recipe.name)
def test_networks_with_operators_that_no_carrier_has(recipe: Any, folder: Path) -> None:
    """They are read and measurable all the same, and each kernel is foretold."""
    pytest.importorskip("transformers", reason=NEEDS)
    pytest.importorskip("onnxscript", reason=NEEDS)
    assert_measurable(ZOO.exported(recipe, folder))


@pytest.mark.parametrize("name", ["convnextv2", "levit", "pvtv2", "swin"])
def test_a_runtime_whose_rules_are_unknown(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a newer ONNX Runtime makes of a network, which cannot be foretold, is read from the names that it leaves."""
    pytest.importorskip("transformers", reason=NEEDS)
    monkeypatch.setattr(ort_kernels, "match", lambda *_: Found(calls={}, missing=("all",), surplus=()))
    session = RUNTIME.build(ZOO.exported(next(recipe for recipe in ZOO.SHALLOW if recipe.name == name), folder))
    assert_covered(session.graph, session.kernels())


def test_hardly_any_value_is_denormal(folder: Path) -> None:
    """Weights are drawn so that values stay in normal range in a deep network without residuals in every block, as trained ones do."""
    pytest.importorskip("transformers", reason=NEEDS)
    path = ZOO.exported(ZOO.Recipe(name="efficientnet-b0", model="EfficientNet", size=64, dynamo=False), folder)
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    model.graph.output.extend(value for value in model.graph.value_info if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT)
    values = RUNTIME.open(model.SerializeToString()).run(None, load(path).random_inputs(np.random.default_rng(0)))
    smallest = np.finfo(np.float32).tiny
    assert len(values) > 100
    denormal = sum(int(((np.abs(value) < smallest) & (value != 0)).sum()) for value in values)
    assert denormal < 1e-3 * sum(value.size for value in values)  # the library's own weights: 6 %


def test_a_network_is_made_once(tmp_path: Path) -> None:
    """A second call finds the file, and a changed recipe has another."""
    recipe = ZOO.Recipe(name="tiny", model="ResNet", size=32)
    path = tmp_path / recipe.file
    path.write_bytes(b"made before")
    assert ZOO.exported(recipe, tmp_path) == path
    assert path.read_bytes() == b"made before"
    assert ZOO.Recipe(name="tiny", model="ResNet", size=64).file != recipe.file


def test_the_zoo_is_wide() -> None:
    """At least 16 architectures of at least as many families, each under a name of its own."""
    names = [*WHEEL, *(recipe.name for recipe in (*ZOO.RECIPES, *ZOO.FRESH))]
    assert len(set(names)) == len(names)
    assert len({recipe.model for recipe in ZOO.RECIPES}) >= 16
    assert {recipe.model for recipe in ZOO.SHALLOW} == {recipe.model for recipe in ZOO.RECIPES}


def test_fresh_networks_are_of_families_not_looked_at() -> None:
    """What is said of networks never seen while developing is said of other families than those that were looked at."""
    fresh = {recipe.model for recipe in ZOO.FRESH}
    assert len(fresh) >= 10
    assert fresh.isdisjoint(recipe.model for recipe in ZOO.RECIPES)
