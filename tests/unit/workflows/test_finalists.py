"""Closing the loop: candidates are measured, what breaks the limit is replaced, the predictor learns of it, the rest is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stand_ins import SPACE, FormulaPredictor, FormulaRuntime, evaluation, ladder, problem, seconds

from hwnas.accuracy import data
from hwnas.accuracy.train import Recipe
from hwnas.errors import InfeasibleError
from hwnas.ir import Graph
from hwnas.ir.cost import flops
from hwnas.runtimes.samples import Samples
from hwnas.search.archive import Archive
from hwnas.search.problem import Problem
from hwnas.workflows.evaluator import Scorer
from hwnas.workflows.finalists import Final, Finalist, Measured, rank

A, B, C, D = ladder(4)


@pytest.fixture
def archive() -> Archive:
    return Archive.open(":memory:")


@pytest.fixture
def predictor() -> FormulaPredictor:
    return FormulaPredictor()


def final(
    archive: Archive,
    predictor: FormulaPredictor,
    runtime: FormulaRuntime,
    asked: Problem,
    *,
    weights: Path = Path("nowhere"),
    seeds: int = 1,
) -> Final:
    """The end of a search of the tiny space."""
    return Final(
        scorer=Scorer(space=SPACE, predictor=predictor, batch=1),
        problem=asked,
        archive=archive,
        dataset=data.load("digits"),
        recipe=Recipe(epochs=1),
        runtime=runtime,
        seeds=seeds,
        weights=weights,
    )


def slow(*networks: tuple[int, ...], factor: float = 3.0) -> FormulaRuntime:
    """A runtime that takes much longer for these networks than anybody predicted."""
    counts = {flops(SPACE.graph(genotype)) for genotype in networks}
    return FormulaRuntime(lambda graph: factor if flops(graph) in counts else 1.0)


def limit(genotype: tuple[int, ...], share: float = 1.1) -> Problem:
    """The problem whose latency limit lies a little above what this network takes."""
    return problem(f"latency<={share * seconds(genotype):.12f}s")


def test_candidates_that_keep_the_limit_are_finalists(archive: Archive, predictor: FormulaPredictor) -> None:
    """As many as asked for, spread over the front, each with its promise and its measurement; the predictor sees them all."""
    runtime = FormulaRuntime()
    front = [evaluation(A, 0.5), evaluation(B, 0.7), evaluation(C, 0.9)]
    chosen, learned = final(archive, predictor, runtime, limit(C)).choose(front, [], 2)
    assert [row.genotype for row in chosen] == [A, C]
    for row in chosen:
        assert row.kept is True
        assert row.samples.median_s == pytest.approx(seconds(row.genotype), rel=1e-3)
        assert row.predicted == evaluation(row.genotype, 0.0).metrics["latency"]
    assert len(runtime.built) == 2
    ((predicted, measured),) = predictor.told
    assert predicted == pytest.approx(measured, rel=1e-3)
    assert learned.scale == pytest.approx(1, rel=1e-3)


def test_a_candidate_that_breaks_the_limit_is_replaced(archive: Archive, predictor: FormulaPredictor) -> None:
    """It is dropped, another one of the front takes its place, and its error is told to the predictor like all others."""
    front = [evaluation(A, 0.5), evaluation(B, 0.7), evaluation(C, 0.9)]
    chosen, learned = final(archive, predictor, slow(C), limit(C)).choose(front, [], 2)
    assert [row.genotype for row in chosen] == [A, B]
    assert all(row.kept for row in chosen)
    predicted, measured = predictor.told[-1]
    assert predicted == pytest.approx([seconds(A), seconds(C), seconds(B)])
    assert measured == pytest.approx([seconds(A), 3 * seconds(C), seconds(B)], rel=1e-3)
    assert learned.scale == pytest.approx(1, rel=1e-3)


def test_what_the_recalibrated_predictor_refuses_is_not_measured(archive: Archive, predictor: FormulaPredictor) -> None:
    """When everything takes twice as long as predicted, members of the front that cannot keep the limit are passed over."""
    runtime = FormulaRuntime(lambda _: 2.0)
    front = [evaluation(B, 0.6), evaluation(C, 0.9)]
    chosen, learned = final(archive, predictor, runtime, limit(C, 1.5)).choose(front, [evaluation(A, 0.4)], 1)
    assert learned.scale == pytest.approx(2, rel=1e-3)
    assert [row.genotype for row in chosen] == [B]
    assert {flops(graph) for graph in runtime.built} == {flops(SPACE.graph(genotype)) for genotype in (B, C)}


def test_networks_beside_the_front_fill_in(archive: Archive, predictor: FormulaPredictor) -> None:
    """Where the front is used up, the fastest of the others are measured, but those that the predictor now refuses."""
    runtime = FormulaRuntime(lambda _: 2.0)
    others = [evaluation(C, 0.9), evaluation(B, 0.6), evaluation(A, 0.4)]
    chosen, _ = final(archive, predictor, runtime, limit(C, 1.5)).choose([evaluation(D, 0.95)], others, 2)
    assert [row.genotype for row in chosen] == [A, B]
    assert flops(SPACE.graph(C)) not in {flops(graph) for graph in runtime.built}


def test_nobody_keeps_the_limit(archive: Archive, predictor: FormulaPredictor) -> None:
    """That is an error with the number of networks measured and the fastest of them."""
    front = [evaluation(A, 0.5), evaluation(B, 0.7)]
    with pytest.raises(InfeasibleError, match=r"none of 2 measured candidates keeps 'latency<=.*'; the fastest took 24\.\d us"):
        final(archive, predictor, slow(A, B), limit(B)).choose(front, [], 2)


def test_nothing_was_found(archive: Archive, predictor: FormulaPredictor) -> None:
    """A search without a feasible network says so, and what to do."""
    with pytest.raises(InfeasibleError, match="--num-evals"):
        final(archive, predictor, FormulaRuntime(), limit(A)).choose([], [], 1)


def test_without_a_limit_there_is_none_to_keep(archive: Archive, predictor: FormulaPredictor) -> None:
    """`kept` is then neither true nor false, and nothing is dropped."""
    chosen, _ = final(archive, predictor, slow(A), problem()).choose([evaluation(A, 0.5), evaluation(B, 0.7)], [], 2)
    assert [row.kept for row in chosen] == [None, None]


def test_every_latency_limit_counts(archive: Archive, predictor: FormulaPredictor) -> None:
    """The median must lie between a lower and an upper limit; limits on other metrics were kept by counting."""
    asked = problem("latency<=2ms", "latency>=1ms", "params<=1M")
    keeps = final(archive, predictor, FormulaRuntime(), asked).keeps
    assert [keeps(Samples(np.full(10, value))) for value in (0.9e-3, 1.5e-3, 2.1e-3)] == [False, True, False]


def test_measurements_are_remembered(archive: Archive, predictor: FormulaPredictor) -> None:
    """A resumed run chooses as it chose before, without measuring anything."""
    front = [evaluation(A, 0.5), evaluation(B, 0.7), evaluation(C, 0.9)]
    first, _ = final(archive, predictor, slow(C), limit(C)).choose(front, [], 2)
    idle = FormulaRuntime()
    second, _ = final(archive, FormulaPredictor(), idle, limit(C)).choose(front, [], 2)
    assert [(row.genotype, row.kept, row.samples.seconds.tolist()) for row in second] == [
        (row.genotype, row.kept, row.samples.seconds.tolist()) for row in first
    ]
    assert idle.built == []


def test_a_disturbed_measurement_is_taken_again(archive: Archive, predictor: FormulaPredictor) -> None:
    """While a measurement is of grade C it is repeated, three times at most, and the steadiest one counts."""
    runtime = FormulaRuntime()
    graph = SPACE.graph(A)
    takes: list[Samples] = []

    class Disturbed:
        def time(self, feed: object, rule: object) -> Samples:
            spread = (2.0, 1.5, 3.0, 1.0)[len(takes)]
            takes.append(Samples(np.repeat([1e-3, spread * 1e-3], 25)))
            return takes[-1]

    runtime.build = lambda model, **how: Disturbed()  # type: ignore[assignment,method-assign,return-value]
    samples = final(archive, predictor, runtime, problem()).measure(A, graph, "candidate")
    assert len(takes) == 3
    assert samples.seconds.tolist() == takes[1].seconds.tolist()


def weights(graph: Graph) -> dict[str, list[float]]:
    """A network's weights as plain numbers."""
    return {name: weight.value.ravel().tolist() for name, weight in graph.weights.items() if weight.value is not None}


