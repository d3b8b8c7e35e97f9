"""A predictor of the device on paper, learned once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from paper_device import BLOCK, ROOFLINE, SETTING, measured

from hwnas.predict import Predictor, fitting
from hwnas.predict.fitting import Training
from hwnas.profiling import NetworkRecord
from hwnas.runtimes.fusions import Fusions


@contextmanager
def few_trees() -> Iterator[None]:
    """Fewer, steeper trees: the tests learn a formula, not a machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "THOROUGH", fitting.Growth(trees=60, eta=0.2))
        yield


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    """Few trees in every test of this folder."""
    with few_trees():
        yield


@pytest.fixture(scope="session")
def networks() -> list[NetworkRecord]:
    """100 measured networks."""
    return measured(100)


@pytest.fixture(scope="session")
def unseen() -> Training:
    """Networks of the same space that nobody has learned from."""
    return Training.of(measured(150, seed=5))


@pytest.fixture(scope="session")
def predictor(networks: list[NetworkRecord]) -> Predictor:
    """What was learned from them."""
    with few_trees():
        learned = fitting.fit(networks, ROOFLINE)
    return Predictor(
        setting=SETTING,
        fusions=Fusions(block=BLOCK),
        model=learned,
        space="mobilenet-small",
        fingerprint="0123456789ab",
        profile_digest="a" * 64,
        environment={"onnxruntime": "1.22"},
    )
