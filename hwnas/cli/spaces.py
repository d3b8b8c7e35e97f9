"""`spaces`."""

from __future__ import annotations

import click

from hwnas.cli import options


@click.command()
@click.argument("names", nargs=-1)
def spaces(names: tuple[str, ...]) -> None:
    """Show the search spaces and their sizes; NAMES may be path.py:Class."""
    from hwnas import spaces

    for name in names or spaces.names():
        options.console().print(str(spaces.load(name)))
