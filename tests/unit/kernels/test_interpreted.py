"""The kernels compute what their references compute."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hwnas.kernels import all_kernels
from hwnas.kernels.source import PRECISIONS

KERNELS = [source.name for source in all_kernels()]


@pytest.fixture(scope="module")
def interpreted() -> list[dict[str, Any]]:
    """What a process of its own found: the interpreter is chosen before Triton is imported."""
    script, environment = Path(__file__).with_name("interpreted.py"), {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_within_the_tolerance_on_random_shapes(interpreted: list[dict[str, Any]], kernel: str, precision: str) -> None:
    """Against the truth in float64: odd sizes, edges, strides, every activation, every way to launch; the tolerance is not idle either."""
    worst = [row["worst"] for row in interpreted if (row["kernel"], row["precision"]) == (kernel, precision)]
    assert len(worst) >= 6
    assert max(worst) <= 1
    assert max(worst) > (0.001 if precision == "fp32" else 0.05)


@pytest.mark.parametrize("kernel", KERNELS)
def test_in_a_row(interpreted: list[dict[str, Any]], kernel: str) -> None:
    """Launches that read what products wrote, and products that read what launches wrote, come to what the reference comes to."""
    apart = [row["worst"] for row in interpreted if (row["kernel"], row["precision"]) == (kernel, "row")]
    assert len(apart) == 1
    assert max(apart) < 1e-4


@pytest.mark.parametrize("kernel", KERNELS)
def test_no_number_stays_none(interpreted: list[dict[str, Any]], kernel: str) -> None:
    """NaN is not swallowed by an activation or a mask."""
    assert [row["worst"] for row in interpreted if (row["kernel"], row["precision"]) == (kernel, "nan")] == [0.0]
