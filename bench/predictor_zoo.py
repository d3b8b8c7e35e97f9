"""How close latency predictions come on networks that nobody here wrote, from a profile of generic carrier networks alone.

python bench/predictor_zoo.py [--max-time 300] [--zoo FOLDER] [--home FOLDER]

The networks (bench/zoo.py) are measured as the files that they are, beside the canaries of the profile, and predicted from their
graphs. None of them, and no time of them, goes into the profile or the predictor; the carriers' operators and sizes and the features were
widened after looking at most of them. Those of other families that are marked fresh were never measured or predicted before carriers and
features were final: figures that begin with never_seen are theirs alone, the others are of those looked at. With --home the profile is
kept and, when it is there already, used.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zoo
from _common import figures, publish
from rich.progress import track

from hwnas import spaces
from hwnas.assets import Workspace
from hwnas.errors import NotFoundError
from hwnas.ir.onnx import load
from hwnas.predict import Predictor, store
from hwnas.profiling import Plan, Profile, ProfileStore
from hwnas.profiling.profiler import canaries
from hwnas.profiling.waves import measure_together
from hwnas.runtimes.ort import OrtRuntime
from hwnas.workflows.context import setting_of
from hwnas.workflows.profile import profile

VISITS = 24
WAVE = 8
SPACE = "generic"


def profiled(workspace: Workspace, max_time: float) -> Profile:
    """The profile of carriers, measured unless it is there."""
    try:
        return ProfileStore(workspace.profiles / "cpu").load(setting_of("cpu"), SPACE)
    except NotFoundError:
        return profile(workspace, device="cpu", space=SPACE, plan=Plan(max_time_s=max_time, target_error=1e-6)).profile


def judge(predictor: Predictor, measured: Profile, networks: Sequence[tuple[str, str, Path]]) -> list[dict[str, Any]]:
    """Every network measured in the canaries' time, and predicted."""
    fresh = {recipe.name for recipe in zoo.FRESH}
    runtime, rows = OrtRuntime(1), []
    watch = canaries(spaces.load(SPACE))
    for start in track(range(0, len(networks), WAVE), "networks"):
        part = networks[start : start + WAVE]
        pooled = measure_together(
            runtime, [path.read_bytes() for _, _, path in part], watch, rounds=VISITS, wave=WAVE, reference=measured.slowdowns
        ).networks
        for (name, family, path), one in zip(part, pooled, strict=True):
            graph = load(path)
            estimate = predictor.estimate([graph])[0]
            told = Counter(call.kernel for call in predictor.kernels(graph))
            real = Counter(call.kernel for call in runtime.build(path).kernels())
            rows.append(
                {
                    "network": name,
                    "family": family,
                    "fresh": name in fresh,
                    "measured_ms": one.latency_s * 1e3,
                    "predicted_ms": estimate.value * 1e3,
                    "error": estimate.value / one.latency_s - 1,
                    "low_ms": estimate.low * 1e3,
                    "high_ms": estimate.high * 1e3,
                    "inside": bool(estimate.low <= one.latency_s <= estimate.high),
                    "coverage": estimate.coverage,
                    "kernels": sum(real.values()),
                    "kernels_told_wrong": sum(((told - real) + (real - told)).values()),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--max-time", type=float, default=300.0)
    parser.add_argument("--zoo", type=Path, default=zoo.FOLDER)
    parser.add_argument("--home", type=Path)
    options = parser.parse_args()
    networks = [*zoo.networks(options.zoo), *zoo.made(zoo.FRESH, options.zoo)]
    with tempfile.TemporaryDirectory() as home:
        workspace = Workspace(options.home or Path(home))
        measured = profiled(workspace, options.max_time)
        predictor = store.load(workspace, measured.setting, SPACE)
        rows = judge(predictor, measured, networks)  # its models are read when first needed, so while the folder is there
    seen, unseen = ([row for row in rows if row["fresh"] is kind] for kind in (False, True))
    never = {f"never_seen_{key}": value for key, value in {"networks": len(unseen), **_summary(unseen)}.items()}
    publish("predictor_zoo", _claim(rows), rows, **_summary(seen), **never, **_profile(measured, predictor.model.held_out.mape))


def _claim(rows: list[dict[str, Any]]) -> str:
    families = len({row["family"] for row in rows})
    return f"{len(rows)} networks of {families} families nobody here wrote, predicted from carriers alone, against measured p10; one thread"


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    error = np.array([row["error"] for row in rows])
    told = [row["inside"] or row["coverage"] < 1 for row in rows]
    found = figures(1 + error, np.ones(len(rows)))
    return {
        **found,
        "within_30_or_said": float(np.mean((np.abs(error) <= 0.3) | np.array(told))),
        "inside_90_interval": float(np.mean([row["inside"] for row in rows])),
        "kernel_lists_equal": float(np.mean([row["kernels_told_wrong"] == 0 for row in rows])),
    }


def _profile(measured: Profile, error: float) -> dict[str, Any]:
    return {"carriers": len(measured.networks), "profiling_s": measured.spent_s, "cross_fitted_mape_on_unseen_families": error}


if __name__ == "__main__":
    main()
