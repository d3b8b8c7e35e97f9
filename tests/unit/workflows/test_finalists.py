"""Closing the loop: candidates are measured, what breaks the limit is replaced, the predictor learns of it, the rest is trained."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from stand_ins import SPACE, FormulaPredictor, FormulaRuntime, evaluation, ladder, problem, seconds

from hwnas.accuracy import data
from hwnas.accuracy.train import Recipe
from hwnas.devices import Unavailable
from hwnas.errors import InfeasibleError
from hwnas.ir import Graph, Kernel
from hwnas.ir.cost import flops
from hwnas.predict import Estimate
from hwnas.runtimes.samples import Samples
from hwnas.search.archive import Archive
from hwnas.search.evaluator import Bounded, Evaluation
from hwnas.search.problem import Problem
from hwnas.workflows.evaluator import Scorer
from hwnas.workflows.finalists import Final, Finalist, Measured, rank
from hwnas.workflows.metering import Reading

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


@dataclass
class Joules:
    """An energy predictor that knows networks by how many kernels they have; 2 % more or less.

    Attributes:
        by_kernels: J, by number of kernels.
        scale: what it has learned to multiply that with.
        told: (predicted, measured) of every recalibration.
        times: of the same networks, in s, as they were given.
    """

    by_kernels: dict[int, float]
    scale: float = 1.0
    told: list[tuple[list[float], list[float]]] = field(default_factory=list)
    times: list[list[float]] = field(default_factory=list)

    def _value(self, kernels: list[Kernel]) -> float:
        return self.scale * self.by_kernels[len(kernels)]

    def estimate(self, networks: list[list[Kernel]], seconds: list[float]) -> list[Estimate]:
        """In the order of the networks, which have a time each."""
        assert len(networks) == len(seconds)
        values = [self._value(kernels) for kernels in networks]
        return [Estimate(value=v, low=0.98 * v, high=1.02 * v, unit="J", coverage=1.0, source="joules") for v in values]

    def recalibrated(self, networks: list[list[Kernel]], seconds: list[float], joules: list[float]) -> Joules:
        """Shifted by the median error."""
        predicted = [self._value(kernels) for kernels in networks]
        self.told.append((predicted, list(joules)))
        self.times.append(list(seconds))
        return replace(self, scale=self.scale * float(np.median(np.array(joules) / predicted)))


class WithKernels(FormulaPredictor):
    """Tells networks apart by how many kernels it says they have: 1 for A, 2 for B ..."""

    def kernels(self, graph: Graph) -> list[SimpleNamespace]:
        number = [flops(SPACE.graph(one)) for one in (A, B, C, D)].index(flops(graph)) + 1
        return [SimpleNamespace(call=SimpleNamespace(kernel=None), kernel=None)] * number

    def recalibrated(self, predicted: Any, measured: Any) -> WithKernels:
        return WithKernels(super().recalibrated(predicted, measured).scale, self.told)


@dataclass
class Meter:
    """Reads so many times what was predicted of each network; remembers how often it was asked."""

    factors: dict[tuple[int, ...], float | None]
    asked: int = 0
    meter: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(source="nvml-counter"))

    def take(self, runtime: object, graph: Graph, precision: str, seed: tuple[int, ...]) -> dict[str, Any] | Unavailable:
        self.asked += 1
        genotype = seed[1:]
        factor = self.factors.get(genotype, 1.0)
        return Unavailable("another process is on the card") if factor is None else {"joules": factor * JOULES[genotype]}

    @staticmethod
    def read(row: dict[str, Any]) -> Reading:
        joules = row["joules"]
        return Reading(
            joules=joules, uncertainty_j=0.05 * joules, net_joules=joules / 2, net_uncertainty_j=0.05 * joules, source="nvml-counter"
        )


JOULES = {A: 1.0, B: 2.0, C: 3.0, D: 4.0}


def metered(archive: Archive, meter: Meter | Unavailable, asked: Problem, runtime: FormulaRuntime | None = None) -> tuple[Final, Joules]:
    """The end of a search for a device with a meter, and what foretells its energy."""
    energy = Joules({number: JOULES[genotype] for number, genotype in enumerate((A, B, C, D), 1)})
    made = final(archive, WithKernels(), runtime or FormulaRuntime(), asked)
    made.scorer.energy = energy  # type: ignore[assignment]
    made.metering = meter  # type: ignore[assignment]
    return made, energy


def frugal(genotype: tuple[int, ...], accuracy: float) -> Evaluation:
    """What a search by energy would say of a network."""
    found, joules = evaluation(genotype, accuracy), JOULES[genotype]
    return replace(found, metrics={**found.metrics, "energy": Bounded(joules, 0.98 * joules, 1.02 * joules)})


def test_a_limit_on_energy_is_held_against_what_is_read(archive: Archive) -> None:
    """Who breaks it is replaced, as with latency; the energy predictor is told of all readings, and of times as foretold by now."""
    made, energy = metered(archive, Meter({C: 1.5}), problem("energy<=3.1J"), FormulaRuntime(lambda _: 2.0))
    chosen, _ = made.choose([frugal(A, 0.5), frugal(B, 0.7), frugal(C, 0.9)], [], 2)
    assert [(row.genotype, row.kept) for row in chosen] == [(A, True), (B, True)]
    assert chosen[1].predicted_energy == Bounded(2.0, 1.96, 2.04)
    assert chosen[1].energy.joules == 2.0
    predicted, measured = energy.told[-1]
    assert (predicted, measured) == ([1.0, 3.0, 2.0], [1.0, 4.5, 2.0])
    assert energy.times[-1] == pytest.approx([2 * seconds(genotype) for genotype in (A, C, B)], rel=1e-3)


def test_what_the_recalibrated_energy_predictor_refuses_is_not_measured(archive: Archive) -> None:
    """When everything takes half as much again, members of the front that cannot keep the limit are passed over."""
    meter = Meter(dict.fromkeys(JOULES, 1.5))
    chosen, _ = metered(archive, meter, problem("energy<=4.1J"))[0].choose([frugal(D, 0.9)], [frugal(C, 0.8), frugal(B, 0.6)], 1)
    assert [row.genotype for row in chosen] == [B]
    assert meter.asked == 2
    made, _ = metered(Archive.open(":memory:"), meter, problem("energy<=2.1J"))
    with pytest.raises(InfeasibleError, match=r"none of 1 measured candidates keeps 'energy<=2\.1J'.*the most frugal 3 J"):
        made.choose([frugal(B, 0.6)], [], 1)


def test_every_limit_counts(archive: Archive) -> None:
    """One broken limit is enough; what cannot be read is not kept and not broken; without a measurement nothing is said."""
    made, _ = metered(archive, Meter({}), problem("energy<=2J", "latency<=1ms"))
    fast, late = (Samples(np.full(10, value)) for value in (0.9e-3, 1.1e-3))
    little, much = (Meter.read({"joules": joules}) for joules in (1.9, 2.1))
    gone = Unavailable("gone")
    assert [made.keeps(fast, energy) for energy in (little, much, gone)] == [True, False, None]
    assert [made.keeps(late, energy) for energy in (little, much, gone)] == [False, False, False]
    assert made.keeps(None, much) is None


def test_energy_is_read_where_it_decides(archive: Archive) -> None:
    """Candidates are not metered where nobody asked for energy, or where the latency is too long; finalists are, for the record."""
    meter = Meter({})
    made, _ = metered(archive, meter, limit(C))
    (row,), _ = made.choose([evaluation(A, 0.5)], [], 1)
    assert meter.asked == 0
    assert row.predicted_energy is not None  # what nobody asked for is foretold all the same
    assert made.read_energy(A, SPACE.graph(A), "finalist") == Meter.read({"joules": 1.0})
    slowed, _ = metered(Archive.open(":memory:"), meter, problem("energy<=9J", f"latency<={1.1 * seconds(C):.12f}s"), slow(C))
    slowed.choose([frugal(A, 0.5), frugal(C, 0.9)], [], 2)
    assert meter.asked == 2  # A as a finalist above, A as a candidate


def test_readings_are_remembered_and_refusals_are_not(archive: Archive) -> None:
    """A resumed run reads nothing twice, but asks again where the meter refused."""
    meter = Meter({B: None})
    made, _ = metered(archive, meter, problem("energy<=9J"))
    for _ in range(2):
        assert isinstance(made.read_energy(A, SPACE.graph(A), "candidate"), Reading)
        assert made.read_energy(B, SPACE.graph(B), "candidate") == Unavailable("another process is on the card")
    assert meter.asked == 3
    chosen, _ = made.choose([frugal(B, 0.7)], [], 1)
    assert chosen[0].kept is None


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
