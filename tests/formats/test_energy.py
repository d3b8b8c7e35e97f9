"""Energy predictors of every format version keep loading, and keep saying what they said.

`python tests/formats/test_energy.py` writes the sample of the present version, once for each new one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

FORMATS = Path(__file__).parent
sys.path.insert(0, str(FORMATS.parent))

from paper_device import SETTING  # noqa: E402  (the path comes first)
from paper_meter import measured, network  # noqa: E402

from hwnas.assets import Workspace  # noqa: E402
from hwnas.predict import energy_store  # noqa: E402
from hwnas.predict.energy import learn  # noqa: E402
from hwnas.predict.energy_store import EnergyPredictor  # noqa: E402

ASKED = network(5, 256)


def test_energy_1() -> None:
    """A predictor of format 1 gives the estimate that it gave."""
    predictor = energy_store.find(Workspace(FORMATS / "energy-1"), SETTING)
    assert isinstance(predictor, EnergyPredictor)
    (estimate,) = predictor.estimate([ASKED])
    expected = json.loads((FORMATS / "energy-1" / "expected.json").read_text())
    assert {**estimate.bounds(), "coverage": estimate.coverage} == pytest.approx(expected, rel=1e-9)
    assert (predictor.space, predictor.model.source, predictor.model.held_out.networks) == ("mobilenet-small", "nvml-counter", 40)


def main() -> None:
    """Writes the sample and what it must keep saying."""
    folder = FORMATS / f"energy-{energy_store.FORMAT}"
    predictor = EnergyPredictor(
        setting=SETTING,
        space="mobilenet-small",
        model=learn(*measured(40), "nvml-counter"),
        fingerprint="0123456789ab",
        profile_digest="0" * 64,
        environment={"hwnas": "0.1", "driver": "580.1"},
    )
    energy_store.save(predictor, folder / "predictors")
    (estimate,) = predictor.estimate([ASKED])
    (folder / "expected.json").write_text(json.dumps({**estimate.bounds(), "coverage": estimate.coverage}) + "\n")


if __name__ == "__main__":
    main()
