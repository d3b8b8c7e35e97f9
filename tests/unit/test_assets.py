"""Where shipped data and a user's own data are, and how files are written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hwnas import assets
from hwnas.assets import Workspace, disk_errors, root, write_atomically
from hwnas.errors import DiskError, UsageError


@pytest.mark.parametrize("tree", ["kernels", "profiles", "predictors"])
def test_shipped_trees_are_found(tree: assets.Tree) -> None:
    """In a checkout the trees stand at its root."""
    assert root(tree).is_dir()
    assert (root(tree) / "README.md").is_file()


def test_an_installed_tree_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a wheel the trees lie inside the package."""
    (tmp_path / "hwnas" / "_assets" / "profiles").mkdir(parents=True)
    monkeypatch.setattr(assets, "__file__", str(tmp_path / "hwnas" / "assets.py"))
    assert root("profiles") == tmp_path / "hwnas" / "_assets" / "profiles"
    assert root("predictors") == tmp_path / "predictors"


def test_the_place_of_a_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--home` goes before `$HWNAS_HOME`, which goes before the user's data folder; nothing is created by asking."""
    monkeypatch.setenv("HWNAS_HOME", str(tmp_path / "variable"))
    monkeypatch.setattr(assets.platformdirs, "user_data_path", lambda name: tmp_path / "data" / name)
    assert Workspace.at(tmp_path / "given").home == tmp_path / "given"
    assert Workspace.at().home == tmp_path / "variable"
    monkeypatch.delenv("HWNAS_HOME")
    assert Workspace.at().home == tmp_path / "data" / "hwnas"
    assert not any(tmp_path.iterdir())


def test_a_workspace_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative places and `~` are resolved once, so that a change of folder does not move the workspace."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert Workspace.at("here").home == tmp_path / "here"
    assert Workspace.at("~/there").home == tmp_path / "me" / "there"


def test_a_file_is_no_workspace(tmp_path: Path) -> None:
    """A workspace that is a file is refused with the option that gives another."""
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"must be a folder, and '.*file' is a file; give another with --home"):
        Workspace.at(tmp_path / "file")


def test_own_data_goes_before_shipped_data(tmp_path: Path) -> None:
    """Look-ups meet the workspace first."""
    workspace = Workspace.at(tmp_path)
    assert list(workspace.look_up("profiles")) == [workspace.profiles, root("profiles")]
    assert list(workspace.look_up("predictors")) == [workspace.predictors, root("predictors")]
    assert workspace.runs == tmp_path / "runs"


def test_writing_replaces_a_whole_file(tmp_path: Path) -> None:
    """The new content is there, the old one gone, and nothing else is left."""
    (tmp_path / "file").write_text("old")
    write_atomically(tmp_path / "file", lambda place: place.write_text("new"))
    assert (tmp_path / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("broken", ["write", "fsync"])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    """When writing or syncing fails half-way, readers still find the old file whole, and no fragment stays behind."""

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def write(place: Path) -> None:
        place.write_text("half of the n")
        if broken == "write":
            fail()

    (tmp_path / "file").write_text("old")
    if broken == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "file", write)
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_disk_refuses_in_one_line(tmp_path: Path) -> None:
    """An error of the disk says where, why and what to do."""
    with (
        pytest.raises(DiskError, match=r"cannot write to '.*place' \(No space left on device\); make room"),
        disk_errors(tmp_path / "place", "make room"),
    ):
        raise OSError(28, "No space left on device")


def test_other_errors_pass(tmp_path: Path) -> None:
    """What is not the disk's fault stays what it is."""
    with pytest.raises(KeyError), disk_errors(tmp_path, "make room"):
        raise KeyError("x")
