"""Compiled kernels are kept for the session, and leave nothing in the user's home."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def _triton_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    import triton

    triton.knobs.cache.dir = str(tmp_path_factory.mktemp("triton"))
