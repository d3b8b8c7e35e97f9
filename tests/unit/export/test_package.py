"""An export is complete, honest and all or nothing."""

from __future__ import annotations

import json
import re
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest

from hwnas.errors import HwnasError, UsageError
from hwnas.export.manifest import Lineage, Manifest, MeteredEnergy
from hwnas.export.measure import Predict
from hwnas.export.package import INT8_FORMS, choose, export
from hwnas.export.verify import verify
from hwnas.ir import Graph
from hwnas.predict.estimate import Estimate
from hwnas.runtimes.ort import OrtRuntime
from hwnas.runtimes.samples import Ratio, Samples, ratio

Feeds = list[dict[str, np.ndarray]]
LINEAGE = Lineage(run="run-7", rank=2, space="resnet-small", genotype=(1, 0, 2), seeds=(1, 2, 3), data="d1" * 32, device="abc")
PREDICTED = {"latency": Estimate(value=1e-3, low=9e-4, high=1.2e-3, unit="s", coverage=0.98, source="predicted")}


ENERGY = MeteredEnergy(
    joules=0.042, uncertainty_j=0.002, net_joules=0.03, net_uncertainty_j=0.0022, source="rapl", setting="onnxruntime-cpu-t1-b1-fp32"
)


@pytest.fixture
def ship(graph: Graph, feeds: Feeds, accuracy: Callable[[Predict], float]) -> Callable[..., Manifest]:
    """Exports the residual network with little timing."""

    def run(out_dir: Path, **changes: object) -> Manifest:
        arguments = {"calibration": feeds, "accuracy": accuracy, "lineage": LINEAGE, "seconds": 0.02, **changes}
        return export(graph, out_dir=out_dir, **arguments)  # type: ignore[arg-type]

    return run


def test_an_fp32_export_is_folded_standard_onnx(ship: Callable[..., Manifest], graph: Graph, feeds: Feeds, tmp_path: Path) -> None:
    """The file has no batch normalisation and no operator of a runtime's own, and answers as the trained network did."""
    manifest = ship(tmp_path / "out", precision="fp32")
    model = onnx.load(tmp_path / "out" / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain for entry in model.opset_import} == {""}
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    shipped, trained = (OrtRuntime().build(source).run(feeds[3])[0] for source in (tmp_path / "out" / "model.onnx", graph))
    np.testing.assert_allclose(shipped, trained, atol=1e-4 * np.abs(trained).max())
    assert manifest.precision == "fp32"
    assert manifest.shipped.accuracy == 1.0
    assert [variant.precision for variant in manifest.variants] == ["fp32"]


def test_int8_is_shipped_where_it_is_asked_for(ship: Callable[..., Manifest], tmp_path: Path) -> None:
    """The quantised file is smaller, and both precisions are on record with accuracy, latency and speed-ups."""
    manifest = ship(tmp_path / "out", precision="int8")
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(tmp_path / "out" / "model.onnx").graph.node}
    fp32, int8 = manifest.variants
    assert manifest.shipped is int8
    assert int8.size_bytes == (tmp_path / "out" / "model.onnx").stat().st_size < fp32.size_bytes
    assert int8.speedup_over_fp32 is not None
    assert fp32.speedup_over_fp32 is None
    for speedup in (int8.speedup_over_fp32, int8.speedup_over_torch, fp32.speedup_over_torch):
        assert 0 < speedup.low <= speedup.value <= speedup.high
    assert manifest.reason.startswith("int8 was asked for")
    assert manifest.settings["int8"] in INT8_FORMS


def test_auto_follows_from_what_was_measured(ship: Callable[..., Manifest], tmp_path: Path) -> None:
    """The choice is the one that the figures on record give."""
    manifest = ship(tmp_path / "out")
    fp32, int8 = manifest.variants
    rows = pq.read_table(tmp_path / "out" / "timings.parquet").to_pylist()
    pairs = {
        name: Samples(np.array([row["seconds"] for row in rows if row["contender"] == name and row["how"] == "side by side"]))
        for name in ("fp32", "int8", "torch")
    }
    chosen, reason = choose("auto", ratio(pairs["int8"], pairs["fp32"]), fp32.accuracy - int8.accuracy)
    assert (manifest.precision, manifest.reason) == (chosen, reason)
    assert int8.speedup_over_torch.value == pytest.approx(1 / ratio(pairs["int8"], pairs["torch"]).median)


@pytest.mark.parametrize(
    ("taken", "lost", "expected", "because"),
    [
        (Ratio(median=0.5, low=0.48, high=0.52), 0.0, "int8", "loses no accuracy"),
        (Ratio(median=0.5, low=0.48, high=0.52), 0.0099, "int8", "2.00 times as fast as fp32 \\[1.92, 2.08\\] and loses 1.0 points"),
        (Ratio(median=0.5, low=0.48, high=0.52), -0.02, "int8", "gains 2.0 points"),
        (Ratio(median=0.5, low=0.48, high=0.52), 0.01, "fp32", "loses 1.0 points, and less than 1 is allowed"),
        (Ratio(median=0.99, low=0.97, high=1.0), 0.0, "fp32", "not faster beyond doubt"),
        (Ratio(median=1.4, low=1.3, high=1.5), -0.1, "fp32", "0.71 times as fast"),
    ],
)
def test_auto_wants_speed_beyond_doubt_and_accuracy(taken: Ratio, lost: float, expected: str, because: str) -> None:
    """The whole interval must be faster, and less than one point may be lost; what was asked for outright is given."""
    chosen, reason = choose("auto", taken, lost)
    assert chosen == expected
    assert re.search(because, reason)
    assert choose("int8", taken, lost)[0] == "int8"
    assert choose("fp32", None, 0.0)[0] == "fp32"


