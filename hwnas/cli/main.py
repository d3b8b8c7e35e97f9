"""The group of all commands, and what becomes of errors."""

from __future__ import annotations

import os
import sys
from typing import Any

import click
from rich.console import Console

from hwnas import __version__
from hwnas.cli.kernels import kernels
from hwnas.cli.measure import check, devices, fit, predict, profile
from hwnas.cli.runs import demo, export, report, search
from hwnas.cli.spaces import spaces
from hwnas.cli.transfer import transfer
from hwnas.errors import HwnasError

INTERRUPTED = 130  # as shells count a SIGINT


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hwnas")
def cli() -> None:
    """Finds networks that are accurate and keep a latency budget on your hardware, and proves it by measuring them there."""


for command in (devices, profile, fit, check, transfer, predict, spaces, search, export, report, demo, kernels):
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> None:
    """Runs a command line; errors become one line on standard error and an exit code (2: the call was wrong, 1: the work failed)."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Runs a command line and returns its exit code."""
    try:
        result: Any = cli.main(args=arguments, prog_name="hwnas", standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        return _say(
            "interrupted; 'profile' and 'search' keep what they have done so far and go on with --resume, 'transfer' when it is run again",
            INTERRUPTED,
        )
    except click.ClickException as error:
        hint = f" (see '{error.ctx.command_path} --help')" if isinstance(error, click.UsageError) and error.ctx else ""
        return _say(f"{error.format_message()}{hint}", error.exit_code)
    except HwnasError as error:
        return _say(str(error), error.exit_code)
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError:
        return _say("out of memory; try a smaller batch, space or number of evaluations", 1)
    except OSError as error:
        return _say(f"{error.strerror or error}{f': {error.filename!r}' if error.filename else ''}", 1)
    return result if isinstance(result, int) else 0


def _say(message: str, code: int) -> int:
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(f"hwnas: {' '.join(message.split())}", markup=False)
    return code
