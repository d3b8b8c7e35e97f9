"""A folder that appears when everything in it is written, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hwnas.errors import HwnasError, UsageError
from hwnas.export.manifest import NAME


@contextmanager
def new_folder(target: Path, *, force: bool) -> Iterator[Path]:
    """A new folder to fill, which becomes `target` when all went well and disappears otherwise.

    Raises:
        UsageError: the target is in use.
        HwnasError: for whatever the file system refuses.
    """
    target = target.resolve()
    replaced = target.with_name(f".{target.name}.{os.getpid()}.old")
    folder = target.with_name(f".{target.name}.{os.getpid()}.new")
    try:
        _check_free(target, force=force)
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
        try:
            yield folder
            if target.exists():
                target.rename(replaced)
            try:
                folder.rename(target)
            except OSError:
                if replaced.exists():
                    replaced.rename(target)
                raise
            shutil.rmtree(replaced, ignore_errors=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise HwnasError(
            f"the export to '{target}' failed: {error.strerror or error}; make room there or give another folder with -o"
        ) from error


def _check_free(target: Path, *, force: bool) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise UsageError(f"an export needs a folder, and '{target}' is a file; give another with -o")
    if any(target.iterdir()):
        if not (target / NAME).is_file():
            raise UsageError(f"'{target}' is in use and holds no export; give another folder with -o")
        if not force:
            raise UsageError(f"'{target}' holds an export already; give another folder with -o, or replace it with --force")
