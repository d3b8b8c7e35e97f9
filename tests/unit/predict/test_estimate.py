"""An estimate that contradicts itself is not made."""

from __future__ import annotations

import pytest

from hwnas.predict import Estimate

GOOD = {"value": 2.0, "low": 1.0, "high": 3.0, "unit": "s", "coverage": 0.5, "source": "test"}


def test_bounds_for_json() -> None:
    """The three figures under their names."""
    assert Estimate(**GOOD).bounds() == {"value": 2.0, "low": 1.0, "high": 3.0}


@pytest.mark.parametrize("wrong", [{"low": 2.5}, {"high": 1.5}, {"low": -1.0}, {"low": 4.0, "high": 5.0}, {"value": float("nan")}])
def test_the_value_lies_in_its_interval(wrong: dict[str, float]) -> None:
    """The interval holds the value, and nothing is below 0."""
    with pytest.raises(ValueError, match="0 <= low <= value <= high"):
        Estimate(**{**GOOD, **wrong})


@pytest.mark.parametrize("coverage", [-0.1, 1.1])
def test_coverage_is_a_share(coverage: float) -> None:
    """Coverage lies between 0 and 1."""
    with pytest.raises(ValueError, match="coverage lies between 0 and 1"):
        Estimate(**{**GOOD, "coverage": coverage})
