"""What this folder's tests share: the toy problem, importable from here, and a run of it that nobody interrupted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hwnas.search import nsga2
from hwnas.search.archive import Archive

sys.path.insert(0, str(Path(__file__).parent))

from toy_problem import Cut, content, problem


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "run.sqlite"


@pytest.fixture(scope="session")
def whole():
    """A run that nobody interrupted: its archive's content, its result, what it trained, and how many things it did."""
    asked = problem(evaluations=90)
    with Archive.open(":memory:") as archive:
        evaluator = Cut(asked, archive, at=-1)
        result = nsga2.search(asked, evaluator, archive, population=12)
        return content(archive), result, evaluator.computed, -1 - evaluator.left
