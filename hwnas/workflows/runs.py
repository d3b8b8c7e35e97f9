"""Runs on disk: `runs/<id>/run.toml` (what was asked, with everything needed to repeat it), `trials.sqlite`, trained weights."""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import tomli_w

from hwnas.assets import Workspace, disk_errors, write_atomically
from hwnas.errors import FormatError, NotFoundError, UsageError, did_you_mean, one_line
from hwnas.search.archive import Archive
from hwnas.units import format_seconds

FORMAT = 1
LONGEST_NAME = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """What a search was asked for; names and defaults are those of the command line.

    Attributes:
        space: a space's name, or `path.py:Class`.
        device: for which is searched.
        runtime: that will run networks there; what predictors there are decides unless it is named.
        threads: that compute on it.
        batch: images per call.
        precision: of the arithmetic in which networks will run there; trainings are in fp32.
        minimize: metrics.
        maximize: metrics.
        constraint: limits, as typed.
        num_evals: distinct networks to look at.
        max_time: seconds for the search, or 0 for no limit; the finalists come on top.
        trainings: networks that are trained briefly while searching.
        finalists: networks to train longer and to measure.
        seeds: trainings of each finalist.
        population: networks per generation.
        data: data set to train on.
        seed: of everything random.
    """

    space: str = "mobilenet-small"
    device: str = "cpu"
    runtime: str | None = None
    threads: int = 1
    batch: int = 1
    precision: str = "fp32"
    minimize: tuple[str, ...] = ("latency",)
    maximize: tuple[str, ...] = ("accuracy",)
    constraint: tuple[str, ...] = ()
    num_evals: int = 200
    max_time: float = 0.0
    trainings: int = 12
    finalists: int = 3
    seeds: int = 3
    population: int = 24
    data: str = "digits"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("num_evals", 1), ("trainings", 0), ("finalists", 1), ("seeds", 1), ("population", 4)):
            if getattr(self, name) < least:
                raise UsageError(f"--{name.replace('_', '-')} must be at least {least}, got {getattr(self, name)}")
        if self.max_time < 0:
            raise UsageError(f"--max-time must be positive, got {self.max_time}")

    def command(self) -> str:
        """The command line that repeats the search from the start."""
        words = ["hwnas", "search"]
        for option in fields(self):
            value, flag = getattr(self, option.name), f"--{option.name.replace('_', '-')}"
            if value is None:
                continue
            if option.name == "max_time":
                words += [flag, format_seconds(value, 12).replace(" ", "")] if value else []
            elif isinstance(value, tuple):
                words += [word for item in value for word in (flag, item)]
            else:
                words += [flag, str(value)]
        return shlex.join(words)

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> Self:
        """From the values in `run.toml`."""
        values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A search on disk.

    Attributes:
        folder: that holds it; its name is the run's id.
        options: what was asked.
        record: when it began, versions, seeds, hashes, fingerprint, resolved limits, replay command.
    """

    folder: Path
    options: SearchOptions
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The name that commands take."""
        return self.folder.name

    @property
    def weights(self) -> Path:
        """Folder of the finalists' trained networks."""
        return self.folder / "weights"

    def archive(self, *, readonly: bool = False) -> Archive:
        """The run's database."""
        return Archive.open(self.folder / "trials.sqlite", readonly=readonly)

    def save(self) -> None:
        """Writes `run.toml`.

        Raises:
            DiskError: the folder cannot be written.
        """
        text = {"format": FORMAT, "options": _plain(asdict(self.options)), "record": _plain(self.record)}
        with disk_errors(self.folder, "make room or give another place with --home"):
            write_atomically(self.folder / "run.toml", lambda place: place.write_text(tomli_w.dumps(text)))


def create(workspace: Workspace, options: SearchOptions, record: Mapping[str, Any], name: str | None = None) -> Run:
    """A new run, written down before anything is spent.

    Raises:
        UsageError: a run of that name exists, or the name is none for a folder.
        DiskError: the workspace cannot be written.
    """
    now = datetime.now(UTC)
    stem = name or f"{now:%Y%m%d-%H%M%S}-{Path(options.space).stem}-{options.device}"
    if Path(stem).name != stem or len(stem) > LONGEST_NAME:
        raise UsageError(f"the name of a run names its folder, so it has no '/' and at most {LONGEST_NAME} letters; got --name '{stem}'")
    folder = workspace.runs / stem
    with disk_errors(workspace.runs, "make room or give another place with --home"):
        workspace.runs.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir()
        except FileExistsError:
            raise UsageError(f"a run '{stem}' exists; go on with it by --resume, or give another --name") from None
    run = Run(folder=folder, options=options, record={"created": now, **record})
    run.save()
    return run


def find(workspace: Workspace, name: str | None = None) -> Run:
    """A run by its id or folder; the newest without a name.

    Raises:
        NotFoundError: there is no such run; names the ones there are.
        FormatError: its `run.toml` is damaged or of another version.
    """
    folders = sorted(path.parent for path in workspace.runs.glob("*/run.toml"))
    folders.sort(key=lambda folder: (folder / "run.toml").stat().st_mtime)
    if name is None:
        if not folders:
            raise NotFoundError(f"no run in '{workspace.runs}'; make one with 'hwnas search'")
        return _read(folders[-1])
    direct = Path(name)
    for folder in (workspace.runs / name, direct):
        if (folder / "run.toml").is_file():
            return _read(folder)
    known = [folder.name for folder in folders]
    listed = ", ".join(known[-5:]) or "none"
    raise NotFoundError(f"no run '{name}' in '{workspace.runs}'{did_you_mean(name, known)}; newest: {listed}")


def _read(folder: Path) -> Run:
    path = folder / "run.toml"
    try:
        text = tomllib.loads(path.read_text())
        if text.get("format") != FORMAT:
            raise FormatError(f"'{path}' has format {text.get('format')}, this hwnas reads {FORMAT}; use the hwnas that wrote it")
        return Run(folder=folder, options=SearchOptions.read(text["options"]), record=text["record"])
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise FormatError(f"'{path}' is damaged ({one_line(error)}); start the search anew") from error


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """What TOML can say: no None, lists for tuples."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items() if value is not None}
