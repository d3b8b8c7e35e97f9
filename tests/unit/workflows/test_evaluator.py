"""What a search is told of networks: counted, predicted, judged by proxies, and a few of them trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from paper_device import BLOCK, ROOFLINE, measured
from paper_device import SETTING as PAPER
from stand_ins import SPACE, FormulaPredictor, ladder, problem, seconds

from hwnas import spaces
from hwnas.accuracy import data
from hwnas.accuracy.proxies import PROXIES
from hwnas.accuracy.train import Recipe
from hwnas.errors import UsageError
from hwnas.ir import Graph, cost
from hwnas.predict import Predictor, fitting
from hwnas.runtimes.fusions import Fusions
from hwnas.search import nsga2
from hwnas.search.archive import Archive
from hwnas.search.evaluator import Bounded, Evaluation
from hwnas.search.problem import Budget, Objective, Problem
from hwnas.spaces.base import Genotype, SearchSpace
from hwnas.workflows import evaluator as module
from hwnas.workflows.evaluator import NOT_SCORED, Scorer, SearchEvaluator, check_metrics

A, B, C, D = ladder(4)
RECIPE = Recipe(epochs=1)


@pytest.fixture(autouse=True)
def _few_reference_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies are ranked against five networks, which takes less time."""
    monkeypatch.setattr(module, "POPULATION", 5)


@pytest.fixture
def archive() -> Archive:
    return Archive.open(":memory:")


def scorer(batch: int = 1) -> Scorer:
    return Scorer(space=SPACE, predictor=FormulaPredictor(), batch=batch)


def evaluator(archive: Archive, asked: Problem, *, trainings: int = 0, population: int = 4) -> SearchEvaluator:
    """The evaluator of a search of the tiny space."""
    return SearchEvaluator(
        scorer=scorer(),
        problem=asked,
        archive=archive,
        dataset=data.load("digits"),
        recipe=RECIPE,
        trainings=trainings,
        population=population,
    )


def test_counts_and_predictions() -> None:
    """Counts are exact, latency has its interval; only what is asked for is given, as rows or as a matrix."""
    graph = SPACE.graph(A, batch=3)
    (row,) = scorer(batch=3).bounds([A], ["params", "memory", "latency"])
    assert set(row) == {"params", "memory", "latency"}
    assert row["params"] == Bounded.exact(cost.params(graph))
    assert row["memory"] == Bounded.exact(cost.memory_bytes(graph))
    value = 1e-9 * cost.flops(graph)
    assert row["latency"] == Bounded(value, 0.95 * value, 1.05 * value)
    matrices = scorer(batch=3).matrices(np.array([A, B]), ["latency", "flops"])
    assert matrices["latency"][0].tolist() == [row["latency"].value, row["latency"].low, row["latency"].high]
    assert matrices["flops"][:, 0].tolist() == [cost.flops(SPACE.graph(genotype, batch=3)) for genotype in (A, B)]


def test_networks_that_break_a_limit_cost_nothing(archive: Archive) -> None:
    """They are not scored, and nobody can mistake the accuracy that they are given for an estimate."""
    asked = problem(f"latency<={1.2 * seconds(B):.12f}s")
    found = evaluator(archive, asked).evaluate([D, A, C, B])
    assert [evaluation.genotype for evaluation in found] == [D, A, C, B]
    assert [evaluation.source["accuracy"] for evaluation in found] == [NOT_SCORED, "proxies", NOT_SCORED, "proxies"]
    assert [evaluation.source["latency"] for evaluation in found] == ["predicted"] * 4
    scored = {stored.genotype for stored in archive.results("proxies")}
    assert {A, B} <= scored
    assert not {C, D} & scored
    assert [asked.feasible(evaluation) for evaluation in found] == [False, True, False, True]
    worst = found[0].metrics["accuracy"]
    assert (worst.value, worst.low, worst.high) == (0, 0, 1)


def test_a_search_without_accuracy_scores_nothing(archive: Archive) -> None:
    """Where accuracy is neither an objective nor limited, there is nothing to train for."""
    both = problem()
    asked = Problem(space=SPACE, objectives=both.objectives[:1], budget=both.budget)
    judge = evaluator(archive, asked, trainings=3)
    before = len(archive.results("proxies"))
    (found,) = judge.evaluate([A])
    assert set(found.metrics) == {"latency"}
    assert not judge.refine(archive)
    assert len(archive.results("proxies")) == before


