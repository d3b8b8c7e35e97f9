"""Journals of what is being measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from journals import HEADER, ROUNDS, assert_same_networks, measuring

from hwnas.errors import FormatError
from hwnas.profiling.journal import Journal, Measuring
from hwnas.profiling.lines import FORMAT
from hwnas.profiling.waves import Visit


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """A journal with three networks and four rounds."""
    journal = Journal(tmp_path / "profiles" / "cpu" / "journal.jsonl")
    journal.start(HEADER)
    measuring(3, journal)
    return journal


def assert_same_measuring(found: Measuring, expected: Measuring) -> None:
    assert (found.genotypes, found.times, found.call_ns, found.spent_s) == (
        expected.genotypes,
        expected.times,
        expected.call_ns,
        expected.spent_s,
    )
    assert_same_networks(found.records(), expected.records())


def test_a_journal_holds_everything(journal: Journal) -> None:
    """What was measured comes back from the journal exactly, with its header and the time spent."""
    header, found = journal.read()
    assert header == {"format": FORMAT, **HEADER}
    assert_same_measuring(found, measuring(3))
    assert found.spent_s == 3 * ROUNDS * 0.125


def test_networks_with_enough_visits(journal: Journal) -> None:
    """Records are those of networks that were visited often enough."""
    _, found = journal.read()
    found.visits[2].pop()
    assert [record.id for record in found.records(ROUNDS)] == [0, 1]
    assert [record.id for record in found.records()] == [0, 1, 2]


def test_a_line_that_a_kill_cut_short(journal: Journal) -> None:
    """Wherever a kill cuts the last line, the complete ones are kept, the fragment goes, and measuring goes on behind them."""
    whole = journal.path.read_bytes()
    lines = whole.splitlines(keepends=True)
    last = len(lines[-1])
    _, expected = journal.read()
    expected.visits[2].pop()
    for left in (0, 1, last // 2, last - 2, last - 1):
        journal.path.write_bytes(whole[: len(whole) - last + left])
        _, found = journal.read()
        assert journal.path.read_bytes() == b"".join(lines[:-1])
        assert_same_networks(found.records(), expected.records())
    journal.visit(Visit(network=2, round=9, seconds=np.array([1e-3])), 9.0)
    _, found = journal.read()
    assert (found.visits[2][-1].round, found.spent_s) == (9, 9.0)


def test_what_follows_a_damaged_line_goes(journal: Journal) -> None:
    """Behind a line that is no JSON nothing can be trusted."""
    lines = journal.path.read_bytes().splitlines(keepends=True)
    journal.path.write_bytes(b"".join([*lines[:4], b"\x00\x00\n", *lines[4:]]))
    _, found = journal.read()
    assert list(found.genotypes) == [0, 1, 2]
    assert not found.visits
    assert journal.path.read_bytes() == b"".join(lines[:4])


@pytest.mark.parametrize("header", [b"", b"{", b"3", b"[1, 2]", b"\xff"])
def test_a_damaged_header(journal: Journal, header: bytes) -> None:
    """A journal whose header cannot be read is refused with the remedy."""
    lines = journal.path.read_bytes().splitlines(keepends=True)
    journal.path.write_bytes(b"".join([header + b"\n", *lines[1:]]))
    with pytest.raises(FormatError, match=r"is damaged .*; remove it and profile again") as caught:
        journal.read()
    assert "\n" not in str(caught.value)


def test_a_journal_of_another_version(journal: Journal) -> None:
    """A journal of another format is refused with both versions."""
    journal.path.write_text(journal.path.read_text().replace(f'"format": {FORMAT}', f'"format": {FORMAT + 1}', 1))
    with pytest.raises(FormatError, match=f"has format {FORMAT + 1}, this hwnas reads {FORMAT}; remove it and profile again"):
        journal.read()


def test_beginning_anew(journal: Journal) -> None:
    """Starting a journal drops what it held; removing it twice is no error."""
    journal.start({**HEADER, "seed": 1})
    header, found = journal.read()
    assert header["seed"] == 1
    assert not found.genotypes
    journal.remove()
    journal.remove()
    assert not journal.exists()
