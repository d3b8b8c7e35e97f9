"""Shared set-up: the Hypothesis vocabulary is importable, torch keeps to one thread, golden files can be rewritten."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))
# How long an example takes says how busy the machine is, not whether the code is right. The same code meets the same examples, so that a
# test that fails has failed for what was changed; `--hypothesis-profile explore` draws others.
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("shared-machine", settings.get_profile("explore"), derandomize=True)
settings.load_profile("shared-machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden/ with what the code gives now")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, Any], Any]:
    """`golden(name, value)`: what tests/golden/<name> holds, to be compared with `value`; `--update-golden` writes `value` there first."""

    def stored(name: str, value: Any) -> Any:
        path = Path(__file__).parent / "golden" / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(value, indent=1) + "\n")
        if not path.exists():
            pytest.fail(f"{path} does not exist; look at the value, then run pytest with --update-golden")
        return json.loads(path.read_text())

    return stored


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Lists what tests built for real: engines, with their sizes and precisions."""
    built = [text for report in terminalreporter.stats.get("passed", ()) for name, text in report.user_properties if name == "engine"]
    if built:
        terminalreporter.section("engines")
        for line in sorted(set(built)):
            terminalreporter.line(str(line))