def test_proxies_are_remembered(archive: Archive) -> None:
    """Another process on the same archive scores nothing again, and answers the same."""
    first = evaluator(archive, problem()).evaluate([A, B])
    before = archive.results("proxies")
    assert set(before[0].payload) == set(PROXIES)
    assert evaluator(archive, problem()).evaluate([A, B]) == first
    assert archive.results("proxies") == before


@pytest.mark.parametrize(
    ("trainings", "population", "spread"),
    [(4, 4, [1, 1, 1, 1]), (6, 4, [2, 2, 2, 0]), (2, 4, [1, 1, 0, 0]), (3, 16, [3]), (0, 8, [0, 0])],
)
def test_trainings_are_spread_over_the_generations(trainings: int, population: int, spread: Sequence[int], archive: Archive) -> None:
    """Every generation trains its share of the most promising, until all that were asked for are done, and never one more."""
    done: list[int] = []
    judge = evaluator(archive, problem(evaluations=16), trainings=trainings, population=population)
    nsga2.search(
        judge.problem,
        judge,
        archive,
        population=population,
        on_generation=lambda _: done.append(len(archive.results("training"))),
    )
    found = np.diff([0, *done]).tolist()
    assert found[: len(spread)] == spread
    assert sum(found) == sum(spread)  # generations in which little was new come on top
    assert len(judge.trained) == sum(spread) <= trainings


def test_trainings_do_not_lapse_where_the_front_is_small(archive: Archive) -> None:
    """When all of the front is trained, the most hopeful that keep the limits follow; what breaks one is never trained."""

    def seen(genotype: Genotype, latency: float, accuracy: float) -> Evaluation:
        return Evaluation(genotype=genotype, metrics={"latency": Bounded.exact(latency), "accuracy": Bounded.exact(accuracy)})

    asked = problem("latency<=3s", evaluations=8)
    judge = evaluator(archive, asked, trainings=4)  # two a generation
    archive.add([seen(A, 1, 0.9), seen(B, 2, 0.5), seen(C, 3, 0.6), seen(D, 4, 1)], generation=1, epoch=0)
    assert [evaluation.genotype for evaluation in archive.front(asked)] == [A]
    assert judge.refine(archive)
    assert list(judge.trained) == [A, C]
    assert judge.refine(archive)
    assert list(judge.trained) == [A, C, B]
    assert not judge.refine(archive)


def test_a_training_changes_what_is_thought_of_the_others(archive: Archive) -> None:
    """The trained network has the accuracy that it reached, exactly; the surrogate speaks for the others from then on."""
    asked = problem(evaluations=4)
    judge = evaluator(archive, asked, trainings=1)
    genotypes = [A, B, C, D]
    before = judge.evaluate(genotypes)
    archive.add(before, generation=1, epoch=0)
    assert judge.refine(archive)
    after = {evaluation.genotype: evaluation for evaluation in judge.evaluate(genotypes)}
    ((trained, reached),) = judge.trained.items()
    assert after[trained].metrics["accuracy"] == Bounded.exact(reached)
    assert after[trained].source["accuracy"] == "trained briefly"
    assert trained == min(archive.front(asked), key=lambda e: (-e.metrics["accuracy"].high, e.genotype)).genotype
    for genotype in set(genotypes) - {trained}:
        assert after[genotype].source["accuracy"] == "surrogate"
    assert not judge.refine(archive)  # one training was asked for

    resumed = evaluator(archive, asked, trainings=1)
    resumed.evaluate(genotypes)
    before_resumed = archive.results("training")
    assert resumed.refine(archive)
    assert resumed.trained == judge.trained
    assert archive.results("training") == before_resumed


def test_energy_needs_a_meter() -> None:
    """It is refused with the reason, and nothing else is."""
    with pytest.raises(UsageError, match="energy is unavailable: no counter; search without it"):
        check_metrics(["latency", "energy"], "no counter")
    check_metrics(["latency", "accuracy", "memory", "params", "flops"], "no counter")


