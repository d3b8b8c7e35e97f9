"""`hwnas check`, from the command line, on this processor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import TINY, invoke

from hwnas.workflows import check


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two visits of every network: what is tested is not this machine."""
    monkeypatch.setattr(check, "ROUNDS", 2)


def test_the_exit_code_is_the_verdict(home: Path) -> None:
    """0 if the profile holds, 1 if not; in JSON and in lines the same is said."""
    done = invoke("check", "--networks", "4", "--home", home, "--json")
    said = json.loads(done.out)
    assert done.code == (0 if said["verdict"] == "holds" else 1)
    assert said["verdict"] in ("holds", "scaled", "drifted")
    assert (said["space"], len(said["networks"]), said["other_kernels"]) == (TINY, 4, 0)
    assert said["factor"]["low"] <= said["factor"]["value"] <= said["factor"]["high"]
    assert {change["what"] for change in said["changes"]} <= {"clock"}  # this is the machine that was profiled
    assert bool(said["remedy"]) == (done.code == 1)
    shown = invoke("check", "--networks", "3", "--home", home)
    assert shown.out.startswith(("holds:", "scaled:", "drifted:"))
    assert "3 networks:" in shown.out
    assert (shown.code == 0) == shown.out.startswith("holds:")
    assert ("hwnas profile --device cpu" in shown.out.replace("\n", " ")) == (shown.code == 1)


def test_a_setting_or_space_that_was_not_profiled(home: Path) -> None:
    """One line that says what was, and how to profile the other."""
    for options in (("--batch", "2"), ("--space", "resnet")):
        done = invoke("check", *options, "--home", home)
        assert done.code == 1
        assert "was not profiled with" in done.complaint
        assert "run 'hwnas profile" in done.complaint
