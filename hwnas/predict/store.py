"""Predictors on disk: `card.toml`, which people read, and one XGBoost `.ubj` file per kind of kernel, loaded when first asked."""

from __future__ import annotations

import hashlib
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import tomli_w

from hwnas.assets import Workspace, disk_errors, write_atomically
from hwnas.errors import FormatError, NotFoundError, one_line, require
from hwnas.predict import adapted_store, gpu_store
from hwnas.predict.adapted import AdaptedModel
from hwnas.predict.features import DETAILS, INT8, PICKS, SCHEMA
from hwnas.predict.gpu_model import GpuModel
from hwnas.predict.model import UNKNOWN, HeldOut, KindModel, LatencyModel, NetworkModel
from hwnas.predict.predictor import Origin, Predictor, Transferred
from hwnas.predict.roofline import Roofline
from hwnas.predict.second_stage import Correction, Reuse
from hwnas.profiling import Setting
from hwnas.profiling.store import options_of, slug
from hwnas.runtimes.fusions import Fusions
from hwnas.spaces import GENERIC

FORMAT = 5
READABLE = (1, 2, 3, 4, FORMAT)
"""Format 1 had one predictor per setting and no difficulty, 2 no second opinion, 3 one by reuse distance alone; 4 told what is covered by
operations and bytes alone, and took all data that a kernel picks from (`PICKS`) for read."""
TARGET = "latency"
ANY_BATCH = 0
OLD_SIZES = 2  # operations and bytes: of what formats before 5 kept the range
DOUBT = ".doubt"  # after a kind: the model of how far off that of the kind may be
DISTANCES = "distances"  # how format 3 called exposures, which knew no time
REUSE = ".reuse"  # after a kind: the model that knows exposures
BASE = "base."  # before a file of the known device's that a predictor was adapted from


