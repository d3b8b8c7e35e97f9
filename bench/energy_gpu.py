"""Energy of 10,000 GPT-2 variants on eight GPUs that others measured, from 100 and from 1,000 of them; then across GPUs.

Each line is a way to predict, each column a GPU; a figure is the mean over random draws of the measured variants, judged on all others.
The data's own noise: how far a variant lies from the median of at least eight others that do the same work, had one measured those.

Run: python bench/energy_gpu.py [--draws N]
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import _hwgpt
import numpy as np
from _common import publish
from scipy.stats import spearmanr
from xgboost import DMatrix, train

from hwnas.devices import DeviceSpec
from hwnas.predict import energy, energy_transfer
from hwnas.predict.energy import EnergyModel, Loads, Rates

SIZES = (100, 1000)
FEW = (10, 100)
POOL = 1000  # variants measured on each known GPU
LIKE = 8  # variants that do the same work, for the floor
NEIGHBOURS = 10  # measured just before and after, for the drift
TREES: dict[str, Any] = {
    "objective": "reg:absoluteerror",
    **{"max_depth": 3, "eta": 0.05, "subsample": 0.7, "colsample_bynode": 0.7, "min_child_weight": 5, "nthread": 1, "seed": 0},
}
# 16-bit matrix rate in FLOP/s (dense, 32-bit sums), memory in B/s and board power in W by the makers' data sheets; the data do not say
# which board of a family it was: PCIe boards are taken, and the 2080 Ti. V100, A100 and H100 agree with the catalogue to 2 %; P100, A40 and
# A6000 were found in digests of data sheets (docs/devices.md); the GeForce cards' and the P100's matrix rate are written from memory.
SPECIFICATIONS = {
    "P100": (18.7e12, 732e9, 250),
    "v100": (112e12, 900e9, 250),
    "rtx2080": (53.8e12, 616e9, 250),
    "rtx3080": (59.5e12, 760e9, 320),
    "a40": (149.7e12, 696e9, 300),
    "a6000": (154.8e12, 768e9, 300),
    "a100": (312e12, 1555e9, 250),
    "h100": (756e12, 2000e9, 350),
}

Figures = dict[str, float]
Found = defaultdict[tuple[int, str, str], defaultdict[str, list[float]]]  # by count, way and figure; then by GPU


def judge(predicted: np.ndarray, measured: np.ndarray) -> Figures:
    error = np.abs(predicted / measured - 1)
    return {"MAPE, %": 100 * float(error.mean()), "within 10 %, %": 100 * float(np.mean(error <= 0.1))}


def judge_model(model: EnergyModel, loads: Loads, measured: np.ndarray) -> Figures:
    bounds = model.bounds(loads)
    inside = (bounds.low <= measured) & (measured <= bounds.high)
    half = (bounds.high / bounds.low) ** 0.5 - 1
    return {
        **judge(bounds.value, measured),
        "interval holds, %": 100 * float(inside.mean()),
        "half width, %": 100 * float(half.mean()),
    }


def line(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    """A robust straight line between logarithms."""
    x, y, new = np.log(x), np.log(y), np.log(new)
    weight = np.ones(len(x))
    for _ in range(5):
        slope, start = np.polyfit(x, y, 1, w=np.sqrt(weight))
        weight = energy.huber(y - start - slope * x)
    return np.exp(start + slope * new)


def trees(rates: Rates, loads: Loads, joules: np.ndarray, new: Loads) -> np.ndarray:
    """XGBoost in place of the curve, on the same five numbers."""
    target = np.log(joules / rates.joules(loads)[0])
    booster = train({**TREES, "base_score": float(np.median(target))}, DMatrix(loads.columns, target, nthread=1), 200)
    return rates.joules(new)[0] * np.exp(booster.predict(DMatrix(new.columns, nthread=1)))


def grown(model: EnergyModel, loads: Loads, joules: np.ndarray, new: Loads) -> np.ndarray:
    """XGBoost behind the curve, on what it leaves on variants that it did not see."""
    fold, left = np.arange(len(joules)) % 5, np.empty(len(joules))
    for k in range(5):
        stages = energy.stages(loads.take(np.flatnonzero(fold != k)), joules[fold != k])
        left[fold == k] = np.log(joules[fold == k] / energy.sums_bent(*stages, loads.take(np.flatnonzero(fold == k))))
    booster = train({**TREES, "base_score": 0.0}, DMatrix(loads.columns, left, nthread=1), 100)
    return model.joules(new) * np.exp(booster.predict(DMatrix(new.columns, nthread=1)))


def alone(loads: Loads, data: _hwgpt.Measured, seen: np.ndarray, new: np.ndarray) -> Iterator[tuple[str, Figures]]:
    """Every way of learning a GPU from variants measured on it."""
    known, unknown, joules, truth = loads.take(seen), loads.take(new), data.joules[seen], data.joules[new]
    model = energy.learn(known, joules, _hwgpt.SOURCE)
    yield "hwnas", judge_model(model, unknown, truth)
    yield "hwnas, XGBoost as curve", judge(trees(model.rates, known, joules, unknown), truth)
    yield "hwnas, XGBoost behind curve", judge(grown(model, known, joules, unknown), truth)
    yield "hwnas, first stage alone", judge(model.rates.joules(unknown)[0], truth)
    seconds = energy.sums_bent(*energy.stages(known, data.seconds[seen]), unknown)
    watts = np.median(joules / data.seconds[seen])
    yield "watts x measured latency", judge(watts * data.seconds[new], truth)
    yield "watts x predicted latency", judge(watts * seconds, truth)
    yield "line on measured latency", judge(line(data.seconds[seen], joules, data.seconds[new]), truth)
    yield "line on predicted latency", judge(line(data.seconds[seen], joules, seconds), truth)
    flops = loads.amounts[:, :, 0].sum(axis=1)
    yield "line on FLOPs", judge(line(flops[seen], joules, flops[new]), truth)
    yield "power: hwnas energy / time", judge(model.joules(unknown) / seconds, truth / data.seconds[new])


def floor(sizes: np.ndarray, joules: np.ndarray) -> tuple[Figures, Figures]:
    """How far variants lie from the median of the others that do the same work; and what of it is left without drift.

    Drift is what a variant shares with those measured just before and after it: temperature, another session, another board.
    """
    _, group = np.unique(sizes, axis=0, return_inverse=True)
    logs, centre = np.log(joules), np.full(len(joules), np.nan)
    for members in (np.flatnonzero(group == g) for g in np.flatnonzero(np.bincount(group) > LIKE)):
        for i in members:
            centre[i] = np.median(logs[members[members != i]])
    known = np.flatnonzero(np.isfinite(centre))
    left = logs[known] - centre[known]
    near = [np.r_[left[max(0, i - NEIGHBOURS) : i], left[i + 1 : i + 1 + NEIGHBOURS]] for i in range(len(left))]
    steady = left - np.array([np.median(others) for others in near])
    return judge(np.exp(-left), np.ones(len(left))), judge(np.exp(-steady), np.ones(len(left)))


def specification(name: str) -> DeviceSpec:
    peak, rate, watts = SPECIFICATIONS[name]
    plain: dict[str, Any] = {"units": 1, "clock_hz": None, "caches_bytes": {}, "memory_bytes": 1}  # of no account here
    return DeviceSpec(
        name=name, kind="gpu", model=name, peak_flops={"fp16": peak}, memory_bytes_per_s=rate, power_limit_w=float(watts), **plain
    )


def across(loads: Loads, variants: _hwgpt.Variants, draws: int) -> Iterator[tuple[int, str, str, Figures]]:
    """A GPU from the seven others and a few variants measured on it."""
    order = np.random.default_rng(1).permutation(len(loads))
    pool, rest = order[:POOL], order[POOL:]
    known = {name: energy.learn(loads.take(pool), data.joules[pool], _hwgpt.SOURCE) for name, data in variants.devices.items()}
    for name, data in variants.devices.items():
        others = [other for other in known if other != name]
        pairs = [(specification(other), known[other]) for other in others]
        guess = energy_transfer.from_specification(pairs, specification(name), "fp16", loads.take(pool))
        rank = spearmanr(guess.joules(loads.take(rest)), data.joules[rest]).statistic
        yield 0, "other GPUs, specification", name, {**judge_model(guess, loads.take(rest), data.joules[rest]), "Spearman": float(rank)}
        for draw in range(draws):
            drawn = np.random.default_rng([2, draw]).permutation(rest)
            for count in FEW:
                seen, new = drawn[:count], drawn[max(FEW) :]
                models = [known[other] for other in others]
                model = energy_transfer.adapt(models, loads.take(seen), data.joules[seen], _hwgpt.SOURCE, loads.take(pool))
                yield count, "other GPUs, these", name, judge_model(model, loads.take(new), data.joules[new])
                if count > min(FEW):
                    continue  # as above, where only this GPU counts
                watts = np.median(data.joules[seen] / data.seconds[seen])
                yield count, "watts x measured latency", name, judge(watts * data.seconds[new], data.joules[new])
                fitted = line(data.seconds[seen], data.joules[seen], data.seconds[new])
                yield count, "line on measured latency", name, judge(fitted, data.joules[new])


def rows(found: Found) -> list[dict[str, Any]]:
    """A line for each figure of each way, by the number of measured variants; the last column is the mean over the GPUs."""
    lines = []
    for (count, way, figure), of in sorted(found.items(), key=lambda item: item[0][0]):
        means = {name: float(np.mean(of[name])) for name in _hwgpt.DEVICES}
        means["mean"] = float(np.mean(list(means.values())))
        lines.append({"n": count, "predictor": way, "figure": figure, **{name: float(f"{mean:.3g}") for name, mean in means.items()}})
    return lines


def add(found: Found, count: int, way: str, name: str, figures: Figures) -> None:
    for figure, value in figures.items():
        found[count, way, figure][name].append(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=5)
    draws = parser.parse_args().draws
    variants = _hwgpt.load()
    loads = Loads.of(variants.networks)
    limits, single, transfer = (defaultdict(lambda: defaultdict(list)) for _ in range(3))
    for name, data in variants.devices.items():
        for way, figures in zip(("median of alike variants", "the same, drift taken off"), floor(variants.sizes, data.joules), strict=True):
            add(limits, len(loads), way, name, figures)
        add(limits, len(loads), "50 passes of one variant", name, {"quartiles, %": 100 * float(np.median(data.spread))})
        for count in SIZES:
            for draw in range(draws):
                order = np.random.default_rng([0, draw]).permutation(len(loads))
                for way, figures in alone(loads, data, order[:count], order[count:]):
                    add(single, count, way, name, figures)
    for count, way, name, figures in across(loads, variants, draws):
        add(transfer, count, way, name, figures)
    publish(
        "energy_gpu",
        "Energy of GPT-2 variants on GPUs, judged on those that were not measured",
        [*rows(limits), *rows(single), *rows(transfer)],
        draws=draws,
        data="HW-GPT-Bench (Sukthanker et al., 2024), scale s; NVML power readings integrated over one forward pass, median of 50",
    )


if __name__ == "__main__":
    main()
