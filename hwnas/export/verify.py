"""Checks an export before anybody relies on it: nothing changed, it loads, and it answers as it did when it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwnas.errors import FormatError, GraphError, require
from hwnas.export.manifest import MODEL, File, Manifest
from hwnas.ir.node import Array
from hwnas.runtimes.ort import OrtRuntime

SAMPLE = ("sample_input.npy", "sample_output.npy")
# Largest difference that counts as the same answer, relative to the largest output. int8 arithmetic rounds, and processors with
# and without VNNI sum in different orders, so that a value on the edge may fall to either side.
TOLERANCE: Mapping[str, float] = {"fp32": 1e-4, "int8": 5e-2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """An export that passed.

    Attributes:
        manifest: what it says about itself.
        difference: largest deviation from the answers on record, relative to the largest of them.
    """

    manifest: Manifest
    difference: float


def verify(folder: Path, runtime: OrtRuntime | None = None) -> Verified:
    """Checks the hash of every file, the ONNX model itself, and its answers to the inputs that travel with it.

    Raises:
        NotFoundError: when the folder holds no export.
        FormatError: when a file is missing, changed or damaged; names it.
        GraphError: when the model is not valid ONNX, ONNX Runtime does not load it, or it answers otherwise.
    """
    manifest = Manifest.read(folder)
    check_files(folder, manifest.files, (MODEL, *SAMPLE))
    check_model(folder / MODEL)
    given, expected = (np.load(folder / name, allow_pickle=False) for name in SAMPLE)
    model = (folder / MODEL).read_bytes()
    reads = require("onnx").load_from_string(model).graph.input[0].name
    worst = difference([expected], (runtime or OrtRuntime()).build(model).run({reads: given}))
    if not worst <= TOLERANCE[manifest.precision]:
        raise GraphError(
            f"'{folder / MODEL}' answers otherwise than when it was exported: off by {worst:.2g} of the largest output, "
            f"at most {TOLERANCE[manifest.precision]:.2g} is allowed; export again on this machine"
        )
    return Verified(manifest=manifest, difference=worst)


def check_files(folder: Path, files: Mapping[str, File], needed: Sequence[str]) -> None:
    """Whether all files are there as they were written.

    Raises:
        FormatError: when one is missing, changed or not listed; names it.
    """
    for name, promised in files.items():
        path = folder / name
        if not path.is_file():
            raise FormatError(f"'{path}' is missing from the export; export again")
        if File.of(path) != promised:
            raise FormatError(f"'{path}' has changed since the export (its SHA-256 differs); export again")
    missing = [name for name in needed if name not in files]
    if missing:
        raise FormatError(f"the manifest of '{folder}' does not list {missing[0]}; export again")


def check_model(path: Path) -> None:
    """Whether a file is valid ONNX.

    Raises:
        GraphError: when it is not.
    """
    onnx = require("onnx")
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:
        raise GraphError(f"'{path}' is not valid ONNX: {' '.join(str(error).split())}") from error


def difference(expected: Sequence[Array], found: Sequence[Array]) -> float:
    """Largest deviation of any output, relative to the largest magnitude expected; infinite where shapes differ or a value is no number."""
    pairs = list(zip(expected, found, strict=True))
    if any(a.shape != b.shape for a, b in pairs):
        return float("inf")
    scale = max((float(np.abs(a).max()) for a, _ in pairs if a.size), default=0.0) or 1.0
    worst = max((float(np.abs(a.astype(np.float64) - b).max()) for a, b in pairs if a.size), default=0.0) / scale
    return worst if np.isfinite(worst) else float("inf")
