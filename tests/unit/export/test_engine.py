"""The export of an engine is complete, honest about what was not tried, and all or nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest

from hwnas.errors import FormatError, GraphError, UsageError
from hwnas.export import engine as exporting
from hwnas.export.engine import export_engine, verify_engine
from hwnas.export.engine_manifest import NOT_MEASURED, EngineManifest
from hwnas.export.manifest import File, Lineage, Manifest, MeteredEnergy
from hwnas.export.measure import Predict
from hwnas.export.quantize import Feed
from hwnas.ir import Graph, GraphBuilder
from hwnas.predict.estimate import Estimate
from hwnas.runtimes.trt_build import Engine, Options, Probe
from hwnas.runtimes.trt_layers import LayerRecord

rtx = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX is not installed: pip install 'hwnas[rtx]'")
LINEAGE = Lineage(run="run-7", rank=2, space="resnet-small", genotype=(1, 0, 2), seeds=(1,), data="d1", device="abc")
PREDICTED = {"latency": Estimate(value=1e-3, low=9e-4, high=1.2e-3, unit="s", coverage=0.98, source="predicted")}
ENERGY = MeteredEnergy(
    joules=0.042, uncertainty_j=0.002, net_joules=0.03, net_uncertainty_j=0.0022, source="nvml-counter", setting="tensorrt-t1-b1-fp16"
)
TARGET = Options(flavor="rtx", capabilities=("sm86",))


def paper_builder(model: bytes, options: Options) -> Engine:
    """Builds nothing, from a valid model."""
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    layer = LayerRecord(name="conv", kind="CONVOLUTION")
    return Engine(plan=b"plan", layers=(layer,), view="parser", version="10.16.1", cache=b"timings", warnings=("hm",), seconds=2.0)


@pytest.fixture
def ship(graph: Graph, feeds: list[Feed], accuracy: Callable[[Predict], float]) -> Callable[..., EngineManifest]:
    """Exports the residual network."""

    def run(out_dir: Path, **changes: object) -> EngineManifest:
        arguments = {"calibration": feeds, "accuracy": accuracy, "lineage": LINEAGE, "options": TARGET, **changes}
        return export_engine(graph, out_dir=out_dir, **arguments)  # type: ignore[arg-type]

    return run


@rtx
@pytest.mark.parametrize("precision", ["fp32", "int8", "mixed"])
def test_an_export_for_rtx_is_whole(ship: Callable[..., EngineManifest], tmp_path: Path, precision: str) -> None:
    """The engine is really built from the model beside it, its answers are on record, and what was not tried is said."""
    manifest = ship(tmp_path / "out", precision=precision, predicted=PREDICTED, energy=ENERGY, limit_s=1e-3)
    assert EngineManifest.read(tmp_path / "out") == manifest
    assert set(manifest.files) == {"1/model.plan", "layers.json", "model.onnx", "sample_input.npy", "sample_output.npy"}
    assert manifest.files["1/model.plan"].size_bytes == manifest.engine_bytes > 10_000
    assert manifest.lineage == LINEAGE
    assert manifest.predicted == PREDICTED
    assert manifest.energy == ENERGY
    assert set(manifest.versions) >= {"rtx", "hwnas", "onnxruntime"}
    if not manifest.loads:
        assert manifest.latency == NOT_MEASURED
        assert manifest.loading
    found = verify_engine(tmp_path / "out")
    assert found.manifest == manifest
    assert found.difference <= 1e-6
    assert found.probe.loads == manifest.loads


def test_the_price_of_a_precision_is_measured(ship: Callable[..., EngineManifest], tmp_path: Path) -> None:
    """Accuracy in fp32 and in the engine's precisions are both there; mixed tells what each product costs, the worst first."""
    fp32 = ship(tmp_path / "fp32", precision="fp32", builder=paper_builder)
    assert (fp32.accuracy, fp32.accuracy_fp32, fp32.output_error, fp32.compared) == (1.0, 1.0, 0.0, ())
    mixed = ship(tmp_path / "mixed", precision="mixed", builder=paper_builder)
    assert mixed.accuracy_fp32 == 1.0
    assert 0.8 <= mixed.accuracy <= 1.0
    assert 0 < mixed.output_error <= 0.1
    errors = [kept.error for kept in mixed.compared]
    assert errors == sorted(errors, reverse=True)
    assert sum(kept.precision == "int8" for kept in mixed.compared) == mixed.nodes.get("int8", 0)


