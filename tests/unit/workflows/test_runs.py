"""Runs on disk: what was asked, found again by name, repeated by its command."""

from __future__ import annotations

import os
import shlex
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.assets import Workspace
from hwnas.cli.runs import search
from hwnas.errors import FormatError, NotFoundError, UsageError
from hwnas.workflows import runs
from hwnas.workflows.runs import SearchOptions

texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=12)
metrics = st.lists(st.sampled_from(["latency", "params", "flops", "memory", "accuracy"]), min_size=1, max_size=3, unique=True).map(tuple)
any_options = st.builds(
    SearchOptions,
    space=texts.filter(lambda text: not text.startswith("-")),
    device=st.sampled_from(["cpu", "a100"]),
    runtime=st.sampled_from([None, "onnxruntime-cuda"]),
    threads=st.integers(1, 64),
    batch=st.integers(1, 512),
    minimize=metrics,
    maximize=metrics,
    constraint=st.lists(st.sampled_from(["latency<=3ms", "params<=2M", "latency<=60%", "accuracy>=0.9"]), max_size=3).map(tuple),
    num_evals=st.integers(1, 10**6),
    max_time=st.sampled_from([0.0, 0.25, 90.0, 3600.0, 86400.0, 1234.5]),
    trainings=st.integers(0, 100),
    finalists=st.integers(1, 9),
    seeds=st.integers(1, 9),
    population=st.integers(4, 200),
    seed=st.integers(0, 2**31),
)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.at(tmp_path)


def typed(words: list[str]) -> dict[str, Any]:
    """What the command line makes of these words."""
    with click.Context(search, info_name="search") as context:
        search.parse_args(context, words)
        return context.params


@given(any_options)
def test_the_replay_command_asks_for_the_same(options: SearchOptions) -> None:
    """Parsed by the command line itself, it gives the options again, every one of them."""
    program, verb, *words = shlex.split(options.command())
    assert (program, verb) == ("hwnas", "search")
    parsed = typed(words)
    asked = {option.name: parsed[option.name] for option in fields(SearchOptions)}
    asked["max_time"] = asked["max_time"] or 0.0
    assert SearchOptions(**asked) == options


def test_defaults_are_those_of_the_command_line() -> None:
    """`hwnas search` without options asks for `SearchOptions()`."""
    parsed, default = typed([]), SearchOptions()
    for option in fields(SearchOptions):
        assert (parsed[option.name] or getattr(default, option.name)) == getattr(default, option.name)


@given(options=any_options)
def test_what_was_asked_is_found_again(options: SearchOptions, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A run that was written is read as it was: options and record."""
    workspace = Workspace.at(tmp_path_factory.mktemp("home"))
    record = {"seed": 3, "versions": {"numpy": "2"}, "constraints": ["latency<=3ms"], "device_fingerprint": "abc"}
    made = runs.create(workspace, options, record, "one")
    found = runs.find(workspace, "one")
    assert found == made
    assert found.options == options
    assert {key: found.record[key] for key in record} == record
    assert isinstance(found.record["created"], datetime)


@pytest.mark.parametrize(
    "wrong", [{"num_evals": 0}, {"trainings": -1}, {"finalists": 0}, {"seeds": 0}, {"population": 3}, {"max_time": -1.0}]
)
def test_impossible_options(wrong: dict[str, Any]) -> None:
    """They are refused with the option and the value."""
    ((name, value),) = wrong.items()
    with pytest.raises(UsageError, match=rf"--{name.replace('_', '-')} must be .*{value}"):
        SearchOptions(**wrong)


def test_a_name_of_its_own(workspace: Workspace) -> None:
    """A run is named by its time, space and device unless it is given a name; a user's space by its file."""
    run = runs.create(workspace, SearchOptions(space="some/where/mine.py:Mine"), {})
    assert run.id.endswith("-mine-cpu")
    assert run.id.startswith(f"{datetime.now(UTC):%Y}")
    assert run.folder.parent == workspace.runs


@pytest.mark.parametrize("name", ["up/down", "/tmp/outside", ".", "..", "x" * 300])
def test_a_name_stays_in_the_workspace(name: str, workspace: Workspace) -> None:
    """What is no name of a folder is refused, and nothing is made."""
    with pytest.raises(UsageError):
        runs.create(workspace, SearchOptions(), {}, name)
    assert not list(workspace.home.rglob("run.toml"))


def test_a_name_is_given_once(workspace: Workspace) -> None:
    """The second run of a name is refused, with the way to go on with the first."""
    runs.create(workspace, SearchOptions(seed=1), {}, "one")
    with pytest.raises(UsageError, match="'one' exists; go on with it by --resume"):
        runs.create(workspace, SearchOptions(seed=2), {}, "one")
    assert runs.find(workspace, "one").options.seed == 1


def test_finding(workspace: Workspace, tmp_path: Path) -> None:
    """By name, by folder, or the one that was last worked on; else the nearest name and the newest ones are shown."""
    with pytest.raises(NotFoundError, match=r"no run in .*hwnas search"):
        runs.find(workspace)
    made = [runs.create(workspace, SearchOptions(seed=seed), {}, name) for seed, name in enumerate(("monday", "tuesday", "friday"))]
    for age, run in enumerate(reversed(made)):
        os.utime(run.folder / "run.toml", (1e9 - age, 1e9 - age))
    assert runs.find(workspace).id == "friday"
    assert runs.find(workspace, "monday").options.seed == 0
    assert runs.find(workspace, str(made[1].folder)).id == "tuesday"
    with pytest.raises(NotFoundError, match=r"no run 'tusday' in .*\(did you mean 'tuesday'\?\); newest: monday, tuesday, friday"):
        runs.find(workspace, "tusday")
    made[0].save()
    assert runs.find(workspace).id == "monday"


def test_a_larger_budget_is_written_down(workspace: Workspace) -> None:
    """What a run is given later is what it has from then on."""
    run = runs.create(workspace, SearchOptions(num_evals=16), {}, "one")
    replace(run, options=replace(run.options, num_evals=32)).save()
    found = runs.find(workspace, "one")
    assert found.options == SearchOptions(num_evals=32)
    assert found.record == run.record


def test_damage(workspace: Workspace) -> None:
    """A `run.toml` that is cut short, lacks a part, has unknown options or another version is refused by name."""
    run = runs.create(workspace, SearchOptions(), {}, "one")
    path = run.folder / "run.toml"
    whole = path.read_text()
    for damaged in ("", whole[:30], whole.replace("num_evals", "evals"), whole.replace("[record]", "[records]"), "format = 1"):
        path.write_text(damaged)
        with pytest.raises(FormatError, match=r"run\.toml'"):
            runs.find(workspace, "one")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(FormatError, match="damaged"):
        runs.find(workspace, "one")
    path.write_text(whole.replace("format = 1", "format = 2"))
    with pytest.raises(FormatError, match="has format 2, this hwnas reads 1"):
        runs.find(workspace, "one")
