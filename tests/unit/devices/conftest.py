"""A scripted NVIDIA driver behind the real client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest
from fake_nvml import FakeDriver, build


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled driver, in a folder that is fit for LD_LIBRARY_PATH."""
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def driver(nvml_library: Path) -> Iterator[FakeDriver]:
    """The driver, for the length of a test."""
    with FakeDriver(nvml_library).under(pynvml) as fake:
        yield fake
