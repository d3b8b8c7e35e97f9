"""`hwnas report`: a run as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.accuracy import data
from hwnas.accuracy.quality import Quality, Ranking
from hwnas.assets import Workspace
from hwnas.devices import Energy, Unavailable
from hwnas.errors import HwnasError, NotFoundError
from hwnas.predict import Predictor
from hwnas.predict.model import LEVEL
from hwnas.profiling import Profile, ProfileStore
from hwnas.report import view
from hwnas.report.page import render
from hwnas.runtimes.samples import Samples
from hwnas.search.archive import Archive
from hwnas.search.problem import Budget, Constraint, Objective, Problem
from hwnas.spaces import SearchSpace
from hwnas.spaces.base import Genotype
from hwnas.workflows.context import space_for
from hwnas.workflows.evaluator import NOT_SCORED
from hwnas.workflows.predict import predictor_for
from hwnas.workflows.runs import Run, find
from hwnas.workflows.search import energy_reason

PARTS = {
    "proxies": "proxies",
    "training": "training",
    "measurement": "measuring",
    "energy": "measuring",
    "export": "export",
    "engine": "export",
}


def report(workspace: Workspace, run_name: str | None, path: Path | None = None) -> Path:
    """Writes the report of a run, as far as it has come.

    Args:
        workspace: that holds the run.
        run_name: the newest run by default.
        path: of the page; `report.html` in the run's folder by default.

    Raises:
        NotFoundError: there is no such run.
        HwnasError: the page cannot be written.
    """
    run = find(workspace, run_name)
    with run.archive(readonly=True) as archive:
        return render(look(workspace, run, archive), path or run.folder / "report.html")


def look(workspace: Workspace, run: Run, archive: Archive) -> view.RunView:
    """Everything that is known of a run, as the page wants it."""
    options = run.options
    space = space_for(options.space, data.load(options.data).num_classes)
    limits = tuple(Constraint.parse(text) for text in run.record["constraints"])
    objectives = Objective.parse(minimize=options.minimize, maximize=options.maximize)
    problem = Problem(
        space=space, objectives=objectives, constraints=limits, budget=Budget(evaluations=options.num_evals), seed=options.seed
    )
    notes = archive.notes()
    predictor = _predictor(workspace, run)
    profile = _profile(workspace, predictor) if predictor else None
    finalists = tuple(_finalist(row, archive, options.device) for row in notes.get("finalists") or ())
    trials = archive.trials()
    finished = notes.get("finished") or {}
    return view.RunView(
        run=run.id,
        created=f"{run.record['created'].astimezone():%Y-%m-%d %H:%M}",
        space=str(space),
        device=f"{options.device} ({run.record['setting']})",
        objectives=tuple(view.Objective(metric=o.metric, minimize=o.minimize) for o in objectives),
        limits=tuple(view.Limit(metric=c.metric, bound=c.limit, upper=c.op == "<=") for c in limits),
        evaluations=len(archive.latest()),
        generations=max((trial.generation for trial in trials), default=0),
        failures=sum(bool(e.failure) for e in archive.latest().values()),
        stopped_by=str(finished.get("stopped_by") or "not finished yet"),
        trials=_trials(archive, problem),
        finalists=finalists,
        comparisons=_comparisons(archive, finalists, space, predictor, options.batch),
        kernels=_kernels(space, predictor, finalists, options.batch),
        kernels_origin="predicted",
        spent=_spent(archive, notes, profile),
        quality=_quality(notes.get("quality")),
        predictor=_card(predictor, profile) if predictor else None,
        environment=_environment(run),
        replay=str(run.record["replay"]),
    )


def _predictor(workspace: Workspace, run: Run) -> Predictor | None:
    """The predictor of the run, unless another one has taken its place since."""
    options = run.options
    try:
        found = predictor_for(workspace, options)
    except HwnasError:
        return None
    return found if found.digest == run.record["predictor"] else None


def _profile(workspace: Workspace, predictor: Predictor) -> Profile | None:
    for tree in workspace.look_up("profiles"):
        try:
            found = ProfileStore(tree / predictor.setting.device).load(predictor.setting, predictor.space)
        except NotFoundError:
            continue
        if found.digest == predictor.profile_digest:
            return found
    return None


def _network(genotype: Genotype) -> str:
    return ",".join(map(str, genotype))


def _trials(archive: Archive, problem: Problem) -> tuple[view.Trial, ...]:
    first = {trial.evaluation.genotype: trial.generation for trial in reversed(archive.trials())}
    return tuple(
        view.Trial(
            network=_network(genotype),
            metrics={
                name: view.Interval(bound.value, bound.low, bound.high)
                for name, bound in evaluation.metrics.items()
                if evaluation.source[name] != NOT_SCORED
            },
            feasible=problem.feasible(evaluation),
            generation=first[genotype],
        )
        for genotype, evaluation in archive.latest().items()
    )


def _finalist(row: Mapping[str, Any], archive: Archive, device: str) -> view.Finalist:
    predicted, foreseen, read = row["predicted_latency_s"], row.get("predicted_energy_j"), row.get("measured_energy_j") is not None
    exports = [stored for stored in archive.results("export") if stored.genotype == tuple(row["genotype"])]
    return view.Finalist(
        rank=row["rank"],
        network=_network(tuple(row["genotype"])),
        summary=_summary(row["arch"]),
        predicted_latency_s=view.Interval(predicted["value"], predicted["low"], predicted["high"]),
        measured_latency_s=view.Interval(row["measured_latency_s"], row["measured_p10_s"], row["measured_p90_s"])
        if row["measured_latency_s"] is not None
        else None,
        limit_kept=row["limit_kept"],
        accuracies=tuple(row["accuracies"]),
        accuracy_split="locked test",
        params=row["params"],
        flops=row["flops"],
        predicted_energy_j=view.Interval(foreseen["value"], foreseen["low"], foreseen["high"]) if foreseen else None,
        energy=_energy(row, device),
        net_energy=Energy(row["measured_net_energy_j"], row["measured_net_energy_uncertainty_j"]) if read else None,
        energy_source=row["energy"] if read else "",
        export=_export(exports[-1].payload) if exports else None,
        engines=tuple(_engine(stored.payload) for stored in archive.results("engine") if stored.genotype == tuple(row["genotype"])),
    )


def _energy(row: Mapping[str, Any], device: str) -> Energy | Unavailable:
    """As measured; runs from before energy was measured do not say why it was not."""
    joules = row.get("measured_energy_j")
    if joules is not None:
        return Energy(joules, row["measured_energy_uncertainty_j"], tuple(row["energy_notes"]))
    told = str(row.get("energy", ""))
    return Unavailable(told.removeprefix("unavailable: ") or energy_reason(device))


def _engine(payload: Mapping[str, Any]) -> view.Engine:
    return view.Engine(
        folder=payload["folder"],
        flavor=payload["flavor"],
        precision=payload["precision"],
        size_bytes=payload["engine_bytes"],
        layers=payload.get("layers", {}),
        view=payload.get("view", ""),
        runs_on=payload.get("runs_on", ", ".join(payload["targets"]) or "the card that built it"),
        latency=payload["latency"],
        loading="" if payload["loads"] else payload["loading"],
        accuracy=payload["accuracy"],
        accuracy_fp32=payload["accuracy_fp32"],
        commands=tuple(payload["commands"]),
    )


def _summary(arch: Mapping[str, Any]) -> str:
    """The choices that say most: whole-network ones, which have no number in their name."""
    whole = {key: value for key, value in arch.items() if not any(character.isdigit() for character in key)}
    return ", ".join(f"{key} {value}" for key, value in whole.items())


def _export(payload: Mapping[str, Any]) -> view.Export:
    to_fp32 = payload["speedup_over_fp32"]
    return view.Export(
        folder=payload["folder"],
        precision=payload["precision"],
        latency_s=view.Interval(payload["median_s"], payload["p10_s"], payload["p90_s"]),
        speedup_over_torch=view.Interval(*payload["speedup_over_torch"]),
        speedup_over_fp32=view.Interval(*to_fp32) if to_fp32 else None,
        accuracy=payload["accuracy"],
        accuracy_fp32=payload["accuracy_fp32"],
        size_bytes=payload["size_bytes"],
        reason=payload["reason"],
    )


def _comparisons(
    archive: Archive, finalists: tuple[view.Finalist, ...], space: SearchSpace, predictor: Predictor | None, batch: int
) -> tuple[view.Comparison, ...]:
    """Predictions against measurements, p10 against p10, since p10 is what was learned."""
    if predictor is None:
        return ()
    chosen = {finalist.network for finalist in finalists}
    rows = [stored for stored in archive.results("measurement") if stored.variant.endswith("candidate")]
    estimates = predictor.estimate([space.graph(stored.genotype, batch=batch) for stored in rows])
    return tuple(
        view.Comparison(
            network=_network(stored.genotype),
            kind="finalist" if _network(stored.genotype) in chosen else "elite",
            predicted_s=view.Interval(estimate.value, estimate.low, estimate.high),
            measured_s=Samples(np.array(stored.payload["seconds"])).p10_s,
        )
        for stored, estimate in zip(rows, estimates, strict=True)
    )


def _kernels(
    space: SearchSpace, predictor: Predictor | None, finalists: tuple[view.Finalist, ...], batch: int
) -> tuple[view.KernelShare, ...]:
    if predictor is None or not finalists:
        return ()
    genotype = tuple(int(gene) for gene in finalists[0].network.split(","))
    return tuple(
        view.KernelShare(
            kernel="+".join((part.call.kernel.op, *part.call.kernel.fused)), node=", ".join(part.call.nodes), seconds=part.seconds
        )
        for part in predictor.explain(space.graph(genotype, batch=batch))
    )


def _spent(archive: Archive, notes: Mapping[str, Any], profile: Profile | None) -> tuple[view.Spent, ...]:
    rows = [view.Spent(part="profiling", finished_s=0.0, seconds=profile.spent_s)] if profile else []
    stored = sorted((s for kind in PARTS for s in archive.results(kind)), key=lambda s: s.created)  # type: ignore[arg-type]
    if not stored:
        return tuple(rows)
    begun = datetime.fromisoformat(archive.trials()[0].created if archive.trials() else stored[0].created)
    begun = min(begun, datetime.fromisoformat(stored[0].created))
    for row in stored:
        finished = (datetime.fromisoformat(row.created) - begun).total_seconds() + stored[0].seconds
        rows.append(view.Spent(part=PARTS[row.kind], finished_s=finished, seconds=row.seconds))
    inside = sum(row.seconds for row in stored if row.kind in ("proxies", "training"))
    search = max(0.0, float(notes.get("spent_s", 0.0)) - inside)
    if search:
        rows.append(view.Spent(part="search", finished_s=float(notes["spent_s"]), seconds=search))
    return tuple(rows)


def _quality(plain: Mapping[str, Any] | None) -> Quality | None:
    if plain is None:
        return None
    return Quality(trained=plain["trained"], top=plain["top"], rankings=tuple(Ranking(**row) for row in plain["rankings"]))


def _card(predictor: Predictor, profile: Profile | None) -> view.PredictorCard:
    held_out = predictor.model.held_out
    return view.PredictorCard(
        source=predictor.source,
        networks=held_out.networks,
        seconds=profile.spent_s if profile else 0.0,
        mape=held_out.mape,
        within_5=held_out.within_5,
        within_10=held_out.within_10,
        coverage_promised=LEVEL,
        coverage_held=held_out.coverage,
        curve=tuple((point.seconds, point.mape) for point in profile.curve) if profile else (),
    )


def _environment(run: Run) -> dict[str, str]:
    record = run.record
    fixed = {
        "device fingerprint": record["device_fingerprint"],
        "setting": record["setting"],
        "seed": str(record["seed"]),
        "data (SHA-256)": record["data"],
        "predictor (SHA-256)": record["predictor"],
        "profile (SHA-256)": record["profile"],
    }
    return {**fixed, **{f"version of {name}": version for name, version in record["versions"].items()}}
