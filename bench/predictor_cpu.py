"""How close latency predictions come on networks of a space that were not profiled, with at most 90 s of profiling a case.

python bench/predictor_cpu.py [--networks 60] [--max-time 90] [--case mobilenet ...] [--keep FOLDER]

A run of some cases replaces their lines of the last run and leaves the others, each with its time. With `--keep`, each case leaves its
profile, its predictor and all visits of its check in a new folder of its own, for the question why it came out as it did.

Every case is a space with a number of threads, a batch size and a precision; each is profiled, learned and checked on its own
networks, all measured in one go, the check's rounds between the profile's (A B A B): what neighbours on the machine do to memory lasts from
seconds to minutes and moves predictions of the same large networks by 1.5 to 6 % from one profile to the next. So a check at another time
judges the machine as well. The profile's clock stands still meanwhile. Each network has two sessions, one for either half of the rounds,
which tell how well a measurement repeats.

Rivals on the same networks in the same run, for one thread, batch 1 and fp32: FLOPs (a line fitted on the profiled networks), and kernels
measured in isolation, each as a network of its own, for as long as profiling took: their sum through a random forest per kind (the way of
nn-Meter) and through a look-up table (the nearest kernel of the kind), both raw and scaled by their median error on 20 profiled networks.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import compress
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from _common import RESULTS, figures, publish

from hwnas import spaces
from hwnas.assets import Workspace
from hwnas.devices.clock import SystemClock
from hwnas.ir import Graph, Kernel, KernelCall
from hwnas.ir.cost import flops, memory_bytes
from hwnas.predict import Predictor
from hwnas.predict.features import describe
from hwnas.profiling import NetworkRecord, Plan, Progress
from hwnas.profiling.profiler import canaries
from hwnas.profiling.waves import Pooled, Together, Visiting
from hwnas.runtimes.ort import OrtRuntime
from hwnas.runtimes.samples import Samples, StoppingRule
from hwnas.spaces import SearchSpace
from hwnas.spaces.base import Genotype
from hwnas.workflows.profile import profile_each

VISITS, LEAST_VISITS = 48, 12  # of every network of a check; fewer where not all fit into memory at a time
SESSIONS = 2  # of each of them
PART_BYTES = 3 * 2**30
KERNEL_RULE = StoppingRule(relative_error=0.01, min_samples=20, max_seconds=0.03)
CALIBRATION = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One line of the table."""

    space: str
    threads: int = 1
    batch: int = 1
    precision: str = "fp32"
    rivals: bool = False

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.space}, {self.threads} thread{'s'[: self.threads > 1]}, batch {self.batch}, {self.precision}"


CASES = (
    Case(space="mobilenet", rivals=True),
    Case(space="resnet", rivals=True),
    Case(space="mobilenet-small"),
    Case(space="resnet-small"),
    Case(space="mobilenet", threads=2),
    Case(space="mobilenet", batch=16),
    Case(space="mobilenet", precision="int8"),
    Case(space="resnet", precision="int8"),
)


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


class Isolated:
    """Kernels measured one by one, and what two ways of predicting others make of them."""

    def __init__(self, runtime: OrtRuntime, predictor: Predictor, space: SearchSpace, networks: Sequence[NetworkRecord], seconds: float):
        """Measures the kernels of the networks in their order until the time is up."""
        from sklearn.ensemble import RandomForestRegressor

        known: dict[Kernel, float] = {}
        started = time.perf_counter()
        for network in networks:
            if time.perf_counter() - started > seconds:
                break
            graph = space.graph(network.genotype)
            for call in _real(predictor, graph):
                if call.kernel not in known:
                    session = runtime.build(isolated(graph, call))
                    feed = session.graph.random_inputs(np.random.default_rng(0))
                    known[call.kernel] = session.time(feed, KERNEL_RULE).p10_s
        self.spent_s = time.perf_counter() - started
        self.measured = len(known)
        self._predictor, self._space = predictor, space
        rows: dict[str, list[tuple[np.ndarray, float]]] = defaultdict(list)
        for kernel, took in known.items():
            rows[describe(kernel).kind].append((_row(kernel), float(np.log(took))))
        self._tables = {kind: (np.array([x for x, _ in pairs]), np.array([y for _, y in pairs])) for kind, pairs in rows.items()}
        forest = RandomForestRegressor(100, random_state=0, n_jobs=1)
        self._forests = {kind: type(forest)(**forest.get_params()).fit(*table) for kind, table in self._tables.items()}

    def sums(self, genotypes: Sequence[Genotype]) -> tuple[np.ndarray, np.ndarray]:
        """Sums over the kernels of networks, in s: by random forests, and by the nearest kernel that was measured."""
        forests, nearest = [], []
        for genotype in genotypes:
            by_kind: dict[str, list[np.ndarray]] = defaultdict(list)
            for call in _real(self._predictor, self._space.graph(genotype)):
                by_kind[describe(call.kernel).kind].append(_row(call.kernel))
            sums = [0.0, 0.0]
            for kind, rows in by_kind.items():
                if kind in self._tables:
                    x, y = self._tables[kind]
                    sums[0] += float(np.exp(self._forests[kind].predict(np.array(rows))).sum())
                    sums[1] += float(sum(np.exp(y[np.abs(x - row).sum(axis=1).argmin()]) for row in rows))
            forests.append(sums[0])
            nearest.append(sums[1])
        return np.array(forests), np.array(nearest)


