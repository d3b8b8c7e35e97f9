"""How well a device is known after 10, 5 and 3 of its measurements, by the protocol of HELP (Lee et al., NeurIPS 2021).

python bench/transfer.py [--draws 20]

Architectures are the 15,625 cells of NAS-Bench-201, devices those whose latencies HELP published. Each known device is known from 900
cells, drawn anew for every draw and the same for all known devices. Nothing is tuned on the six unseen devices: `DOUBT` and the way in
which cells are chosen were settled by leaving families of known devices out (`--tune`). Beside ranks, the share of cells within 10 %.

A cell costs what its edges cost, and which edges run depends on the device: eager frameworks run them all, compiled ones leave out those
whose result nobody reads. Both are features; what known devices say of the weights is the prior (`hwnas.predict.transfer`), and that
prior also says which cells to measure.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from _common import data_folder, publish
from scipy.stats import spearmanr

from hwnas.predict.features import Matrix
from hwnas.predict.transfer import Prior

KNOWN = (
    *("1080ti_1", "1080ti_32", "1080ti_256", "silver_4114", "silver_4210r", "samsung_a50", "pixel3", "essential_ph_1", "samsung_s7"),
    *("titanx_1", "titanx_32", "titanx_256", "gold_6240"),
)
UNSEEN = ["titan_rtx_256", "gold_6226", "fpga", "pixel2", "raspi4", "eyeriss"]
ALIKE = ({"1080ti_1", "1080ti_32", "titanx_1", "titanx_32"}, {"1080ti_256", "titanx_256"}, {"silver_4114", "silver_4210r"})
CELLS_KNOWN = 900
SAMPLES = (10, 5, 3)
DOUBT = 0.003
OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NONE, CONVOLUTIONS = 0, (2, 3)
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # from node to node, in the order of an architecture's string
LAST = 3
RIDGE = 1e-2
LEVEL = 1.645  # deviations either side of 90 %


def cells(texts: Sequence[str]) -> np.ndarray:
    """The operation on every edge, [cells, 6]."""
    return np.array([[OPS.index(edge.split("~")[0]) for node in text.split("+") for edge in node.strip("|").split("|")] for text in texts])


def executed(cell: Sequence[int]) -> tuple[list[bool], bool]:
    """Which edges run on a device whose compiler removes what nobody reads, and whether the cell's output depends on its input.

    Worked out on `pixel3`, a known device. `none` multiplies by zero. That cuts an edge off, except behind a lone convolution that nothing
    else reads: there the zero goes into the convolution's weights, and it runs.
    """
    into = {node: [edge for edge, (_, target) in enumerate(EDGES) if target == node] for node in (1, 2, LAST)}
    out = {node: [edge for edge, (source, _) in enumerate(EDGES) if source == node] for node in (1, 2)}
    live, alone, carries = {0: True}, {0: False}, [False] * len(EDGES)
    for node, edges in into.items():
        for edge in edges:
            source = EDGES[edge][0]
            silenced = alone[source] and all(cell[other] == NONE for other in out[source])
            carries[edge] = live[source] and (cell[edge] != NONE or silenced)
        live[node] = any(carries[edge] for edge in edges)
        present = [cell[edge] for edge in edges if cell[edge] != NONE]
        alone[node] = len(present) == 1 and present[0] in CONVOLUTIONS
    needed, runs = {LAST}, [False] * len(EDGES)
    for node in (LAST, 2, 1):
        for edge in into[node] if node in needed else ():
            if cell[edge] != NONE or carries[edge]:
                runs[edge] = True
                needed.add(EDGES[edge][0])
    return runs, live[LAST]


def counts(edges: np.ndarray, which: np.ndarray) -> Matrix:
    """How often each operation but `none` stands on the edges told, [cells, 4]."""
    return np.stack([((edges == op) & which).sum(axis=1) for op in range(1, len(OPS))], axis=1).astype(float)


def features(edges: np.ndarray, *, compiled: bool = True) -> Matrix:
    """One, the operations that an eager device runs, and those that a compiled one does."""
    eager = np.column_stack([np.ones(len(edges)), counts(edges, np.ones(edges.shape, bool))])
    if not compiled:
        return eager
    found = [executed(cell) for cell in edges.tolist()]
    live = np.array([alive for _, alive in found], float)
    runs = counts(edges, np.array([run for run, _ in found])) * live[:, None]
    return np.column_stack([eager, runs, live])


class Device(NamedTuple):
    """A known device: weights over its mean latency, and by which share its cells differ from the weighted sums."""

    weights: Matrix
    noise: float


def know(rows: Matrix, latency: Matrix) -> Device:
    """Robust ridge regression on the cells that were measured."""
    target = latency / latency.mean()
    trust = np.ones(len(target))
    for _ in range(10):
        weights = np.linalg.solve(rows.T @ (rows * trust[:, None]) + RIDGE * np.eye(rows.shape[1]), rows.T @ (trust * target))
        left = np.abs(target - rows @ weights)
        noise = 1.4826 * float(np.median(left)) + 1e-6
        trust = np.minimum(1.0, 2 * noise / np.maximum(left, 1e-9))
    return Device(weights, noise)


class Score(NamedTuple):
    """Of one device in one draw, over all cells that were not measured."""

    spearman: float
    within_10: float
    inside_90: float


def score(predicted: Matrix, deviation: Matrix | None, latency: Matrix, left_out: np.ndarray) -> Score:
    """Compares a prediction of every cell with its latency, but for the cells that were measured."""
    rest = np.setdiff1d(np.arange(len(latency)), left_out)
    predicted, latency = predicted[rest], latency[rest]
    inside = np.nan if deviation is None else float(np.mean(np.abs(latency - predicted) <= LEVEL * deviation[rest]))
    return Score(float(spearmanr(predicted, latency)[0]), float(np.mean(np.abs(predicted / latency - 1) <= 0.1)), inside)


Way = Callable[[Prior, Matrix, int, np.random.Generator], np.ndarray]


def chosen(prior: Prior, rows: Matrix, count: int, rng: np.random.Generator) -> np.ndarray:
    """The cells that the prior finds most informative."""
    return prior.choose(rows, count, "ranks")


def drawn(prior: Prior, rows: Matrix, count: int, rng: np.random.Generator) -> np.ndarray:
    """Cells by chance."""
    return rng.choice(len(rows), count, replace=False)


def transfer(
    known: Sequence[Device], rows: Matrix, latency: Matrix, count: int, way: Way, rng: np.random.Generator, doubt: float = DOUBT
) -> Score:
    """Measures `count` cells of a new device and predicts all others."""
    prior = Prior.among(np.array([device.weights for device in known]), np.array([device.noise for device in known]), doubt=doubt)
    sample = way(prior, rows, count, rng)
    posterior = prior.learn(rows[sample], latency[sample])
    return score(posterior.value(rows), posterior.deviation(rows), latency, sample)


def by_flops(flops: Matrix, latency: Matrix, sample: np.ndarray) -> Score:
    """A line through the samples."""
    line = np.column_stack([np.ones(len(flops)), flops / flops.mean()])
    predicted = line @ np.linalg.lstsq(line[sample], latency[sample], rcond=None)[0]
    return score(np.maximum(predicted, 1e-3), None, latency, sample)._replace(spearman=float(spearmanr(flops, latency)[0]))


def by_ridge(tables: Matrix, latency: Matrix, sample: np.ndarray) -> Score:
    """Ridge regression from the known devices' latencies, of which it needs those of every cell."""
    seen = tables / tables.mean(axis=0)
    scale = float(np.median(latency[sample] / seen[sample].mean(axis=1)))
    rows = seen[sample]
    weights = np.linalg.solve(rows.T @ rows + 0.1 * np.eye(rows.shape[1]), rows.T @ (latency[sample] / scale - rows.mean(axis=1)))
    return score(scale * (seen.mean(axis=1) + seen @ weights), None, latency, sample)


