"""Devices that need not be at hand: what their makers say of them, from `profiles/<device>/device.toml`.

A name stands for a family of parts that differ in clock, memory or power (`a100`: PCIe and SXM, 40 and 80 GB). Every figure names its
source in the file. A user's own file, in the workspace, goes before the one that ships.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwnas import assets
from hwnas.devices.base import DeviceSpec
from hwnas.errors import FormatError, NotFoundError, did_you_mean, one_line

FORMAT = 1
FILE = "device.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One of the parts that a device's name stands for.

    Attributes:
        id: unique within the device, such as `sxm4-40gb`.
        spec: its figures; `model` is the name that NVML reports.
        sources: where each figure comes from.
    """

    id: str
    spec: DeviceSpec
    sources: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A device of the catalogue.

    Attributes:
        name: as given to `--device`.
        default: id of the part that the name alone stands for.
        parts: in the order of the file.
    """

    name: str
    default: str
    parts: tuple[Part, ...]

    def part(self, wanted: str | None = None) -> Part:
        """A part by its id or by the name that NVML reports; the default one unless asked.

        Raises:
            NotFoundError: the device has no such part.
        """
        wanted = wanted or self.default
        for part in self.parts:
            if wanted in (part.id, part.spec.model):
                return part
        known = [part.id for part in self.parts]
        raise NotFoundError(f"'{self.name}' has no part '{wanted}'{did_you_mean(wanted, known)}; it has: {', '.join(known)}")


def names(trees: Iterable[Path] = ()) -> tuple[str, ...]:
    """The devices that the catalogue knows, sorted."""
    return tuple(sorted({file.parent.name for tree in _trees(trees) for file in tree.glob(f"*/{FILE}")}))


def entry(name: str, trees: Iterable[Path] = ()) -> Entry:
    """A device of the catalogue.

    Args:
        name: of the device.
        trees: `profiles/` folders to look into before the one that ships.

    Raises:
        NotFoundError: no file describes it.
        FormatError: its file is damaged, or of a version that this hwnas does not read.
    """
    for tree in _trees(trees):
        if (tree / name / FILE).is_file():
            return _read(tree / name / FILE)
    known = names(trees)
    raise NotFoundError(f"the catalogue does not describe '{name}'{did_you_mean(name, known)}; it has: {', '.join(known)}")


def find_model(model: str, trees: Iterable[Path] = ()) -> Part:
    """The part that NVML calls by this name.

    Raises:
        NotFoundError: no file describes it.
    """
    trees = tuple(trees)
    every = [part for name in names(trees) for part in entry(name, trees).parts]
    for part in every:
        if part.spec.model == model:
            return part
    known = [part.spec.model for part in every]
    raise NotFoundError(f"the catalogue does not describe a '{model}'{did_you_mean(model, known)}; it has: {', '.join(known)}")


def _trees(trees: Iterable[Path]) -> tuple[Path, ...]:
    return (*trees, assets.root("profiles"))


def _read(file: Path) -> Entry:
    try:
        plain = tomllib.loads(file.read_text())
        if plain.get("format") != FORMAT:
            raise FormatError(f"'{file}' has format {plain.get('format')}, this hwnas reads {FORMAT}; update hwnas, or write it anew")
        parts = tuple(_part(plain["name"], part) for part in plain["part"])
        found = Entry(name=plain["name"], default=plain["default"], parts=parts)
        found.part()
    except (OSError, ValueError, LookupError, TypeError, AttributeError, NotFoundError) as error:
        raise FormatError(f"'{file}' is damaged ({type(error).__name__}: {one_line(error)}); restore it, or write it anew") from error
    return found


def _part(name: str, plain: Mapping[str, Any]) -> Part:
    figures = {key: value for key, value in plain.items() if key not in ("id", "source")}
    unsourced = sorted(set(figures) - set(plain["source"]))
    if unsourced:
        raise ValueError(f"part '{plain['id']}' gives no source for '{unsourced[0]}'")
    spec = DeviceSpec(name=name, kind="gpu", caches_bytes={"l2": figures.pop("l2_bytes")}, **figures)
    return Part(id=plain["id"], spec=spec, sources=dict(plain["source"]))
