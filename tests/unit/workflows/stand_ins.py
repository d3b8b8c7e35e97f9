"""A predictor and a runtime that live by formulas: what is promised and what is measured is known exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from tiny_space import TinySpace

from hwnas.ir import Graph
from hwnas.ir.cost import flops
from hwnas.predict import Estimate
from hwnas.profiling import Setting
from hwnas.search.evaluator import Bounded, Evaluation
from hwnas.search.problem import Budget, Constraint, Objective, Problem
from hwnas.spaces.base import Genotype
from hwnas.testing import Recording, ReplayRuntime

SPACE = TinySpace()
SECONDS_PER_FLOP = 1e-9
SETTING = Setting(device="cpu", runtime="formula")


@dataclass
class FormulaPredictor:
    """Predicts so many nanoseconds a FLOP, 5 % more or less.

    Attributes:
        scale: what it has learned to multiply that with.
        told: every recalibration that it or its ancestors were asked for: (predicted, measured).
    """

    scale: float = 1.0
    told: list[tuple[list[float], list[float]]] = field(default_factory=list)
    setting: Setting = SETTING

    def estimate(self, graphs: Sequence[Graph]) -> list[Estimate]:
        """In the order of the graphs."""
        values = [self.scale * SECONDS_PER_FLOP * flops(graph) for graph in graphs]
        return [Estimate(value=v, low=0.95 * v, high=1.05 * v, unit="s", coverage=1.0, source="formula") for v in values]

    def recalibrated(self, predicted: Any, measured: Any) -> FormulaPredictor:
        """Shifted by the median error."""
        self.told.append((list(predicted), list(measured)))
        return FormulaPredictor(self.scale * float(np.median(np.asarray(measured) / np.asarray(predicted))), self.told)


class FormulaRuntime(ReplayRuntime):
    """Takes `factor(network)` times what an uncalibrated `FormulaPredictor` predicts; remembers what it built."""

    def __init__(self, factor: Callable[[Graph], float] = lambda _: 1.0) -> None:
        self.built: list[Graph] = []

        def record(graph: Graph) -> Recording:
            self.built.append(graph)
            return Recording(seconds=[factor(graph) * SECONDS_PER_FLOP * flops(graph)], kernels=())

        super().__init__(record)


def seconds(genotype: Genotype) -> float:
    """The latency that an uncalibrated predictor gives."""
    return SECONDS_PER_FLOP * flops(SPACE.graph(genotype))


def ladder(count: int) -> list[Genotype]:
    """So many networks, each at least half as slow again as the one before it."""
    arch = SPACE.decode(SPACE.reference())
    choices = product((8, 12, 16), (4, 8, 16), (3, 5))
    networks = [SPACE.canonical(SPACE.encode({**arch, "resolution": r, "width_0": w, "kernel_0": k})) for r, w, k in choices]
    steps: list[Genotype] = []
    for genotype in sorted(networks, key=seconds):
        if not steps or seconds(genotype) >= 1.5 * seconds(steps[-1]):
            steps.append(genotype)
    assert len(steps) >= count
    return steps[:count]


def problem(*limits: str, evaluations: int = 16, seed: int = 0) -> Problem:
    """Fast and accurate networks of the tiny space."""
    return Problem(
        space=SPACE,
        objectives=Objective.parse(minimize=["latency"], maximize=["accuracy"]),
        constraints=tuple(Constraint.parse(limit) for limit in limits),
        budget=Budget(evaluations=evaluations),
        seed=seed,
    )


def evaluation(genotype: Genotype, accuracy: float) -> Evaluation:
    """What a search would say of a network."""
    (estimate,) = FormulaPredictor().estimate([SPACE.graph(genotype)])
    return Evaluation(
        genotype=genotype,
        metrics={"latency": Bounded(estimate.value, estimate.low, estimate.high), "accuracy": Bounded.exact(accuracy)},
        source={"latency": "predicted", "accuracy": "surrogate"},
    )
