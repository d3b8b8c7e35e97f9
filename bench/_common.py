"""What all benches share: figures, the machine's fingerprint, results on disk."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from hwnas.devices import find
from hwnas.workflows.context import versions

RESULTS = Path(__file__).parent / "results"


def data_folder(name: str) -> Path:
    """Measurements by others, in `HWNAS_DATA`, else in `../shared/data` beside the checkout; ends the bench where they are absent."""
    tree = Path(os.environ.get("HWNAS_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if (tree / name).is_dir():
        return tree / name
    print(f"no measurements '{name}' in '{tree}'; give the folder that holds '{name}/' in HWNAS_DATA; nothing was run", file=sys.stderr)
    raise SystemExit(0)


def figures(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    """MAPE and the shares within 5 and 10 %."""
    error = np.abs(predicted / measured - 1)
    return {
        "mape": float(error.mean()),
        "within_5": float(np.mean(error <= 0.05)),
        "within_10": float(np.mean(error <= 0.10)),
        "worst": float(error.max()),
    }


def publish(name: str, claim: str, rows: Sequence[Mapping[str, Any]], **extra: Any) -> None:
    """Prints the table and writes it as JSON and text with the machine's fingerprint."""
    device = find("cpu")
    machine = {**device.spec.as_dict(), "state": asdict(device.state()), "versions": versions()}
    stamp = datetime.now(UTC).isoformat(timespec="seconds")
    table = Table(*rows[0], title=f"{claim}")
    for row in rows:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    console = Console(width=140, record=True)
    console.print(table)
    for key, value in extra.items():
        console.print(f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}", highlight=False)
    console.print(f"{device.spec.model}, {device.spec.units} cores, fingerprint {device.spec.fingerprint}, {stamp}", highlight=False)
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"format": 1, "claim": claim, "when": stamp, "machine": machine, "rows": list(rows), **extra}, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    (RESULTS / f"{name}.txt").write_text(console.export_text())
