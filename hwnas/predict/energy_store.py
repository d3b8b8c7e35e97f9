"""Energy predictors on disk: one `card.toml`, all of it numbers that people can read; there are no trees in it."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from hwnas.assets import Workspace, disk_errors, write_atomically
from hwnas.devices import Unavailable
from hwnas.errors import FormatError, one_line
from hwnas.ir import Kernel
from hwnas.predict.energy import COLUMNS, SOURCES, Curve, EnergyModel, Loads, Rates
from hwnas.predict.estimate import Estimate
from hwnas.predict.model import HeldOut
from hwnas.profiling import Setting
from hwnas.profiling.store import slug
from hwnas.spaces import GENERIC

FORMAT = 1
TARGET = "energy"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyPredictor:
    """Predicts energy for one setting.

    Attributes:
        setting: device, runtime, threads, batch, precision.
        space: whose networks it learned from.
        model: what was learned.
        fingerprint: of the device that was measured.
        profile_digest: SHA-256 of what it learned from.
        environment: versions under which it was measured.
        digest: SHA-256 of the card's other entries, empty until it is stored.
    """

    setting: Setting
    space: str
    model: EnergyModel
    fingerprint: str
    profile_digest: str
    environment: Mapping[str, str]
    digest: str = ""

    @property
    def source(self) -> str:
        """Where an estimate comes from, for people: what was measured, and how."""
        how = f"{self.model.source}: {SOURCES[self.model.source]}"
        return f"predicted from energies of {self.setting.device}/{self.setting.key} ({self.space}) measured by {how}"

    def recalibrated(self, networks: Sequence[Sequence[Kernel]], seconds: Sequence[float], joules: Sequence[float]) -> EnergyPredictor:
        """This predictor after networks were measured that a search chose with it; see `EnergyModel.recalibrated`.

        Args:
            networks: each given by its kernels.
            seconds: that a call of each takes, as predicted.
            joules: of a call of each, as measured by the predictor's source.
        """
        loads = Loads.of(networks, np.array(seconds))
        return replace(self, model=self.model.recalibrated(loads, np.array(joules)), digest="")

    def estimate(self, networks: Sequence[Sequence[Kernel]], seconds: Sequence[float] | None = None) -> list[Estimate]:
        """Energy of one call of each network in J.

        Args:
            networks: each given by its kernels as the setting's runtime makes them.
            seconds: that a call of each takes, as predicted; needed where energy was learned together with time.
        """
        if not networks:
            return []
        bounds = self.model.bounds(Loads.of(networks, None if seconds is None else np.array(seconds)))
        rows = zip(bounds.value.tolist(), bounds.low.tolist(), bounds.high.tolist(), bounds.coverage.tolist(), strict=True)
        return [
            Estimate(value=value, low=low, high=high, unit="J", coverage=coverage, source=self.source)
            for value, low, high, coverage in rows
        ]


def folder_of(tree: Path, setting: Setting, space: str) -> Path:
    """Where the energy predictor of a setting for the networks of a space lies in a `predictors/` tree."""
    return tree / setting.device / TARGET / setting.key / slug(space)


def save(predictor: EnergyPredictor, tree: Path) -> Path:
    """Writes a predictor.

    Returns:
        Its folder.

    Raises:
        DiskError: the disk refuses.
    """
    folder, model = folder_of(tree, predictor.setting, predictor.space), predictor.model
    card: dict[str, Any] = {
        "format": FORMAT,
        "target": TARGET,
        "unit": "J",
        "statistic": "one call, gross",
        "source": model.source,
        "space": predictor.space,
        "fingerprint": predictor.fingerprint,
        "profile_digest": predictor.profile_digest,
        "half_width": model.half_width,
        "columns": list(COLUMNS),
        "setting": asdict(predictor.setting),
        "environment": dict(predictor.environment),
        "held_out": asdict(model.held_out),
        "rates": asdict(model.rates),
        "curve": asdict(model.curve),
        "doubt": asdict(model.doubt),
    }
    card["digest"] = _digest(card)
    with disk_errors(folder, "make room or give another place with --home"):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "card.toml", lambda place: place.write_text(tomli_w.dumps(card)))
    return folder


def find(workspace: Workspace, setting: Setting, space: str | None = None) -> EnergyPredictor | Unavailable:
    """The energy predictor of a setting: that of the space, else the one for any network, else whichever there is.

    Args:
        workspace: its own predictors go before those that ship.
        setting: asked for.
        space: whose networks will be predicted; None for networks of no space.

    Returns:
        The predictor, or why there is none: most devices have no meter, and everything but energy works without one.

    Raises:
        FormatError: its card is damaged, or of a version or of columns that this hwnas does not read.
    """
    cards = [
        card
        for tree in workspace.look_up("predictors")
        for card in sorted((tree / setting.device / TARGET / setting.key).glob("*/card.toml"))
    ]
    found = [(card, _card(card)) for card in cards]
    if not found:
        return Unavailable(f"no energy of '{setting.device}' with {setting.key} was measured")
    order = {space: 0, GENERIC: 1} if space else {GENERIC: 0}
    return _read(*min(found, key=lambda pair: order.get(str(pair[1].get("space")), 2)))


def _digest(card: Mapping[str, Any]) -> str:
    """SHA-256 of what the card says, however it is laid out."""
    text = json.dumps({key: value for key, value in card.items() if key != "digest"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _card(path: Path) -> dict[str, Any]:
    try:
        card = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise FormatError(f"'{path}' is damaged ({type(error).__name__}: {one_line(error)}); measure again, or remove it") from error
    if card.get("format") != FORMAT:
        raise FormatError(f"'{path}' has format {card.get('format')}, this hwnas reads {FORMAT}; measure again, or update hwnas")
    return card


def _read(path: Path, card: Mapping[str, Any]) -> EnergyPredictor:
    if card.get("columns") != list(COLUMNS):
        seen = ", ".join(map(str, card.get("columns", ())))
        raise FormatError(f"'{path}' was learned from '{seen}', this hwnas sees '{', '.join(COLUMNS)}'; measure again, or remove it")
    if card.get("digest") != _digest(card):
        raise FormatError(f"'{path}' was altered after it was written; measure again, or remove it")
    try:
        rates = card["rates"]
        model = EnergyModel(
            rates=Rates(
                shared=tuple(rates["shared"]),
                kinds={kind: tuple(own) for kind, own in rates["kinds"].items()},
                per_call_j=rates["per_call_j"],
                per_second_w=rates.get("per_second_w", 0.0),
            ),
            curve=_curve(card["curve"]),
            doubt=_curve(card["doubt"]),
            half_width=card["half_width"],
            source=card["source"],
            held_out=HeldOut(**card["held_out"]),
        )
        return EnergyPredictor(
            setting=Setting(**card["setting"]),
            space=card["space"],
            model=model,
            fingerprint=card["fingerprint"],
            profile_digest=card["profile_digest"],
            environment=card["environment"],
            digest=card["digest"],
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"'{path}' is damaged ({type(error).__name__}: {one_line(error)}); measure again, or remove it") from error


def _curve(plain: Mapping[str, Sequence[float]]) -> Curve:
    return Curve(**{key: tuple(values) for key, values in plain.items()})
