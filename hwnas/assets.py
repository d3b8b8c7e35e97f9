"""Where the data trees that ship with hwnas are, and where a user's own live."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import platformdirs

from hwnas.errors import DiskError, UsageError

Tree = Literal["kernels", "profiles", "predictors"]


def root(tree: Tree) -> Path:
    """The folder of a shipped asset tree: inside an installed wheel, or at the root of a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "_assets" / tree
    return installed if installed.is_dir() else package.parent / tree


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folder that holds what a user measured, learned and searched: `profiles/`, `predictors/`, `runs/`."""

    home: Path

    @classmethod
    def at(cls, home: str | os.PathLike[str] | None = None) -> Workspace:
        """The workspace at `home`, else at `$HWNAS_HOME`, else in the user's data folder.

        Raises:
            UsageError: when the place exists and is not a folder.
        """
        path = Path(home or os.environ.get("HWNAS_HOME") or platformdirs.user_data_path("hwnas")).expanduser().resolve()
        if path.exists() and not path.is_dir():
            raise UsageError(f"the workspace must be a folder, and '{path}' is a file; give another with --home")
        return cls(path)

    @property
    def profiles(self) -> Path:
        """Where `hwnas profile` writes."""
        return self.home / "profiles"

    @property
    def predictors(self) -> Path:
        """Where `hwnas fit` writes."""
        return self.home / "predictors"

    @property
    def runs(self) -> Path:
        """Where `hwnas search` writes."""
        return self.home / "runs"

    @property
    def timing_caches(self) -> Path:
        """Where TensorRT keeps what it timed while it built engines."""
        return self.home / "caches" / "tensorrt"

    def look_up(self, tree: Literal["profiles", "predictors"]) -> Iterator[Path]:
        """The folders to search for a profile or predictor: the workspace's first, the shipped one second."""
        yield self.home / tree
        yield root(tree)


@contextmanager
def disk_errors(place: Path, remedy: str) -> Iterator[None]:
    """Turns a refusal of the disk into a `DiskError` that says where, why and what to do."""
    try:
        yield
    except OSError as error:
        raise DiskError(f"cannot write to '{place}' ({error.strerror or error}); {remedy}") from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Writes to a neighbour, syncs it, then renames it into place, so that no reader ever meets half a file."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    place = Path(name)
    try:
        write(place)
        with place.open("rb") as file:
            os.fsync(file.fileno())
        place.replace(path)
    finally:
        with suppress(OSError):
            place.unlink(missing_ok=True)
