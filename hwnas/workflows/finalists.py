"""Closing the loop: finalists are measured, the predictor is recalibrated on them, what breaks the limit is dropped, the rest is trained.

Measuring comes before training: a network's speed does not depend on its weights, so nothing is spent on training what is
too slow. After training, the trained network is measured once more: that is the figure that counts. Energy is held against its limits in
the same way, where the device has a meter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from hwnas.accuracy.data import Dataset
from hwnas.accuracy.train import Recipe, accuracy, train
from hwnas.assets import disk_errors, write_atomically
from hwnas.devices import Unavailable
from hwnas.errors import InfeasibleError
from hwnas.ir import Graph, Kernel
from hwnas.ir.cost import flops, params
from hwnas.ir.onnx import load, save
from hwnas.predict import Predictor
from hwnas.predict.energy_store import EnergyPredictor
from hwnas.runtimes.base import Runtime
from hwnas.runtimes.samples import Samples, StoppingRule
from hwnas.search.archive import Archive
from hwnas.search.evaluator import Bounded, Evaluation
from hwnas.search.front import select
from hwnas.search.problem import Constraint, Problem
from hwnas.spaces.base import Genotype
from hwnas.units import format_joules, format_seconds
from hwnas.workflows.deploy import accuracy_as_run, deployed
from hwnas.workflows.evaluator import Scorer, summary, training_variant, weights_file
from hwnas.workflows.metering import NOT_MEASURED, Metering, Reading

RULE = StoppingRule(relative_error=0.003, min_samples=50, max_seconds=2.0)
ATTEMPTS = 3
MEASURABLE = ("latency", "energy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A network's latency and energy as measured, beside what was promised.

    Attributes:
        genotype: canonical.
        predicted: when it was chosen, in s.
        samples: end to end; None where the device is not on this machine.
        predicted_energy: of a call, when it was chosen, in J; None where no energy was learned.
        energy: of a call, or why it was not measured.
        kept: whether the median keeps the latency limits and the energy read keeps those on energy; None where there is none, or one
            that could not be measured while no other is broken.
    """

    genotype: Genotype
    predicted: Bounded
    samples: Samples | None
    kept: bool | None
    predicted_energy: Bounded | None = None
    energy: Reading | Unavailable = NOT_MEASURED


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
        """Plain values; all but `measured_grade`, `recipe` and `weights` may be relied on.

        An energy that is not known is null, and `energy` says why; `limit_kept` is about latency and energy.
        """
        samples, predicted = self.measured.samples, self.measured.predicted
        foreseen, energy = self.measured.predicted_energy, self.measured.energy
        read = None if isinstance(energy, Unavailable) else energy
        return {
            "rank": self.rank,
            "genotype": list(self.genotype),
            "arch": self.arch,
            "predicted_latency_s": _plain(predicted),
            "measured_latency_s": samples and samples.median_s,
            "measured_p10_s": samples and samples.p10_s,
            "measured_p90_s": samples and samples.p90_s,
            "measured_p99_s": samples and samples.p99_s,
            "measured_n": samples.n if samples else 0,
            "measured_grade": samples and samples.grade,
            "predicted_energy_j": foreseen and _plain(foreseen),
            "measured_energy_j": read and read.joules,
            "measured_energy_uncertainty_j": read and read.uncertainty_j,
            "measured_net_energy_j": read and read.net_joules,
            "measured_net_energy_uncertainty_j": read and read.net_uncertainty_j,
            "energy_source": read and read.source,
            "energy_notes": list(read.notes) if read else [],
            "energy": read.told if read else f"unavailable: {energy.reason}" if isinstance(energy, Unavailable) else "",
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


def _plain(bound: Bounded) -> dict[str, float]:
    return {"value": bound.value, "low": bound.low, "high": bound.high}


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictors:
    """What foretells candidates: as the search used them, or as they are after some were measured.

    Attributes:
        latency: in s.
        energy: in J of a call, where it was learned.
    """

    latency: Predictor
    energy: EnergyPredictor | None

    def promise(self, graph: Graph) -> dict[str, Bounded]:
        """Latency and energy of a network."""
        (latency,) = self.latency.estimate([graph])
        found = {"latency": Bounded(latency.value, latency.low, latency.high)}
        if self.energy:
            (energy,) = self.energy.estimate([self.kernels(graph)], [latency.value])
            found["energy"] = Bounded(energy.value, energy.low, energy.high)
        return found

    def kernels(self, graph: Graph) -> list[Kernel]:
        """As the runtime makes them of the network."""
        return [call.kernel for call in self.latency.kernels(graph)]


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
        metering: reads energy: that of candidates where it is a limit or an objective, that of finalists always.
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
    metering: Metering | Unavailable = NOT_MEASURED
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

    def read_energy(self, genotype: Genotype, graph: Graph, variant: str) -> Reading | Unavailable:
        """The energy of a call, or why there is no reading; a reading is remembered, a refusal is not: it may have passed."""
        runtime, metering, setting = self.runtime, self.metering, self.scorer.predictor.setting
        if isinstance(metering, Unavailable):
            return metering
        if runtime is None:
            return Unavailable("the device is not on this machine")
        name = f"{setting.key} {metering.meter.source} {variant}"
        row = self.archive.result("energy", genotype, name)
        if row is not None:
            return metering.read(row)
        self.tell("reading the energy of that network, which takes most of a minute")
        began = time.perf_counter()
        found = metering.take(runtime, graph, setting.precision, (self.problem.seed, *genotype))
        if isinstance(found, Unavailable):
            return found
        self.archive.record("energy", genotype, name, found, time.perf_counter() - began)
        return metering.read(found)

    def keeps(self, samples: Samples | None, energy: Reading | Unavailable | None = None) -> bool | None:
        """Whether what was measured keeps every limit on latency and on energy.

        Args:
            samples: end to end, whose median counts.
            energy: of a call, with idle power, as limits mean it.

        Returns:
            None where there is no such limit, or none is broken and one could not be measured.
        """
        if samples is None:
            return None
        measured = {"latency": samples.median_s, "energy": energy.joules if isinstance(energy, Reading) else None}
        verdicts = [
            None if (value := measured[limit.metric]) is None else limit.violation(Bounded.exact(value)) == 0 for limit in self._measurable
        ]
        if False in verdicts:
            return False
        return True if verdicts and None not in verdicts else None

    @property
    def _measurable(self) -> list[Constraint]:
        return [limit for limit in self.problem.constraints if limit.metric in MEASURABLE]

    def choose(self, front: Sequence[Evaluation], others: Iterable[Evaluation], k: int) -> tuple[list[Measured], Predictor]:
        """Measures candidates until k of them keep the limits, recalibrating the predictors on all that were measured.

        Args:
            front: of the search.
            others: feasible networks beside it, to fall back on.
            k: how many are wanted.

        Returns:
            Those that keep the limits, and the predictor of latency as recalibrated on all measured.

        Raises:
            InfeasibleError: none of the measured networks keeps the limits; gives the fastest, and the most frugal.
        """
        pool = list(front)
        spare = [evaluation for evaluation in others if evaluation.genotype not in {e.genotype for e in pool}]
        original = predictors = Predictors(latency=self.scorer.predictor, energy=self.scorer.energy)
        kept: list[Measured] = []
        every: list[Measured] = []
        while len(kept) < k and pool:
            for evaluation in select(pool, k - len(kept), self.problem.objectives):
                if self.runtime:
                    self.tell(f"measuring candidate {len(every) + 1}")
                graph = self._graph(evaluation.genotype)
                predicted = self._promised(predictors, evaluation)
                samples = self.measure(evaluation.genotype, graph, "candidate")
                energy = self._candidate_energy(evaluation.genotype, graph, samples)
                row = Measured(
                    genotype=evaluation.genotype,
                    predicted=predicted["latency"],
                    samples=samples,
                    kept=self.keeps(samples, energy),
                    predicted_energy=predicted.get("energy"),
                    energy=energy,
                )
                every.append(row)
                if row.kept is not False:
                    kept.append(row)
            measured = {row.genotype for row in every}
            predictors = self._recalibrated(original, every)
            pool = self._still_feasible([e for e in pool if e.genotype not in measured], predictors)
            if not pool and len(kept) < k:
                spare = self._still_feasible([e for e in spare if e.genotype not in measured], predictors)
                pool, spare = sorted(spare, key=self.problem.values)[: 2 * k], []
        if not kept:
            if not every:
                raise InfeasibleError("the search found no network that keeps all limits; search longer (--num-evals), or loosen one")
            fastest = min(row.samples.median_s for row in every if row.samples)
            joules = [row.energy.joules for row in every if isinstance(row.energy, Reading)]
            frugal = f", the most frugal {format_joules(min(joules))}" if joules else ""
            limits = " and ".join(f"'{limit}'" for limit in self.problem.constraints)
            raise InfeasibleError(
                f"none of {len(every)} measured candidates keeps {limits}; the fastest took {format_seconds(fastest)}{frugal}; loosen the "
                f"limit, or profile longer so that predictions are closer"
            )
        return kept, predictors.latency

    def _candidate_energy(self, genotype: Genotype, graph: Graph, samples: Samples | None) -> Reading | Unavailable:
        """Energy where it decides: most of a minute is not spent where nobody asked, or where the latency is too long already."""
        if "energy" not in self.problem.metrics:
            return Unavailable("it was neither a limit nor an objective")
        if self.keeps(samples) is False:
            return Unavailable("the network broke the limit on latency")
        return self.read_energy(genotype, graph, "candidate")

    def _promised(self, predictors: Predictors, evaluation: Evaluation) -> Mapping[str, Bounded]:
        """Latency and energy as the search foretold them; what it did not have to foretell, as the predictors do now."""
        if "latency" in evaluation.metrics and ("energy" in evaluation.metrics or not predictors.energy):
            return evaluation.metrics
        return {**predictors.promise(self._graph(evaluation.genotype)), **evaluation.metrics}

    def _graph(self, genotype: Genotype) -> Graph:
        return self.scorer.space.graph(genotype, batch=self.scorer.batch)

    def _recalibrated(self, original: Predictors, every: Sequence[Measured]) -> Predictors:
        """The predictors of the search, taught by all candidates that were measured: latency first, since energy starts from it."""
        timed = [(self._graph(row.genotype), row.samples.p10_s) for row in every if row.samples]
        if not timed:
            return original
        seconds = np.array([estimate.value for estimate in original.latency.estimate([graph for graph, _ in timed])])
        latency = original.latency.recalibrated(seconds, np.array([p10_s for _, p10_s in timed]))
        read = [(self._graph(row.genotype), row.energy.joules) for row in every if isinstance(row.energy, Reading)]
        if original.energy is None or not read:
            return replace(original, latency=latency)
        graphs = [graph for graph, _ in read]
        kernels, times = [original.kernels(graph) for graph in graphs], [estimate.value for estimate in latency.estimate(graphs)]
        return Predictors(latency=latency, energy=original.energy.recalibrated(kernels, times, [joules for _, joules in read]))

    def _still_feasible(self, evaluations: Sequence[Evaluation], predictors: Predictors) -> list[Evaluation]:
        limits = self._measurable
        if not limits:
            return list(evaluations)
        found = []
        for evaluation in evaluations:
            promise = predictors.promise(self._graph(evaluation.genotype))
            if not any(limit.violation(promise[limit.metric]) for limit in limits):
                found.append(evaluation)
        return found

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
            samples, energy = self.measure(row.genotype, graph, "finalist"), self.read_energy(row.genotype, graph, "finalist")
            single = self.scorer.space.graph(row.genotype)
            found.append(
                Finalist(
                    rank=0,
                    genotype=row.genotype,
                    arch=self.scorer.space.decode(row.genotype),
                    measured=replace(row, samples=samples, energy=energy, kept=self.keeps(samples, energy)),
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
