"""How well `hwnas transfer` learns batches of 4 from a predictor for single images, from 10, 5 and 3 networks measured with their kernels.

python bench/transfer_networks.py [--home FOLDER] [--max-time 90] [--draws 6]

Both settings are profiled unless the folder has their profiles. In each draw two thirds of the networks with batches of 4 may be measured;
all that were not are predicted. The card's predictors are those that ship, of eager operators: another device, runtime and kernels.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from _common import figures, publish

from hwnas.assets import Workspace, root
from hwnas.errors import NotFoundError
from hwnas.predict import store
from hwnas.predict.adapted import adapt, kind_features
from hwnas.predict.features import Matrix
from hwnas.predict.fitting import QUICK, Training, fit_kinds
from hwnas.predict.model import NetworkModel, first_stage
from hwnas.predict.roofline import Roofline
from hwnas.profiling import Plan, Profile, ProfileStore, Setting
from hwnas.workflows.context import roofline_of
from hwnas.workflows.profile import learn, profile

SETTING = Setting(device="cpu", runtime="onnxruntime-cpu")
NETWORKS = (10, 5, 3)
BATCH = 4


def profiled(workspace: Workspace, setting: Setting, space: str, max_time_s: float, seed: int) -> Profile:
    """The profile in the workspace, measured where there is none."""
    try:
        return ProfileStore(workspace.profiles / setting.device).load(setting, space)
    except NotFoundError:
        plan = Plan(max_time_s=max_time_s, target_error=1e-6)
        return profile(workspace, device=setting.device, space=space, batch=setting.batch, seed=seed, plan=plan).profile


def from_scratch(data: Training, some: np.ndarray, roofline: Roofline) -> Matrix:
    """All networks by a predictor learned from some of them alone."""
    part = data.take(some)
    typical = float(np.median(part.seconds / roofline.time_s(part.table.flops, part.table.bytes)))
    kinds = fit_kinds(part.table, part.seconds, roofline, QUICK)
    return data.call_s + data.table.total(first_stage(kinds, roofline, typical, data.table).seconds)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path)
    parser.add_argument("--max-time", type=float, default=90.0)
    parser.add_argument("--draws", type=int, default=6)
    parser.add_argument("--space", default="mobilenet")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        workspace = Workspace(options.home or Path(temporary))
        known = learn(workspace, profiled(workspace, SETTING, options.space, options.max_time, 0)).model
        card = store.read(root("predictors") / "t4" / "latency" / "torch-eager-t1-bany-fp32" / "generic").model
        measured = profiled(workspace, replace(SETTING, batch=BATCH), options.space, options.max_time, 7)
        found: dict[tuple[str, int], list[dict[str, float]]] = {}
        data, roofline, rng = Training.of(measured.networks), roofline_of(measured), np.random.default_rng(0)
        latency, everyone = data.latency, np.arange(len(data.latency))

        def note(way: str, count: int, rest: np.ndarray, predicted: Matrix, inside: float | str = "") -> None:
            found.setdefault((way, count), []).append({**figures(predicted[rest], latency[rest]), "inside_90": inside})

        def adapted(way: str, count: int, some: np.ndarray, base: NetworkModel) -> None:
            rest = np.setdiff1d(everyone, some)
            bounds = adapt(base, [measured.networks[i] for i in some], roofline).bounds(data.table)
            held = (bounds.low <= latency) & (latency <= bounds.high)
            note(way, count, rest, bounds.value, float(np.mean(held[rest])))

        for _ in range(options.draws):
            may = rng.permutation(len(everyone))[: len(everyone) * 2 // 3]
            for count in NETWORKS:
                for way, base in (("one image", known), ("T4's operators", card)):
                    features, prior = kind_features(base, data.table)
                    some = np.sort(may[prior.choose(features[may], count, "ratios")])
                    rest, usual = np.setdiff1d(everyone, some), base.bounds(data.table).value
                    adapted(f"hwnas transfer, from {way}", count, some, base)
                    note(f"{way}, times a constant", count, rest, usual * float(np.median(latency[some] / usual[some])))
                    note(f"{way}, a factor per kind", count, rest, prior.learn(features[some], latency[some]).value(features))
                    if base is known:
                        note("from scratch, the same networks", count, rest, from_scratch(data, some, roofline))
                adapted("hwnas transfer, from one image, networks by chance", count, np.sort(may[:count]), known)
    rows = []
    for (way, count), draws in sorted(found.items(), key=lambda pair: pair[0][0]):
        means = {key: float(np.mean([draw[key] for draw in draws])) for key in draws[0] if draws[0][key] != ""}
        rows.append({"way": way, "networks": count, **{key: means.get(key, "") for key in draws[0]}})
    publish("transfer_networks", f"'{options.space}', batches of {BATCH} on one thread, {options.draws} draws: predicted against p10", rows)


if __name__ == "__main__":
    main()
