"""How often 90 % intervals hold on networks of families that were held out, from a profile of generic carrier networks.

python bench/coverage.py [--profile FOLDER] [--folds 5] [--max-time 170]

Each time some families are held out entirely; a predictor is learned and calibrated on the others as `hwnas fit` does it, and tells the
held-out networks from their kernels. FOLDER is a device's profile (`profiles/cpu` of a workspace); without it the carriers are measured.
A network counts as well covered where at least nine tenths of its measured time is in kernels of kinds and sizes that the other
families have: what is not covered is said by an estimate's coverage, and its interval is no conformal one.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _common import publish
from rich.progress import track

from hwnas.assets import Workspace
from hwnas.predict.fitting import WELL_COVERED, Training, fit
from hwnas.predict.model import LatencyModel
from hwnas.profiling import NetworkRecord, Plan, Profile, ProfileStore
from hwnas.workflows.context import roofline_of, setting_of
from hwnas.workflows.profile import families, profile

SPACE = "generic"


def profiled(folder: Path | None, max_time: float) -> Profile:
    """The profile in a folder, or a new one."""
    if folder:
        return ProfileStore(folder).load(setting_of("cpu"), SPACE)
    with tempfile.TemporaryDirectory() as home:
        return profile(Workspace(Path(home)), device="cpu", space=SPACE, plan=Plan(max_time_s=max_time, target_error=1e-6)).profile


def told(model: LatencyModel, networks: Sequence[NetworkRecord]) -> list[dict[str, Any]]:
    """What a predictor says of networks that it did not see, beside what they took."""
    data = Training.of(networks)
    bounds = model.bounds(data.table)
    known = 1 - data.table.total(np.where(model.kernels(data.table).covered, 0.0, data.seconds)) / data.latency
    return [
        {
            "error": abs(float(bounds.value[i] / data.latency[i]) - 1),
            "inside": bool(bounds.low[i] <= data.latency[i] <= bounds.high[i]),
            "both_inside": bool(bounds.low[i] <= data.latency[i] and data.median[i] <= bounds.high[i]),
            "width": float((bounds.high[i] - bounds.low[i]) / bounds.value[i]),
            "well_covered": bool(known[i] >= WELL_COVERED),
        }
        for i in range(len(networks))
    ]


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Coverage and width of some networks."""
    return {
        "networks": len(rows),
        "mape": float(np.mean([row["error"] for row in rows])),
        "inside": float(np.mean([row["inside"] for row in rows])),
        "both_inside": float(np.mean([row["both_inside"] for row in rows])),
        "median_width": float(np.median([row["width"] for row in rows])),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--max-time", type=float, default=170.0)
    options = parser.parse_args()
    measured = profiled(options.profile, options.max_time)
    of = np.array(families(measured))
    names = np.unique(of)
    found: list[dict[str, Any]] = []
    for k in track(range(options.folds), "families held out"):
        out = np.isin(of, names[k :: options.folds])
        rest, held = (np.flatnonzero(which) for which in (~out, out))
        model = fit([measured.networks[i] for i in rest], roofline_of(measured), of[rest].tolist())
        found += [{"family": of[i], **row} for i, row in zip(held.tolist(), told(model, [measured.networks[i] for i in held]), strict=True)]
    parts = [(str(name), [row for row in found if row["family"] == name]) for name in names]
    covered = [row for row in found if row["well_covered"]]
    table = [
        {"family": name, **figures(rows), "well_covered": sum(row["well_covered"] for row in rows)}
        for name, rows in (*parts, ("all", found), ("well covered", covered))
    ]
    claim = f"90 % intervals on carrier networks of held-out families ({options.folds} folds of {len(names)} families); p10, one thread"
    publish("coverage", claim, table, carriers=len(found), profiling_s=measured.spent_s, seed=measured.seed)


if __name__ == "__main__":
    main()
