"""`hwnas export` of runs for devices on which a model is not measured."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from hwnas.assets import Workspace
from hwnas.errors import UsageError
from hwnas.workflows import export
from hwnas.workflows.runs import SearchOptions, create


def test_a_run_for_a_card_ships_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on a card is not held against a processor's clock: one line says what to do, and nothing is written."""
    workspace = Workspace(tmp_path / "home")
    create(workspace, SearchOptions(device="a100"), {}, "q")
    monkeypatch.setattr(export, "find_device", lambda _: SimpleNamespace(spec=SimpleNamespace(kind="gpu")))
    with pytest.raises(UsageError, match=r"searched for 'a100'.*export an engine with --to tensorrt"):
        export.export(workspace, "q", out_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()
