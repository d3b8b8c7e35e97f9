"""Options that commands share, and how values on the command line are read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from hwnas import units
from hwnas.assets import Workspace
from hwnas.errors import UsageError, did_you_mean

F = TypeVar("F", bound=Callable[..., Any])


class _Parsed(click.ParamType[Any]):
    """A value that one of our own parsers reads, so that its error message is ours."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


SECONDS = _Parsed("time", units.parse_seconds)
FRACTION = _Parsed("percentage", units.parse_fraction)


def _batches(text: str) -> tuple[int, int, int]:
    try:
        least, usual, most = (int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"batches are given as smallest,usual,largest, such as 1,8,32; got '{text}'") from error
    return least, usual, most


BATCHES = _Parsed("batches", _batches)


def home(function: F) -> F:
    """`--home`: the workspace."""
    return click.option(
        "--home",
        "workspace",
        type=_Parsed("folder", Workspace.at),
        default=lambda: Workspace.at(),
        show_default="$HWNAS_HOME, else the user's data folder",
        help="Workspace: profiles, predictors and runs.",
    )(function)


def device(function: F) -> F:
    """`--device`."""
    return click.option("--device", default="cpu", show_default=True, help="Device to measure, or to predict for.")(function)


def load(function: F) -> F:
    """`--threads` and `--batch`."""
    function = click.option("--batch", type=int, default=1, show_default=True, help="Images per call.")(function)
    return click.option("--threads", type=int, default=1, show_default=True, help="Threads that compute, pinned.")(function)


_PRECISIONS = ("fp32", "fp16", "int8")


def _precisions(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in _PRECISIONS:
            known = f"{', '.join(_PRECISIONS)}; several are given as fp16,int8"
            raise UsageError(f"unknown precision '{name}'{did_you_mean(name, _PRECISIONS)}; known: {known}")
    return names


def precisions(function: F) -> F:
    """`--precision`, one or several."""
    kind = _Parsed("precisions", _precisions)
    text = "Of the arithmetic; several, such as fp16,int8, are measured one after another, each with the whole time."
    return click.option("--precision", "precisions", type=kind, default="fp32", show_default=True, help=text)(function)


def runtime(function: F) -> F:
    """`--runtime` of what is measured."""
    text = "Runtime that is measured, such as tensorrt; the device's usual one by default."
    return click.option("--runtime", default=None, help=text)(function)


def profiled_runtime(function: F) -> F:
    """`--runtime` of what was measured before."""
    text = "Runtime, such as tensorrt; by default the device's usual one where that was profiled, else the only one that was."
    return click.option("--runtime", default=None, help=text)(function)


def precision(function: F) -> F:
    """`--precision`."""
    choice = click.Choice(_PRECISIONS)
    return click.option("--precision", type=choice, default="fp32", show_default=True, help="Of the arithmetic.")(function)


def precision_of_files(function: F) -> F:
    """`--precision` of files that may be quantised."""
    text = "Of the arithmetic; that of each file by default: fp32, or int8 where it is quantised."
    return click.option("--precision", type=click.Choice(_PRECISIONS), default=None, help=text)(function)


def as_json(function: F) -> F:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")(function)


def files(function: F) -> F:
    """Model files, one or more."""
    return click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path))(function)


def print_json(value: Any) -> None:
    """Prints JSON on standard output, and nothing else with it."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))


def console() -> Console:
    """Standard output for people; brackets mean nothing in it, since names of files and nodes, and 'hwnas[cpu]', have them."""
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=not Console().is_terminal)


def headed(head: str, rest: str) -> Text:
    """A line whose head is bold."""
    return Text.assemble((head, "bold"), rest)


def progress(*extra: str) -> Progress:
    """A progress bar on standard error, where that is a terminal; `extra` names fields that are shown behind it."""
    columns = [
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        *(TextColumn(f"{{task.fields[{name}]}}") for name in extra),
        TimeElapsedColumn(),
    ]
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, refresh_per_second=4, disable=not console.is_terminal)
