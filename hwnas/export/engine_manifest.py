"""What the export of an engine says about itself: what was built, for which cards, and what of it was tried here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from hwnas.errors import FormatError
from hwnas.export.manifest import NAME, File, Lineage, MeteredEnergy, energy_of, lineage_of, read_plain, write_plain
from hwnas.predict.estimate import Estimate
from hwnas.runtimes.trt_build import Options

NOT_MEASURED = "not measured: no card"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A product that could compute in int8.

    Attributes:
        node: its name.
        error: of the answers when it alone is in int8, relative to their variation.
        precision: that it got.
    """

    node: str
    error: float
    precision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineManifest:
    """The content of the `manifest.json` beside an engine.

    Attributes:
        name: of the network.
        created: UTC, ISO 8601.
        precision: as asked for.
        options: with which the engine was built.
        nodes: how many nodes compute in each precision.
        compared: for `mixed`: every product, the one that tolerates int8 worst first.
        output_error: of the answers in fp32, relative to their variation between calibration inputs, when computed in these precisions
            on the CPU.
        accuracy: of the network in these precisions on the locked test split, computed on the CPU; a share.
        accuracy_fp32: the same in fp32.
        latency: what is known of the engine's latency, in words.
        loads: whether the engine was loaded on this machine.
        loading: why it was not; empty where it was.
        view: whose layer information lies beside it: the `engine` inspector's or the `parser`'s.
        warnings: of TensorRT.
        engine_bytes: size of the engine.
        build_s: time of the build in s.
        commands: that build the engine again and that time it.
        predicted: what was promised before, by metric.
        limit_s: the latency that it has to keep.
        batches: smallest, usual and largest batch where it is open; None where it is fixed.
        settings: batch of the network, number of calibration inputs, flavour.
        versions: of what made the export.
        lineage: where the network comes from.
        files: all others in the folder, by path.
        energy: of the network, as measured; `None` where it was not.
    """

    name: str
    created: str
    precision: str
    options: Options
    nodes: Mapping[str, int]
    compared: tuple[Kept, ...]
    output_error: float
    accuracy: float
    accuracy_fp32: float
    latency: str
    loads: bool
    loading: str
    view: str
    warnings: tuple[str, ...]
    engine_bytes: int
    build_s: float
    commands: tuple[str, ...]
    predicted: Mapping[str, Estimate]
    limit_s: float | None
    batches: tuple[int, int, int] | None
    settings: Mapping[str, str | int]
    versions: Mapping[str, str]
    lineage: Lineage
    files: Mapping[str, File]
    energy: MeteredEnergy | None = None

    def write(self, folder: Path) -> None:
        """Writes `manifest.json` into a folder."""
        write_plain(folder, {"kind": "engine", **asdict(self)})

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The manifest of an engine.

        Raises:
            NotFoundError: when the folder holds no export.
            FormatError: when it is damaged, of another format, or of a model rather than of an engine.
        """
        plain = read_plain(folder, kind="engine")
        try:
            return cls(**_parsed(plain))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"'{folder / NAME}' is damaged ({type(error).__name__}: {error}); export again") from error


def _parsed(plain: dict[str, Any]) -> dict[str, Any]:
    return {
        **plain,
        "options": Options.from_plain(plain["options"]),
        "compared": tuple(Kept(**row) for row in plain["compared"]),
        "warnings": tuple(plain["warnings"]),
        "commands": tuple(plain["commands"]),
        "batches": tuple(plain["batches"]) if plain["batches"] else None,
        "predicted": {metric: Estimate(**row) for metric, row in plain["predicted"].items()},
        "lineage": lineage_of(plain["lineage"]),
        "files": {name: File(**row) for name, row in plain["files"].items()},
        "energy": energy_of(plain),
    }
