"""What a search is told of networks: counted, predicted, judged by proxies, and a few of them trained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from stand_ins import SPACE, FormulaPredictor, ladder, problem, seconds

from hwnas.accuracy import data
from hwnas.accuracy.proxies import PROXIES
from hwnas.accuracy.train import Recipe
from hwnas.errors import UsageError
from hwnas.ir import cost
from hwnas.search import nsga2
from hwnas.search.archive import Archive
from hwnas.search.evaluator import Bounded
from hwnas.search.problem import Problem
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
