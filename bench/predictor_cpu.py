"""How close latency predictions come on networks of `mobilenet` that were not profiled, one thread, 90 s of profiling.

python bench/predictor_cpu.py [--networks 60] [--max-time 90]

Rivals on the same networks, in the same run: FLOPs alone (a line fitted on the profiled networks) and the sum of kernels
measured in isolation (each kernel as a network of its own), raw and scaled by its median error on 20 profiled networks.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from _common import figures, publish

from hwnas import spaces
from hwnas.assets import Workspace
from hwnas.ir import Graph, Kernel, KernelCall
from hwnas.ir.cost import flops
from hwnas.profiling import Plan
from hwnas.profiling.profiler import canaries
from hwnas.profiling.waves import measure_together
from hwnas.runtimes.ort import OrtRuntime
from hwnas.runtimes.samples import StoppingRule
from hwnas.spaces.base import Genotype
from hwnas.workflows.profile import profile

VISITS = 10
KERNEL_RULE = StoppingRule(relative_error=0.01, min_samples=20, max_seconds=0.05)
CALIBRATION = 20
REPEATS = 15


def isolated(graph: Graph, call: KernelCall) -> Graph:
    """The nodes of a kernel as a network of its own."""
    nodes = [node for node in graph.nodes if node.name in call.nodes]
    written = {value for node in nodes for value in node.outputs}
    read = dict.fromkeys(value for node in nodes for value in node.inputs if value and value not in written)
    return Graph.make(
        name=call.output,
        inputs={value: graph.specs[value] for value in read if value not in graph.weights},
        outputs=[call.output],
        nodes=nodes,
        weights={value: graph.weights[value] for value in read if value in graph.weights},
    )


def measure(runtime: OrtRuntime, graph: Graph, rule: StoppingRule) -> float:
    session = runtime.build(graph)
    samples = [session.time(graph.random_inputs(np.random.default_rng(0)), rule)]
    while samples[-1].grade == "C" and len(samples) < 3:
        samples.append(session.time(graph.random_inputs(np.random.default_rng(0)), rule))
    return min(samples, key=lambda s: s.spread).p10_s


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--networks", type=int, default=60)
    parser.add_argument("--max-time", type=float, default=90.0)
    parser.add_argument("--space", default="mobilenet")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    space, runtime = spaces.load(options.space), OrtRuntime(1)
    with tempfile.TemporaryDirectory() as home:
        plan = Plan(max_time_s=options.max_time, target_error=1e-6)
        outcome = profile(Workspace(Path(home)), device="cpu", space=options.space, seed=options.seed, plan=plan)
        predictor, profiled = outcome.predictor, outcome.profile.networks
        seen = {network.genotype for network in profiled}
        rng, held_out = np.random.default_rng(10_000 + options.seed), []
        while len(held_out) < options.networks:
            genotype = space.canonical(space.sample(rng))
            if genotype not in seen:
                seen.add(genotype)
                held_out.append(genotype)
        graphs = [space.graph(genotype) for genotype in held_out]
        watch = canaries(space)
        reference = outcome.profile.canaries
        truth = measure_together(runtime, graphs, watch, rounds=VISITS, reference=reference)
        measured = np.array([pooled.latency_s for pooled in truth])
        raw = np.array([pooled.samples.p10_s for pooled in truth])
        repeated = measure_together(runtime, graphs[:REPEATS], watch, rounds=VISITS, reference=reference)
        again = np.array([pooled.latency_s for pooled in repeated])
        estimates = predictor.estimate(graphs)

    known: dict[Kernel, float] = {}
    started = time.perf_counter()

    def kernel_sum(genotype: Genotype) -> float:
        graph = space.graph(genotype)
        total = 0.0
        for call in predictor.kernels(graph):
            if call.kernel.op.startswith("Reorder"):
                continue  # an isolated kernel has its own
            if call.kernel not in known:
                known[call.kernel] = measure(runtime, isolated(graph, call), KERNEL_RULE)
            total += known[call.kernel]
        return total

    sums = np.array([kernel_sum(genotype) for genotype in held_out])
    some = profiled[:CALIBRATION]
    scale = float(np.median([network.latency_s / kernel_sum(network.genotype) for network in some]))
    isolated_s = time.perf_counter() - started
    line = np.polyfit([flops(space.graph(network.genotype)) for network in profiled], [network.latency_s for network in profiled], 1)
    by_flops = np.polyval(line, [flops(graph) for graph in graphs])

    ours = np.array([estimate.value for estimate in estimates])
    inside = float(np.mean(np.abs(np.log(measured / ours)) <= predictor.model.half_width))
    medians = np.array([pooled.samples.median_s for pooled in truth])
    below = float(np.mean(medians <= [estimate.high for estimate in estimates]))
    publish(
        "predictor_cpu" if options.space == "mobilenet" else f"predictor_cpu_{options.space}",
        f"{options.networks} held-out networks of '{options.space}', one thread: predicted against measured p10, by the profile's canaries",
        [
            {"way": "hwnas, in context", "measuring_s": outcome.profile.spent_s, **figures(ours, measured)},
            {"way": "the same, against uncorrected p10", "measuring_s": outcome.profile.spent_s, **figures(ours, raw)},
            {"way": "sum of isolated kernels", "measuring_s": isolated_s, **figures(sums, measured)},
            {"way": "sum of isolated kernels, scaled", "measuring_s": isolated_s, **figures(scale * sums, measured)},
            {"way": "FLOPs, a line", "measuring_s": outcome.profile.spent_s, **figures(by_flops, measured)},
        ],
        networks_profiled=len(profiled),
        cross_fitted_mape=predictor.model.held_out.mape,
        median_signed_error=float(np.median(ours / measured - 1)),
        isolated_kernels=len(known),
        p10_inside_90_interval=inside,
        median_below_upper_end=below,
        repeat_of_a_measurement_median=float(np.median(np.abs(again / measured[:REPEATS] - 1))),
        latency_range_ms=[float(measured.min() * 1e3), float(measured.max() * 1e3)],
    )


if __name__ == "__main__":
    main()
