"""`search`, `export`, `report`, `demo`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from rich.table import Table

from hwnas.assets import Workspace
from hwnas.cli import options
from hwnas.errors import UsageError
from hwnas.units import format_bytes, format_count, format_fraction, format_joules, format_quantity, format_seconds
from hwnas.workflows.runs import SearchOptions

if TYPE_CHECKING:
    from hwnas.export.engine_manifest import EngineManifest
    from hwnas.export.manifest import Manifest
    from hwnas.workflows.search import Outcome, Plan, Watch

DEFAULTS = SearchOptions()
_PRECISIONS = {"onnx": ("fp32", "int8", "auto"), "tensorrt": ("fp32", "fp16", "int8", "mixed")}


@click.command()
@options.device
@options.profiled_runtime
@options.load
@options.precision
@click.option("--space", default=DEFAULTS.space, show_default=True, help="Networks to search: a space's name, or path.py:Class.")
@click.option("--minimize", multiple=True, default=DEFAULTS.minimize, show_default=True, help="Metric to minimise; may be repeated.")
@click.option("--maximize", multiple=True, default=DEFAULTS.maximize, show_default=True, help="Metric to maximise; may be repeated.")
@click.option(
    "--constraint",
    multiple=True,
    help="Limit such as 'latency<=3ms', 'params<=2M', or of the reference network: 'latency<=60%'. Repeatable.",
)
@click.option("--num-evals", type=int, default=DEFAULTS.num_evals, show_default=True, help="Distinct networks to look at.")
@click.option("--max-time", type=options.SECONDS, default=None, help="Time for the search, such as 5m; the finalists come on top.")
@click.option("--trainings", type=int, default=DEFAULTS.trainings, show_default=True, help="Brief trainings while searching.")
@click.option("--finalists", type=int, default=DEFAULTS.finalists, show_default=True, help="Networks to train longer and to measure.")
@click.option("--seeds", type=int, default=DEFAULTS.seeds, show_default=True, help="Trainings of each finalist.")
@click.option("--population", type=int, default=DEFAULTS.population, show_default=True, help="Networks per generation.")
@click.option("--data", default=DEFAULTS.data, show_default=True, help="Data set to train on.")
@click.option("--seed", type=int, default=DEFAULTS.seed, show_default=True, help="Of everything random.")
@click.option("--name", default=None, help="Name of the run; made from the time by default. With --resume: the run, by default the newest.")
@click.option("--resume", is_flag=True, help="Go on with a run that was cut off; its options need not be repeated.")
@click.option("--dry-run", is_flag=True, help="Check the request and show what would be done; spend nothing.")
@options.home
@options.as_json
@click.pass_context
def search(ctx: click.Context, /, workspace: Workspace, name: str | None, resume: bool, dry_run: bool, as_json: bool, **given: Any) -> None:
    """Search for networks that keep a limit; train and measure the best."""
    from hwnas.workflows import search as workflow

    given["max_time"] = given["max_time"] or 0.0
    if resume and dry_run:
        raise UsageError("--dry-run shows what a new search would do; drop --resume")
    if dry_run:
        _print_plan(workflow.plan(workspace, SearchOptions(**given)), as_json)
        return
    with _watch(given["num_evals"]) as watch:
        if resume:
            typed = {key: value for key, value in given.items() if ctx.get_parameter_source(key) is ParameterSource.COMMANDLINE}
            outcome = workflow.resume(workspace, typed, name=name, watch=watch)
        else:
            outcome = workflow.search(workspace, SearchOptions(**given), name=name, watch=watch)
    _print_outcome(outcome, as_json)


@contextmanager
def _watch(evaluations: int) -> Iterator[Watch]:
    """A progress bar of a search on standard error."""
    from hwnas.search.loop import Progress
    from hwnas.workflows.runs import Run
    from hwnas.workflows.search import Watch

    with options.progress("state", "doing") as bar:
        task = bar.add_task("search", total=evaluations, state="", doing="")

        def generation(progress: Progress) -> None:
            state = f"{progress.evaluations} networks, {format_fraction(progress.feasible)} feasible, front {progress.front}"
            bar.update(task, completed=progress.evaluations, state=state)

        def doing(text: str) -> None:
            bar.update(task, doing=text)

        def started(run: Run, plan: Plan) -> None:
            for note in plan.notes:
                bar.console.print(f"hwnas: note: {note}", markup=False, soft_wrap=True)
            bar.console.print(f"run {run.id} in {run.folder}", markup=False, soft_wrap=True)
            bar.update(task, total=run.options.num_evals)

        yield Watch(generation=generation, doing=doing, started=started)
        bar.update(task, doing="done")


def _print_plan(plan: Plan, as_json: bool) -> None:
    if as_json:
        options.print_json(plan.as_json())
        return
    from hwnas.search.problem import METRICS

    console = options.console()
    console.print(str(plan.scorer.space))
    console.print(", ".join(str(objective) for objective in plan.problem.objectives))
    reference = plan.reference_metrics["latency"]
    console.print(f"reference network: latency {format_seconds(reference.value)} predicted")
    for limit in plan.problem.constraints:
        text, bound = f"limit {limit}", plan.start_metrics.get(limit.metric)
        if bound:
            value, low, high = (format_quantity(size, METRICS[limit.metric].kind) for size in (bound.value, bound.low, bound.high))
            text += f"; a network that keeps it: {value}" + (f" [{low}, {high}]" if low != high else "")
        console.print(text)
    console.print(
        f"would look at {plan.options.num_evals} networks, train {plan.options.trainings} briefly, then {plan.options.finalists} finalists "
        f"with {plan.options.seeds} seeds each; nothing was spent"
    )
    for note in plan.notes:
        console.print(f"note: {note}")


def _print_outcome(outcome: Outcome, as_json: bool) -> None:
    if as_json:
        options.print_json(outcome.as_json())
        return
    console = options.console()
    device, count = outcome.run.options.device, len(outcome.finalists)
    console.print(
        f"{outcome.result.evaluations} networks in {outcome.result.generations} generations (ended by {outcome.result.stopped_by}); "
        + (
            f"{outcome.kept} of {count} finalists kept the limits when measured"
            if outcome.measured
            else f"{count} finalists, none measured: '{device}' is not on this machine; latency {outcome.run.record['latency_source']}"
        )
    )
    console.print(_finalists_table(outcome))
    for told in dict.fromkeys(finalist.as_json()["energy"] for finalist in outcome.finalists):
        console.print(f"energy {told}")
    export = f"hwnas export {outcome.run.id} -o DIR, " if outcome.measured else ""
    console.print(f"next: {export}hwnas report {outcome.run.id}")


def _finalists_table(outcome: Outcome, speedup: str = "") -> Table:
    rows = [finalist.as_json() for finalist in outcome.finalists]
    metered = any(row["predicted_energy_j"] or row["measured_energy_j"] for row in rows)
    energies = ["energy predicted\n[low, high]", "energy\nmeasured"] if metered else []
    table = Table(
        "#", "predicted\n[low, high]", "measured", *energies, "limit\nkept", "accuracy", "params", *(["exported"] if speedup else [])
    )
    for finalist, row in zip(outcome.finalists, rows, strict=True):
        predicted = row["predicted_latency_s"]
        interval = f"{format_seconds(predicted['value'])}\n[{format_seconds(predicted['low'])}, {format_seconds(predicted['high'])}]"
        measured = row["measured_latency_s"]
        kept = {True: "yes", False: "NO", None: "no limit" if measured and not outcome.limited else "unknown"}[row["limit_kept"]]
        deviation = "one seed" if row["accuracy_sd"] is None else f"± {format_fraction(row['accuracy_sd'])}"
        accuracy = f"{format_fraction(row['accuracy_mean'])} {deviation}"
        shipped = [speedup if finalist.rank == 1 else ""] if speedup else []
        table.add_row(
            str(finalist.rank),
            interval,
            format_seconds(measured) if measured else "no",
            *(_energies(row) if metered else ()),
            kept,
            accuracy,
            format_count(finalist.params),
            *shipped,
        )
    return table


def _energies(row: dict[str, Any]) -> tuple[str, str]:
    """A finalist's energy as predicted and as measured."""
    foreseen, joules = row["predicted_energy_j"], row["measured_energy_j"]
    predicted = (
        f"{format_joules(foreseen['value'])}\n[{format_joules(foreseen['low'])}, {format_joules(foreseen['high'])}]" if foreseen else "no"
    )
    return predicted, f"{format_joules(joules)}\n± {format_joules(row['measured_energy_uncertainty_j'], 2)}" if joules else "no"


