"""The command line: each command parses, calls one workflow, and prints."""

from hwnas.cli.main import cli, main

__all__ = ["cli", "main"]
