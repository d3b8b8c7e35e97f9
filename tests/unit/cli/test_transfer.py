"""What `hwnas transfer` refuses, before anything is measured."""

from __future__ import annotations

from pathlib import Path

from commands import invoke


def test_nothing_to_start_from(tmp_path: Path) -> None:
    """A device that has no predictor is said, with the remedy."""
    done = invoke("transfer", "--from", "b200", "--home", tmp_path)
    assert done.code == 1
    assert "no predictor of 'b200' to transfer to 'cpu'" in done.complaint
    assert "hwnas profile" in done.complaint


def test_a_folder_without_a_predictor(tmp_path: Path) -> None:
    """A folder that holds none is said."""
    done = invoke("transfer", "--from", tmp_path, "--home", tmp_path)
    assert done.code == 1
    assert "it has no card.toml" in done.complaint


def test_too_few_networks(tmp_path: Path) -> None:
    """Two teach nothing."""
    done = invoke("transfer", "--networks", "2", "--home", tmp_path)
    assert done.code == 2
    assert "--networks must be at least 3, got 2" in done.complaint


def test_a_device_that_is_not_here(tmp_path: Path) -> None:
    """What is to be measured must be here."""
    done = invoke("transfer", "--to", "h100", "--home", tmp_path)
    assert done.code == 1
    assert "no 'h100' on this machine" in done.complaint