@click.command()
@click.argument("run", required=False)
@click.option("--rank", type=int, default=1, show_default=True, help="Which finalist.")
@click.option(
    "--to", "target", type=click.Choice(["onnx", "tensorrt"]), default="onnx", show_default=True, help="A model, or an engine of NVIDIA's."
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8", "mixed", "auto"]),
    default=None,
    help="What to ship. A model: fp32, int8, or auto (the default), which takes int8 only where it is faster and as accurate to a point, "
    "or was searched for. An engine: fp32, fp16 (the default, unless int8 was searched for), int8, or mixed, which keeps in fp16 what int8 "
    "harms.",
)
@click.option("-o", "--out", "out_dir", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@click.option("--force", is_flag=True, help="Replace an earlier export.")
@click.option("--flavor", type=click.Choice(["tensorrt", "rtx"]), default="tensorrt", help="Engine: built on its card, or anywhere (rtx).")
@click.option("--compute-capability", "capabilities", multiple=True, help="Engine, rtx: cards to build for, such as sm86; may be repeated.")
@click.option("--batches", type=options.BATCHES, default=None, help="Engine: smallest, usual and largest batch, such as 1,8,32.")
@click.option("--tf32", is_flag=True, help="Engine: let fp32 products round their factors to TF32.")
@click.option("--version-compatible", is_flag=True, help="Engine: loads in later versions of TensorRT too.")
@click.option("--hardware-compatible", is_flag=True, help="Engine: runs on every card since Ampere.")
@click.option("--refittable", is_flag=True, help="Engine: weights can be replaced without a build.")
@click.option("--ep-context", "with_ep_context", is_flag=True, help="Engine: write the form that ONNX Runtime loads as well.")
@options.home
@options.as_json
@click.pass_context
def export(
    ctx: click.Context,
    /,
    run: str | None,
    rank: int,
    target: str,
    precision: Any,
    out_dir: Path,
    force: bool,
    workspace: Workspace,
    as_json: bool,
    **engine: Any,
) -> None:
    """Export a finalist of RUN (the newest by default): an ONNX model, measured and verified, or an engine for NVIDIA cards."""
    if precision is not None and precision not in _PRECISIONS[target]:
        raise UsageError(f"--to {target} has the precisions {', '.join(_PRECISIONS[target])}, not '{precision}'")
    if target == "tensorrt":
        shared = {"rank": rank, "out_dir": out_dir, "force": force, "precision": precision}
        _export_engine(workspace, run, shared, engine, as_json)
        return
    typed = [name for name in engine if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if typed:
        flag = next(param.opts[0] for param in ctx.command.params if param.name == typed[0])
        raise UsageError(f"{flag} is for engines; add --to tensorrt")
    from hwnas.workflows.export import export as workflow

    with _doing("export") as doing:
        _, manifest = workflow(workspace, run, rank=rank, precision=precision or "auto", out_dir=out_dir, force=force, doing=doing)
    if as_json:
        options.print_json(_export_json(manifest, out_dir))
        return
    _print_export(manifest, out_dir)


def _export_engine(workspace: Workspace, run: str | None, shared: dict[str, Any], engine: dict[str, Any], as_json: bool) -> None:
    from hwnas.runtimes.trt_build import Options
    from hwnas.workflows.export_engine import export_to_tensorrt, plain

    batches, with_ep_context = engine.pop("batches"), engine.pop("with_ep_context")
    how = Options(**engine)
    with _doing("export") as doing:
        _, manifest = export_to_tensorrt(
            workspace, run, options=how, batches=batches, with_ep_context=with_ep_context, doing=doing, **shared
        )
    if as_json:
        options.print_json(plain(manifest, shared["out_dir"]))
        return
    _print_engine(manifest, shared["out_dir"])


def _print_engine(manifest: EngineManifest, out_dir: Path) -> None:
    console, engine = options.console(), manifest.options
    cards = ", ".join(engine.targets) or "the card that built it"
    console.print(f"exported as {manifest.precision} to {out_dir}: an engine of {manifest.settings['flavor']} for {cards}")
    table = Table("nodes", "engine", "accuracy (locked test)", "in fp32", "output error", "latency")
    table.add_row(
        ", ".join(f"{count} {name}" for name, count in manifest.nodes.items()),
        format_bytes(manifest.engine_bytes),
        format_fraction(manifest.accuracy),
        format_fraction(manifest.accuracy_fp32),
        format_fraction(manifest.output_error),
        manifest.latency,
    )
    console.print(table)
    console.print("accuracy is that of the engine's model on this processor, in the engine's precisions")
    for kept in manifest.compared[:3]:
        console.print(f"{kept.node} alone in int8: error {format_fraction(kept.error)}; it computes in {kept.precision}")
    console.print("the engine was loaded here" if manifest.loads else f"the engine was not loaded here: {manifest.loading}")
    for command in manifest.commands:
        console.print(f"on the card: {command}")


def _export_json(manifest: Manifest, out_dir: Path) -> dict[str, Any]:
    from hwnas.workflows.export import plain

    return {"folder": str(out_dir), **plain(manifest)}


@contextmanager
def _doing(what: str) -> Iterator[Callable[[str], None]]:
    """Says on standard error what is being done."""
    with options.progress("doing") as bar:
        task = bar.add_task(what, total=None, doing="")
        yield lambda text: bar.update(task, doing=text)


def _print_export(manifest: Manifest, out_dir: Path) -> None:
    console, shipped = options.console(), manifest.shipped
    console.print(f"exported as {manifest.precision} to {out_dir}: {manifest.reason}")
    table = Table("precision", "median", "p99", "accuracy (locked test)", "size", "against eager torch")
    for variant in manifest.variants:
        speed = variant.speedup_over_torch
        table.add_row(
            variant.precision + (" (shipped)" if variant.precision == shipped.precision else ""),
            format_seconds(variant.latency.median_s),
            format_seconds(variant.latency.p99_s),
            format_fraction(variant.accuracy),
            format_bytes(variant.size_bytes),
            f"{speed.value:.2f} times as fast [{speed.low:.2f}, {speed.high:.2f}]",
        )
    console.print(table)
    if manifest.limit_kept is not None and manifest.limit_s is not None:
        console.print(f"limit {format_seconds(manifest.limit_s)} {'kept' if manifest.limit_kept else 'NOT kept'} by what is shipped")


@click.command()
@click.argument("run", required=False)
@click.option(
    "-o", "--out", "path", type=click.Path(path_type=Path), default=None, help="File to write; report.html in the run by default."
)
@options.home
def report(run: str | None, path: Path | None, workspace: Workspace) -> None:
    """Write the report of RUN (the newest by default): one HTML page that works offline."""
    from hwnas.workflows.report import report as workflow

    click.echo(workflow(workspace, run, path))


@click.command()
@click.option(
    "-o", "--out", "out_dir", type=click.Path(path_type=Path), default=Path("demo-out"), show_default=True, help="Folder to write."
)
def demo(out_dir: Path) -> None:
    """Do the main job once on this machine's processor: measure, learn, search, train, re-measure, export, verify, report."""
    from hwnas.profiling import Progress
    from hwnas.workflows import demo as settings
    from hwnas.workflows.export import export as ship
    from hwnas.workflows.profile import profile as measure
    from hwnas.workflows.report import report as write_report
    from hwnas.workflows.search import search as find

    console = options.console()
    workspace, asked = Workspace.at(out_dir / "workspace"), settings.OPTIONS
    with options.progress("networks", "error") as bar:
        task = bar.add_task("1/4 measure and learn this processor", total=settings.PLAN.max_time_s, networks="", error="")

        def show(state: Progress) -> None:
            error = "" if state.error is None else f"error so far {format_fraction(state.error)}"
            bar.update(task, completed=min(state.seconds, settings.PLAN.max_time_s), networks=f"{state.networks} networks", error=error)

        measured = measure(workspace, device="cpu", space=asked.space, plan=settings.PLAN, start="restart", report=show)
    held_out = measured.predictor.model.held_out
    console.print(
        f"{len(measured.profile.networks)} networks measured in {format_seconds(measured.profile.spent_s)}; mean error on unseen ones "
        f"{format_fraction(held_out.mape)}, {format_fraction(held_out.within_10)} are within 10 %"
    )
    console.print(f"2/4 search: {asked.command()}")
    with _watch(asked.num_evals) as watch:
        outcome = find(workspace, asked, watch=watch)
    console.print("3/4 export the best finalist, measure and verify it")
    target = out_dir / "export"
    with _doing("export") as doing:
        _, manifest = ship(workspace, outcome.run.id, out_dir=target, force=True, doing=doing)
    _print_export(manifest, target)
    console.print(f"4/4 report: {write_report(workspace, outcome.run.id, out_dir / 'report.html')}")
    speed = manifest.shipped.speedup_over_torch
    console.print(f"{outcome.kept} of {len(outcome.finalists)} finalists kept '{', '.join(map(str, asked.constraint))}' when measured")
    console.print(_finalists_table(outcome, f"{manifest.precision}, {speed.value:.1f}x eager torch"))
