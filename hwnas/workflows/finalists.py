"""Closing the loop: finalists are measured, the predictor is recalibrated on them, what breaks the limit is dropped, the rest is trained.

Measuring comes before training: a network's speed does not depend on its weights, so nothing is spent on training what is
too slow. After training, the trained network is measured once more: that is the figure that counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from hwnas.accuracy.data import Dataset
from hwnas.accuracy.train import Recipe, accuracy, train
from hwnas.assets import disk_errors, write_atomically
from hwnas.errors import InfeasibleError
from hwnas.ir import Graph
from hwnas.ir.cost import flops, params
from hwnas.ir.onnx import load, save
from hwnas.predict import Predictor
from hwnas.runtimes.base import Runtime
from hwnas.runtimes.samples import Samples, StoppingRule
from hwnas.search.archive import Archive
from hwnas.search.evaluator import Bounded, Evaluation
from hwnas.search.front import select
from hwnas.search.problem import Problem
from hwnas.spaces.base import Genotype
from hwnas.units import format_seconds
from hwnas.workflows.deploy import accuracy_as_run, deployed
from hwnas.workflows.evaluator import Scorer, summary, training_variant, weights_file

RULE = StoppingRule(relative_error=0.003, min_samples=50, max_seconds=2.0)
ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A network's latency as measured, beside what was promised.

    Attributes:
        genotype: canonical.
        predicted: when it was chosen, in s.
        samples: end to end; None where the device is not on this machine.
        kept: whether the median keeps the latency limits; None where there is none, or no measurement.
    """

    genotype: Genotype
    predicted: Bounded
    samples: Samples | None
    kept: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalist:
    """A network that was trained to the end and measured.

    Attributes:
        rank: 1 is the most accurate.
        genotype: canonical.
        arch: its choices, gene by gene.
        measured: with trained weights.
        accuracies: on the locked test split, one a seed, in the precision that was searched for.
        validation: accuracies on the validation split, one a seed, as trained: in fp32.
        seeds: of the trainings.
        weights: file of the training that did best on the validation split.
        params: counted.
        flops: of one image.
        recipe: digest.
    """

    rank: int
    genotype: Genotype
    arch: dict[str, Any]
    measured: Measured
    accuracies: tuple[float, ...]
    validation: tuple[float, ...]
    seeds: tuple[int, ...]
    weights: Path
    params: int
    flops: int
    recipe: str

    def as_json(self) -> dict[str, Any]:
        """Plain values; `predicted_latency_s`, `measured_latency_s`, `limit_kept`, `accuracy_mean`, `accuracy_sd` may be relied on."""
        samples, predicted = self.measured.samples, self.measured.predicted
        return {
            "rank": self.rank,
            "genotype": list(self.genotype),
            "arch": self.arch,
            "predicted_latency_s": {"value": predicted.value, "low": predicted.low, "high": predicted.high},
            "measured_latency_s": samples and samples.median_s,
            "measured_p10_s": samples and samples.p10_s,
            "measured_p90_s": samples and samples.p90_s,
            "measured_p99_s": samples and samples.p99_s,
            "measured_n": samples.n if samples else 0,
            "measured_grade": samples and samples.grade,
            "limit_kept": self.measured.kept,
            "accuracy_mean": fmean(self.accuracies),
            "accuracy_sd": stdev(self.accuracies) if len(self.accuracies) > 1 else None,
            "accuracies": list(self.accuracies),
            "accuracy_split": "test",
            "validation_accuracies": list(self.validation),
            "seeds": list(self.seeds),
            "recipe": self.recipe,
            "weights": self.weights.name,
            "params": self.params,
            "flops": self.flops,
        }


