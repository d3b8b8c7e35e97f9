"""Holds the variants of a network against each other: latency side by side, accuracy on the same images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np

from hwnas.errors import require
from hwnas.export.numerics import Runs
from hwnas.ir import Graph
from hwnas.ir.node import Array
from hwnas.runtimes.ort import pinned
from hwnas.runtimes.samples import Clock, Samples, StoppingRule, interleave, sample

Predict = Callable[[Array], Array]
Accuracy = Callable[[Predict], float]

FEWEST_ROUNDS, MOST_ROUNDS = 30, 1000
FEWEST_ALONE = 50  # a median is promised, not only the p10 that settles first
ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """What several contenders took, in two ways.

    Attributes:
        alone: each by itself, as profiles and finalists are measured: the latency that is promised.
        side_by_side: A B C A B C ..., for ratios: whatever disturbs the machine disturbs all alike, but each finds the caches as the
            others left them.
    """

    alone: Mapping[str, Samples]
    side_by_side: Mapping[str, Samples]


def time_all(runs: Mapping[str, Callable[[], object]], *, threads: int, seconds: float, clock: Clock = time.perf_counter_ns) -> Latencies:
    """Times contenders alone and side by side, again where something disturbed the machine; the quietest attempts count.

    Args:
        runs: what to time, by name.
        threads: with which they compute.
        seconds: for one attempt of each kind, roughly.
        clock: nanoseconds, monotonic.
    """
    pairs = side_by_side(runs, threads=threads, seconds=seconds, clock=clock)
    rule = StoppingRule(min_samples=FEWEST_ALONE, max_seconds=seconds / len(runs))
    return Latencies(
        alone={name: _quietest(partial(_alone, run, rule, clock), threads)["alone"] for name, run in runs.items()}, side_by_side=pairs
    )


def side_by_side(
    runs: Mapping[str, Callable[[], object]], *, threads: int, seconds: float, clock: Clock = time.perf_counter_ns
) -> dict[str, Samples]:
    """Times contenders A B C A B C ... for roughly so many seconds; the quietest attempt counts."""
    for run in runs.values():  # thread pools start here, before the calling thread is pinned: they would inherit its one processor
        run()
    start = clock()
    for run in runs.values():
        run()
    one_round_s = max((clock() - start) / 1e9, 1e-9)
    rounds = int(np.clip(seconds / one_round_s, FEWEST_ROUNDS, MOST_ROUNDS))
    return _quietest(partial(interleave, runs, rounds=rounds, clock=clock), threads)


def _alone(run: Callable[[], object], rule: StoppingRule, clock: Clock) -> dict[str, Samples]:
    return {"alone": sample(run, rule, clock)}


def _quietest(take: Callable[[], dict[str, Samples]], threads: int) -> dict[str, Samples]:
    """The least disturbed of up to three attempts; the first that is not disturbed ends them. The calling thread is pinned meanwhile."""
    attempts: list[dict[str, Samples]] = []
    while len(attempts) < ATTEMPTS:
        with pinned(threads):
            attempts.append(take())
        if all(samples.grade != "C" for samples in attempts[-1].values()):
            break
    return min(attempts, key=lambda attempt: max(samples.spread for samples in attempt.values()))


@contextmanager
def eager_torch(graph: Graph, feed: Mapping[str, Array], threads: int) -> Iterator[Callable[[], object]]:
    """Gives one run of the network in eager torch, in inference mode; torch computes with so many threads meanwhile."""
    torch = require("torch")
    from hwnas.ir.torch import lower

    module = lower(graph).eval()
    inputs = [torch.from_numpy(np.ascontiguousarray(feed[name])) for name in graph.inputs]

    def run() -> object:
        with torch.inference_mode():
            return module(*inputs)

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield run
    finally:
        torch.set_num_threads(before)


def predictor(session: Runs, graph: Graph) -> Predict:
    """A session as a function of any number of images: they are served in batches of the network's fixed size, the last one padded."""
    ((name, spec),) = graph.inputs.items()
    size = spec.shape[0]

    def predict(images: Array) -> Array:
        outputs = []
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            filled = np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)]) if len(batch) < size else batch
            outputs.append(session.run({name: np.ascontiguousarray(filled)})[0][: len(batch)])
        return np.concatenate(outputs)

    return predict
