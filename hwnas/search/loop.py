"""The loop that every search algorithm shares: budget, archive, resume, refinement, and when to stop.

An algorithm is a `Strategy`: it proposes networks and learns of them. The loop sees to it that a run can be cut off at any moment and
played again from its archive to the very same end (docs/adr/0001-resume-by-replay.md).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import UsageError
from hwnas.search.archive import Archive
from hwnas.search.evaluator import Evaluation, Evaluator
from hwnas.search.front import front, hypervolume
from hwnas.search.problem import Problem
from hwnas.spaces.base import Genotype

PATIENCE = 10
"""Generations over which a search that finds nothing goes on."""
PATIENCE_SHARE = 0.2
"""The share of the budget over which it does so at least."""
LEAST_GAIN = 1e-3
"""The relative gain in hypervolume below which nothing was found."""

StopReason = Literal["evaluations", "time", "converged", "exhausted"]


class Strategy(Protocol):
    """A search algorithm: proposes networks, generation by generation. All its randomness comes from the problem's seed."""

    def ask(self) -> Sequence[Genotype]:
        """The genotypes to look at next, which need not be canonical; none when there is nothing left to propose."""

    def tell(self, genotypes: Sequence[Genotype]) -> None:
        """Those of them that fit into the budget have been evaluated; their evaluations are in `known`, by canonical genotype."""

    def survivors(self) -> Sequence[Genotype]:
        """The canonical genotypes on which the next proposals will build."""

    def renew(self, best: Sequence[Genotype]) -> None:
        """Estimates in `known` have changed; `best` is the front of all that was seen, by the new ones."""


Make = Callable[[Problem, int, Sequence[Genotype], Mapping[Genotype, Evaluation]], Strategy]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a search stands after a generation.

    Attributes:
        generation: from 1 on.
        evaluations: distinct networks so far.
        repeats: proposals so far that had been evaluated before; they cost nothing.
        feasible: share of the networks so far that keep every limit.
        front: size of the front.
        hypervolume: of the front; 1 is the volume of the box that the first generation spans.
        spent_s: by all sessions of the run.
        replayed: whether all of it came from the archive.
    """

    generation: int
    evaluations: int
    repeats: int
    feasible: float
    front: int
    hypervolume: float
    spent_s: float
    replayed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a search found.

    Attributes:
        front: feasible networks that no other one found dominates, best in the first objective first; empty when none is feasible.
        history: one entry a generation.
        stopped_by: `evaluations` or `time` (the budget), `converged` (the front no longer grows), `exhausted` (nothing new to propose).
    """

    front: tuple[Evaluation, ...]
    history: tuple[Progress, ...]
    stopped_by: StopReason

    @property
    def generations(self) -> int:
        """How many there were."""
        return len(self.history)

    @property
    def evaluations(self) -> int:
        """Distinct networks that were evaluated."""
        return self.history[-1].evaluations if self.history else 0

    @property
    def repeats(self) -> int:
        """Proposals that had been evaluated before."""
        return self.history[-1].repeats if self.history else 0


def run(
    problem: Problem,
    evaluator: Evaluator,
    archive: Archive,
    make: Make,
    *,
    algorithm: str,
    population: int,
    initial: Sequence[Genotype],
    on_generation: Callable[[Progress], None] | None,
    stop_early: bool,
) -> Result:
    """Searches; see `nsga2.search` for the arguments.

    Raises:
        UsageError: when the archive is of another run, a limit is still relative, or the budget is below what the run has used.
    """
    for constraint in problem.constraints:
        constraint.resolve(None)
    for genotype in initial:
        problem.space.validate(genotype)
    archive.bind(
        {
            **problem.identity(),
            "algorithm": algorithm,
            "population": str(population),
            "initial": hashlib.sha256(repr([tuple(map(int, g)) for g in initial]).encode()).hexdigest()[:12] if initial else "none",
            "early stop": "on" if stop_early else "off",
        }
    )
    finished = _reconcile(problem, archive)
    return _Run(problem, evaluator, archive, make, population, initial, stop_early=stop_early).to_the_end(finished, on_generation)


