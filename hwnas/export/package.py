"""Exports a trained network: folded, in the precision that earns its place, measured, verified, written in one piece."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hwnas.errors import GraphError, UsageError, require
from hwnas.export.folder import new_folder
from hwnas.export.manifest import MODEL, File, Lineage, Manifest, MeteredEnergy, Speedup, Timing, Variant
from hwnas.export.measure import Accuracy, Latencies, eager_torch, predictor, side_by_side, time_all
from hwnas.export.quantize import Feed, int8
from hwnas.export.verify import SAMPLE, TOLERANCE, difference, verify
from hwnas.ir import Graph
from hwnas.ir.fold import fold
from hwnas.ir.onnx import to_bytes
from hwnas.predict.estimate import Estimate
from hwnas.runtimes.ort import OrtRuntime, OrtSession
from hwnas.runtimes.samples import Ratio, ratio

Precision = Literal["fp32", "int8", "auto"]

TIMINGS = "timings.parquet"
MOST_LOST = 0.01  # one point of accuracy: int8 that loses it is not worth its speed
INT8_FORMS = {"whole": False, "ends in fp32": True}
_PACKAGES = ("hwnas", "numpy", "onnx", "onnxruntime", "torch")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    precision: str
    model: bytes
    session: OrtSession
    accuracy: float


def export(
    graph: Graph,
    *,
    out_dir: Path,
    accuracy: Accuracy,
    calibration: Iterable[Feed],
    lineage: Lineage,
    precision: Precision = "auto",
    runtime: OrtRuntime | None = None,
    predicted: Mapping[str, Estimate] | None = None,
    energy: MeteredEnergy | None = None,
    limit_s: float | None = None,
    force: bool = False,
    seconds: float = 3.0,
) -> Manifest:
    """Writes a folder with the network as ONNX, and everything that is known about it.

    The folder holds `model.onnx` (batch normalisation folded, standard operators only), `manifest.json`, `timings.parquet` (raw latencies
    of fp32, of int8 where it was tried, and of eager torch) and `sample_input.npy` with its answer `sample_output.npy`, for `verify`.

    Args:
        graph: the trained network, with one image input and weights that have values.
        out_dir: the folder; it must not exist, or be empty.
        accuracy: measures a function from images [N, C, H, W] to class scores [N, K] on the locked test split; a share.
        calibration: inputs from the training split, the first of which is also what is timed; needed for `int8` and `auto`.
        lineage: where the network comes from.
        precision: `auto` ships int8 only where it is faster beyond doubt and loses less than a point of accuracy.
        runtime: ONNX Runtime with the threads to measure with.
        predicted: what was promised, by metric.
        energy: of the network, as measured; None where it was not.
        limit_s: latency that the network had to keep.
        force: replace an earlier export.
        seconds: for one attempt at timing all, roughly; there are at most six.

    Raises:
        UsageError: the folder is in use, or calibration is missing or does not fit.
        GraphError: the network cannot be exported or does not answer as before.
        HwnasError: the folder cannot be written; gives the reason.
    """
    if precision not in ("fp32", "int8", "auto"):
        raise UsageError(f"precision is fp32, int8 or auto, got '{precision}'")
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise UsageError(
            f"only networks with one input and one output are exported; '{graph.name}' has {len(graph.inputs)} and {len(graph.outputs)}"
        )
    runtime = runtime or OrtRuntime()
    feeds = tuple(calibration)
    if not feeds:
        raise UsageError("an export needs inputs from the training split, to time the network with and to calibrate int8; got none")
    feed = dict(feeds[0])
    form = "none"
    with new_folder(out_dir, force=force) as folder:
        candidates = [_fp32(graph, feed, runtime, accuracy)]
        if precision != "fp32":
            form, model = _fastest_form(graph, feeds, runtime, seconds / 4)
            candidates.append(_candidate("int8", model, graph, runtime, accuracy))
        latencies = _time(graph, candidates, feed, runtime, seconds)
        pairs = latencies.side_by_side
        taken = ratio(pairs["int8"], pairs["fp32"]) if "int8" in pairs else None
        chosen, reason = choose(precision, taken, candidates[0].accuracy - candidates[-1].accuracy)
        shipped = next(candidate for candidate in candidates if candidate.precision == chosen)
        latency_s = latencies.alone[chosen].median_s
        (folder / MODEL).write_bytes(shipped.model)
        for name, value in zip(SAMPLE, (next(iter(feed.values())), shipped.session.run(feed)[0]), strict=True):
            np.save(folder / name, value, allow_pickle=False)
        _write_timings(latencies, folder / TIMINGS)
        manifest = Manifest(
            name=graph.name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            precision=chosen,
            reason=reason,
            variants=tuple(_variant(candidate, latencies) for candidate in candidates),
            torch=Timing.of(latencies.alone["torch"]),
            predicted=dict(predicted or {}),
            limit_s=limit_s,
            limit_kept=None if limit_s is None else latency_s <= limit_s,
            settings={
                "runtime": runtime.name,
                "threads": runtime.threads,
                "batch": next(iter(graph.inputs.values())).shape[0],
                "rounds": pairs["torch"].n,
                "calibration": len(feeds),
                "int8": form,
            },
            versions={"python": platform.python_version(), **{name: str(require(name).__version__) for name in _PACKAGES}},
            lineage=lineage,
            files={path.name: File.of(path) for path in sorted(folder.iterdir())},
            energy=energy,
        )
        manifest.write(folder)
        verify(folder, runtime)
    return manifest


def choose(precision: Precision, taken: Ratio | None, lost: float) -> tuple[str, str]:
    """Which precision is shipped, and why, in one sentence.

    Args:
        precision: what was asked for.
        taken: time of int8 over the time of fp32; `None` where int8 was not tried.
        lost: accuracy of fp32 less that of int8, a share.
    """
    if precision == "fp32" or taken is None:
        return "fp32", "fp32 was asked for"
    speed = f"{1 / taken.median:.2f} times as fast as fp32 [{1 / taken.high:.2f}, {1 / taken.low:.2f}]"
    change = f"loses {100 * lost:.1f} points" if lost > 0 else f"gains {-100 * lost:.1f} points" if lost < 0 else "loses no accuracy"
    if precision == "int8":
        return "int8", f"int8 was asked for: it is {speed} and {change}"
    if taken.high >= 1:
        return "fp32", f"int8 is not faster beyond doubt: it is {speed}"
    if lost >= MOST_LOST:
        return "fp32", f"int8 {change}, and less than {100 * MOST_LOST:.0f} is allowed (it is {speed})"
    return "int8", f"int8 is {speed} and {change}"


def _fp32(graph: Graph, feed: Feed, runtime: OrtRuntime, accuracy: Accuracy) -> _Candidate:
    candidate = _candidate("fp32", to_bytes(fold(graph)), graph, runtime, accuracy)
    worst = difference(runtime.build(to_bytes(graph)).run(feed), candidate.session.run(feed))
    if worst > TOLERANCE["fp32"]:
        raise GraphError(f"graph '{graph.name}' answers otherwise once batch normalisation is folded (off by {worst:.2g}); train it again")
    return candidate


def _candidate(precision: str, model: bytes, graph: Graph, runtime: OrtRuntime, accuracy: Accuracy) -> _Candidate:
    session = runtime.build(model)
    return _Candidate(precision=precision, model=model, session=session, accuracy=accuracy(predictor(session, graph)))


def _fastest_form(graph: Graph, feeds: Sequence[Feed], runtime: OrtRuntime, seconds: float) -> tuple[str, bytes]:
    """The faster of the two int8 forms here, by name and as a model."""
    models = {name: int8(graph, feeds, ends_in_fp32=ends).SerializeToString() for name, ends in INT8_FORMS.items()}
    runs = {name: partial(runtime.build(model).run, feeds[0]) for name, model in models.items()}
    samples = side_by_side(runs, threads=runtime.threads, seconds=seconds)
    name = min(samples, key=lambda name: samples[name].median_s)
    return name, models[name]


def _time(graph: Graph, candidates: Sequence[_Candidate], feed: Feed, runtime: OrtRuntime, seconds: float) -> Latencies:
    variants = {candidate.precision: partial(candidate.session.run, feed) for candidate in candidates}
    with eager_torch(graph, feed, runtime.threads) as torch_run:
        return time_all({**variants, "torch": torch_run}, threads=runtime.threads, seconds=seconds)


def _variant(candidate: _Candidate, latencies: Latencies) -> Variant:
    pairs, precision = latencies.side_by_side, candidate.precision
    return Variant(
        precision=precision,
        latency=Timing.of(latencies.alone[precision]),
        accuracy=candidate.accuracy,
        size_bytes=len(candidate.model),
        speedup_over_torch=Speedup.of(ratio(pairs[precision], pairs["torch"])),
        speedup_over_fp32=None if precision == "fp32" else Speedup.of(ratio(pairs[precision], pairs["fp32"])),
    )


def _write_timings(latencies: Latencies, path: Path) -> None:
    """Every sample in s, in the order taken; `round` numbers those of one contender, and those side by side share theirs."""
    columns: dict[str, list[object]] = {"contender": [], "how": [], "round": [], "seconds": []}
    for how, table in (("alone", latencies.alone), ("side by side", latencies.side_by_side)):
        for name, samples in table.items():
            columns["contender"] += [name] * samples.n
            columns["how"] += [how] * samples.n
            columns["round"] += range(samples.n)
            columns["seconds"] += samples.seconds.tolist()
    pq.write_table(pa.table(columns).replace_schema_metadata({"format": "1"}), path)