@dataclass(slots=True, kw_only=True)
class Final:
    """The end of a search.

    Attributes:
        scorer: latency and counts, with the predictor in force.
        problem: with absolute limits.
        archive: remembers measurements and trainings.
        dataset: to train on; its test split is unlocked here.
        recipe: of the long trainings.
        runtime: that measures; None where the device is not on this machine: then finalists are chosen by prediction, and not measured.
        seeds: trainings of each finalist.
        weights: folder of trained networks.
        tell: called with what is being done.
    """

    scorer: Scorer
    problem: Problem
    archive: Archive
    dataset: Dataset
    recipe: Recipe
    runtime: Runtime | None
    seeds: int
    weights: Path
    tell: Callable[[str], None] = lambda _: None

    def measure(self, genotype: Genotype, graph: Graph, variant: str) -> Samples | None:
        """End-to-end samples of a network, taken again while the machine disturbs; remembered."""
        runtime = self.runtime
        if runtime is None:
            return None

        setting = self.scorer.predictor.setting

        def take() -> dict[str, Any]:
            session = runtime.build(graph, precision=setting.precision)
            feed = graph.random_inputs(np.random.default_rng(0))
            attempts: list[Samples] = []
            while not attempts or (attempts[-1].grade == "C" and len(attempts) < ATTEMPTS):
                attempts.append(session.time(feed, RULE))
            best = min(attempts, key=lambda samples: samples.spread)
            return {"seconds": best.seconds, "ended_by": best.ended_by}

        payload = self.archive.remember("measurement", genotype, f"{setting.key} {variant}", take)
        return Samples(np.array(payload["seconds"]), payload["ended_by"])

    def keeps(self, samples: Samples | None) -> bool | None:
        """Whether the median keeps every latency limit; None where there is none, or nothing was measured."""
        limits = [limit for limit in self.problem.constraints if limit.metric == "latency"]
        if samples is None:
            return None
        return all(limit.violation(Bounded.exact(samples.median_s)) == 0 for limit in limits) if limits else None

    def choose(self, front: Sequence[Evaluation], others: Iterable[Evaluation], k: int) -> tuple[list[Measured], Predictor]:
        """Measures candidates until k of them keep the limits, recalibrating the predictor on all that were measured.

        Args:
            front: of the search.
            others: feasible networks beside it, to fall back on.
            k: how many are wanted.

        Returns:
            Those that keep the limits, and the predictor as recalibrated on all measured.

        Raises:
            InfeasibleError: none of the measured networks keeps the limits; gives the fastest.
        """
        pool = list(front)
        spare = [evaluation for evaluation in others if evaluation.genotype not in {e.genotype for e in pool}]
        original = predictor = self.scorer.predictor
        kept: list[Measured] = []
        every: list[Measured] = []
        promised = {e.genotype: e.metrics["latency"] for e in [*pool, *spare] if "latency" in e.metrics}
        while len(kept) < k and pool:
            for evaluation in select(pool, k - len(kept), self.problem.objectives):
                if self.runtime:
                    self.tell(f"measuring candidate {len(every) + 1}")
                graph = self.scorer.space.graph(evaluation.genotype, batch=self.scorer.batch)
                predicted = promised.get(evaluation.genotype) or self._promise(predictor, evaluation.genotype)
                samples = self.measure(evaluation.genotype, graph, "candidate")
                row = Measured(genotype=evaluation.genotype, predicted=predicted, samples=samples, kept=self.keeps(samples))
                every.append(row)
                if row.kept is not False:
                    kept.append(row)
            measured = {row.genotype for row in every}
            timed = [(self._promise(original, row.genotype).value, row.samples) for row in every if row.samples]
            if timed:
                predictor = original.recalibrated(
                    np.array([value for value, _ in timed]), np.array([samples.p10_s for _, samples in timed])
                )
            pool = self._still_feasible([e for e in pool if e.genotype not in measured], predictor)
            if not pool and len(kept) < k:
                spare = self._still_feasible([e for e in spare if e.genotype not in measured], predictor)
                pool, spare = sorted(spare, key=self.problem.values)[: 2 * k], []
        if not kept:
            if not every:
                raise InfeasibleError("the search found no network that keeps all limits; search longer (--num-evals), or loosen one")
            fastest = min(row.samples.median_s for row in every if row.samples)
            limits = " and ".join(f"'{limit}'" for limit in self.problem.constraints)
            raise InfeasibleError(
                f"none of {len(every)} measured candidates keeps {limits}; the fastest took {format_seconds(fastest)}; loosen the limit, "
                f"or profile longer so that predictions are closer"
            )
        return kept, predictor

    def _promise(self, predictor: Predictor, genotype: Genotype) -> Bounded:
        (estimate,) = predictor.estimate([self.scorer.space.graph(genotype, batch=self.scorer.batch)])
        return Bounded(estimate.value, estimate.low, estimate.high)

    def _still_feasible(self, evaluations: Sequence[Evaluation], predictor: Predictor) -> list[Evaluation]:
        limits = [limit for limit in self.problem.constraints if limit.metric == "latency"]
        return [e for e in evaluations if not any(limit.violation(self._promise(predictor, e.genotype)) for limit in limits)]

    def train(self, rows: Sequence[Measured]) -> list[Finalist]:
        """Trains the chosen with several seeds, judges them on the locked test split, and measures them again, trained."""
        test = self.dataset.unlock(f"accuracy of the {len(rows)} finalists")
        found = []
        for number, row in enumerate(rows, 1):
            seeds = tuple(self.problem.seed + i for i in range(self.seeds))
            trainings = []
            for i, seed in enumerate(seeds, 1):
                self.tell(f"training finalist {number} of {len(rows)}, seed {i} of {len(seeds)}")
                trainings.append(self._train(row.genotype, seed, test))
            validation = tuple(float(payload["validation_accuracy"]) for payload in trainings)
            best = max(range(len(seeds)), key=lambda i: (validation[i], -i))
            file = weights_file(self.weights, row.genotype, seeds[best])
            graph = deployed(load(file), self.scorer.space, row.genotype, self.scorer.batch)
            if self.runtime:
                self.tell(f"measuring finalist {number} of {len(rows)}")
            samples = self.measure(row.genotype, graph, "finalist")
            single = self.scorer.space.graph(row.genotype)
            found.append(
                Finalist(
                    rank=0,
                    genotype=row.genotype,
                    arch=self.scorer.space.decode(row.genotype),
                    measured=Measured(genotype=row.genotype, predicted=row.predicted, samples=samples, kept=self.keeps(samples)),
                    accuracies=tuple(float(payload["test_accuracy"]) for payload in trainings),
                    validation=validation,
                    seeds=seeds,
                    weights=file,
                    params=params(single),
                    flops=flops(single),
                    recipe=self.recipe.digest,
                )
            )
        return rank(found)

    def _train(self, genotype: Genotype, seed: int, test: Any) -> dict[str, Any]:
        file = weights_file(self.weights, genotype, seed)

        def run() -> dict[str, Any]:
            trained = train(self.scorer.space.graph(genotype), self.dataset, self.recipe, seed)
            with disk_errors(self.weights, "make room and go on with --resume"):
                self.weights.mkdir(parents=True, exist_ok=True)
                write_atomically(file, lambda place: save(trained.graph, place))
            exact = accuracy(trained.graph, test)
            if setting.precision != "fp32":
                judged = accuracy_as_run(trained.graph, self.dataset, test, self.problem.seed, setting)
                return {**summary(trained), "test_accuracy": judged, "fp32_test_accuracy": exact}
            return {**summary(trained), "test_accuracy": exact}

        setting = self.scorer.predictor.setting
        variant = training_variant(self.recipe, seed, self.dataset) + (f" {setting.precision}" if setting.precision != "fp32" else "")
        known = self.archive.result("training", genotype, variant)
        if known is not None and not file.is_file():  # the weights were lost: train again, the same seed gives the same ones
            run()
        payload: dict[str, Any] = self.archive.remember("training", genotype, variant, run)
        return payload


def rank(finalists: Sequence[Finalist]) -> list[Finalist]:
    """Those that kept the limit first, then by mean validation accuracy (the test split judges, it does not choose)."""

    def latency_s(row: Measured) -> float:
        return row.samples.p10_s if row.samples else row.predicted.value

    ordered = sorted(finalists, key=lambda f: (f.measured.kept is False, -fmean(f.validation), latency_s(f.measured)))
    return [replace(finalist, rank=i) for i, finalist in enumerate(ordered, 1)]
