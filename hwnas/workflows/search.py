"""`hwnas search`: from a limit to networks that keep it, trained and measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from hwnas.accuracy import data
from hwnas.accuracy.train import Recipe
from hwnas.assets import Workspace
from hwnas.devices import Unavailable, find
from hwnas.errors import DeviceUnavailable, MissingExtraError, UsageError
from hwnas.predict import Predictor, energy_store
from hwnas.runtimes import registry
from hwnas.runtimes.base import Runtime
from hwnas.search import feasibility, nsga2
from hwnas.search.archive import Archive
from hwnas.search.evaluator import Bounded
from hwnas.search.loop import Progress, Result
from hwnas.search.problem import Budget, Constraint, Objective, Problem
from hwnas.spaces import SearchSpace
from hwnas.spaces.base import Genotype
from hwnas.units import format_count
from hwnas.workflows.context import space_for, versions
from hwnas.workflows.evaluator import Scorer, SearchEvaluator, check_metrics
from hwnas.workflows.finalists import MEASURABLE, Final, Finalist
from hwnas.workflows.metering import Reading, metering
from hwnas.workflows.predict import predictor_for, warnings
from hwnas.workflows.runs import Run, SearchOptions, create
from hwnas.workflows.runs import find as find_run

FEASIBILITY_EVALUATIONS = 1500
SLOW_FLOPS = 1e8  # operations an image above which a training on a CPU takes minutes


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a search will do, before anything is spent.

    Attributes:
        options: as asked.
        problem: with absolute limits.
        scorer: latency and counts.
        dataset: to train on.
        start: a network that keeps all limits that can be checked without training.
        start_metrics: its metrics.
        reference_metrics: those of the space's reference network.
        notes: what the user has to know.
    """

    options: SearchOptions
    problem: Problem
    scorer: Scorer
    dataset: data.Dataset
    start: Genotype
    start_metrics: dict[str, Bounded]
    reference_metrics: dict[str, Bounded]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""

        def plain(metrics: dict[str, Bounded]) -> dict[str, Any]:
            return {name: {"value": bound.value, "low": bound.low, "high": bound.high} for name, bound in metrics.items()}

        return {
            "space": str(self.scorer.space),
            "objectives": [str(objective) for objective in self.problem.objectives],
            "constraints": [str(constraint) for constraint in self.problem.constraints],
            "reference": plain(self.reference_metrics),
            "feasible_start": {"genotype": list(self.start), **plain(self.start_metrics)},
            "evaluations": self.options.num_evals,
            "trainings": self.options.trainings + self.options.finalists * self.options.seeds,
            "replay": self.options.command(),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a search found."""

    run: Run
    result: Result
    finalists: tuple[Finalist, ...]
    notes: tuple[str, ...]

    @property
    def measured(self) -> int:
        """Finalists that were measured: none where the device is not on this machine."""
        return sum(finalist.measured.samples is not None for finalist in self.finalists)

    @property
    def kept(self) -> int:
        """Finalists that kept the limits on latency and energy when measured, or that had none to keep."""
        return sum(f.measured.kept is True or (f.measured.kept is None and not self.limited) for f in self.finalists)

    @property
    def limited(self) -> bool:
        """Whether there is a limit that is checked by measuring."""
        return any(Constraint.parse(text).metric in MEASURABLE for text in self.run.record.get("constraints", ()))

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "run": self.run.id,
            "folder": str(self.run.folder),
            "stopped_by": self.result.stopped_by,
            "evaluations": self.result.evaluations,
            "generations": self.result.generations,
            "limits_kept": self.kept if self.measured else None,
            "energies_measured": sum(isinstance(finalist.measured.energy, Reading) for finalist in self.finalists),
            "latency_source": self.run.record.get("latency_source"),
            "finalists": [finalist.as_json() for finalist in self.finalists],
            "replay": self.run.options.command(),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """How a caller follows a search: all three are called from the thread that searches."""

    generation: Callable[[Progress], None] = lambda _: None
    doing: Callable[[str], None] = lambda _: None
    started: Callable[[Run, Plan], None] = lambda _run, _plan: None


def plan(workspace: Workspace, options: SearchOptions) -> Plan:
    """Reads the request and checks that it can be met; nothing is spent, nothing is written.

    Raises:
        UsageError: an unknown name, a limit that does not parse, a metric that is not available here.
        NotFoundError: the device has no predictor yet.
        InfeasibleError: no network of the space keeps the limits; gives the smallest reachable value.
    """
    dataset = data.load(options.data)
    space = space_for(options.space, dataset.num_classes)
    if not space.searchable:
        raise UsageError(
            f"space '{space.name}' is for 'hwnas profile': its networks are made to be measured, not to learn; search another, "
            "such as mobilenet (see 'hwnas spaces')"
        )
    objectives = Objective.parse(minimize=options.minimize, maximize=options.maximize)
    limits = tuple(Constraint.parse(text) for text in options.constraint)
    predictor = predictor_for(workspace, options)
    energy = energy_store.find(workspace, predictor.setting, options.space)
    known = None if isinstance(energy, Unavailable) else energy
    scorer = Scorer(space=space, predictor=predictor, batch=options.batch, energy=known)
    problem = Problem(
        space=space,
        objectives=objectives,
        constraints=limits,
        budget=Budget(evaluations=options.num_evals, seconds=options.max_time or None),
        seed=options.seed,
    )
    if known is None:
        check_metrics(problem.metrics, energy_reason(options.device))
    names = tuple(dict.fromkeys(["latency", "params", "flops", "memory", *[m for m in problem.metrics if m != "accuracy"]]))
    (reference,) = scorer.bounds([space.reference()], names)
    problem = problem.resolve({name: bound.value for name, bound in reference.items()})
    checked = [limit for limit in problem.constraints if limit.metric != "accuracy"]
    start = feasibility.check(
        space,
        checked,
        lambda rows: scorer.matrices(rows, tuple({limit.metric for limit in checked})),
        np.random.default_rng([options.seed, FEASIBILITY_EVALUATIONS]),
        evaluations=FEASIBILITY_EVALUATIONS,
    )
    (start_metrics,) = scorer.bounds([start], names)
    return Plan(
        options=options,
        problem=problem,
        scorer=scorer,
        dataset=dataset,
        start=start,
        start_metrics=start_metrics,
        reference_metrics=reference,
        notes=tuple(warnings(predictor) + _other_space(predictor, options) + _slow(space, reference, options.batch)),
    )


def energy_reason(device: str) -> str:
    """Why energy cannot be predicted for a device."""
    try:
        meter = find(device).energy_meter()
    except DeviceUnavailable as error:
        return str(error)
    return meter.reason if isinstance(meter, Unavailable) else "no energy predictor was learned for this device"


def _other_space(predictor: Predictor, options: SearchOptions) -> list[str]:
    if predictor.space == options.space or predictor.origin:
        return []
    return [
        f"the predictor was learned on networks of '{predictor.space}', not of '{options.space}', where its intervals were not checked; "
        f"better run 'hwnas profile --device {options.device} --space {options.space}' first"
    ]


def _slow(space: SearchSpace, reference: dict[str, Bounded], batch: int) -> list[str]:
    size = reference["flops"].value / batch
    if size < SLOW_FLOPS:
        return []
    return [
        f"networks of '{space.name}' (the reference: {format_count(size)} operations an image) take minutes each to train on a CPU; "
        f"bound it with --trainings, --finalists and --seeds"
    ]


def search(workspace: Workspace, options: SearchOptions, *, name: str | None = None, watch: Watch) -> Outcome:
    """Searches, trains and measures the finalists; everything is on disk as soon as it is known.

    Raises:
        UsageError, NotFoundError, InfeasibleError: as `plan`.
    """
    made = plan(workspace, options)
    return _carry_out(workspace, create(workspace, options, _record(made), name), made, watch)


def resume(workspace: Workspace, given: dict[str, Any], *, name: str | None = None, watch: Watch) -> Outcome:
    """Goes on with a run where it was cut off.

    Args:
        workspace: that holds it.
        given: options of this call; they must agree with the run's, but for a larger budget.
        name: of the run; the newest by default.
        watch: progress.

    Raises:
        NotFoundError: there is no such run.
        UsageError: an option differs from the run's.
    """
    run = find_run(workspace, name)
    recorded = {option.name: getattr(run.options, option.name) for option in fields(run.options)}
    for key, value in given.items():
        if key not in ("num_evals", "max_time") and recorded[key] != value:
            flag = key.replace("_", "-")
            raise UsageError(
                f"run '{run.id}' was made with --{flag} {_shown(recorded[key])}, this call says {_shown(value)}; leave it out to resume"
            )
    options = SearchOptions.read({**recorded, **{key: given[key] for key in ("num_evals", "max_time") if key in given}})
    used, there = str(run.record.get("predictor", "")), predictor_for(workspace, options).digest
    if used != there:
        raise UsageError(
            f"run '{run.id}' was made with predictor {used[:12]}, which has been fitted anew since ({there[:12]}); start a new search"
        )
    made = plan(workspace, options)
    record = {**run.record, "replay": options.command()}
    return _carry_out(workspace, Run(folder=run.folder, options=options, record=record), made, watch)


def _shown(value: object) -> str:
    return " ".join(map(str, value)) or "(none)" if isinstance(value, tuple) else "(none)" if value is None else str(value)


def _record(made: Plan) -> dict[str, Any]:
    predictor = made.scorer.predictor
    return {
        "seed": made.options.seed,
        "versions": versions(),
        "data": made.dataset.digest,
        "device_fingerprint": predictor.fingerprint,
        "predictor": predictor.digest,
        "profile": predictor.profile_digest,
        "setting": predictor.setting.key,
        "latency_source": predictor.source,
        "constraints": [str(limit) for limit in made.problem.constraints],
        "replay": made.options.command(),
        "short_recipe": Recipe.short().digest,
        "long_recipe": Recipe.long().digest,
    }


def _carry_out(workspace: Workspace, run: Run, made: Plan, watch: Watch) -> Outcome:
    watch.started(run, made)
    options = run.options
    with run.archive() as archive:
        run.save()  # a resumed run may have been given a larger budget
        evaluator = SearchEvaluator(
            scorer=made.scorer,
            problem=made.problem,
            archive=archive,
            dataset=made.dataset,
            recipe=Recipe.short(),
            trainings=options.trainings,
            population=options.population,
            tell=watch.doing,
        )
        result = nsga2.search(
            made.problem,
            evaluator,
            archive,
            population=options.population,
            initial=[made.start],
            on_generation=watch.generation,
        )
        finalists = _finish(workspace, run, made, archive, result, watch)
        archive.note("quality", _quality(evaluator))
        archive.note("finalists", [finalist.as_json() for finalist in finalists])
    return Outcome(run=run, result=result, finalists=tuple(finalists), notes=made.notes)


def _finish(workspace: Workspace, run: Run, made: Plan, archive: Archive, result: Result, watch: Watch) -> Sequence[Finalist]:
    options = run.options
    final = Final(
        scorer=made.scorer,
        problem=made.problem,
        archive=archive,
        dataset=made.dataset,
        recipe=Recipe.long(),
        runtime=_runtime(workspace, options, made.scorer.predictor.setting.runtime),
        seeds=options.seeds,
        weights=run.weights,
        metering=metering(options.device, made.scorer.energy),
        tell=watch.doing,
    )
    others = [evaluation for evaluation in archive.latest().values() if made.problem.feasible(evaluation)]
    chosen, predictor = final.choose(result.front, others, options.finalists)
    archive.note("recalibrated", {"half_width": predictor.model.half_width})
    return final.train(chosen)


def _runtime(workspace: Workspace, options: SearchOptions, predicted: str) -> Runtime | None:
    """What measures the finalists, where the device is on this machine and this version can drive it.

    Args:
        workspace: of the run.
        options: of the run.
        predicted: the runtime whose times were predicted; measured is that one, or, where hwnas does not drive it, the device's usual one.
    """
    try:
        device = find(options.device)
        choices = registry.choices(device.spec.name)
        return registry.make(predicted if predicted in choices else choices[0], options.threads, device, workspace)
    except (DeviceUnavailable, MissingExtraError, UsageError):
        return None


def _quality(evaluator: SearchEvaluator) -> dict[str, Any] | None:
    return asdict(evaluator.surrogate.quality()) if evaluator.trained else None