class OneByOne(SearchSpace):
    """Another space's networks, without saying that they share blocks."""

    def __init__(self, space: SearchSpace) -> None:
        self.name, self.genes, self.num_classes, self._space = space.name, space.genes, space.num_classes, space

    def graph(self, genotype: Genotype, *, batch: int = 1) -> Graph:
        """See `SearchSpace.graph`."""
        return self._space.graph(genotype, batch=batch)


@dataclass
class Scores:
    """An evaluator that needs no accuracy."""

    scorer: Scorer

    def evaluate(self, genotypes: Sequence[Genotype]) -> Sequence[Evaluation]:
        """See `Evaluator.evaluate`."""
        names = ("latency", "memory", "params")
        rows = self.scorer.bounds(genotypes, names)
        return [
            Evaluation(genotype=genotype, metrics=row, source=dict.fromkeys(names, "told"))
            for genotype, row in zip(genotypes, rows, strict=True)
        ]

    def refine(self, _: Archive) -> bool:
        """See `Evaluator.refine`."""
        return False


@pytest.fixture(scope="module")
def paper() -> Predictor:
    """Learned quickly of the device on paper."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "THOROUGH", fitting.Growth(trees=20, eta=0.4))
        learned = fitting.fit(measured(25), ROOFLINE)
    return Predictor(
        setting=PAPER,
        fusions=Fusions(block=BLOCK),
        model=learned,
        space="mobilenet-small",
        fingerprint="0123456789ab",
        profile_digest="a" * 64,
        environment={},
    )


@pytest.mark.parametrize("name", ["mobilenet", "mobilenet-small", "resnet", "resnet-small"])
def test_blocks_score_as_whole_networks_do(name: str, paper: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts are equal, latency agrees to the rounding of sums, and no network is built whose blocks are known."""
    space = spaces.load(name)
    networks = [space.sample(np.random.default_rng([7, i])) for i in range(6)]
    metrics = ("flops", "latency", "memory", "params")
    blocks = Scorer(space=space, predictor=paper, batch=1)
    slowly = Scorer(space=OneByOne(space), predictor=paper, batch=1).bounds(networks, metrics)
    for _ in range(2):
        for row, other in zip(blocks.bounds(networks, metrics), slowly, strict=True):
            assert {key: row[key] for key in row if key != "latency"} == {key: other[key] for key in other if key != "latency"}
            told, own = row["latency"], other["latency"]
            assert [told.value, told.low, told.high] == pytest.approx([own.value, own.low, own.high], rel=1e-12)

    def build(*_: object, **__: object) -> Graph:
        raise AssertionError("a network was built")

    monkeypatch.setattr(type(space), "graph", build)
    assert blocks.bounds(networks, metrics) == blocks.bounds(networks, metrics)
    assert blocks.bounds([], metrics) == []


def test_another_batch_is_refused_as_before(paper: Predictor) -> None:
    """A predictor that answers for other batches refuses, whatever the networks share."""
    with pytest.raises(UsageError, match="batch"):
        Scorer(space=spaces.load("resnet-small"), predictor=paper, batch=4).bounds([spaces.load("resnet-small").reference()], ["latency"])


def test_a_search_finds_the_same(paper: Predictor) -> None:
    """A search of a fixed seed visits the same networks in the same order, and archives the same of them, either way."""
    space = spaces.load("resnet-small")
    found = []
    for searched in (space, OneByOne(space)):
        asked = Problem(
            space=searched,
            objectives=Objective.parse(minimize=["latency"], maximize=["params"]),
            constraints=(),
            budget=Budget(evaluations=60),
            seed=3,
        )
        archive = Archive.open(":memory:")
        nsga2.search(asked, Scores(Scorer(space=searched, predictor=paper, batch=1)), archive, population=12)
        found.append([(each.genotype, each.metrics) for each in archive.latest().values()])
    assert len(found[0]) >= 60
    assert [genotype for genotype, _ in found[0]] == [genotype for genotype, _ in found[1]]
    for (_, ours), (_, theirs) in zip(*found, strict=True):
        assert ours["memory"] == theirs["memory"]
        for name in ours:
            one, other = ours[name], theirs[name]
            assert [one.value, one.low, one.high] == pytest.approx([other.value, other.low, other.high], rel=1e-12)
