"""What the card of an adapted predictor says of its model; `hwnas.predict.store` writes and reads the rest, the known device's included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from hwnas.predict.adapted import AdaptedKind, AdaptedModel
from hwnas.predict.model import HeldOut, KindModel, NetworkModel
from hwnas.predict.roofline import Roofline

EXTRACTOR = "adapted"
"""In the card: its models tell how a kernel differs from what the model of the card's `base` says."""


def to_card(model: AdaptedModel) -> dict[str, Any]:
    """Everything but the boosters and the known device's model, as plain values."""
    return {
        "extractor": EXTRACTOR,
        "scale": model.scale,
        "spread": model.spread,
        "level": model.level,
        "call_s": model.call_s,
        "half_width": model.half_width,
        "median_width": model.median_width,
        "usual_doubt": model.usual_doubt,
        "held_out": asdict(model.held_out),
        "roofline": asdict(model.roofline),
        "kinds": {
            name: {"rows": kind.part.rows, "low": list(kind.part.low), "high": list(kind.part.high), "error": kind.error}
            for name, kind in sorted(model.kinds.items())
        },
    }


def from_card(card: Mapping[str, Any], base: NetworkModel, boosters: Mapping[str, Any]) -> AdaptedModel:
    """The model that `to_card` described.

    Args:
        card: of the predictor.
        base: the known device's.
        boosters: by kind.
    """
    kinds = {
        name: AdaptedKind(
            part=KindModel(booster=boosters[name], rows=part["rows"], low=tuple(part["low"]), high=tuple(part["high"])), error=part["error"]
        )
        for name, part in card["kinds"].items()
    }
    return AdaptedModel(
        base=base,
        kinds=kinds,
        scale=card["scale"],
        spread=card["spread"],
        level=card["level"],
        call_s=card["call_s"],
        half_width=card["half_width"],
        median_width=card["median_width"],
        usual_doubt=card["usual_doubt"],
        held_out=HeldOut(**card["held_out"]),
        roofline=Roofline(**card["roofline"]),
    )