def test_finalists_are_trained_on_every_seed_and_measured_again(archive: Archive, predictor: FormulaPredictor, tmp_path: Path) -> None:
    """Each has an accuracy a seed, and the weights of the best seed; only weights that got lost are trained again."""
    runtime = FormulaRuntime()
    last = final(archive, predictor, runtime, limit(B), weights=tmp_path / "weights", seeds=2)
    chosen, _ = last.choose([evaluation(A, 0.5)], [], 1)
    (finalist,) = last.train(chosen)
    assert finalist.seeds == (0, 1)
    assert len(finalist.accuracies) == len(finalist.validation) == 2
    assert finalist.measured.kept is True
    assert finalist.arch == SPACE.decode(A)
    best = int(np.argmax(finalist.validation))
    assert finalist.weights.name.endswith(f"-seed{best}.onnx")
    assert len(archive.results("measurement")) == 2
    assert weights(runtime.built[-1]) != weights(runtime.built[0].materialize(np.random.default_rng(0)))  # the trained network was measured
    plain = finalist.as_json()
    assert plain["accuracy_mean"] == pytest.approx(np.mean(finalist.accuracies))
    assert plain["accuracy_sd"] == pytest.approx(np.std(finalist.accuracies, ddof=1))
    assert plain["limit_kept"] is True

    before = archive.results("training"), archive.results("measurement"), finalist.weights.read_bytes()
    finalist.weights.unlink()
    (again,) = last.train(chosen)
    assert again.weights.read_bytes() == before[2]
    assert (archive.results("training"), archive.results("measurement")) == before[:2]
    assert again.as_json() == plain


def test_ranks(archive: Archive, predictor: FormulaPredictor) -> None:
    """Who kept the limit comes first, then who validated better, then who is faster; the test split has no say."""

    def one(name: int, kept: bool | None, validation: float, test: float, latency: float) -> Finalist:
        measured = Measured(
            genotype=(name,), predicted=evaluation(A, 0).metrics["latency"], samples=Samples(np.full(10, latency)), kept=kept
        )
        return Finalist(
            rank=0,
            genotype=(name,),
            arch={},
            measured=measured,
            accuracies=(test,),
            validation=(validation,),
            seeds=(0,),
            weights=Path("w"),
            params=1,
            flops=1,
            recipe="",
        )

    found = rank([one(0, False, 0.99, 0.9, 1.0), one(1, True, 0.8, 0.99, 1.0), one(2, True, 0.9, 0.7, 2.0), one(3, True, 0.9, 0.6, 1.0)])
    assert [(finalist.rank, finalist.genotype) for finalist in found] == [(1, (3,)), (2, (2,)), (3, (1,)), (4, (0,))]
    single = replace(found[0], accuracies=(0.5,)).as_json()
    assert (single["accuracy_mean"], single["accuracy_sd"]) == (0.5, None)
