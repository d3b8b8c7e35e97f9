"""What a prediction says: a value, an interval, and how much of it stands on measurements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A predicted quantity.

    Attributes:
        value: p10, what the device does undisturbed.
        low: lower end of the conformal interval of p10.
        high: upper end, which covers the median too, that being what users are promised; what a limit is checked against.
        unit: `s` or `J`.
        coverage: share of the value that stands on kernels of kinds and sizes that the device was profiled for, 0-1.
        source: where it comes from, such as `predicted from profile cpu/onnxruntime-cpu-t1-b1-fp32`.
    """

    value: float
    low: float
    high: float
    unit: str
    coverage: float
    source: str

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.value <= self.high:
            raise ValueError(f"an estimate needs 0 <= low <= value <= high, got {self.low}, {self.value}, {self.high}")
        if not 0 <= self.coverage <= 1:
            raise ValueError(f"coverage lies between 0 and 1, got {self.coverage}")

    def bounds(self) -> dict[str, Any]:
        """`{value, low, high}` for JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}
