"""Devices that need not be at hand: what others say of them, from `profiles/<device>/device.toml`.

A name stands for a family of parts that differ in clock, memory or power (`a100`: PCIe and SXM, 40 and 80 GB). Every figure names the
document it comes from, and says so where that document was not opened. A user's own file, in the workspace, goes before the one that ships.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwnas import assets
from hwnas.devices.base import Cadence, DeviceSpec
from hwnas.errors import FormatError, NotFoundError, did_you_mean, one_line

FORMAT = 2
FILE = "device.toml"
READINGS = ("usage", "average", "instant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a figure comes from.

    Attributes:
        document: its title, and how the figure follows from it where it is not simply written there.
        url: where it was read; empty where it cannot be linked to.
        verified: whether the figure was looked up there. Where it was not, it is written from memory.
    """

    document: str
    url: str = ""
    verified: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One of the parts that a device's name stands for.

    Attributes:
        id: unique within the device, such as `sxm4-40gb`.
        spec: its figures; `model` is the name that NVML reports.
        power: how each of the part's power readings follows the truth, by NVML's field: `usage`, `average`, `instant`.
        sources: where each figure comes from.
    """

    id: str
    spec: DeviceSpec
    power: Mapping[str, Cadence]
    sources: Mapping[str, Source]

    @property
    def unverified(self) -> tuple[str, ...]:
        """The figures that nobody looked up, sorted."""
        return tuple(sorted(figure for figure, source in self.sources.items() if not source.verified))


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


def parts(trees: Iterable[Path] = ()) -> tuple[Part, ...]:
    """Every part of every device.

    Raises:
        FormatError: a file is damaged, or of a version that this hwnas does not read.
    """
    trees = tuple(trees)
    return tuple(part for name in names(trees) for part in entry(name, trees).parts)


def find_model(model: str, trees: Iterable[Path] = ()) -> Part:
    """The part that NVML calls by this name.

    Raises:
        NotFoundError: no file describes it.
    """
    every = parts(trees)
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
        read = tuple(_part(plain["name"], {**plain.get("common", {}), **part}, plain["source"]) for part in plain["part"])
        found = Entry(name=plain["name"], default=plain["default"], parts=read)
        found.part()
    except (OSError, ValueError, LookupError, TypeError, AttributeError, NotFoundError) as error:
        raise FormatError(f"'{file}' is damaged ({type(error).__name__}: {one_line(error)}); restore it, or write it anew") from error
    return found


def _part(name: str, plain: Mapping[str, Any], sources: Iterable[Mapping[str, Any]]) -> Part:
    figures = dict(plain)
    part = figures.pop("id")
    named = {figure: _source(part, figure, sources) for figure in figures}
    power = {reading: Cadence(**cadence) for reading, cadence in figures.pop("power", {}).items()}
    if not power.keys() <= set(READINGS):
        raise ValueError(f"part '{part}' has a power reading that NVML has not: {', '.join(sorted(power.keys() - set(READINGS)))}")
    spec = DeviceSpec(name=name, kind="gpu", caches_bytes={"l2": figures.pop("l2_bytes")}, **figures)
    return Part(id=part, spec=spec, power=power, sources=named)


def _source(part: str, figure: str, sources: Iterable[Mapping[str, Any]]) -> Source:
    """The first source that speaks of the figure and, if it speaks of certain parts only, of this one."""
    for source in sources:
        if figure in source["figures"] and part in source.get("parts", (part,)):
            return Source(**{key: value for key, value in source.items() if key not in ("figures", "parts")})
    raise ValueError(f"part '{part}' gives no source for '{figure}'")
