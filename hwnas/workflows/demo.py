"""`hwnas demo`: the main job once, end to end, on this machine's processor, small enough for a coffee break."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hwnas.assets import Workspace
from hwnas.export.manifest import Manifest
from hwnas.profiling import Plan
from hwnas.workflows.runs import SearchOptions
from hwnas.workflows.search import Outcome

SPACE = "mobilenet-small"
PLAN = Plan(max_time_s=60.0, target_error=0.015)
OPTIONS = SearchOptions(space=SPACE, constraint=("latency<=50%",), num_evals=144, trainings=10, finalists=3, seeds=3, population=24, seed=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """What the demo made."""

    workspace: Workspace
    outcome: Outcome
    manifest: Manifest
    report: Path
