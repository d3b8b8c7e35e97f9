"""How many architectures a second are scored from genotype to interval, on one core.

python bench/throughput.py [--networks 100000] [--space mobilenet ...]

Per space, all by one predictor, learned of a device on paper (`tests/paper_device.py`), since only the work counts here:

- warm: *distinct* networks that were never scored, all of whose blocks were met before. The resolution, the normalisation and the
  activation are those of the reference network, every other gene is drawn; blocks are met by scoring others until hardly one is new.
- cold: 200 and 1,000 networks drawn from the whole space, in generations of 100, by somebody that has met none of their blocks.
- one by one: graphs of others built, lowered and predicted by `Predictor.estimate`, 30 between any two generations; mean of 3 such runs.
- ONNX file: the reference network read from a file and predicted, the predictor being loaded; best of 5.

Times are of the processor, the process pinned to one core, so that others on the machine count little. Agreement is the largest relative
difference of values and ends of intervals between both ways, on warm networks.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _common import publish

from hwnas import spaces
from hwnas.ir.onnx import load, save
from hwnas.predict import Predictor, fitting
from hwnas.predict.model import Bounds
from hwnas.predict.population import PopulationPredictor
from hwnas.runtimes.fusions import Fusions
from hwnas.spaces import SearchSpace
from hwnas.spaces.base import Population

GOAL = 100_000
SPACES = ("mobilenet", "mobilenet-small", "resnet", "resnet-small")
HELD = ("resolution", "norm", "activation")
ROUND = 10_000  # networks at a time, until blocks are known
GENERATION, GENERATIONS, REPEATS = 100, 10, 3
ALONE, CHECKED = 30, 60


def predictor() -> Predictor:
    """Learned of 100 networks on paper, with as many trees as any."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from paper_device import BLOCK, ROOFLINE, SETTING, measured

    return Predictor(
        setting=SETTING,
        fusions=Fusions(block=BLOCK),
        model=fitting.fit(measured(100), ROOFLINE),
        space="mobilenet-small",
        fingerprint="paper",
        profile_digest="",
        environment={},
    )


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of this process, and the result."""
    start = time.process_time()
    found = action()
    return time.process_time() - start, found


def drawn(space: SearchSpace, rng: np.random.Generator, count: int) -> Population:
    """Canonical networks whose `HELD` genes are the reference's."""
    networks, reference = space.sample_batch(rng, count), space.reference()
    for i, gene in enumerate(space.genes):
        if gene.name in HELD:
            networks[:, i] = reference[i]
    return space.canonical_batch(networks)


def unknown(learned: Predictor, space: SearchSpace, rng: np.random.Generator) -> tuple[float, float, float]:
    """Networks a second: the first 200, all 1,000, and one by one; by turns, since the clock of a shared machine wanders."""
    cold_s, alone_s = np.zeros((REPEATS, GENERATIONS)), 0.0
    for times in cold_s:
        scored = PopulationPredictor(learned, space)
        for i in range(GENERATIONS):
            fresh, others = space.sample_batch(rng, GENERATION), space.sample_batch(rng, ALONE)
            times[i] = timed(lambda scored=scored, fresh=fresh: scored.bounds(fresh))[0]
            alone_s += timed(lambda others=others: _alone(learned, space, others))[0]
    early = REPEATS * 2 * GENERATION / cold_s[:, :2].sum()
    return early, cold_s.size * GENERATION / cold_s.sum(), cold_s.size * ALONE / alone_s


def row(name: str, learned: Predictor, count: int, folder: Path) -> dict[str, Any]:
    """The figures of a space."""
    space, rng = spaces.load(name), np.random.default_rng(0)
    early, cold, one_by_one = unknown(learned, space, rng)
    scored = PopulationPredictor(learned, space)
    met = np.zeros((0, len(space.genes)), np.int64)
    warming_s, blocks = 0.0, -1
    while len(scored.index.blocks) > blocks:
        blocks = len(scored.index.blocks)
        fresh = drawn(space, rng, ROUND)
        met = np.concatenate([met, fresh])
        warming_s += timed(lambda fresh=fresh: scored.bounds(fresh))[0]
    candidates = np.unique(drawn(space, rng, 2 * count), axis=0)
    known = {each.tobytes() for each in met}
    networks = np.array([each for each in candidates if each.tobytes() not in known])[:count]
    rng.shuffle(networks)
    alone = scored.alone
    warm_s, told = timed(lambda: scored.bounds(networks))
    sample = networks[:CHECKED]
    exact = _alone(learned, space, sample)
    differ = max(float(np.abs(getattr(told, end)[: len(sample)] / getattr(exact, end) - 1).max()) for end in ("value", "low", "high"))
    file = folder / f"{name}.onnx"
    save(space.graph(space.reference()).materialize(np.random.default_rng(0)), file)
    file_s = min(timed(lambda: learned.estimate([load(file)]))[0] for _ in range(5))
    rate = len(networks) / warm_s
    return {
        "space": name,
        "distinct": len(networks),
        "warm /s": round(rate),
        "cold 200 /s": round(early),
        "cold 1000 /s": round(cold),
        "one by one /s": round(one_by_one),
        "warm / one by one": round(rate / one_by_one),
        "cold 1000 / one by one": round(cold / one_by_one, 2),
        "blocks met": len(scored.index.blocks),
        "meeting them s": round(warming_s, 1),
        "built alone": scored.alone - alone,
        "agreement": differ,
        "ONNX file ms": round(file_s * 1e3, 1),
    }


def _alone(learned: Predictor, space: SearchSpace, networks: Population) -> Bounds:
    estimates = learned.estimate([space.graph(tuple(genotype)) for genotype in networks.tolist()])
    return Bounds(*(np.array([getattr(estimate, name) for estimate in estimates]) for name in Bounds.__slots__))


def main(argv: Sequence[str] | None = None) -> None:
    """Prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=100_000, help="distinct networks that are scored warm, at most")
    parser.add_argument("--space", nargs="+", choices=SPACES, default=list(SPACES))
    options = parser.parse_args(argv)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    learned = predictor()
    with tempfile.TemporaryDirectory() as folder:
        rows = [row(name, learned, options.networks, Path(folder)) for name in options.space]
    os.sched_setaffinity(0, cores)  # the fingerprint is of the whole machine
    slowest = min(rows, key=lambda each: each["warm /s"])
    publish(
        "throughput",
        f"{slowest['warm /s']:,} distinct architectures a second on one core in the slowest of {len(rows)} spaces (goal {GOAL:,})",
        rows,
        slowest_onnx_file_ms=max(each["ONNX file ms"] for each in rows),
    )


if __name__ == "__main__":
    main()