class LazyBooster:
    """A booster that is read from its file at the first prediction."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._booster: Any = None

    def predict(self, data: Any) -> Any:
        """As `xgboost.Booster.predict`."""
        if self._booster is None:
            xgboost = require("xgboost")
            booster = xgboost.Booster({"nthread": 1})
            try:
                booster.load_model(self._path)
            except (xgboost.core.XGBoostError, UnicodeDecodeError) as error:  # its message may quote the file's bytes
                raise FormatError(f"'{self._path}' cannot be read ({one_line(error)[:120]}); run 'hwnas fit' again") from error
            self._booster = booster
        return self._booster.predict(data)

    def save_raw(self, form: str) -> bytes:
        """As `xgboost.Booster.save_raw`, for the form in which it is stored: its file, as it is."""
        if form != self._path.suffix.removeprefix("."):
            raise ValueError(f"'{self._path.name}' is stored in its own form, not in '{form}'")
        return self._path.read_bytes()


def folder_of(tree: Path, setting: Setting, space: str) -> Path:
    """Where the predictor of a setting for the networks of a space lies in a `predictors/` tree."""
    return tree / setting.device / TARGET / setting.key / slug(space)


def save(predictor: Predictor, tree: Path) -> Path:
    """Writes a predictor; its card last, so that a card always has its models beside it.

    Returns:
        The folder of the predictor.

    Raises:
        DiskError: the disk refuses.
    """
    folder = folder_of(tree, predictor.setting, predictor.space)
    with disk_errors(folder, "make room or give another place with --home"):
        folder.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        for name, booster in _boosters(predictor.model):
            raw = bytes(booster.save_raw("ubj"))
            digest.update(raw)
            write_atomically(folder / f"{name}.ubj", partial(Path.write_bytes, data=raw))
        card: dict[str, Any] = {
            "format": FORMAT,
            "target": TARGET,
            "unit": "s",
            "statistic": "p10",
            "schema": SCHEMA,
            "details": list(DETAILS),
            "space": predictor.space,
            "fingerprint": predictor.fingerprint,
            "profile_digest": predictor.profile_digest,
            **predictor.fusions.as_entries(),
            "setting": asdict(predictor.setting),
            "environment": dict(predictor.environment),
            **({"origin": asdict(predictor.origin)} if predictor.origin else {}),
            **({"transferred": asdict(predictor.transferred)} if predictor.transferred else {}),
            **_to_card(predictor.model),
        }
        digest.update(tomli_w.dumps(card).encode())
        card["digest"] = digest.hexdigest()
        write_atomically(folder / "card.toml", lambda place: place.write_text(tomli_w.dumps(card)))
    return folder


def _boosters(model: NetworkModel) -> Iterator[tuple[str, Any]]:
    """Every booster with the name of its file, in the order in which the digest takes them."""
    if isinstance(model, AdaptedModel):
        yield from ((name, kind.part.booster) for name, kind in sorted(model.kinds.items()))
        yield from ((f"{BASE}{name}", booster) for name, booster in _boosters(model.base))
        return
    if isinstance(model, GpuModel):
        yield from ((name, kind.part.booster) for name, kind in sorted(model.kinds.items()))
        return
    if not isinstance(model, LatencyModel):
        raise TypeError(f"a {type(model).__name__} cannot be stored")
    for kind, part in sorted(model.kinds.items()):
        yield kind, part.booster
        if part.doubt is not None:
            yield f"{kind}{DOUBT}", part.doubt
        if part.reuse is not None:
            yield f"{kind}{REUSE}", part.reuse


def _format_of(model: NetworkModel) -> int:
    """The format in which a model was learned, which its boosters keep."""
    if not isinstance(model, LatencyModel):
        return FORMAT
    if not all(part.detailed for part in model.kinds.values()):
        return 1
    if model.reuse is None or not model.reuse.timed:
        return 2 if model.reuse is None else 3
    return FORMAT if all(len(part.low) > OLD_SIZES for part in model.kinds.values()) else 4


def _to_card(model: NetworkModel) -> dict[str, Any]:
    """What the card says of the model."""
    if isinstance(model, AdaptedModel):
        return {**adapted_store.to_card(model), "base": {"format": _format_of(model.base), **_to_card(model.base)}}
    if isinstance(model, GpuModel):
        return gpu_store.to_card(model)
    if not isinstance(model, LatencyModel):
        raise TypeError(f"a {type(model).__name__} cannot be stored")
    return {
        "call_s": model.call_s,
        "half_width": model.half_width,
        "median_width": model.median_width,
        "usual_doubt": model.usual_doubt,
        "typical": model.typical,
        "unknown": model.unknown,
        "held_out": asdict(model.held_out),
        "roofline": asdict(model.roofline),
        "correction": _correction_to_card(model.correction),
        **({"reuse": _reuse_to_card(model.reuse)} if model.reuse else {}),
        "kinds": {
            kind: {"rows": part.rows, "low": list(part.low), "high": list(part.high), "doubt": part.doubt is not None}
            for kind, part in sorted(model.kinds.items())
        },
    }


def _correction_to_card(correction: Correction) -> dict[str, list[float]]:
    return {key: list(value) for key, value in asdict(correction).items()}


def _correction_from_card(card: Mapping[str, Any]) -> Correction:
    return Correction(**{key: tuple(value) for key, value in card.items()})


def _reuse_to_card(reuse: Reuse) -> dict[str, Any]:
    where = {"exposures" if reuse.timed else DISTANCES: list(reuse.exposures)}
    return {**where, "weight": reuse.weight, "correction": _correction_to_card(reuse.correction)}


def _reuse_from_card(card: Mapping[str, Any]) -> Reuse:
    timed = DISTANCES not in card
    where = tuple(card["exposures" if timed else DISTANCES])
    return Reuse(exposures=where, weight=card["weight"], correction=_correction_from_card(card["correction"]), timed=timed)


def load(workspace: Workspace, setting: Setting, space: str | None = None) -> Predictor:
    """The predictor of a setting: that of the space, else the one for any network, else whichever there is.

    Args:
        workspace: its own predictors go before those that ship.
        setting: asked for.
        space: whose networks will be predicted; None for networks of no space.

    A predictor for any batch answers where there is none for this one.

    Raises:
        NotFoundError: there is none; says what there is and how to get one.
        FormatError: its files are damaged, or of a version or feature schema that this hwnas does not read.
    """
    for stored in (setting, replace(setting, threads=1, batch=ANY_BATCH)):
        cards = [card for tree in workspace.look_up("predictors") for card in _cards(tree / stored.device / TARGET / stored.key)]
        found = []
        for card in cards:
            with _damage(card):
                found.append((str(_card(card)["space"]), card.parent))
        if found:
            order = {space: 0, GENERIC: 1} if space else {GENERIC: 0}
            _, folder = min(found, key=lambda pair: order.get(pair[0], 2))
            with _damage(folder / "card.toml"):
                return _read(folder, setting)
    known = sorted({f"{found.device} {found.key}" for found in available(workspace)})
    there = f"there are: {', '.join(known)}" if known else "there is none yet"
    raise NotFoundError(
        f"no latency predictor for '{setting.device}' with {setting.key}; {there}; run 'hwnas profile --device {setting.device} "
        f"{options_of(setting)} --space {shlex.quote(space or GENERIC)}'"
    )


def has(workspace: Workspace, setting: Setting) -> bool:
    """Whether `load` finds a predictor of a setting, for whatever networks."""
    trees = list(workspace.look_up("predictors"))
    return any(
        _cards(tree / setting.device / TARGET / stored.key)
        for stored in (setting, replace(setting, threads=1, batch=ANY_BATCH))
        for tree in trees
    )


def available(workspace: Workspace) -> Iterator[Setting]:
    """The settings that have a predictor, each once."""
    seen = set()
    for tree in workspace.look_up("predictors"):
        for folder in sorted(tree.glob(f"*/{TARGET}/*")):
            for card in _cards(folder):
                with _damage(card):
                    setting = Setting(**_card(card)["setting"])
                if setting not in seen:
                    seen.add(setting)
                    yield setting


def _cards(folder: Path) -> list[Path]:
    """The cards of a setting: one in the folder itself (format 1), one in a folder for each space."""
    return [card for pattern in ("card.toml", "*/card.toml") for card in sorted(folder.glob(pattern))]


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turns what a damaged card leads to, an entry that is missing or is no such thing, into a `FormatError`."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise FormatError(f"'{path}' is damaged ({type(error).__name__}: {one_line(error)}); run 'hwnas fit' again") from error


def _card(path: Path) -> dict[str, Any]:
    card = tomllib.loads(path.read_text())
    if card.get("format") not in READABLE:
        raise FormatError(f"'{path}' has format {card.get('format')}, this hwnas reads {FORMAT}; run 'hwnas fit' again")
    return card


def read(folder: Path) -> Predictor:
    """The predictor in a folder, wherever that is.

    Raises:
        NotFoundError: there is none.
        FormatError: its files are damaged, or of a version or feature schema that this hwnas does not read.
    """
    if not (folder / "card.toml").is_file():
        raise NotFoundError(f"no predictor in '{folder}': it has no card.toml; give a folder such as predictors/cpu/latency/SETTING/SPACE")
    with _damage(folder / "card.toml"):
        return _read(folder, Setting(**_card(folder / "card.toml")["setting"]))


def folders(workspace: Workspace) -> list[Path]:
    """Where every predictor lies, the workspace's own first."""
    return [
        card.parent for tree in workspace.look_up("predictors") for found in sorted(tree.glob(f"*/{TARGET}/*")) for card in _cards(found)
    ]


