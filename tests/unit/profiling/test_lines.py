"""A journal of lines: what was on the disk counts, what a kill cut short does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hwnas.errors import DiskError, FormatError
from hwnas.profiling.lines import FORMAT, Lines

ROWS = [{"item": 1, "seconds": [0.1, 0.25]}, {"item": 2, "text": "a\nb"}, {"item": 3}]


@pytest.fixture
def lines(tmp_path: Path) -> Lines:
    """A journal with three rows, in a folder that was not there before."""
    made = Lines(tmp_path / "deep" / "journal.jsonl")
    assert not made.exists()
    made.start({"profile": "abc"})
    for row in ROWS:
        made.append(row)
    return made


def test_what_was_written_is_read(lines: Lines) -> None:
    """The header comes with its format; rows in their order, whatever is in their texts; reading changes nothing."""
    before = lines.path.read_bytes()
    assert lines.exists()
    assert lines.read_lines() == ({"format": FORMAT, "profile": "abc"}, ROWS)
    assert lines.path.read_bytes() == before


@pytest.mark.parametrize("cut", range(1, len(json.dumps(ROWS[-1])) + 2))
def test_a_line_that_was_cut_short_does_not_count(lines: Lines, cut: int) -> None:
    """Wherever a kill cut the last line, the rows before it stay, and what is added afterwards is read with them."""
    lines.path.write_bytes(lines.path.read_bytes()[:-cut])
    assert lines.read_lines()[1] == ROWS[:-1]
    lines.append({"item": 4})
    assert lines.read_lines()[1] == [*ROWS[:-1], {"item": 4}]


def test_nothing_behind_a_damaged_line_counts(lines: Lines) -> None:
    """A line in the middle that is no JSON ends what is read: what follows may hang on it."""
    head, one, _, three, _ = lines.path.read_bytes().split(b"\n")
    lines.path.write_bytes(b"\n".join([head, one, b'{"item": 2,', three, b""]))
    assert lines.read_lines()[1] == ROWS[:1]
    assert lines.path.read_bytes() == b"\n".join([head, one, b""])


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        (b"", r"'.*journal\.jsonl' is damaged .*; remove it and profile again"),
        (b"[1, 2]", "is damaged"),
        (b'{"format": 99}', rf"has format 99, this hwnas reads {FORMAT}; remove it and profile again"),
        (b"{}", "has format None"),
    ],
)
def test_a_header_that_cannot_be_read(lines: Lines, header: bytes, complaint: str) -> None:
    """It is named with the file and what to do; the file is left as it is."""
    lines.path.write_bytes(header + b'\n{"item": 1}\n')
    before = lines.path.read_bytes()
    with pytest.raises(FormatError, match=complaint):
        lines.read_lines()
    assert lines.path.read_bytes() == before


def test_a_new_start_drops_what_was_there(lines: Lines) -> None:
    """Header and rows are of one measurement."""
    lines.start({"profile": "other"})
    assert lines.read_lines() == ({"format": FORMAT, "profile": "other"}, [])


def test_it_can_be_removed_twice(lines: Lines) -> None:
    """Removing what is gone already is no error."""
    lines.remove()
    assert not lines.exists()
    lines.remove()


def test_a_disk_that_refuses(lines: Lines) -> None:
    """What was measured before is kept, and the remedy is given."""
    lines.remove()
    lines.path.mkdir()  # cannot be opened to write to, whoever asks
    with pytest.raises(DiskError, match="run again with --resume"):
        lines.append({"item": 4})