def _real(predictor: Predictor, graph: Graph) -> list[KernelCall]:
    """The kernels that are not a layout reorder: an isolated kernel has its own."""
    return [call for call in predictor.kernels(graph) if not call.kernel.op.startswith("Reorder")]


def _row(kernel: Kernel) -> np.ndarray:
    row: np.ndarray = np.log1p(describe(kernel).values)
    return row


class Between(SystemClock):
    """Visits the networks of a check between a profile's rounds, evenly over its time; the profile's clock, which stands still meanwhile.

    Every network is built twice, in parts that fit into memory: all parts are visited some rounds each, one after the other, and once more.

    Args:
        visiting: the check.
        graphs: its networks.
        max_time: of the profile, in s.
    """

    def __init__(self, visiting: Visiting, graphs: Sequence[Graph], max_time: float) -> None:
        self._visiting, self._max_time, self._away_s = visiting, max_time, 0.0
        count = ceil(sum(map(memory_bytes, graphs)) / PART_BYTES)
        self._parts = [range(k, len(graphs), count) for k in range(count)]
        self._each = max(LEAST_VISITS, VISITS // count) // SESSIONS  # rounds of a part in a session
        self._rounds = SESSIONS * count * self._each

    def now(self) -> float:
        """Seconds of the profile."""
        return super().now() - self._away_s

    def __call__(self, _: str, progress: Progress) -> None:
        """Makes the rounds that are due; the profile says how far it is."""
        began = super().now()
        self._due(progress.seconds / self._max_time)
        self._away_s += super().now() - began

    def _due(self, share: float) -> None:
        while (number := self._visiting.rounds) < self._rounds and share >= (number + 0.5) / self._rounds:
            if number % self._each == 0:
                self._visiting.open(self._parts[number // self._each % len(self._parts)])
            self._visiting.visit()

    def finish(self) -> tuple[Together, int]:
        """What was measured, and the round with which every network's second session begins.

        What undisturbed is, the check says for itself, as the profile does: by the calmest quarter of rounds that saw the same minutes.
        To tie both by their canaries would bring in the luck of these: they took up to 4 % longer between the networks of the check, which
        themselves did not (ADR 0013).
        """
        self._due(1.0)
        return self._visiting.together(), self._rounds // SESSIONS


def run(case: Case, networks: int, max_time: float, seed: int, home: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Profiles, learns, and checks on networks that were not profiled."""
    space, runtime = spaces.load(case.space), OrtRuntime(case.threads)
    rng, drawn = np.random.default_rng(10_000 + seed), dict[Genotype, Graph]()
    while len(drawn) < networks:
        genotype = space.canonical(space.sample(rng))
        drawn[genotype] = space.graph(genotype, batch=case.batch)
    watch, graphs = canaries(space, batch=case.batch), list(drawn.values())
    between = Between(Visiting(runtime, graphs, watch, precision=case.precision), graphs, max_time)
    plan = Plan(max_time_s=max_time, target_error=1e-6)
    (outcome,) = profile_each(
        Workspace(home),
        device="cpu",
        space=case.space,
        threads=case.threads,
        batch=case.batch,
        precisions=(case.precision,),
        seed=seed,
        plan=plan,
        report=between,
        clock=between,
    )
    predictor, measured = outcome.predictor, outcome.profile
    together, second = between.finish()
    np.savez(home / "check.npz", genotypes=np.array(list(drawn)), **raw(together))
    seen = {network.genotype for network in measured.networks}
    held_out = [genotype not in seen for genotype in drawn]
    graphs, pooled = list(compress(graphs, held_out)), list(compress(together.networks, held_out))
    truth = np.array([one.latency_s for one in pooled])
    halves = [np.array([part(one, second, late).latency_s for one in pooled]) for late in (False, True)]
    estimates = predictor.estimate(graphs)
    ours = np.array([estimate.value for estimate in estimates])
    spent = measured.spent_s

    def row(way: str, predicted: np.ndarray, against: np.ndarray, seconds: float = spent) -> dict[str, Any]:
        return {"case": case.name, "way": way, "measuring_s": seconds, **figures(predicted, against)}

    rows = [row("hwnas, in context", ours, truth), row("the same, by the clock", ours, np.array([one.samples.p10_s for one in pooled]))]
    if case.rivals:
        known = measured.networks
        line = np.polyfit([flops(space.graph(network.genotype)) for network in known], [network.latency_s for network in known], 1)
        rows.append(row("FLOPs, a line", np.polyval(line, [flops(graph) for graph in graphs]), truth))
        alone = Isolated(runtime, predictor, space, known, max_time)
        some = known[:CALIBRATION]
        scales = [np.median([n.latency_s for n in some] / sums) for sums in alone.sums([n.genotype for n in some])]
        for way, sums, scale in zip(
            ("random forest of isolated kernels", "look-up table"), alone.sums(list(compress(drawn, held_out))), scales, strict=True
        ):
            rows += [row(way, sums, truth, alone.spent_s), row(f"{way}, scaled", scale * sums, truth, alone.spent_s)]
    facts = {
        "networks_profiled": len(measured.networks),
        "visits_scatter": round(measured.scatter, 4),
        "cross_fitted_mape": round(predictor.model.held_out.mape, 4),
        "median_signed_error": round(float(np.median(ours / truth - 1)), 4),
        "inside_90_interval": float(np.mean([e.low <= t <= e.high for e, t in zip(estimates, truth, strict=True)])),
        "median_below_upper_end": float(np.mean([o.samples.median_s <= e.high for e, o in zip(estimates, pooled, strict=True)])),
        "second_to_first_session_median": round(float(np.median(np.abs(halves[1] / halves[0] - 1))), 4),
        "second_to_first_session_signed": round(float(np.median(halves[1] / halves[0] - 1)), 4),
        "latency_range_ms": [round(float(x * 1e3), 3) for x in (truth.min(), truth.max())],
    }
    return rows, facts


def part(network: Pooled, second: int, late: bool) -> Pooled:
    """The visits of a network in its first or its second session, which begins with that round."""
    here = (network.rounds >= second) == late
    return Pooled(samples=Samples(network.samples.seconds[here]), rounds=network.rounds[here], slowdown=network.slowdown[here])


def raw(together: Together) -> dict[str, np.ndarray]:
    """Every run that was timed: which network's or canary's it was, its round and its seconds."""
    networks = together.networks
    visits = [(number, canary, seconds) for number, row in together.canaries.items() for canary, seconds in enumerate(row)]
    lengths = [len(seconds) for _, _, seconds in visits]
    return {
        "network": np.repeat(np.arange(len(networks)), [len(one.rounds) for one in networks]),
        "round": np.concatenate([one.rounds for one in networks]),
        "slowdown": np.concatenate([one.slowdown for one in networks]),
        "seconds": np.concatenate([one.samples.seconds for one in networks]),
        "canary": np.repeat([canary for _, canary, _ in visits], lengths),
        "canary_round": np.repeat([number for number, _, _ in visits], lengths),
        "canary_seconds": np.concatenate([seconds for _, _, seconds in visits]),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--networks", type=int, default=60)
    parser.add_argument("--max-time", type=float, default=90.0)
    parser.add_argument("--case", nargs="*", help="cases that have one of these in their name, such as int8 or 'mobilenet, 2 threads'")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a new folder for the profiles and all visits of the checks")
    options = parser.parse_args()
    for word in options.case or ():
        if not any(word in case.name for case in CASES):
            parser.error(f"no case has '{word}' in its name; there are: {'; '.join(case.name for case in CASES)}")
    if options.keep and options.keep.exists():
        parser.error(f"{options.keep} exists, and --keep wants a new folder")
    with tempfile.TemporaryDirectory() as scratch:
        for case in CASES:
            if not options.case or any(word in case.name for word in options.case):
                home = (options.keep or Path(scratch)) / case.name.replace(", ", "-").replace(" ", "_")
                home.mkdir(parents=True)
                found, facts = run(case, options.networks, options.max_time, options.seed, home)
                print(case.name, found[0], facts, flush=True)
                keep(case, found, {"when": datetime.now(UTC).isoformat(timespec="seconds"), **facts})


def keep(case: Case, found: list[dict[str, Any]], facts: dict[str, Any]) -> None:
    """Puts the lines of a case into the results, in the order of the cases."""
    path = RESULTS / "predictor_cpu.json"
    last = json.loads(path.read_text()) if path.exists() else {"rows": []}
    rows = [row for row in last["rows"] if row["case"] != case.name] + found
    known = {one.name: last[one.name] for one in CASES if one.name in last} | {case.name: facts}
    order = {one.name: i for i, one in enumerate(CASES)}
    publish(
        "predictor_cpu",
        "held-out networks: predicted against measured p10, in the canaries' time",
        sorted((row for row in rows if row["case"] in order), key=lambda row: order[row["case"]]),
        **{name: known[name] for name in order if name in known},
    )


if __name__ == "__main__":
    main()