def _read(folder: Path, setting: Setting) -> Predictor:
    card = _card(folder / "card.toml")
    if not _on_gpu(card) and (card["schema"] != SCHEMA or card.get("details", list(DETAILS)) != list(DETAILS)):
        raise FormatError(
            f"'{folder}' was learned with features {card['schema']}, this hwnas has {SCHEMA}; "
            f"run 'hwnas fit --device {setting.device}' again"
        )
    return Predictor(
        setting=setting,
        fusions=Fusions.from_entries(card),
        model=_read_model(card, folder),
        space=card["space"],
        fingerprint=card["fingerprint"],
        profile_digest=card["profile_digest"],
        environment=card["environment"],
        digest=card["digest"],
        origin=Origin(**card["origin"]) if "origin" in card else None,
        transferred=Transferred(**card["transferred"]) if "transferred" in card else None,
    )


def _on_gpu(card: Mapping[str, Any]) -> bool:
    """Whether a model sees kernels through other columns, which `gpu_store` checks."""
    return bool(card.get("extractor") == gpu_store.EXTRACTOR)


def _read_model(card: Mapping[str, Any], folder: Path, prefix: str = "") -> NetworkModel:
    """The model that a card describes, with its boosters from files of the folder whose names begin with the prefix."""
    if card["format"] < FORMAT and not _on_gpu(card):  # what they learned of picks was for other features
        card = {**card, "kinds": {kind: part for kind, part in card["kinds"].items() if kind.removeprefix(INT8) not in PICKS}}
    reuse = [REUSE] if "reuse" in card else []
    ends = {kind: ["", *reuse, *([DOUBT] if part.get("doubt") else [])] for kind, part in card["kinds"].items()}
    names = [f"{kind}{end}" for kind in ends for end in ends[kind]]
    files = {name: folder / f"{prefix}{name}.ubj" for name in names}
    missing = [file for file in files.values() if not file.is_file()]
    if missing:
        raise FormatError(f"'{folder}' lacks the model '{missing[0].name}'; run 'hwnas fit' again, or transfer again")
    boosters = {name: LazyBooster(file) for name, file in files.items()}
    if card.get("extractor") == adapted_store.EXTRACTOR:
        return adapted_store.from_card(card, _read_model(card["base"], folder, f"{prefix}{BASE}"), boosters)
    return gpu_store.from_card(card, boosters) if _on_gpu(card) else _read_local(card, boosters)


def _read_local(card: Mapping[str, Any], boosters: Mapping[str, Any]) -> LatencyModel:
    """A model that was learned from a profile."""
    kinds = {
        kind: KindModel(
            booster=boosters[kind],
            doubt=boosters.get(f"{kind}{DOUBT}"),
            reuse=boosters.get(f"{kind}{REUSE}"),
            rows=part["rows"],
            low=tuple(part["low"]),
            high=tuple(part["high"]),
            detailed=card["format"] > 1,
        )
        for kind, part in card["kinds"].items()
    }
    return LatencyModel(
        kinds=kinds,
        roofline=Roofline(**card["roofline"]),
        correction=_correction_from_card(card["correction"]),
        reuse=_reuse_from_card(card["reuse"]) if "reuse" in card else None,
        call_s=card["call_s"],
        half_width=card["half_width"],
        median_width=card["median_width"],
        usual_doubt=card.get("usual_doubt", 0.0),
        typical=card["typical"],
        unknown=card.get("unknown", UNKNOWN),
        held_out=HeldOut(**card["held_out"]),
    )