def test_the_manifest_tells_everything(ship: Callable[..., Manifest], tmp_path: Path) -> None:
    """Lineage, prediction, limit, settings, versions and hashes are read back from the folder as they were written."""
    manifest = ship(tmp_path / "out", precision="fp32", predicted=PREDICTED, energy=ENERGY, limit_s=3600.0)
    assert Manifest.read(tmp_path / "out") == manifest
    assert manifest.lineage == LINEAGE
    assert manifest.predicted == PREDICTED
    assert manifest.energy == ENERGY
    assert manifest.limit_kept is True
    assert manifest.settings["threads"] == manifest.settings["batch"] == 1
    assert {"hwnas", "onnxruntime", "torch", "python"} <= set(manifest.versions)
    assert set(manifest.files) == {path.name for path in (tmp_path / "out").iterdir()} - {"manifest.json"}
    assert ship(tmp_path / "strict", precision="fp32", limit_s=1e-9).limit_kept is False
    free = ship(tmp_path / "free", precision="fp32")
    assert (free.limit_kept, free.energy) == (None, None)
    file = tmp_path / "free" / "manifest.json"
    file.write_text(json.dumps({key: value for key, value in json.loads(file.read_text()).items() if key != "energy"}))
    assert Manifest.read(tmp_path / "free") == free  # as those before it were written


def test_raw_samples_are_kept(ship: Callable[..., Manifest], tmp_path: Path) -> None:
    """The statistics on record derive from the samples beside them."""
    manifest = ship(tmp_path / "out", precision="fp32")
    table = pq.read_table(tmp_path / "out" / "timings.parquet")
    assert table.schema.metadata[b"format"] == b"1"
    alone = [row["seconds"] for row in table.to_pylist() if row["contender"] == "fp32" and row["how"] == "alone"]
    assert manifest.shipped.latency.median_s == pytest.approx(np.median(alone))
    assert manifest.shipped.latency.n == len(alone)


def test_a_folder_in_use_is_refused_before_anything_is_spent(ship: Callable[..., Manifest], tmp_path: Path) -> None:
    """A file, a folder with other things in it, and an earlier export are left alone; an empty folder is fine."""

    def never(predict: Predict) -> float:
        raise AssertionError("the network was evaluated before the folder was checked")

    (tmp_path / "file").write_text("x")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.tex").write_text("x")
    (tmp_path / "empty").mkdir()
    ship(tmp_path / "empty", precision="fp32")
    for name, reason in (("file", "is a file"), ("used", "in use and holds no export"), ("empty", "replace it with --force$")):
        with pytest.raises(UsageError, match=reason):
            ship(tmp_path / name, accuracy=never)
    with pytest.raises(UsageError, match="holds no export"):
        ship(tmp_path / "used", accuracy=never, force=True)
    assert (tmp_path / "used" / "thesis.tex").read_text() == "x"


def test_force_replaces_an_export_as_a_whole(ship: Callable[..., Manifest], tmp_path: Path) -> None:
    """Nothing of the earlier export is left, and nothing else either."""
    first = ship(tmp_path / "out", precision="fp32")
    (tmp_path / "out" / "notes.txt").write_text("old")
    second = ship(tmp_path / "out", precision="int8", force=True)
    assert verify(tmp_path / "out").manifest == second != first
    assert not (tmp_path / "out" / "notes.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failure_leaves_an_earlier_export_as_it_was(ship: Callable[..., Manifest], tmp_path: Path) -> None:
    """Whatever goes wrong on the way, the folder is either the old one or the new one."""
    first = ship(tmp_path / "out", precision="fp32")

    def broken(predict: Predict) -> float:
        raise RuntimeError("the data set is gone")

    with pytest.raises(RuntimeError, match="data set is gone"):
        ship(tmp_path / "out", accuracy=broken, force=True)
    assert verify(tmp_path / "out").manifest == first
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_is_one_line(ship: Callable[..., Manifest], tmp_path: Path) -> None:
    """The system's refusal to write is passed on with a remedy, and no half-written folder stays."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(HwnasError, match=r"^the export to '.*' failed: .*; make room there or give another folder with -o$"):
            ship(tmp_path / "out", precision="fp32")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_says_why(ship: Callable[..., Manifest], tmp_path: Path) -> None:
    """An unknown precision and missing calibration are refused."""
    with pytest.raises(UsageError, match="precision is fp32, int8 or auto, got 'int4'"):
        ship(tmp_path / "out", precision="int4")
    with pytest.raises(UsageError, match="needs inputs from the training split"):
        ship(tmp_path / "out", calibration=())
