"""`hwnas export --to tensorrt`: ship a finalist of a run as an engine for NVIDIA cards."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hwnas.assets import Workspace
from hwnas.devices import catalogue
from hwnas.errors import NotFoundError
from hwnas.export.engine import Batches, export_engine
from hwnas.export.engine_manifest import EngineManifest
from hwnas.export.narrow import EnginePrecision
from hwnas.export.serving import LAYERS
from hwnas.runtimes.trt_build import CAPABILITIES, Options, check_installed
from hwnas.runtimes.trt_layers import from_json
from hwnas.workflows.export import load_finalist
from hwnas.workflows.runs import Run, find


def export_to_tensorrt(
    workspace: Workspace,
    run_name: str | None,
    *,
    rank: int = 1,
    precision: EnginePrecision | None = None,
    options: Options,
    batches: Batches | None = None,
    with_ep_context: bool = False,
    out_dir: Path,
    force: bool = False,
    doing: Callable[[str], None] = lambda _: None,
) -> tuple[Run, EngineManifest]:
    """Exports a finalist with its trained weights as an engine; the export is recorded in the run.

    The run's device need not be here: an engine of TensorRT-RTX is built for the device's compute capability, where the catalogue knows
    it and none is given. The precision is int8 where that was searched for, else fp16, unless given. What is stated of accuracy is
    computed on the processor, in the engine's precisions.

    Raises:
        NotFoundError: no such run, or the run has no finalists yet.
        UsageError: no such rank, or the folder is in use.
        MissingExtraError: the library is not installed.
        GraphError: TensorRT refuses the network.
        DeviceUnavailable: TensorRT builds on a card, and there is none.
    """
    check_installed(options.flavor)
    run = find(workspace, run_name)
    finalist = load_finalist(run, rank, doing)
    device, searched = run.options.device, run.options.precision
    precision = precision or ("int8" if searched == "int8" else "fp16")
    capability = _capability(workspace, device)
    if options.flavor == "rtx" and not options.capabilities and capability in CAPABILITIES:
        options = replace(options, capabilities=(capability,))
    doing(f"writing {precision}, building and verifying")
    began = time.perf_counter()
    manifest = export_engine(
        finalist.graph,
        out_dir=out_dir,
        accuracy=finalist.accuracy,
        calibration=finalist.calibration,
        lineage=finalist.lineage,
        precision=precision,
        options=options,
        batches=batches,
        caches=workspace.timing_caches,
        device=device,
        capability=capability.removeprefix("sm"),
        with_ep_context=with_ep_context,
        predicted=finalist.predicted,
        energy=finalist.energy,
        limit_s=finalist.limit_s,
        force=force,
    )
    variant = f"rank {rank} {options.flavor} {precision}"
    with run.archive() as archive:
        archive.record("engine", finalist.genotype, variant, plain(manifest, out_dir), time.perf_counter() - began)
    return run, manifest


def _capability(workspace: Workspace, device: str) -> str:
    """The compute capability of a device of the catalogue, such as `sm86`; empty for any other."""
    try:
        found = catalogue.entry(device, (workspace.profiles,)).part().spec.compute_capability
    except NotFoundError:
        return ""
    return f"sm{found.replace('.', '')}" if found else ""


def runs_on(options: Options) -> str:
    """The cards on which an engine runs, and with which TensorRT, in words."""
    cards = "every card since Ampere" if options.hardware_compatible else ", ".join(options.targets) or "the card that built it"
    return f"{cards}, this version of TensorRT and later" if options.version_compatible else cards


def _layers(folder: Path) -> dict[str, int]:
    """How many layers of an engine compute in each precision, from the layer information beside it."""
    _, layers = from_json((folder / LAYERS).read_text(encoding="utf-8"))
    return dict(Counter(layer.precision for layer in layers if not layer.is_reformat))


def plain(manifest: EngineManifest, folder: Path) -> dict[str, Any]:
    """An engine's figures for the run's record and for scripts."""
    return {
        "folder": str(folder),
        "precision": manifest.precision,
        "flavor": manifest.options.flavor,
        "targets": list(manifest.options.targets),
        "runs_on": runs_on(manifest.options),
        "nodes": dict(manifest.nodes),
        "layers": _layers(folder),
        "view": manifest.view,
        "output_error": manifest.output_error,
        "accuracy": manifest.accuracy,
        "accuracy_fp32": manifest.accuracy_fp32,
        "latency": manifest.latency,
        "loads": manifest.loads,
        "loading": manifest.loading,
        "engine_bytes": manifest.engine_bytes,
        "build_s": manifest.build_s,
        "commands": list(manifest.commands),
    }