def ceiling(rows: Matrix, latency: Matrix) -> float:
    """Spearman of cross-fitted predictions from the device's own full table: what is left is noise, rounding, and effects beyond."""
    fold = np.random.default_rng(0).integers(5, size=len(latency))
    predicted = np.empty(len(latency))
    for k in range(5):
        predicted[fold == k] = rows[fold == k] @ know(rows[fold != k], latency[fold != k]).weights
    return float(spearmanr(predicted, latency)[0])


def mean(scores: Sequence[Score]) -> dict[str, float | str]:
    """Means as a row of the table."""
    figures = np.mean(scores, axis=0)
    return {name: float(value) if np.isfinite(value) else "" for name, value in zip(Score._fields, figures, strict=True)}


def tune(rows: Matrix, latency: dict[str, Matrix], draws: int) -> None:
    """Prints how known devices fare when they and their like are taken for unseen, by `DOUBT`; on their 900 cells alone."""
    for doubt in (0.0003, 0.001, 0.003, 0.01, 0.03):
        rng, found = np.random.default_rng(1), {count: [] for count in SAMPLES}
        for _ in range(draws):
            sample = rng.choice(len(rows), CELLS_KNOWN, replace=False)
            known = {name: know(rows[sample], latency[name][sample]) for name in KNOWN}
            for name in KNOWN:
                like = next((family for family in ALIKE if name in family), {name})
                others = [known[other] for other in KNOWN if other not in like]
                for count in SAMPLES:
                    found[count].append(transfer(others, rows[sample], latency[name][sample], count, chosen, rng, doubt))
        print(doubt, {count: np.mean(scores, axis=0).round(4).tolist() for count, scores in found.items()}, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--tune", action="store_true")
    options = parser.parse_args()
    table = pq.read_table(data_folder("nb201") / "nb201_acc_latency.parquet")
    edges = cells(table["arch"].to_pylist())
    flops = table["flops_m_c10"].to_numpy().astype(float)
    latency = {name: table[f"lat_{name}"].to_numpy().astype(float) for name in (*KNOWN, *UNSEEN)}
    rows, eager = features(edges), features(edges, compiled=False)
    if options.tune:
        tune(rows, latency, draws=3)
        return
    tables = np.stack([latency[name] for name in KNOWN], axis=1)
    rng = np.random.default_rng(0)
    ways = {
        "hwnas, cells chosen": (rows, chosen),
        "hwnas, cells by chance": (rows, drawn),
        "the same, eager features alone, cells chosen": (eager, chosen),
    }
    found: dict[tuple[str, int, str], list[Score]] = {}
    for _ in range(options.draws):
        sample = rng.choice(len(edges), CELLS_KNOWN, replace=False)
        known = {way: [know(seen[sample], latency[name][sample]) for name in KNOWN] for way, (seen, _) in ways.items()}
        for name in UNSEEN:
            for count in SAMPLES:
                for way, (seen, pick) in ways.items():
                    found.setdefault((way, count, name), []).append(transfer(known[way], seen, latency[name], count, pick, rng))
                chance = rng.choice(len(edges), count, replace=False)
                found.setdefault(("FLOPs, a line", count, name), []).append(by_flops(flops, latency[name], chance))
                ridge = by_ridge(tables, latency[name], chance)
                found.setdefault(("ridge on the known devices' full tables", count, name), []).append(ridge)
    names = dict.fromkeys(way for way, _, _ in found)
    publish(
        "transfer",
        f"NAS-Bench-201, HELP's protocol: mean over six unseen devices and {options.draws} draws",
        [
            {"way": way, "samples": count, **mean([mean_of for name in UNSEEN for mean_of in found[way, count, name]])}
            | {name: float(np.mean([one.spearman for one in found[way, count, name]])) for name in UNSEEN}
            for way in names
            for count in SAMPLES
        ],
        worst_draw={
            count: float(np.min(np.mean([[one.spearman for one in found["hwnas, cells chosen", count, name]] for name in UNSEEN], axis=0)))
            for count in SAMPLES
        },
        within_10_by_device={name: mean(found["hwnas, cells chosen", 10, name])["within_10"] for name in UNSEEN},
        ceiling_by_own_full_table={name: ceiling(rows, latency[name]) for name in UNSEEN},
        published="HELP: 0.932 with 10 samples; FLOPs: 0.787",
    )


if __name__ == "__main__":
    main()
