"""What a search knows of a network: latency predicted, counts counted, accuracy from proxies, trainings and a surrogate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.accuracy.data import Dataset
from hwnas.accuracy.proxies import PROXIES, score_all
from hwnas.accuracy.ranks import ProxyRanks
from hwnas.accuracy.surrogate import AccuracySurrogate, Row
from hwnas.accuracy.train import Recipe, Trained, train
from hwnas.errors import UsageError
from hwnas.ir import Graph
from hwnas.ir.cost import flops, memory_bytes, params
from hwnas.predict import Estimate, Predictor
from hwnas.predict.energy_store import EnergyPredictor
from hwnas.predict.features import Matrix
from hwnas.predict.population import PopulationPredictor
from hwnas.search.archive import Archive
from hwnas.search.evaluator import Bounded, Evaluation
from hwnas.search.problem import Problem
from hwnas.spaces import SearchSpace
from hwnas.spaces.base import Genotype, Population
from hwnas.spaces.blocks import BlockCounts, BlockIndex

COUNTS: Mapping[str, Callable[[Graph], int]] = {"params": params, "flops": flops, "memory": memory_bytes}
POPULATION = 32  # random networks against which proxies are ranked, frozen at the start of a run
SD = 1.645  # half of a 90 % interval of a normal variable, in standard deviations
UNSCORED = Bounded(0.0, 0.0, 1.0)
NOT_SCORED = "not scored: breaks a limit"


@dataclass(slots=True, kw_only=True)
class Scorer:
    """Everything about a network that does not need accuracy: built once per run, cheap.

    Networks of a `FactoredSpace` are put together from their blocks, which are counted and predicted once each; others, and what
    another kind of predictor than `Predictor` says of them, are built one by one. Both say the same, to the rounding of sums.

    Attributes:
        space: the networks.
        predictor: of latency.
        batch: images per call.
        energy: predictor of energy, where one was learned; networks are built one by one for it.
    """

    space: SearchSpace
    predictor: Predictor
    batch: int
    energy: EnergyPredictor | None = None
    _index: BlockIndex = field(init=False, repr=False)
    _counts: BlockCounts = field(init=False, repr=False)
    _latency: PopulationPredictor | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        self._index = BlockIndex(self.space, batch=self.batch)
        self._counts = BlockCounts(self._index)
        if isinstance(self.predictor, Predictor) and self._index.tabled and self.predictor.setting.batch == self.batch:
            self._latency = PopulationPredictor(self.predictor, self.space, self._index)

    def bounds(self, genotypes: Sequence[Genotype], metrics: Sequence[str]) -> list[dict[str, Bounded]]:
        """The metrics asked for of every network, those that need no training; per call of `batch` images."""
        population = np.array(genotypes, np.int64).reshape(len(genotypes), len(self.space.genes))
        columns = {name: matrix.tolist() for name, matrix in self.matrices(population, metrics).items()}
        return [{name: Bounded(*column[i]) for name, column in columns.items()} for i in range(len(genotypes))]

    def matrices(self, population: Population, metrics: Sequence[str]) -> dict[str, Matrix]:
        """The same for a matrix of genotypes, as matrices [n, 3] of value, low and high."""
        counted = [name for name in metrics if name in COUNTS]
        predicted, metered = "latency" in metrics or "energy" in metrics, "energy" in metrics
        graphs: list[Graph] = []
        if (counted and not self._index.tabled) or (predicted and self._latency is None) or metered:
            graphs = [self.space.graph(tuple(row), batch=self.batch) for row in population.tolist()]
        found = self._counted(counted, population, graphs) if counted else {}
        if self._latency and predicted:
            bounds = self._latency.bounds(population)
            found["latency"] = np.column_stack([bounds.value, bounds.low, bounds.high])
        elif predicted:
            estimates = self.predictor.estimate(graphs)
            found["latency"] = _columns(estimates)
        if metered and self.energy:
            kernels = [[call.kernel for call in self.predictor.kernels(graph)] for graph in graphs]
            found["energy"] = _columns(self.energy.estimate(kernels, found["latency"][:, 0].tolist()))
        return {name: found[name] for name in metrics if name in found}

    def _counted(self, names: Sequence[str], population: Population, graphs: Sequence[Graph]) -> dict[str, Matrix]:
        if self._index.tabled:
            counts = self._counts.count(self._index.divide(population))
            columns = {"params": counts.params, "flops": counts.flops, "memory": counts.memory_bytes}
        else:
            columns = {name: np.array([COUNTS[name](graph) for graph in graphs], np.int64) for name in names}
        return {name: np.repeat(columns[name][:, None].astype(np.float64), 3, axis=1) for name in names}


def _columns(estimates: Sequence[Estimate]) -> Matrix:
    return np.array([[each.value, each.low, each.high] for each in estimates]).reshape(-1, 3)


@dataclass(slots=True, kw_only=True)
class SearchEvaluator:
    """Satisfies `hwnas.search.evaluator.Evaluator`.

    Networks that break a limit get no accuracy: nothing is spent on what cannot win. The promising ones of each generation
    are trained briefly, and the surrogate that ranks all others learns from them.

    Attributes:
        scorer: latency and counts.
        problem: what is searched.
        archive: remembers what was costly.
        dataset: to score and to train on.
        recipe: of the brief trainings.
        trainings: how many in all.
        population: networks per generation, over which the trainings are spread.
        tell: called with what is being done, for a progress display.
    """

    scorer: Scorer
    problem: Problem
    archive: Archive
    dataset: Dataset
    recipe: Recipe
    trainings: int
    population: int
    tell: Callable[[str], None] = lambda _: None
    surrogate: AccuracySurrogate = field(init=False)
    trained: dict[Genotype, float] = field(init=False, default_factory=dict)
    _scores: dict[Genotype, dict[str, float]] = field(init=False, default_factory=dict)
    _refined: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        rng = np.random.default_rng([self.problem.seed, POPULATION])
        space = self.scorer.space
        sampled = [space.canonical(space.sample(rng)) for _ in range(POPULATION)]
        scores = []
        for i, genotype in enumerate(sampled, 1):
            self.tell(f"proxies of {i} of {POPULATION} reference networks")
            scores.append(self.proxies(genotype))
        self.surrogate = AccuracySurrogate(ProxyRanks.fit(scores), seed=self.problem.seed)

    def proxies(self, genotype: Genotype) -> dict[str, float]:
        """Scores of a network by all proxies, remembered."""
        if genotype not in self._scores:
            variant = f"{','.join(PROXIES)} seed {self.problem.seed} data {self.dataset.digest[:12]}"

            def score() -> dict[str, float]:
                graph = self.scorer.space.graph(genotype)
                return dict(score_all(graph, self.dataset, seed=self.problem.seed).values)

            self._scores[genotype] = self.archive.remember("proxies", genotype, variant, score)
        return self._scores[genotype]

    def evaluate(self, genotypes: Sequence[Genotype]) -> Sequence[Evaluation]:
        """See `Evaluator.evaluate`."""
        names = [name for name in self.problem.metrics if name != "accuracy"]
        limits = [limit for limit in self.problem.constraints if limit.metric != "accuracy"]
        metrics = self.scorer.bounds(genotypes, names)
        sources: list[dict[str, str]] = [{name: "counted" if name in COUNTS else "predicted" for name in names} for _ in genotypes]
        if "accuracy" in self.problem.metrics:
            kept = [i for i, row in enumerate(metrics) if not any(limit.violation(row[limit.metric]) for limit in limits)]
            for done, i in enumerate(kept):
                self.tell(f"proxies of {done + 1} of {len(kept)} networks that keep the limits")
                self.proxies(genotypes[i])
            for i, (accuracy, source) in enumerate(self._accuracies(genotypes, set(kept))):
                metrics[i]["accuracy"], sources[i]["accuracy"] = accuracy, source
        return [Evaluation(genotype=g, metrics=m, source=s) for g, m, s in zip(genotypes, metrics, sources, strict=True)]

    def _accuracies(self, genotypes: Sequence[Genotype], kept: set[int]) -> list[tuple[Bounded, str]]:
        rows = [Row(genotype=genotypes[i], proxies=self._scores[genotypes[i]]) for i in sorted(kept)]
        mean, sd = self.surrogate.predict(rows)
        estimates = dict(zip(sorted(kept), zip(mean.tolist(), sd.tolist(), strict=True), strict=True))
        found = []
        for i, genotype in enumerate(genotypes):
            if i not in kept:
                found.append((UNSCORED, NOT_SCORED))
            elif genotype in self.trained:
                found.append((Bounded.exact(self.trained[genotype]), "trained briefly"))
            else:
                value, deviation = estimates[i]
                low, high = max(0.0, value - SD * deviation), min(1.0, value + SD * deviation)
                found.append((Bounded(value, low, high), "surrogate" if self.trained else "proxies"))
        return found

    def refine(self, archive: Archive) -> bool:
        """Trains the most promising networks that were not trained yet, as many as are due by now; see `Evaluator.refine`."""
        self._refined += 1
        due = min(self.trainings, self._share() * self._refined) - len(self.trained)
        if due <= 0 or "accuracy" not in self.problem.metrics:
            return False
        chosen = self._promising(archive)[:due]
        for genotype in chosen:
            self.tell(f"training {len(self.trained) + 1} of {self.trainings}")
            self.trained[genotype] = self.train_briefly(genotype)
        if chosen:
            rows = [Row(genotype=g, proxies=self.proxies(g), accuracy=accuracy) for g, accuracy in self.trained.items()]
            self.surrogate.fit(rows)
        return bool(chosen)

    def _promising(self, archive: Archive) -> list[Genotype]:
        """Networks that keep the limits and were not trained yet: the front's first, then the others, the most hopeful first."""

        def hopeful(evaluations: Iterable[Evaluation]) -> list[Genotype]:
            ranked = sorted(evaluations, key=lambda e: (-e.metrics["accuracy"].high, e.genotype))
            return [evaluation.genotype for evaluation in ranked]

        kept = (evaluation for evaluation in archive.latest().values() if self.problem.feasible(evaluation))
        ranked = dict.fromkeys([*hopeful(archive.front(self.problem)), *hopeful(kept)])
        return [genotype for genotype in ranked if genotype not in self.trained]

    def _share(self) -> int:
        """Trainings per generation, so that they last through the run."""
        generations = max(1, (self.problem.budget.evaluations or 0) // self.population)
        return ceil(self.trainings / generations)

    def train_briefly(self, genotype: Genotype) -> float:
        """Validation accuracy after a brief training, remembered."""
        seed = self.problem.seed
        payload = self.archive.remember(
            "training",
            genotype,
            training_variant(self.recipe, seed, self.dataset),
            lambda: summary(train(self.scorer.space.graph(genotype), self.dataset, self.recipe, seed)),
        )
        return float(payload["validation_accuracy"])


def training_variant(recipe: Recipe, seed: int, dataset: Dataset) -> str:
    """What determines a training besides the network."""
    return f"recipe {recipe.digest[:12]} seed {seed} data {dataset.digest[:12]}"


def summary(trained: Trained) -> dict[str, Any]:
    """What is recorded of a training."""
    return {
        "validation_accuracy": trained.validation_accuracy,
        "outcome": trained.outcome,
        "reason": trained.reason,
        "curve": [asdict(epoch) for epoch in trained.curve],
    }


def check_metrics(problem_metrics: Sequence[str], energy_reason: str) -> None:
    """Refuses what cannot be predicted here.

    Raises:
        UsageError: energy was asked for and the device has no meter.
    """
    if "energy" in problem_metrics:
        raise UsageError(f"energy is unavailable: {energy_reason}; search without it")


def weights_file(folder: Path, genotype: Genotype, seed: int) -> Path:
    """Where a finalist's trained network lies."""
    return folder / f"{sha256(repr(genotype).encode()).hexdigest()[:12]}-seed{seed}.onnx"
