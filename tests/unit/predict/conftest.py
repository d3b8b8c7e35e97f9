"""A predictor of the device on paper, learned once."""

from __future__ import annotations

import pytest
from paper_device import BLOCK, ROOFLINE, SETTING, measured

from hwnas.predict import Predictor, model
from hwnas.profiling import NetworkRecord


@pytest.fixture(scope="package", autouse=True)
def quick_trees():
    """Fewer, steeper trees: the tests learn a formula, not a machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "THOROUGH", model.Growth(trees=60, eta=0.1))
        patch.setattr(model, "PARAMETERS", {**model.PARAMETERS, "eta": 0.2})
        yield


@pytest.fixture(scope="package")
def networks() -> list[NetworkRecord]:
    """100 measured networks."""
    return measured(100)


@pytest.fixture(scope="package")
def predictor(networks: list[NetworkRecord], quick_trees: None) -> Predictor:
    """What was learned from them."""
    return Predictor(
        setting=SETTING,
        block=BLOCK,
        model=model.fit(networks, ROOFLINE),
        space="mobilenet-small",
        fingerprint="0123456789ab",
        profile_digest="a" * 64,
        environment={"onnxruntime": "1.22"},
    )
