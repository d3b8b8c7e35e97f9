"""Whether what work adds to a row of products is what it takes: the scheme of `hwnas kernels bench`, on a processor.

python bench/kernel_chain.py

On a card a profiler costs as much as a short kernel, so that `hwnas kernels bench` does without one: it takes the difference of two
networks (`hwnas.kernels.chain`). Where kernels are long and the profiler is cheap, both ways must agree. Here ONNX Runtime on one thread
runs both networks of every case of `kernels/`, A B A B; the profiler's times of the work's kernels are rescaled to the run without it.
Medians are over blocks of both.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from _common import publish

from hwnas.ir.kernel import FREE
from hwnas.kernels import all_kernels
from hwnas.kernels.chain import chain
from hwnas.runtimes.ort import OrtRuntime
from hwnas.runtimes.samples import interleave
from hwnas.workflows.kernels_worth import Fusion

BLOCKS = 7  # of samples and profiled runs in turn, since the machine changes its mind
ROUNDS = 8
PROFILED = 8


def rows(runtime: OrtRuntime) -> Iterator[dict[str, Any]]:
    """Both ways, for every case of every kernel."""
    for source in all_kernels():
        for case in source.cases:
            row = chain(source.name, case)
            whole, bare = runtime.build(row.whole), runtime.build(row.bare)
            feed, other = (graph.random_inputs(np.random.default_rng(0)) for graph in (row.whole, row.bare))
            inside = frozenset().union(*row.places)
            free = frozenset(node.name for node in row.whole.nodes if node.op in FREE)
            added_s, told_s = [], []
            for _ in range(BLOCKS):
                samples = interleave({"whole": partial(whole.run, feed), "bare": partial(bare.run, other)}, rounds=ROUNDS)
                added_s.append(float(np.median(samples["whole"].seconds - samples["bare"].seconds)) / row.links)
                times = whole.kernel_times(feed, PROFILED)
                scale = samples["whole"].median_s / sum(time.seconds for time in times)
                work_s = sum(time.seconds for time in times if not inside.isdisjoint(time.call.nodes))
                told_s.append(scale * work_s / len(row.places))
            yield {
                "kernel": source.name,
                "case": case.name,
                "made of it": str(Fusion.of(tuple(time.call for time in times), row.places, free)),
                "added_us": float(np.median(added_s)) * 1e6,
                "profiler_us": float(np.median(told_s)) * 1e6,
                "ratio": float(np.median(added_s) / np.median(told_s)),
            }


def main() -> None:
    """Prints and publishes the table."""
    found = list(rows(OrtRuntime(1)))
    ratios = np.array([row["ratio"] for row in found])
    publish(
        "kernel_chain",
        "What work adds to a row of products is what the profiler says it takes, where the profiler is cheap",
        found,
        median_ratio=float(np.median(ratios)),
        worst=float(np.abs(ratios - 1).max()),
    )


if __name__ == "__main__":
    main()
