"""Exports a trained network as an engine of TensorRT: precisions written into its ONNX, checked on the CPU, built, written in one piece."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwnas.errors import GraphError, UsageError, require
from hwnas.export.engine_manifest import NOT_MEASURED, EngineManifest, Kept
from hwnas.export.folder import new_folder
from hwnas.export.manifest import MODEL, File, Lineage, MeteredEnergy
from hwnas.export.measure import Accuracy, predictor
from hwnas.export.narrow import EnginePrecision, Narrowed, narrow
from hwnas.export.numerics import Numerics
from hwnas.export.quantize import Feed
from hwnas.export.serving import CONFIG, EP_CONTEXT, LAYERS, PLAN, TIMING_CACHE, Interface, commands, ep_context, open_batch, triton_config
from hwnas.export.verify import SAMPLE, check_files, check_model, difference
from hwnas.ir import Graph
from hwnas.ir.node import Array
from hwnas.predict.estimate import Estimate
from hwnas.runtimes.trt_build import Engine, Options, Probe, Profile, build, probe
from hwnas.runtimes.trt_layers import from_json, to_json
from hwnas.runtimes.trt_precision import Precisions, counts, write

if TYPE_CHECKING:
    from onnx import ModelProto

Batches = tuple[int, int, int]
Build = Callable[[bytes, Options], Engine]

# Largest difference that counts as the same answer on another processor, relative to the largest output.
TOLERANCE: Mapping[str, float] = {"fp32": 1e-4, "fp16": 1e-2, "int8": 5e-2, "mixed": 5e-2}
_PACKAGES = ("hwnas", "numpy", "onnx", "onnxruntime")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedEngine:
    """An engine's export that passed.

    Attributes:
        manifest: what it says about itself.
        difference: largest deviation of its model, on the CPU, from the answers on record, relative to the largest of them.
        probe: whether the engine itself loads on this machine.
    """

    manifest: EngineManifest
    difference: float
    probe: Probe


def export_engine(
    graph: Graph,
    *,
    out_dir: Path,
    accuracy: Accuracy,
    calibration: Iterable[Feed],
    lineage: Lineage,
    precision: EnginePrecision = "fp16",
    options: Options,
    batches: Batches | None = None,
    caches: Path | None = None,
    device: str = "any",
    capability: str = "",
    with_ep_context: bool = False,
    predicted: Mapping[str, Estimate] | None = None,
    energy: MeteredEnergy | None = None,
    limit_s: float | None = None,
    force: bool = False,
    builder: Build | None = None,
) -> EngineManifest:
    """Writes a folder with the network as an engine, and everything that is known about it.

    The folder holds `1/model.plan` (the engine), `model.onnx` (what it was built from, with the precision of every node), `layers.json`,
    `manifest.json`, `sample_input.npy` with its answer, and, for TensorRT, `config.pbtxt`, which makes it a model folder of Triton, and
    `timing.cache`. Nothing in it is measured on a card.

    Args:
        graph: the trained network, with one image input, one output, and weights that have values.
        out_dir: the folder; it must not exist, or be empty.
        accuracy: measures a function from images [N, C, H, W] to class scores [N, K] on the locked test split; a share.
        calibration: inputs from the training split.
        lineage: where the network comes from.
        precision: see `hwnas.export.narrow.narrow`.
        options: how the engine is built.
        batches: smallest, usual and largest batch; that of the network, fixed, unless given.
        caches: folder for timing caches.
        device: name of the card, for the cache.
        capability: compute capability of that card, such as `86`, for the EPContext form.
        with_ep_context: whether to write the EPContext form, `model_ctx.onnx`, as well.
        predicted: what was promised, by metric.
        energy: of the network, as measured; None where it was not.
        limit_s: latency that the network has to keep.
        force: replace an earlier export.
        builder: builds the engine; TensorRT in a process of its own unless given.

    Raises:
        UsageError: the folder is in use, calibration does not fit, or the batch cannot be opened.
        MissingExtraError: the library is not installed.
        GraphError: TensorRT refuses the network; names the node.
        DeviceUnavailable: TensorRT builds on a card, and there is none.
        HwnasError: the build died, or the folder cannot be written.
    """
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise UsageError(
            f"only networks with one input and one output are exported; '{graph.name}' has {len(graph.inputs)}, {len(graph.outputs)}"
        )
    feeds = tuple(calibration)
    builder = builder or (lambda model, how: build(model, how, caches=caches, device=device))
    with new_folder(out_dir, force=force) as folder:
        narrowed = narrow(graph, precision, feeds)
        interface = _interface(graph, batches)
        model, options = _opened(narrowed.model, interface, options, feeds[0])
        engine = builder(model.SerializeToString(), options)
        session = Numerics(model.SerializeToString())
        reached = accuracy(predictor(session, graph))
        (folder / MODEL).write_bytes(model.SerializeToString())
        for name, value in zip(SAMPLE, (next(iter(feeds[0].values())), session.run(feeds[0])[0]), strict=True):
            np.save(folder / name, value, allow_pickle=False)
        _write_engine(folder, engine, options, interface)
        if with_ep_context:
            name = options.targets[0].removeprefix("sm") if options.targets else capability
            context = ep_context(interface, flavor=options.flavor, version=engine.version, capability=name, name=graph.name)
            (folder / EP_CONTEXT).write_bytes(context.SerializeToString())
        loaded = probe(folder / PLAN, options.flavor)
        manifest = EngineManifest(
            name=graph.name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            precision=precision,
            options=options,
            nodes=counts(narrowed.graph, narrowed.precisions),
            compared=_compared(narrowed),
            output_error=narrowed.error,
            accuracy=reached,
            accuracy_fp32=reached if narrowed.precisions == Precisions() else accuracy(predictor(_in_fp32(narrowed), graph)),
            latency="not measured" if loaded.loads else NOT_MEASURED,
            loads=loaded.loads,
            loading=loaded.reason,
            view=engine.view,
            warnings=engine.warnings,
            engine_bytes=len(engine.plan),
            build_s=engine.seconds,
            commands=commands(options, engine.version),
            predicted=dict(predicted or {}),
            limit_s=limit_s,
            batches=batches,
            settings={"batch": next(iter(graph.inputs.values())).shape[0], "calibration": len(feeds), "flavor": options.flavor},
            versions=_versions(options, engine),
            lineage=lineage,
            files={path.relative_to(folder).as_posix(): File.of(path) for path in sorted(folder.rglob("*")) if path.is_file()},
            energy=energy,
        )
        manifest.write(folder)
        _check(folder, manifest)
    return manifest


def verify_engine(folder: Path) -> VerifiedEngine:
    """Checks the hash of every file, the model that the engine was built from and its answers, and tries to load the engine.

    Raises:
        NotFoundError: when the folder holds no export.
        FormatError: when a file is missing, changed or damaged; names it.
        GraphError: when the model is not valid ONNX, or answers otherwise.
        MissingExtraError: the library that loads the engine is not installed.
    """
    manifest = EngineManifest.read(folder)
    return VerifiedEngine(manifest=manifest, difference=_check(folder, manifest), probe=probe(folder / PLAN, manifest.options.flavor))


def _check(folder: Path, manifest: EngineManifest) -> float:
    check_files(folder, manifest.files, (MODEL, PLAN, LAYERS, *SAMPLE))
    check_model(folder / MODEL)
    from_json((folder / LAYERS).read_text(encoding="utf-8"))
    given, expected = (np.load(folder / name, allow_pickle=False) for name in SAMPLE)
    model = (folder / MODEL).read_bytes()
    reads = require("onnx").load_from_string(model).graph.input[0].name
    worst, allowed = difference([expected], Numerics(model).run({reads: given})), TOLERANCE[manifest.precision]
    if not worst <= allowed:
        raise GraphError(
            f"'{folder / MODEL}' answers otherwise than when it was exported: off by {worst:.2g} of the largest output, "
            f"at most {allowed:.2g} is allowed; export again on this machine"
        )
    return worst


def _interface(graph: Graph, batches: Batches | None) -> Interface:
    if batches is not None and not 1 <= batches[0] <= batches[1] <= batches[2]:
        raise UsageError(f"batches are smallest <= usual <= largest, from 1 on; got {','.join(map(str, batches))}")
    return Interface(inputs=graph.inputs, outputs={value: graph.specs[value] for value in graph.outputs}, batches=batches)


def _opened(model: ModelProto, interface: Interface, options: Options, feed: Feed) -> tuple[ModelProto, Options]:
    """The model with an open batch, tried with the smallest and the largest, and the options that tell TensorRT of it.

    Raises:
        UsageError: the network's nodes fix the batch.
    """
    if interface.batches is None:
        return model, options
    ((name, spec),) = interface.inputs.items()
    opened = open_batch(model)
    fixed, session = Numerics(model.SerializeToString()), Numerics(opened.SerializeToString())
    one, expected = feed[name][:1], fixed.run(feed)[0][:1]
    for size in (interface.batches[0], interface.batches[2]):
        if not _serves(session, name, np.repeat(one, size, axis=0), np.repeat(expected, size, axis=0)):
            raise UsageError(
                f"the nodes of '{model.graph.name}' fix its batch of {spec.shape[0]}, and {size} does not pass; leave the batch fixed"
            )
    least, usual, most = ((size, *spec.shape[1:]) for size in interface.batches)
    return opened, replace(options, profiles=(Profile(input=name, least=least, usual=usual, most=most),))


def _serves(session: Numerics, name: str, images: Array, expected: Array) -> bool:
    try:
        found: Sequence[Array] = session.run({name: images})
    except GraphError:
        return False
    return difference([expected], found) <= TOLERANCE["fp16"]


def _write_engine(folder: Path, engine: Engine, options: Options, interface: Interface) -> None:
    (folder / PLAN).parent.mkdir(parents=True)
    (folder / PLAN).write_bytes(engine.plan)
    (folder / LAYERS).write_text(to_json(engine.layers, view=engine.view), encoding="utf-8")
    if engine.cache:
        (folder / TIMING_CACHE).write_bytes(engine.cache)
    if options.flavor == "tensorrt":  # Triton serves no engines of TensorRT-RTX
        (folder / CONFIG).write_text(triton_config(interface), encoding="utf-8")


def _compared(narrowed: Narrowed) -> tuple[Kept, ...]:
    order = sorted(narrowed.alone, key=lambda name: -narrowed.alone[name])
    nodes = {node.name: node for node in narrowed.graph.nodes}
    return tuple(Kept(node=name, error=narrowed.alone[name], precision=narrowed.precisions.of(nodes[name])) for name in order)


def _in_fp32(narrowed: Narrowed) -> Numerics:
    return Numerics(write(narrowed.graph, Precisions(), {}).SerializeToString())


def _versions(options: Options, engine: Engine) -> dict[str, str]:
    packages = {name: str(require(name).__version__) for name in _PACKAGES}
    return {"python": platform.python_version(), **packages, options.flavor: engine.version}
