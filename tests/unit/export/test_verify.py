"""Whatever happens to an export between two machines is noticed, and named."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from hwnas.errors import FormatError, GraphError, NotFoundError
from hwnas.export.manifest import MODEL, NAME, File, Lineage, Manifest
from hwnas.export.package import export
from hwnas.export.verify import SAMPLE, difference, verify
from hwnas.ir import Graph


@pytest.fixture
def shipped(graph: Graph, feeds: list[dict[str, np.ndarray]], tmp_path: Path) -> Path:
    """A whole export in fp32."""
    lineage = Lineage(run="r", space="s", genotype=(0,))
    export(
        graph, out_dir=tmp_path / "out", accuracy=lambda predict: 1.0, calibration=feeds, lineage=lineage, precision="fp32", seconds=0.02
    )
    return tmp_path / "out"


def relisted(folder: Path) -> None:
    """Makes the manifest agree with files that were changed."""
    manifest = Manifest.read(folder)
    replace(manifest, files={name: File.of(folder / name) for name in manifest.files}).write(folder)


def test_a_whole_export_passes(shipped: Path) -> None:
    """It answers exactly as it did, on the machine that made it, wherever the folder went."""
    moved = shipped.with_name("moved")
    shutil.move(shipped, moved)
    verified = verify(moved)
    assert verified.difference <= 1e-6
    assert verified.manifest.precision == "fp32"


def test_a_changed_file_is_named(shipped: Path) -> None:
    """One byte in any file, or a file that is gone, is found."""
    for name in Manifest.read(shipped).files:
        whole = (shipped / name).read_bytes()
        (shipped / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(FormatError, match=f"{name}' has changed since the export"):
            verify(shipped)
        (shipped / name).unlink()
        with pytest.raises(FormatError, match=f"{name}' is missing from the export"):
            verify(shipped)
        (shipped / name).write_bytes(whole)
    verify(shipped)


def test_another_answer_is_noticed(shipped: Path) -> None:
    """A model that loads but computes something else does not pass, even where its hash is on record."""
    np.save(shipped / SAMPLE[1], np.load(shipped / SAMPLE[1]) + 1)
    relisted(shipped)
    with pytest.raises(GraphError, match="answers otherwise than when it was exported"):
        verify(shipped)


def test_a_model_that_is_not_onnx_is_noticed(shipped: Path) -> None:
    """A truncated model and one with a broken node give one line each."""
    whole = (shipped / MODEL).read_bytes()
    model = onnx.load(shipped / MODEL)
    model.graph.node[0].input[0] = "nobody"
    for broken in (whole[: len(whole) // 2], model.SerializeToString()):
        (shipped / MODEL).write_bytes(broken)
        relisted(shipped)
        with pytest.raises(GraphError, match=r"model.onnx' is not valid ONNX: [^\n]*$"):
            verify(shipped)


def test_a_manifest_that_is_not_one_is_noticed(shipped: Path) -> None:
    """A missing manifest, one of another format, and a damaged one say what to do."""
    plain = json.loads((shipped / NAME).read_text())
    for text, reason in (
        (json.dumps({**plain, "format": 2}), "has format 2, this hwnas reads 1; export again, or use the hwnas that wrote it"),
        (json.dumps({key: value for key, value in plain.items() if key != "files"}), "is damaged .*export again"),
        (json.dumps({**plain, "torch": {"median_s": 1}}), "is damaged .*export again"),
        (json.dumps({**plain, "files": {}}), "does not list model.onnx; export again"),
        ("{", "is damaged .*export again"),
        ("[]", "has format None"),
    ):
        (shipped / NAME).write_text(text)
        with pytest.raises(FormatError, match=reason):
            verify(shipped)
    (shipped / NAME).unlink()
    for nowhere in (shipped, shipped / MODEL, shipped / "gone"):
        with pytest.raises(NotFoundError, match="holds no export"):
            verify(nowhere)


@pytest.mark.parametrize(
    ("expected", "found", "worst"),
    [
        (np.array([1.0, -4.0]), np.array([1.0, -4.0]), 0.0),
        (np.array([1.0, -4.0]), np.array([1.0, -3.0]), 0.25),
        (np.zeros(2), np.array([0.5, 0.0]), 0.5),
        (np.zeros(2), np.zeros(3), np.inf),
        (np.zeros(2), np.array([np.nan, 0.0]), np.inf),
    ],
)
def test_differences_are_relative_to_the_largest_output(expected: np.ndarray, found: np.ndarray, worst: float) -> None:
    """Shapes that differ and values that are no numbers are infinitely far off."""
    assert difference([expected], [found]) == pytest.approx(worst)


def test_the_files_stay_as_they_are(shipped: Path) -> None:
    """Verifying writes nothing into the export."""
    before = {path.name: path.read_bytes() for path in shipped.iterdir()}
    verify(shipped)
    assert {path.name: path.read_bytes() for path in shipped.iterdir()} == before
