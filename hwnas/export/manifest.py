"""What an export says about itself: its files with their hashes, where it comes from, what was predicted and what was measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from hwnas.errors import FormatError, NotFoundError
from hwnas.predict.estimate import Estimate
from hwnas.runtimes.samples import Ratio, Samples

FORMAT = 1
NAME = "manifest.json"
MODEL = "model.onnx"
Kind = Literal["model", "engine"]  # an ONNX model for ONNX Runtime, or an engine of TensorRT; a manifest says it only of engines


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Statistics of end-to-end latencies in s, each contender timed alone; the raw samples lie beside the manifest.

    Attributes:
        median_s: what a user is promised, with `p99_s`.
        p10_s: undisturbed.
        p90_s: see `grade`.
        p99_s: see `median_s`.
        n: samples.
        grade: A, B or C by how disturbed the machine was.
    """

    median_s: float
    p10_s: float
    p90_s: float
    p99_s: float
    n: int
    grade: str

    @classmethod
    def of(cls, samples: Samples) -> Self:
        """The statistics of these samples."""
        return cls(
            median_s=samples.median_s,
            p10_s=samples.p10_s,
            p90_s=samples.p90_s,
            p99_s=samples.p99_s,
            n=samples.n,
            grade=samples.grade,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Speedup:
    """How many times faster, the median of interleaved pairs with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, ratio: Ratio) -> Self:
        """From the ratio of the new time to the old one."""
        return cls(value=1 / ratio.median, low=1 / ratio.high, high=1 / ratio.low)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """The network in one precision, as measured.

    Attributes:
        precision: `fp32` or `int8`.
        latency: of ONNX Runtime.
        accuracy: on the locked test split, a share.
        size_bytes: of its model file.
        speedup_over_torch: against the same network in eager torch.
        speedup_over_fp32: against the fp32 variant; `None` for fp32 itself.
    """

    precision: str
    latency: Timing
    accuracy: float
    size_bytes: int
    speedup_over_torch: Speedup
    speedup_over_fp32: Speedup | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Where a network comes from.

    Attributes:
        run: of the search that found it.
        rank: among its finalists.
        space: in which it was found.
        genotype: that gives the graph again.
        seeds: with which it was trained.
        recipe: digest of the training recipe.
        data: digest of the data set and its split.
        predictor: digest of the predictor's card; `None` where none was used.
        device: fingerprint of the device that it was searched for.
        replay: the command that repeats the search.
    """

    run: str
    rank: int = 1
    space: str
    genotype: tuple[int, ...]
    seeds: tuple[int, ...] = ()
    recipe: str = ""
    data: str = ""
    predictor: str | None = None
    device: str = ""
    replay: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteredEnergy:
    """The energy of one call of the network as its search's end measured it: trained, in the setting of the search, before it was exported.

    Attributes:
        joules: with the device's idle power in it.
        uncertainty_j: of that, as a standard deviation.
        net_joules: above idle power.
        net_uncertainty_j: of that.
        source: which meter; energies of two meters are different quantities.
        setting: runtime, threads, batch and precision in which it ran.
    """

    joules: float
    uncertainty_j: float
    net_joules: float
    net_uncertainty_j: float
    source: str
    setting: str


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file of the export."""

    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """Reads the file."""
        with path.open("rb") as file:
            return cls(sha256=hashlib.file_digest(file, "sha256").hexdigest(), size_bytes=path.stat().st_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The content of `manifest.json`.

    Attributes:
        name: of the network.
        created: UTC, ISO 8601.
        precision: of `model.onnx`.
        reason: why that one, in one sentence.
        variants: fp32, and int8 where it was tried, shipped or not.
        torch: latency of eager torch.
        predicted: what was promised before the network was measured, by metric.
        limit_s: the latency that it had to keep.
        limit_kept: by the measured median of what is shipped; `None` without a limit.
        settings: runtime, threads, batch, rounds side by side, number of calibration inputs, which form of int8 was the fastest.
        versions: of what made the export.
        lineage: where the network comes from.
        files: all others in the folder, by name.
        energy: as measured; `None` where it was not.
    """

    name: str
    created: str
    precision: str
    reason: str
    variants: tuple[Variant, ...]
    torch: Timing
    predicted: Mapping[str, Estimate]
    limit_s: float | None
    limit_kept: bool | None
    settings: Mapping[str, str | int]
    versions: Mapping[str, str]
    lineage: Lineage
    files: Mapping[str, File]
    energy: MeteredEnergy | None = None

    @property
    def shipped(self) -> Variant:
        """The variant that `model.onnx` is."""
        return next(variant for variant in self.variants if variant.precision == self.precision)

    def write(self, folder: Path) -> None:
        """Writes `manifest.json` into a folder."""
        write_plain(folder, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The manifest of an export.

        Raises:
            NotFoundError: when the folder holds none.
            FormatError: when it is damaged or of another format.
        """
        path, plain = folder / NAME, read_plain(folder, kind="model")
        try:
            return cls(**_parsed(plain))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"'{path}' is damaged ({type(error).__name__}: {error}); export again") from error


def write_plain(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes `manifest.json` into a folder."""
    text = json.dumps({"format": FORMAT, **content}, indent=2, allow_nan=False)
    (folder / NAME).write_text(text + "\n", encoding="utf-8")


def read_plain(folder: Path, *, kind: Kind) -> dict[str, Any]:
    """What a folder's `manifest.json` says, without its format and kind.

    Raises:
        NotFoundError: when the folder holds no export.
        FormatError: when the manifest is damaged, of another format, or of an export of the other kind.
    """
    path = folder / NAME
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"'{folder}' holds no export ({NAME} is missing); make one with: hwnas export RUN -o DIR") from error
    except ValueError as error:
        raise FormatError(f"'{path}' is damaged ({error}); export again") from error
    found = plain.pop("format", None) if isinstance(plain, dict) else None
    if found != FORMAT:
        raise FormatError(f"'{path}' has format {found}, this hwnas reads {FORMAT}; export again, or use the hwnas that wrote it")
    content: dict[str, Any] = plain
    other = content.pop("kind", "model")
    if other != kind:
        reader = "engine.verify_engine" if other == "engine" else "verify.verify"
        raise FormatError(f"'{folder}' holds an export of kind '{other}', not '{kind}'; check it with hwnas.export.{reader}")
    return content


def lineage_of(plain: Mapping[str, Any]) -> Lineage:
    """A lineage from what JSON keeps of it."""
    return Lineage(**{**plain, "genotype": tuple(plain["genotype"]), "seeds": tuple(plain["seeds"])})


def energy_of(plain: Mapping[str, Any]) -> MeteredEnergy | None:
    """The measured energy that a manifest holds, if it holds one."""
    return MeteredEnergy(**plain["energy"]) if plain.get("energy") else None


def _parsed(plain: dict[str, Any]) -> dict[str, Any]:
    return {
        **plain,
        "variants": tuple(_variant(row) for row in plain["variants"]),
        "torch": Timing(**plain["torch"]),
        "predicted": {metric: Estimate(**row) for metric, row in plain["predicted"].items()},
        "lineage": lineage_of(plain["lineage"]),
        "files": {name: File(**row) for name, row in plain["files"].items()},
        "energy": energy_of(plain),
    }


def _variant(row: dict[str, Any]) -> Variant:
    faster = row["speedup_over_fp32"]
    return Variant(
        **{
            **row,
            "latency": Timing(**row["latency"]),
            "speedup_over_torch": Speedup(**row["speedup_over_torch"]),
            "speedup_over_fp32": Speedup(**faster) if faster else None,
        }
    )
