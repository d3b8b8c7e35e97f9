"""`hwnas export`: ship a finalist of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.accuracy import data
from hwnas.assets import Workspace
from hwnas.devices import find as find_device
from hwnas.errors import NotFoundError, UsageError
from hwnas.export.manifest import Lineage, Manifest, MeteredEnergy
from hwnas.export.measure import Accuracy
from hwnas.export.package import Precision
from hwnas.export.package import export as package
from hwnas.export.quantize import Feed
from hwnas.ir import Graph
from hwnas.ir.onnx import load
from hwnas.predict import Estimate
from hwnas.runtimes.ort import OrtRuntime
from hwnas.search.problem import Constraint
from hwnas.workflows.context import space_for
from hwnas.workflows.deploy import calibration, deployed
from hwnas.workflows.runs import Run, find


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Finalist:
    """A finalist of a run, ready to be shipped.

    Attributes:
        run: that found it.
        graph: with its trained weights, as it is deployed.
        genotype: of it.
        calibration: inputs from the training split.
        accuracy: measures a function on the locked test split, a share.
        lineage: where it comes from.
        predicted: what was promised, by metric.
        energy: of a call, as measured at the end of the search, where there was a meter.
        limit_s: latency that it had to keep.
        rank: among the finalists.
    """

    run: Run
    graph: Graph
    genotype: tuple[int, ...]
    calibration: tuple[Feed, ...]
    accuracy: Accuracy
    lineage: Lineage
    predicted: Mapping[str, Estimate]
    energy: MeteredEnergy | None
    limit_s: float | None
    rank: int


def export(
    workspace: Workspace,
    run_name: str | None,
    *,
    rank: int = 1,
    precision: Precision = "auto",
    out_dir: Path,
    force: bool = False,
    doing: Callable[[str], None] = lambda _: None,
) -> tuple[Run, Manifest]:
    """Exports a finalist with its trained weights, measured and verified; the export is recorded in the run.

    In precision `auto` a run that was searched in int8 is exported in int8; any other as `hwnas.export.package.export` chooses.

    Raises:
        NotFoundError: no such run, or the run has no finalists yet.
        UsageError: no such rank, the folder is in use, or the run is for a card.
        DeviceUnavailable: the run is for a device that is not on this machine; what is shipped is measured, and on nothing else.
    """
    run = find(workspace, run_name)
    if find_device(run.options.device).spec.kind == "gpu":
        raise UsageError(
            f"run '{run.id}' was searched for '{run.options.device}', and a model is measured on the processor, which says nothing about "
            f"its limit; export an engine with --to tensorrt"
        )
    finalist = load_finalist(run, rank, doing)
    doing("exporting, measuring and verifying")
    began = time.perf_counter()
    manifest = package(
        finalist.graph,
        out_dir=out_dir,
        accuracy=finalist.accuracy,
        calibration=finalist.calibration,
        lineage=finalist.lineage,
        precision="int8" if precision == "auto" and run.options.precision == "int8" else precision,
        runtime=OrtRuntime(run.options.threads),
        predicted=finalist.predicted,
        energy=finalist.energy,
        limit_s=finalist.limit_s,
        force=force,
    )
    payload = {"folder": str(out_dir), **plain(manifest)}
    with run.archive() as archive:
        archive.record("export", finalist.genotype, f"rank {rank} {manifest.precision}", payload, time.perf_counter() - began)
    return run, manifest


def load_finalist(run: Run, rank: int, doing: Callable[[str], None]) -> Finalist:
    """A finalist of a run, with the data that judge it.

    Raises:
        NotFoundError: the run has no finalists yet, or the trained network is gone.
        UsageError: no such rank.
    """
    with run.archive() as archive:
        finalists: list[dict[str, Any]] = archive.notes().get("finalists") or []
    if not finalists:
        raise NotFoundError(f"run '{run.id}' has no finalists yet; finish it with 'hwnas search --resume --name {run.id}'")
    if not 1 <= rank <= len(finalists):
        raise UsageError(f"run '{run.id}' has finalists 1 to {len(finalists)}, got --rank {rank}")
    row = finalists[rank - 1]
    genotype = tuple(row["genotype"])
    file = run.weights / row["weights"]
    if not file.is_file():
        raise NotFoundError(f"the trained network '{file}' is gone; train it again with 'hwnas search --resume --name {run.id}'")
    space = space_for(run.options.space, data.load(run.options.data).num_classes)
    graph = deployed(load(file), space, genotype, run.options.batch)
    dataset = data.load(run.options.data).fit(graph)
    doing("reading the locked test split")
    test = dataset.unlock(f"accuracy of the exported network of run {run.id}, rank {rank}")
    images, labels = test.batch(range(len(test))).images, test.labels

    def accuracy(predict: Callable[[Any], Any]) -> float:
        return float(np.mean(np.argmax(predict(images), axis=1) == labels))

    limits = [Constraint.parse(text) for text in run.record.get("constraints", ())]
    return Finalist(
        run=run,
        graph=graph,
        genotype=genotype,
        calibration=tuple(calibration(graph, dataset, run.options.seed)),
        accuracy=accuracy,
        lineage=Lineage(
            run=run.id,
            rank=rank,
            space=run.options.space,
            genotype=genotype,
            seeds=tuple(row["seeds"]),
            recipe=row["recipe"],
            data=dataset.digest,
            predictor=run.record.get("predictor"),
            device=run.record["device_fingerprint"],
            replay=run.options.command(),
        ),
        predicted=_promised(run, row),
        energy=_metered(run, row),
        limit_s=min((limit.limit for limit in limits if limit.metric == "latency"), default=None),
        rank=rank,
    )


def _promised(run: Run, row: Mapping[str, Any]) -> dict[str, Estimate]:
    """What the search foretold of a finalist, by metric."""
    promises = {"latency": (row["predicted_latency_s"], "s"), "energy": (row.get("predicted_energy_j"), "J")}
    source = f"predicted in run {run.id}"
    return {name: Estimate(**bound, unit=unit, coverage=1.0, source=source) for name, (bound, unit) in promises.items() if bound}


def _metered(run: Run, row: Mapping[str, Any]) -> MeteredEnergy | None:
    """What a finalist's energy was read to be; None in runs on a device without a meter."""
    if row.get("measured_energy_j") is None:
        return None
    return MeteredEnergy(
        joules=row["measured_energy_j"],
        uncertainty_j=row["measured_energy_uncertainty_j"],
        net_joules=row["measured_net_energy_j"],
        net_uncertainty_j=row["measured_net_energy_uncertainty_j"],
        source=row["energy_source"],
        setting=str(run.record["setting"]),
    )


def plain(manifest: Manifest) -> dict[str, Any]:
    """An export's figures for the run's record and the report."""
    shipped = manifest.shipped
    fp32 = next(variant for variant in manifest.variants if variant.precision == "fp32")
    to_fp32 = shipped.speedup_over_fp32
    return {
        "precision": manifest.precision,
        "reason": manifest.reason,
        "median_s": shipped.latency.median_s,
        "p10_s": shipped.latency.p10_s,
        "p90_s": shipped.latency.p90_s,
        "speedup_over_torch": [shipped.speedup_over_torch.value, shipped.speedup_over_torch.low, shipped.speedup_over_torch.high],
        "speedup_over_fp32": [to_fp32.value, to_fp32.low, to_fp32.high] if to_fp32 else None,
        "accuracy": shipped.accuracy,
        "accuracy_fp32": fp32.accuracy,
        "size_bytes": shipped.size_bytes,
        "limit_kept": manifest.limit_kept,
    }