def test_for_tensorrt_the_folder_is_a_model_of_triton(
    ship: Callable[..., EngineManifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Configuration, version folder and timing cache lie where Triton and trtexec look for them; the EPContext form when asked for."""
    monkeypatch.setattr(exporting, "probe", lambda plan, flavor: Probe(loads=False, reason="no card"))
    manifest = ship(tmp_path / "net", options=Options(), builder=paper_builder, batches=(1, 4, 8), with_ep_context=True)
    folder = tmp_path / "net"
    assert "max_batch_size: 8" in (folder / "config.pbtxt").read_text()
    assert (folder / "1" / "model.plan").read_bytes() == b"plan"
    assert (folder / "timing.cache").read_bytes() == b"timings"
    (node,) = onnx.load(folder / "model_ctx.onnx").graph.node
    assert node.op_type == "EPContext"
    assert manifest.batches == (1, 4, 8)
    assert manifest.options.profiles[0].most == (8, 3, 16, 16)
    assert manifest.warnings == ("hm",)
    assert "--stronglyTyped" in manifest.commands[0]
    assert "--maxShapes=image:8x3x16x16" in manifest.commands[0]


def test_a_batch_that_the_nodes_fix_is_refused(feeds: list[Feed], accuracy: Callable[[Predict], float], tmp_path: Path) -> None:
    """A network that reshapes to its own batch cannot be opened, and nothing is left behind."""
    b = GraphBuilder("fixed")
    x = b.op("Reshape", [b.input("image", (1, 3, 16, 16))], shape=(1, 768))
    graph = b.finish(b.linear(x, 10)).materialize(np.random.default_rng(0))
    with pytest.raises(UsageError, match="the nodes of 'fixed' fix its batch of 1, and 8 does not pass"):
        export_engine(
            graph,
            out_dir=tmp_path / "out",
            accuracy=lambda predict: 1.0,
            calibration=feeds,
            lineage=LINEAGE,
            options=TARGET,
            batches=(1, 4, 8),
            builder=paper_builder,
        )
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_built_leaves_nothing(ship: Callable[..., EngineManifest], tmp_path: Path) -> None:
    """Whatever the builder refuses, no half-written folder stays; batches that do not grow are refused before."""

    def refusing(model: bytes, options: Options) -> Engine:
        raise GraphError("tensorrt does not take node 'conv_0' (Conv)")

    with pytest.raises(GraphError, match="conv_0"):
        ship(tmp_path / "out", builder=refusing)
    with pytest.raises(UsageError, match="smallest <= usual <= largest, from 1 on; got 4,2,8"):
        ship(tmp_path / "out", batches=(4, 2, 8), builder=refusing)
    assert list(tmp_path.iterdir()) == []


def test_damage_is_found(ship: Callable[..., EngineManifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed plan, a missing file and a model that answers otherwise are told apart."""
    monkeypatch.setattr(exporting, "probe", lambda plan, flavor: Probe(loads=False, reason="no card"))
    folder = tmp_path / "out"
    ship(folder, builder=paper_builder)
    (folder / "1" / "model.plan").write_bytes(b"other")
    with pytest.raises(FormatError, match=r"model.plan' has changed since the export"):
        verify_engine(folder)
    (folder / "1" / "model.plan").unlink()
    with pytest.raises(FormatError, match=r"model.plan' is missing"):
        verify_engine(folder)
    ship(folder, builder=paper_builder, force=True)
    np.save(folder / "sample_output.npy", np.load(folder / "sample_output.npy") + 1, allow_pickle=False)
    plain = json.loads((folder / "manifest.json").read_text())
    found = File.of(folder / "sample_output.npy")
    plain["files"]["sample_output.npy"] = {"sha256": found.sha256, "size_bytes": found.size_bytes}
    (folder / "manifest.json").write_text(json.dumps(plain))
    with pytest.raises(GraphError, match="answers otherwise than when it was exported"):
        verify_engine(folder)


def test_models_and_engines_are_not_confused(ship: Callable[..., EngineManifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading an engine's manifest as a model's says which function to use, and a damaged one is damaged."""
    monkeypatch.setattr(exporting, "probe", lambda plan, flavor: Probe(loads=False, reason="no card"))
    ship(tmp_path / "out", builder=paper_builder)
    with pytest.raises(FormatError, match=r"of kind 'engine', not 'model'; check it with hwnas.export.engine.verify_engine"):
        Manifest.read(tmp_path / "out")
    plain = json.loads((tmp_path / "out" / "manifest.json").read_text())
    del plain["kind"]
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(plain))
    with pytest.raises(FormatError, match=r"of kind 'model', not 'engine'; check it with hwnas.export.verify.verify"):
        EngineManifest.read(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_text(json.dumps({"format": 1, "kind": "engine", "options": {}}))
    with pytest.raises(FormatError, match="is damaged"):
        EngineManifest.read(tmp_path / "out")
