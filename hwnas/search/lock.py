"""One writer a run: a lock that the kernel releases when its process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from hwnas.errors import BusyError, DiskError


class Lock:
    """An exclusive lock on a file beside what it protects; the file stays, since removing it would race.

    Args:
        path: of the lock file.
        what: for the message.

    Raises:
        BusyError: when another process holds it.
        DiskError: when the folder cannot be written.
    """

    def __init__(self, path: Path, what: str) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise DiskError(f"{what} cannot be written: {error.strerror} ('{path.parent}'); give another folder with --home") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(self._descriptor, 32).decode(errors="replace").strip() or "unknown"
            os.close(self._descriptor)
            raise BusyError(f"{what} is being written by another process (id {holder}); wait until it has ended") from error
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, str(os.getpid()).encode())

    def release(self) -> None:
        """Lets others in."""
        os.close(self._descriptor)
