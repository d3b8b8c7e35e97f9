"""What is searched for: objectives, limits, and what may be spent."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Literal

from hwnas.errors import UsageError, did_you_mean
from hwnas.search.evaluator import Bounded, Evaluation
from hwnas.spaces.base import SearchSpace
from hwnas.units import Kind, format_quantity, parse_quantity


@dataclass(frozen=True, slots=True)
class Metric:
    """Something known of a network.

    Attributes:
        name: key of `METRICS` and of `Evaluation.metrics`.
        kind: its unit: s, J, B, a count, or a share of one.
        better: which direction one usually wants.
    """

    name: str
    kind: Kind
    better: Literal["lower", "higher"]


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("latency", "time", "lower"),
        Metric("energy", "energy", "lower"),
        Metric("memory", "bytes", "lower"),
        Metric("params", "count", "lower"),
        Metric("flops", "count", "lower"),
        Metric("accuracy", "fraction", "higher"),
    )
}


def metric(name: str) -> Metric:
    """The metric of this name.

    Raises:
        UsageError: when there is none.
    """
    if name not in METRICS:
        raise UsageError(f"unknown metric '{name}'{did_you_mean(name, METRICS)}; known: {', '.join(METRICS)}")
    return METRICS[name]


@dataclass(frozen=True, slots=True)
class Objective:
    """A metric to make as small, or as large, as possible."""

    metric: str
    minimize: bool

    def __post_init__(self) -> None:
        metric(self.metric)

    def __str__(self) -> str:
        return f"{'minimize' if self.minimize else 'maximize'} {self.metric}"

    @staticmethod
    def parse(*, minimize: Iterable[str] = (), maximize: Iterable[str] = ()) -> tuple[Objective, ...]:
        """Objectives from two lists of metric names, in their order, repeats dropped.

        Raises:
            UsageError: for an unknown metric, one in both lists, or none at all.

        >>> [str(objective) for objective in Objective.parse(minimize=["latency"], maximize=["accuracy"])]
        ['minimize latency', 'maximize accuracy']
        """
        wanted = [Objective(name, True) for name in minimize] + [Objective(name, False) for name in maximize]
        objectives = tuple(dict.fromkeys(wanted))
        names = [objective.metric for objective in objectives]
        both = next((name for name in names if names.count(name) > 1), None)
        if both:
            raise UsageError(f"a metric is either minimized or maximized, and '{both}' is asked for both ways; drop one")
        if not objectives:
            raise UsageError(f"a search needs an objective, such as --minimize latency; metrics: {', '.join(METRICS)}")
        return objectives

    def of(self, evaluation: Evaluation) -> float:
        """The value to be minimised: the metric's estimate, negated where more is better; infinite for a failure."""
        if evaluation.failure:
            return inf
        value = evaluation.metrics[self.metric].value
        return value if self.minimize else -value


@dataclass(frozen=True, slots=True)
class Constraint:
    """A limit on a metric.

    Attributes:
        metric: name of the metric.
        op: on which side of the limit it must stay.
        limit: in SI, above zero; for a relative limit the share of the value that the space's reference network has.
        relative: whether it is one; `resolve` makes it absolute.
    """

    metric: str
    op: Literal["<=", ">="]
    limit: float
    relative: bool = False

    def __post_init__(self) -> None:
        kind = metric(self.metric).kind
        if not 0 < self.limit < inf:
            raise UsageError(f"a limit lies above zero, got '{self}'")
        if kind == "fraction" and self.limit > 1:
            raise UsageError(f"{self.metric} lies between 0% and 100%, got '{self}'; write for example '{self.metric}>=90%'")

    def __str__(self) -> str:
        kind = "fraction" if self.relative else METRICS[self.metric].kind
        return f"{self.metric}{self.op}{format_quantity(self.limit, kind, digits=12)}".replace(" ", "")

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """Reads a limit, such as `latency<=3ms`, `params<=2M`, `accuracy>=90%`, or relative to the reference: `latency<=60%`.

        Raises:
            UsageError: for another form, an unknown metric, or the unit of another kind.

        >>> Constraint.parse("latency<=3ms")
        Constraint(metric='latency', op='<=', limit=0.003, relative=False)
        """
        match = re.fullmatch(r"\s*([^\s<>=]+)\s*([<>]=)\s*([^<>=]+)", text)
        if not match:
            raise UsageError(f"a limit is written metric<=value or metric>=value, such as 'latency<=3ms', got '{text}'")
        name, op, value = match.groups()
        kind = metric(name).kind
        relative = value.strip().endswith("%") and kind != "fraction"
        try:
            limit = parse_quantity(value, "fraction" if relative else kind).value
        except UsageError as error:
            raise UsageError(f"the limit '{text}' does not parse: {error}") from None
        return cls(name, "<=" if op == "<=" else ">=", limit, relative)

    def resolve(self, reference: float | None) -> Constraint:
        """The absolute limit, given the reference network's value of this metric.

        Raises:
            UsageError: when the limit is relative and there is no such value.
        """
        if not self.relative:
            return self
        if reference is None:
            raise UsageError(
                f"the limit '{self}' is relative to the space's reference network, whose {self.metric} is not known; give it with a unit"
            )
        return replace(self, limit=self.limit * reference, relative=False)

    def violation(self, value: Bounded) -> float:
        """By which share of the limit the worse end of the interval breaks it; 0 when the whole interval keeps it.

        Raises:
            UsageError: when the limit is relative and not resolved.
        """
        if self.relative:
            self.resolve(None)
        excess = value.high - self.limit if self.op == "<=" else self.limit - value.low
        return max(0.0, excess / self.limit)


