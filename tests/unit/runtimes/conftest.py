"""One runtime for all tests: asking a processor for its layout takes a moment."""

from __future__ import annotations

import pytest

from hwnas.runtimes.ort import OrtRuntime


@pytest.fixture(scope="session")
def ort_runtime() -> OrtRuntime:
    """ONNX Runtime on one thread."""
    return OrtRuntime(1)