def _reconcile(problem: Problem, archive: Archive) -> dict[str, Any] | None:
    """Prepares an archive for the present budget; returns how the run ended when it has ended under this very budget."""
    budget = {"evaluations": problem.budget.evaluations, "seconds": problem.budget.seconds}
    notes = archive.notes()
    before = notes.get("budget")
    trials = archive.trials()
    if trials and before and before["evaluations"] != budget["evaluations"]:
        used = len(archive.latest())
        if budget["evaluations"] is not None and budget["evaluations"] < used:
            raise UsageError(f"the run has already evaluated {used} networks; give it --num-evals {used} or more")
        # The old budget may have cut the last generation short. Its costly results are remembered, so doing it again is cheap.
        archive.forget(trials[-1].generation)
    if before != budget:
        archive.note("finished", None)
        archive.note("budget", budget)
        return None
    finished: dict[str, Any] | None = notes.get("finished")
    return finished


class _Run:
    """A search in progress.

    Attributes:
        known: the latest evaluation of every network, in the order of first evaluation.
    """

    def __init__(
        self,
        problem: Problem,
        evaluator: Evaluator,
        archive: Archive,
        make: Make,
        population: int,
        initial: Sequence[Genotype],
        *,
        stop_early: bool,
    ) -> None:
        self.problem, self.evaluator, self.archive, self.stop_early = problem, evaluator, archive, stop_early
        self.known: dict[Genotype, Evaluation] = {}
        self.strategy = make(problem, population, initial, self.known)
        self._epoch = 0  # how often estimates have changed
        self._epoch_of: dict[Genotype, int] = {}
        self._repeats = self._barren = 0
        self._position = 0  # id of the last trial played or made
        self._recorded = max((trial.id for trial in archive.trials()), default=0)
        self._spent_before = max(float(archive.notes().get("spent_s", 0)), sum(archive.cost().values()))
        self._start = time.perf_counter()
        self._members: tuple[Evaluation, ...] = ()  # the front of all but the pending ones
        self._pending: list[Genotype] = []
        self._feasible: dict[Genotype, bool] = {}
        self._box: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
        self._history: list[Progress] = []
        self._fronts: list[tuple[Genotype, ...]] = []

    def to_the_end(self, finished: dict[str, Any] | None, on_generation: Callable[[Progress], None] | None) -> Result:
        """Goes on until something stops it, or to where the archive says that the run ended."""
        stopped: StopReason | None = None
        while stopped is None:
            generation = len(self._history) + 1
            proposals = self.strategy.ask()
            if not proposals:
                stopped = "exhausted"
                break
            replayed = self._position < self._recorded
            self._step(proposals, generation)
            progress = self._progress(generation, replayed=replayed)
            if not replayed:
                self.archive.note("spent_s", progress.spent_s)
            if on_generation:
                on_generation(progress)
            stopped = self._verdict()
            if finished:
                stopped = finished["stopped_by"] if generation == finished["generations"] else None
        if not finished:
            self.archive.note("finished", {"generations": len(self._history), "stopped_by": stopped})
        return Result(front=self._front(), history=tuple(self._history), stopped_by=stopped)

    def _step(self, proposals: Sequence[Genotype], generation: int) -> None:
        """One generation: evaluate, tell, refine."""
        limit = self.problem.budget.evaluations
        kept: list[Genotype] = []
        wanted: dict[Genotype, None] = {}
        fresh = 0
        for genotype in proposals:
            key = self.problem.space.canonical(genotype)
            if key not in self.known and key not in wanted:
                if limit is not None and len(self.known) + fresh >= limit:
                    continue
                fresh += 1
            wanted[key] = None
            kept.append(genotype)
        self._repeats += len(kept) - fresh
        self._barren = 0 if fresh else self._barren + 1
        self._evaluate(tuple(wanted), generation)
        self.strategy.tell(kept)
        with self.archive.as_of(self._position):
            changed = self.evaluator.refine(self.archive)
        if changed:
            self._epoch += 1
            self._evaluate(self.strategy.survivors(), generation)
            # Members of the front that did not survive still carry old estimates, and new ones may bring others to the front.
            while stale := [e.genotype for e in self._front() if self._epoch_of[e.genotype] < self._epoch]:
                self._evaluate(stale, generation)
            self.strategy.renew([evaluation.genotype for evaluation in self._front()])

    def _evaluate(self, genotypes: Sequence[Genotype], generation: int) -> None:
        """Brings the evaluations of these networks up to the present epoch: from the archive, or else from the evaluator."""
        wanted = [genotype for genotype in dict.fromkeys(genotypes) if self._epoch_of.get(genotype) != self._epoch]
        missing = [genotype for genotype in wanted if self.archive.find(genotype, self._epoch) is None]
        if missing:
            evaluations = self.evaluator.evaluate(missing)
            self._check(missing, evaluations)
            self.archive.add(evaluations, generation=generation, epoch=self._epoch)
        revised = any(genotype in self.known for genotype in wanted)
        for genotype in wanted:
            trial = self.archive.find(genotype, self._epoch)
            if trial is None:
                raise AssertionError(f"the trial of {genotype} was recorded and is not there")
            self.known[genotype] = trial.evaluation
            self._feasible[genotype] = self.problem.feasible(trial.evaluation)
            self._epoch_of[genotype] = self._epoch
            self._position = max(self._position, trial.id)
        if revised:  # what got worse may let others into the front
            self._members, self._pending = (), list(self.known)
        else:
            self._pending.extend(wanted)

    def _check(self, asked: Sequence[Genotype], evaluations: Sequence[Evaluation]) -> None:
        """Holds the evaluator to its contract."""
        if [evaluation.genotype for evaluation in evaluations] != list(asked):
            raise ValueError("an evaluator answers for the genotypes it was asked about, in their order")
        for evaluation in evaluations:
            absent = [name for name in self.problem.metrics if name not in evaluation.metrics]
            if absent and not evaluation.failure:
                raise UsageError(f"this search needs '{absent[0]}', and its evaluator gives {', '.join(evaluation.metrics) or 'nothing'}")

    def _front(self) -> tuple[Evaluation, ...]:
        self._members = front([*self._members, *map(self.known.__getitem__, self._pending)], self.problem)
        self._pending.clear()
        return self._members

    def _spent(self) -> float:
        return self._spent_before + time.perf_counter() - self._start

    def _progress(self, generation: int, *, replayed: bool) -> Progress:
        members = self._front()
        self._fronts.append(tuple(evaluation.genotype for evaluation in members))
        progress = Progress(
            generation=generation,
            evaluations=len(self.known),
            repeats=self._repeats,
            feasible=sum(self._feasible.values()) / len(self.known),
            front=len(members),
            hypervolume=self._hypervolume(self._fronts[-1]),
            spent_s=self._spent(),
            replayed=replayed,
        )
        self._history.append(progress)
        return progress

    def _hypervolume(self, genotypes: Sequence[Genotype]) -> float:
        """Of these networks as they are estimated now, against a reference point frozen at the first generation that has values."""
        if self._box is None:
            values = np.array([self.problem.values(e) for e in self.known.values() if not e.failure])
            if len(values) == 0:
                return 0.0
            best, worst = values.min(axis=0), values.max(axis=0)
            span = np.where(worst > best, worst - best, np.where(worst != 0, np.abs(worst), 1))
            self._box = worst + 0.1 * span, span
        reference, span = self._box
        points = [self.problem.values(e) for e in map(self.known.__getitem__, genotypes) if self.problem.feasible(e)]
        return hypervolume(np.array(points) / span if points else [], reference / span)

    def _verdict(self) -> StopReason | None:
        """What ends the search here, if anything does. Time ends nothing while the archive is played: it was spent already."""
        budget = self.problem.budget
        if budget.evaluations is not None and len(self.known) >= budget.evaluations:
            return "evaluations"
        if self._barren >= PATIENCE:
            return "exhausted"
        if self.stop_early and self._stalled():
            return "converged"
        if budget.seconds is not None and self._position >= self._recorded and self._spent() >= budget.seconds:
            return "time"
        return None

    def _stalled(self) -> bool:
        """Whether the front hardly gained since max(10 generations, 20 % of the budget) ago, both fronts as estimated now."""
        now, budget = self._history[-1], self.problem.budget
        for then, members in zip(reversed(self._history[:-PATIENCE]), reversed(self._fronts[:-PATIENCE]), strict=True):
            if budget.evaluations is not None:
                long_ago = now.evaluations - then.evaluations >= PATIENCE_SHARE * budget.evaluations
            else:
                long_ago = budget.seconds is not None and now.spent_s - then.spent_s >= PATIENCE_SHARE * budget.seconds
            if long_ago:
                return now.hypervolume > 0 and now.hypervolume - self._hypervolume(members) < LEAST_GAIN * now.hypervolume
        return False
