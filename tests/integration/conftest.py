"""What the end-to-end tests share: a workspace that knows this processor, made once however many processes test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import QUICK, TINY, invoke, once, reap


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A folder that all processes of this test run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if hasattr(request.config, "workerinput") else base


@pytest.fixture(scope="session")
def learned(shared: Path) -> Path:
    """A workspace with a predictor for networks of the tiny space; not to be written to."""
    home = shared / "learned"
    with once(home) as first:
        if first:
            done = invoke("profile", "--space", TINY, *QUICK, "--home", home)
            assert done.code == 0, done.err
    return home


@pytest.fixture(autouse=True)
def _no_process_outlives_its_test() -> Iterator[None]:
    """Whatever a test started ends with it."""
    yield
    reap()


@pytest.fixture
def home(learned: Path, tmp_path: Path) -> Path:
    """A workspace of one's own with that predictor."""
    return Path(shutil.copytree(learned, tmp_path / "home"))
