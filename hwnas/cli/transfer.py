"""`transfer`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich.table import Table

from hwnas.assets import Workspace
from hwnas.cli import options
from hwnas.units import format_fraction, format_seconds

if TYPE_CHECKING:
    from hwnas.workflows.transfer import Outcome


@click.command()
@click.option("--from", "source", default="auto", show_default=True, help="Known device: a name, the folder of a predictor, or auto.")
@click.option("--to", "device", default="cpu", show_default=True, help="Device to learn.")
@options.load
@options.precision
@options.runtime
@click.option("--networks", type=int, default=10, show_default=True, help="Networks to measure, at most.")
@click.option("--space", default=None, help="Networks to choose from; by default those that the known device was learned from.")
@click.option("--max-time", type=options.SECONDS, default="5m", show_default=True, help="Stop measuring after this time.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the networks to choose from.")
@click.option("--restart", is_flag=True, help="Drop what an interrupted transfer has measured.")
@click.option("--force", is_flag=True, help="Replace a predictor that was learned from a profile.")
@options.home
@options.as_json
def transfer(
    source: str,
    device: str,
    threads: int,
    batch: int,
    precision: str,
    runtime: str | None,
    networks: int,
    space: str | None,
    max_time: float,
    seed: int,
    restart: bool,
    force: bool,
    workspace: Workspace,
    as_json: bool,
) -> None:
    """Learn a device from a few measured networks and a known device's predictor; goes on where it was interrupted."""
    from hwnas.profiling import Progress
    from hwnas.workflows.transfer import transfer as run

    with options.progress("time") as bar:
        task = bar.add_task(f"transfer to {device}", total=None, time="")

        def report(state: Progress) -> None:
            bar.update(task, time=f"measuring for {format_seconds(state.seconds)}")

        outcome = run(
            workspace,
            source=source,
            device=device,
            threads=threads,
            batch=batch,
            precision=precision,
            runtime=runtime,
            networks=networks,
            space=space,
            max_time_s=max_time,
            seed=seed,
            restart=restart,
            force=force,
            report=report,
        )
    if as_json:
        options.print_json(outcome.as_json())
        return
    _print(outcome)


def _print(outcome: Outcome) -> None:
    console, profile, model = options.console(), outcome.profile, outcome.predictor.model
    console.print(
        f"{len(profile.networks)} networks of '{profile.space}' measured in {format_seconds(profile.spent_s)} "
        f"({profile.setting.device}, {profile.setting.key})"
    )
    console.print(outcome.predictor.source)
    console.print(
        f"each network predicted from the others: mean error {format_fraction(model.held_out.mape)}, within 10 %: "
        f"{format_fraction(model.held_out.within_10)}; 90 % interval about {format_fraction(model.half_width)} either way, by these few "
        f"alone; 'hwnas profile' measures more and learns better"
    )
    if len(outcome.sources) > 1:
        table = Table("known device", "log evidence")
        for source in outcome.sources:
            table.add_row(source.name, f"{source.evidence:.1f}")
        console.print(table)
