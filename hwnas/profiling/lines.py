"""A file of JSON lines that outlives a kill: a line counts when it is on the disk."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hwnas.assets import disk_errors, write_atomically
from hwnas.errors import FormatError, one_line

FORMAT = 2


class Lines:
    """What is measured bit by bit: a header with what must not change meanwhile, then a line for every bit.

    Attributes:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def exists(self) -> bool:
        """Whether something unfinished is there."""
        return self.path.exists()

    def start(self, header: Mapping[str, Any]) -> None:
        """Begins anew with what must not change."""
        with disk_errors(self.path.parent, "make room or give another place with --home"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, lambda place: place.write_text(json.dumps({"format": FORMAT, **header}) + "\n"))

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a line, and returns when it is on the disk.

        Raises:
            DiskError: the disk refuses.
        """
        remedy = "what was measured before is kept; make room and run again with --resume"
        with disk_errors(self.path.parent, remedy), self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read_lines(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The header and the lines; a line that a kill cut short is cut off the file.

        Raises:
            FormatError: the header is damaged or of another version.
        """
        lines = self.path.read_bytes().split(b"\n")
        try:
            header = dict(json.loads(lines[0]))
        except (ValueError, TypeError) as error:
            raise FormatError(f"'{self.path}' is damaged ({one_line(error)}); remove it and profile again") from error
        if header.get("format") != FORMAT:
            raise FormatError(f"'{self.path}' has format {header.get('format')}, this hwnas reads {FORMAT}; remove it and profile again")
        rows = []
        kept = len(lines[0]) + 1
        for line in lines[1:-1]:
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
            kept += len(line) + 1
        if kept < self.path.stat().st_size:
            os.truncate(self.path, kept)
        return header, rows

    def remove(self) -> None:
        """Deletes the file."""
        self.path.unlink(missing_ok=True)
