"""`kernels`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from hwnas.assets import Workspace
from hwnas.cli import options
from hwnas.kernels.compile import DEFAULT_ARCHS
from hwnas.units import format_bytes, format_fraction, format_seconds

if TYPE_CHECKING:
    from hwnas.workflows.kernels import Built, Uses
    from hwnas.workflows.kernels_worth import Benched

_names = click.option("--kernel", "names", multiple=True, help="Kernel; repeatable, all by default.")
_precisions = click.Choice(["fp32", "fp16", "bf16"])


def _network(function: Any) -> Any:
    """The network: a file, or a genotype of a space."""
    function = click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Images per call.")(function)
    function = click.option("--genotype", default=None, help="Choices, such as 0,1,2; the space's reference network by default.")(function)
    function = click.option("--space", default=None, help="Space of the network, in place of a file.")(function)
    return click.argument("model", required=False, type=click.Path(path_type=Path))(function)


@click.group()
def kernels() -> None:
    """Custom fused GPU kernels: compile them, find where a network has use for them, measure whether they pay."""


@kernels.command("list")
@options.as_json
def list_kernels(as_json: bool) -> None:
    """Show the kernels and what they fuse."""
    from hwnas.kernels import all_kernels

    found = all_kernels()
    if as_json:
        options.print_json(
            [
                {
                    "name": source.name,
                    "summary": source.summary,
                    "fuses": list(source.fuses),
                    "layout": source.layout,
                    "cases": len(source.cases),
                }
                for source in found
            ]
        )
        return
    console = options.console()
    for source in found:
        console.print(options.headed(source.name, f"  {source.summary}"))
        console.print(f"  fuses    {', '.join(source.fuses)}")
        console.print(f"  layout   {source.layout}; {len(source.tunings)} ways to launch, {len(source.cases)} typical cases")


@kernels.command()
@click.option("--arch", "archs", multiple=True, default=DEFAULT_ARCHS, show_default=True, help="Architecture; repeatable.")
@click.option("--precision", "precisions", multiple=True, type=_precisions, default=("fp16",), show_default=True, help="Repeatable.")
@_names
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Folder that gets PTX, machine code and kernels.json.")
@options.as_json
def build(archs: tuple[str, ...], precisions: tuple[str, ...], names: tuple[str, ...], out: Path | None, as_json: bool) -> None:
    """Compile the kernels ahead of time, with no card, and show what each needs."""
    from hwnas.workflows.kernels import build as run
    from hwnas.workflows.kernels import provenance

    found = run(archs=archs, precisions=precisions, names=names, out=out)
    if as_json:
        options.print_json({"triton": provenance()["triton"], "kernels": [built.as_json() for built in found]})
        return
    _print_built(found, provenance()["triton"])
    if out is not None:
        options.console().print(f"wrote {2 * len(found)} files and kernels.json to '{out}'")


def _print_built(found: list[Built], triton: str) -> None:
    table = Table("kernel", "case", "precision", "arch", "threads", "registers", "shared", "spills", "code")
    for built in found:
        usage = built.code.usage
        spilled = usage.spill_store_bytes + usage.spill_load_bytes
        row = (built.kernel, built.case.name, built.precision, built.arch, f"{built.code.threads}", f"{usage.registers}")
        table.add_row(*row, f"{usage.shared_bytes} B", f"{spilled} B" if spilled else "none", format_bytes(len(built.code.cubin)))
    console = options.console()
    console.print(table)
    console.print(f"triton {triton}; compiled, not run")


@kernels.command()
@_network
@click.option("--device", default="a100", show_default=True, help="Device whose predictor says what share of the time is at stake.")
@options.home
@options.as_json
def match(
    model: Path | None, space: str | None, genotype: str | None, batch: int, device: str, workspace: Workspace, as_json: bool
) -> None:
    """Find where a network has use for the kernels, and what share of its predicted time that is."""
    from hwnas.workflows.kernels import find_uses, network

    found = find_uses(workspace, network(model=model, space=space, genotype=genotype, batch=batch), device=device, batch=batch)
    if as_json:
        options.print_json(found.as_json())
        return
    _print_uses(found)


def _print_uses(found: Uses) -> None:
    console = options.console()
    table = Table("kernel", "work", "attributes", "places", "share")
    for use in found.uses:
        attrs = ", ".join(f"{key} {value}" for key, value in use.case.attrs.items() if value != "none")
        share = "unknown" if use.share is None else format_fraction(use.share)
        table.add_row(use.kernel, use.case.name, attrs, f"{len(use.places)}", share)
    if found.uses:
        console.print(table)
    for name in dict.fromkeys(use.kernel for use in found.uses):
        places, whole = sum(len(use.places) for use in found.uses if use.kernel == name), found.share(name)
        at_stake = "" if whole is None else f", {format_fraction(whole)} of the predicted time"
        console.print(options.headed(name, f": {places} places{at_stake}"))
    if not found.uses:
        console.print(f"none of the {found.nodes} nodes are work for these kernels")
    console.print(f"  {found.source}")
    for note in found.notes:
        click.echo(f"hwnas: note: {note}", err=True)


@kernels.command()
@_network
@click.option("--device", required=True, help="Card to measure on.")
@click.option("--precision", type=_precisions, default="fp16", show_default=True, help="Of the tensors.")
@click.option(
    "--against",
    default=None,
    help="What the kernels meet: a runtime, torch, or compile (torch compiled); the runtime that 'hwnas profile' would use by default.",
)
@_names
@options.home
@options.as_json
def bench(
    model: Path | None,
    space: str | None,
    genotype: str | None,
    batch: int,
    device: str,
    precision: str,
    against: str | None,
    names: tuple[str, ...],
    workspace: Workspace,
    as_json: bool,
) -> None:
    """Measure the kernels against the runtime's own on a card, and say whether they pay (on a network, where one is given)."""
    from hwnas.workflows.kernels import network
    from hwnas.workflows.kernels_bench import bench as run

    given = model is not None or space is not None or genotype is not None
    graph = network(model=model, space=space, genotype=genotype, batch=batch) if given else None
    found = run(graph, device=device, precision=precision, against=against, names=names, workspace=workspace)
    if as_json:
        options.print_json(found.as_json())
        return
    print_benched(found)


def print_benched(found: Benched) -> None:
    """Prints what was measured and the verdict."""
    console = options.console()
    table = Table("kernel", "case", "places", "kernel adds", "runtime adds", "by", "speed-up", "verdict")
    for timing in found.timings:
        low, high = timing.speedup.low, timing.speedup.high
        times = (
            format_seconds(timing.kernel_s),
            format_seconds(timing.baseline_s),
            "unknown" if timing.fusion is None else str(timing.fusion),
            f"{timing.speedup.median:.3f} [{low:.3f}, {high:.3f}]",
        )
        table.add_row(timing.kernel, timing.case.name, f"{timing.places}", *times, timing.verdict)
    console.print(table)
    speedup = found.speedup
    if found.network_s is not None and speedup is not None:
        console.print(
            options.headed(
                str(found.verdict),
                f": {speedup.median:.3f} [{speedup.low:.3f}, {speedup.high:.3f}] times as fast on this network "
                f"({format_seconds(found.network_s)} without), from single kernels",
            )
        )
    console.print(f"  {found.where}")
    for note in found.notes:
        click.echo(f"hwnas: note: {note}", err=True)