def check_constraints(constraints: Sequence[Constraint]) -> None:
    """Checks that limits do not exclude each other.

    Raises:
        UsageError: when no value can keep two of them; names both.
    """
    for upper in constraints:
        for lower in constraints:
            comparable = upper.metric == lower.metric and upper.relative == lower.relative
            if comparable and upper.op == "<=" and lower.op == ">=" and lower.limit > upper.limit:
                raise UsageError(f"no network can keep both '{upper}' and '{lower}'; drop one of them")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a search may spend: the first to run out ends it.

    Attributes:
        evaluations: how many distinct networks.
        seconds: over all sessions of the run, what proxies, training and measuring cost included.
    """

    evaluations: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.evaluations is None and self.seconds is None:
            raise UsageError("a search needs a budget: --num-evals 300, --max-time 5m, or both")
        if self.evaluations is not None and self.evaluations < 1:
            raise UsageError(f"a search evaluates at least 1 network, got --num-evals {self.evaluations}")
        if self.seconds is not None and not 0 < self.seconds < inf:
            raise UsageError(f"a search takes more than 0 s, got --max-time {self.seconds}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A search to be done.

    Attributes:
        space: the networks.
        objectives: at least one, of different metrics.
        constraints: all must be kept; absolute by the time a search begins (`resolve`).
        budget: what may be spent.
        seed: decides everything that is random.
    """

    space: SearchSpace
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...] = ()
    budget: Budget
    seed: int = 0

    def __post_init__(self) -> None:
        Objective.parse(
            minimize=[objective.metric for objective in self.objectives if objective.minimize],
            maximize=[objective.metric for objective in self.objectives if not objective.minimize],
        )
        check_constraints(self.constraints)
        if self.seed < 0:
            raise UsageError(f"a seed is not negative, got {self.seed}")

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that an evaluation must give."""
        return tuple(dict.fromkeys([o.metric for o in self.objectives] + [c.metric for c in self.constraints]))

    def resolve(self, reference: Mapping[str, float]) -> Problem:
        """This problem with absolute limits, given the reference network's metrics."""
        return replace(self, constraints=tuple(c.resolve(reference.get(c.metric)) for c in self.constraints))

    def values(self, evaluation: Evaluation) -> tuple[float, ...]:
        """The objectives' values, all to be minimised."""
        return tuple(objective.of(evaluation) for objective in self.objectives)

    def violation(self, evaluation: Evaluation) -> float:
        """The sum of the violations of all limits, each normalised by its limit; 0 exactly when feasible, infinite for a failure."""
        if evaluation.failure:
            return inf
        return sum(constraint.violation(evaluation.metrics[constraint.metric]) for constraint in self.constraints)

    def feasible(self, evaluation: Evaluation) -> bool:
        """Whether the network could be evaluated and keeps every limit over its whole interval."""
        return self.violation(evaluation) == 0

    def identity(self) -> dict[str, str]:
        """What makes two runs the same run, as text; the budget is no part of it, so that a run can be continued with a larger one."""
        return {
            "space": self.space.name,
            "genes": " ".join(f"{gene.name}:{len(gene.choices)}" for gene in self.space.genes),
            "seed": str(self.seed),
            "objectives": ", ".join(str(objective) for objective in self.objectives),
            "constraints": ", ".join(str(constraint) for constraint in self.constraints) or "none",
        }
