"""What the card of a GPU predictor says of its model; `hwnas.predict.store` writes and reads the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from hwnas.devices import DeviceSpec
from hwnas.errors import FormatError
from hwnas.predict.gpu import SCHEMA
from hwnas.predict.gpu_model import GpuKind, GpuModel
from hwnas.predict.model import HeldOut, KindModel

EXTRACTOR = "gpu"
"""In the card: its models see kernels through `hwnas.predict.gpu`, on the device of the card's `spec`."""


def to_card(model: GpuModel) -> dict[str, Any]:
    """Everything but the boosters, as plain values."""
    kinds = {
        name: {
            "rows": kind.part.rows,
            "low": list(kind.part.low),
            "high": list(kind.part.high),
            "launch_s": kind.launch_s,
            "half_width": kind.half_width,
        }
        for name, kind in sorted(model.kinds.items())
    }
    spec = model.spec.as_dict()
    del spec["fingerprint"]
    return {
        "extractor": EXTRACTOR,
        "gpu_schema": SCHEMA,
        "half_width": model.half_width,
        "usual_doubt": model.usual_doubt,
        "scale": model.scale,
        "held_out": asdict(model.held_out),
        "kinds": kinds,
        "spec": spec,
    }


def from_card(card: Mapping[str, Any], boosters: Mapping[str, Any]) -> GpuModel:
    """The model that `to_card` described.

    Args:
        card: of the predictor.
        boosters: by kind.

    Raises:
        FormatError: it was learned with other columns.
    """
    if card["gpu_schema"] != SCHEMA:
        raise FormatError(
            f"the predictor of '{card['spec']['model']}' was learned with GPU columns {card['gpu_schema']}, this hwnas has {SCHEMA}; "
            f"update hwnas, or learn it again"
        )
    kinds = {
        name: GpuKind(
            part=KindModel(booster=boosters[name], rows=part["rows"], low=tuple(part["low"]), high=tuple(part["high"])),
            launch_s=part["launch_s"],
            half_width=part["half_width"],
        )
        for name, part in card["kinds"].items()
    }
    return GpuModel(
        kinds=kinds,
        spec=DeviceSpec(**{**card["spec"], "features": tuple(card["spec"]["features"])}),
        half_width=card["half_width"],
        usual_doubt=card["usual_doubt"],
        held_out=HeldOut(**card["held_out"]),
        scale=card["scale"],
    )
