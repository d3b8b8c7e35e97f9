"""How values on the command line are read, and how results are shown."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import click
import pytest
from rich.console import Console

from hwnas.assets import Workspace
from hwnas.cli import options


@click.command()
@click.option("--time", type=options.SECONDS, default="90s")
@click.option("--share", type=options.FRACTION, default=0.25)
@options.device
@options.load
@options.precision
@options.home
@options.as_json
def command(**values: Any) -> dict[str, Any]:
    return values


def typed(*words: str) -> dict[str, Any]:
    """What the command is called with."""
    values: dict[str, Any] = command.main(list(words), standalone_mode=False)
    return values


def test_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times and shares are read with their units; the workspace comes from the option, else from the environment."""
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path / "a"))
    assert typed() == {
        **{"time": 90.0, "share": 0.25, "device": "cpu", "threads": 1, "batch": 1, "precision": "fp32", "as_json": False},
        "workspace": Workspace(tmp_path.resolve() / "a"),
    }
    found = typed("--time", "2m", "--share", "4%", "--threads", "2", "--batch", "8", "--json", "--home", str(tmp_path / "b"))
    assert (found["time"], found["share"], found["threads"], found["batch"], found["as_json"]) == (120.0, 0.04, 2, 8, True)
    assert found["workspace"].home == tmp_path.resolve() / "b"


@pytest.mark.parametrize("words", [("--time", "5"), ("--time", "soon"), ("--share", "120%"), ("--threads", "many")])
def test_values_that_do_not_parse(words: tuple[str, str]) -> None:
    """The option and the value are named."""
    with pytest.raises(click.UsageError) as refused:
        typed(*words)
    assert words[0] in refused.value.format_message()
    assert words[1] in refused.value.format_message()


def test_json_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    """What scripts read is one JSON value and nothing else; what JSON cannot say is never written."""
    options.print_json({"a": [1.5, None, "ä"]})
    assert json.loads(capsys.readouterr().out) == {"a": [1.5, None, "ä"]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        options.print_json(float("nan"))
    assert capsys.readouterr().out == ""


def test_brackets_mean_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Names with brackets are shown as they are; where nobody watches a long line stays one line."""
    text = "pip install 'hwnas[cpu]' [/odd] :cat: " + "word " * 50
    options.console().print(text)
    options.console().print(options.headed("[head]", text))
    assert capsys.readouterr().out.splitlines() == [text, f"[head]{text}"]


def test_progress_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar is drawn where somebody can see it move, and nothing is written elsewhere."""
    for watched in (False, True):
        stream = io.StringIO()
        monkeypatch.setattr(options, "Console", lambda watched=watched, stream=stream, **_: Console(file=stream, force_terminal=watched))
        with options.progress("state") as bar:
            bar.update(bar.add_task("work", total=2, state="half of it"), completed=1)
            bar.refresh()
        assert ("half of it" in stream.getvalue()) is watched
        assert bool(stream.getvalue()) is watched
