"""`devices`, `profile`, `fit`, `check`, `predict`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from hwnas.assets import Workspace
from hwnas.cli import options
from hwnas.errors import UsageError
from hwnas.spaces import GENERIC
from hwnas.units import format_bytes, format_fraction, format_joules, format_seconds

if TYPE_CHECKING:
    from hwnas.devices import DeviceState
    from hwnas.predict.model import HeldOut
    from hwnas.workflows.check import Checked
    from hwnas.workflows.predict import Prediction
    from hwnas.workflows.profile import Profiled


@click.command()
@options.as_json
def devices(as_json: bool) -> None:
    """Show what this machine is and which runtimes work here."""
    from hwnas.workflows.devices import look

    machine = look()
    if as_json:
        options.print_json(machine.as_json())
        return
    console = options.console()
    for found in machine.devices:
        caches = ", ".join(f"{level} {format_bytes(size)}" for level, size in found.spec.caches_bytes.items())
        units = "cores" if found.spec.kind == "cpu" else "multiprocessors"
        what = ", ".join(filter(None, [f"  {found.spec.model}", f"{found.spec.units} {units}", " ".join(found.spec.features)]))
        console.print(options.headed(found.spec.name, what))
        if found.picks:
            console.print(f"  card     {', '.join(found.picks)}", highlight=False)
        console.print(f"  caches   {caches}; memory {format_bytes(found.spec.memory_bytes)}")
        console.print(f"  state    {_told(found.state)}")
        console.print(f"  energy   {f'unavailable: {found.energy}' if found.energy else 'available'}")
    for name, reason in machine.absent.items():
        console.print(options.headed(name, f"  not usable: {reason}"))
    for status in machine.runtimes:
        works = f"not usable: {status.problem}" if status.problem else f"works, version {status.version}"
        console.print(options.headed(status.name, f"  {works}"))


_TOLD: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "clock_hz": ("clock", lambda hz: f"{hz / 1e6:.0f} MHz"),
    "memory_clock_hz": ("memory clock", lambda hz: f"{hz / 1e6:.0f} MHz"),
    "temperature_c": ("temperature", lambda degrees: f"{degrees:.0f} °C"),
    "power_w": ("power", lambda watts: f"{watts:.0f} W"),
    "clock_events": ("clock events", lambda events: " and ".join(events) or "none"),
    "load": ("load", lambda share: format_fraction(share, 2)),
    "governor": ("governor", str),
    "mig": ("MIG", lambda split: "on" if split else "off"),
    "others": ("other processes", str),
    "driver": ("driver", str),
}


def _told(state: DeviceState) -> str:
    """What a device says of itself now, in one line, and what it was asked for in vain."""
    values = {field: getattr(state, field) for field in _TOLD}
    told = [f"{name} {text(values[field])}" for field, (name, text) in _TOLD.items() if values[field] is not None]
    silent = " or ".join(name for field, (name, _) in _TOLD.items() if field in state.unsupported)
    return ", ".join(told) + (f"; does not tell: {silent}" if silent else "")


@click.command()
@options.device
@options.runtime
@options.load
@options.precisions
@click.option(
    "--space",
    default=GENERIC,
    show_default=True,
    help="Networks to measure: 'generic' to predict any ONNX file; the name or path.py:Class of a space to predict its networks best.",
)
@click.option("--max-time", type=options.SECONDS, default="90s", show_default=True, help="Stop after this time, such as 90s or 5m.")
@click.option(
    "--target-error", type=options.FRACTION, default="1.5%", show_default=True, help="Stop when the mean error on unseen networks is below."
)
@click.option("--energy", is_flag=True, help="Then measure the energy of some of the networks too, where the device has a meter.")
@click.option(
    "--energy-time", type=options.SECONDS, default="20m", show_default=True, help="Of measuring energy: about 45 s a network, at least 20."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the networks sampled.")
@click.option("--resume", is_flag=True, help="Go on with a profile that was interrupted, or that lacks its energy.")
@click.option("--restart", is_flag=True, help="Drop a profile that was interrupted.")
@options.home
@options.as_json
def profile(
    device: str,
    runtime: str | None,
    threads: int,
    batch: int,
    precisions: tuple[str, ...],
    space: str,
    max_time: float,
    target_error: float,
    energy: bool,
    energy_time: float,
    seed: int,
    resume: bool,
    restart: bool,
    workspace: Workspace,
    as_json: bool,
) -> None:
    """Measure networks on a device, kernel by kernel in context, and learn to predict others."""
    if resume and restart:
        raise UsageError("--resume goes on with a profile and --restart drops it; give one of them")
    from hwnas.profiling import EnergyPlan, Plan, Progress
    from hwnas.workflows.profile import profile_each

    plan, energy_plan = Plan(max_time_s=max_time, target_error=target_error), EnergyPlan(max_time_s=energy_time)
    with options.progress("networks", "error") as bar:
        task = bar.add_task(f"profile {device}", total=plan.max_time_s, networks="", error="")

        def report(doing: str, state: Progress) -> None:
            total_s = energy_plan.max_time_s if doing.startswith("energy") else plan.max_time_s
            error = "" if state.error is None else f"error so far {format_fraction(state.error)}"
            networks = f"{state.networks} networks"
            what = f"profile {device}, {doing}"
            bar.update(task, description=what, total=total_s, completed=min(state.seconds, total_s), networks=networks, error=error)

        found = profile_each(
            workspace,
            device=device,
            runtime=runtime,
            space=space,
            threads=threads,
            batch=batch,
            precisions=precisions,
            seed=seed,
            plan=plan,
            energy=energy_plan if energy else None,
            start="resume" if resume else "restart" if restart else "new",
            report=report,
        )
    _print_fits(found, as_json)


@click.command()
@options.device
@options.profiled_runtime
@options.load
@options.precision
@click.option("--space", default=None, help="Networks whose profile to learn from; all that were profiled with this setting by default.")
@options.home
@options.as_json
def fit(
    device: str,
    runtime: str | None,
    threads: int,
    batch: int,
    precision: str,
    space: str | None,
    workspace: Workspace,
    as_json: bool,
) -> None:
    """Learn again from profiles that were measured before."""
    from hwnas.workflows.profile import fit_profile, profiled_setting

    setting = profiled_setting(workspace, device, space, runtime=runtime, threads=threads, batch=batch, precision=precision)
    _print_fits(fit_profile(workspace, setting, space), as_json)


def _print_fits(found: Sequence[Profiled], as_json: bool) -> None:
    if as_json:
        plain = [outcome.as_json() for outcome in found]
        options.print_json(plain if len(plain) > 1 else plain[0])
        return
    for outcome in found:
        _print_fit(outcome)


def _print_fit(outcome: Profiled) -> None:
    from hwnas.devices import Unavailable

    profile, held_out, energy = outcome.profile, outcome.predictor.model.held_out, outcome.energy
    console = options.console()
    console.print(
        f"{len(profile.networks)} networks of '{profile.space}' measured in {format_seconds(profile.spent_s)} "
        f"({profile.setting.device}, {profile.setting.key}; ended by {profile.ended_by})"
    )
    for reason, count in outcome.dropped.items():
        console.print(f"  {count} batches of samples dropped and taken again: the device was {reason}")
    for reason, count in outcome.flagged.items():
        console.print(f"  {count} batches of samples flagged: {reason}")
    if outcome.noisy:
        console.print(
            f"  the machine was noisy: visits of a network differ by {format_fraction(profile.scatter)} (on a quiet one by 0.1 to 1.5 %), "
            "so the predictor may be less exact than it could be; measure again in a quieter hour with 'hwnas profile'"
        )
    console.print(f"on networks that the predictor did not see: {_figures(held_out)}")
    if isinstance(energy, Unavailable):
        console.print(f"energy   unavailable: {energy.reason}")
    else:
        measured = f"energy of {len(profile.energies)} networks measured ({energy.model.source})"
        console.print(f"{measured}; on networks that its predictor did not see: {_figures(energy.model.held_out)}")


def _figures(held_out: HeldOut) -> str:
    return (
        f"mean error {format_fraction(held_out.mape)}, within 5 %: {format_fraction(held_out.within_5)}, within 10 %: "
        f"{format_fraction(held_out.within_10)}, 90 % interval holds for {format_fraction(held_out.coverage)}"
    )


@click.command()
@options.device
@options.profiled_runtime
@options.load
@options.precision
@click.option("--space", default=None, help="Networks of the profile that is checked; generic by default, else what was profiled.")
@click.option("--networks", type=int, default=10, show_default=True, help="Networks to measure again.")
@options.home
@options.as_json
def check(
    device: str,
    runtime: str | None,
    threads: int,
    batch: int,
    precision: str,
    space: str | None,
    networks: int,
    workspace: Workspace,
    as_json: bool,
) -> int:
    """Measure some networks of a profile again and say whether it still holds: exit code 0 if it does, 1 if not."""
    from hwnas.workflows.check import check as run

    found = run(
        workspace, device=device, runtime=runtime, networks=networks, threads=threads, batch=batch, precision=precision, space=space
    )
    if as_json:
        options.print_json(found.as_json())
    else:
        _print_check(found)
    return 0 if found.holds else 1


def _print_check(found: Checked) -> None:
    console = options.console()
    low, high = found.interval
    console.print(options.headed(found.verdict, f": the profile {found.setting.device}/{found.setting.key} ({found.space})"))
    for change in found.changes:
        console.print(f"  changed  {change.what}: {change.then} -> {change.now}")
    if found.load is not None:
        console.print(f"  load     others used {format_fraction(found.load, 2)} of the device just before")
    table = Table("network", "then", "now", "now / then", "kernels")
    for network in found.networks:
        same = "same" if network.same_kernels else "others"
        table.add_row(f"{network.id}", format_seconds(network.then_s), format_seconds(network.now_s), f"{network.ratio:.3f}", same)
    console.print(table)
    console.print(
        f"  {len(found.networks)} networks: {found.factor:.3f} [{low:.3f}, {high:.3f}] times as long as then; canaries {found.machine:.3f}"
    )
    console.print(f"  most networks keep within {format_fraction(found.spread, 2)} of that common factor")
    for kind, ratio in found.moved_kinds.items():
        console.print(f"  {kind} kernels changed {ratio:.2f} times beside the others, by the runtime's profiler")
    if found.remedy:
        console.print(f"  {found.remedy}")


@click.command()
@options.files
@options.device
@options.profiled_runtime
@options.load
@options.precision_of_files
@click.option("--strict", is_flag=True, help="Refuse networks with kernels that the device was not profiled for.")
@click.option("--explain", is_flag=True, help="List all kernels, not only the most expensive ones.")
@click.option("--plot", "page", type=click.Path(path_type=Path), default=None, help="Write all kernels with plots to this HTML file.")
@options.home
@options.as_json
def predict(
    models: tuple[Path, ...],
    device: str,
    runtime: str | None,
    threads: int,
    batch: int,
    precision: str | None,
    strict: bool,
    explain: bool,
    page: Path | None,
    workspace: Workspace,
    as_json: bool,
) -> None:
    """Predict the latency of ONNX models on a device, which need not be here."""
    from hwnas.workflows.predict import TOP, plot
    from hwnas.workflows.predict import predict as run

    predictions, notes = run(
        workspace, models, device=device, runtime=runtime, threads=threads, batch=batch, precision=precision, strict=strict
    )
    for note in notes:
        click.echo(f"hwnas: note: {note}", err=True)
    if page is not None:
        plot(predictions, page)
        click.echo(f"hwnas: note: wrote '{page}'", err=True)
    top = None if explain else TOP
    if as_json:
        plain = [prediction.as_json(top) for prediction in predictions]
        options.print_json(plain if len(plain) > 1 else plain[0])
        return
    for prediction in predictions:
        _print_prediction(prediction, top)


def _print_prediction(prediction: Prediction, top: int | None) -> None:
    console, estimate, explanation = options.console(), prediction.estimate, prediction.explanation
    interval = f"{format_seconds(estimate.value)} [{format_seconds(estimate.low)}, {format_seconds(estimate.high)}]"
    console.print(options.headed(str(prediction.model), f": {interval} per call, {estimate.source}"))
    if explanation.uncovered:
        console.print(
            f"  {format_fraction(1 - estimate.coverage)} of it does not stand on kernels as they were measured, and is less certain:"
        )
    for group in explanation.uncovered:
        which = f"{group.kernels} x {group.kind}, a {group.missing} that was not measured"
        console.print(f"    {format_fraction(group.share)}  {which}")
    console.print(f"  energy   {_energy_text(prediction)}")
    table = Table("kernel", "nodes", "time", "share", "bound by", "measured")
    for part in explanation.parts[:top]:
        kernel = part.kernel
        nodes, measured = ", ".join(kernel.call.nodes), "yes" if kernel.covered else "no"
        table.add_row(part.name, nodes, format_seconds(kernel.seconds), format_fraction(kernel.share), kernel.bound, measured)
    if top is None:
        share = explanation.overhead_share
        table.add_row("the call itself", "", format_seconds(share * estimate.value), format_fraction(share), "overhead", "yes")
    console.print(table)
    if top is None:
        console.print("  " + ", ".join(f"{format_fraction(share)} {bound} bound" for bound, share in explanation.bounds.items()))


def _energy_text(prediction: Prediction) -> str:
    from hwnas.devices import Unavailable

    energy = prediction.energy
    if isinstance(energy, Unavailable):
        return f"unavailable: {energy.reason}"
    covered = "" if energy.coverage == 1 else f" ({format_fraction(energy.coverage)} of it stands on what was measured)"
    interval = f"{format_joules(energy.value)} [{format_joules(energy.low)}, {format_joules(energy.high)}]"
    return f"{interval} per call{covered}, {energy.value / prediction.estimate.value:.3g} W, {energy.source}"
