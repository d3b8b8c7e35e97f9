"""Profiles on disk, finished and unfinished."""

from __future__ import annotations

import os
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from journals import HEADER, assert_same_networks, measuring
from paper_device import BLOCK, SETTING

from hwnas.errors import DiskError, FormatError, NotFoundError
from hwnas.profiling import CurvePoint, Profile, ProfileStore
from hwnas.profiling.store import FORMAT, TABLES, key_of
from hwnas.runtimes.fusions import PATTERNS, Fusions
from hwnas.testing import FakeDevice

KEY = key_of(SETTING, "mobilenet-small")


def finished(networks: int = 3) -> Profile:
    found = measuring(networks)
    return Profile(
        setting=SETTING,
        space="mobilenet-small",
        seed=0,
        fingerprint="f" * 12,
        device=FakeDevice().spec.as_dict(),
        environment={"onnxruntime": "1.22", "hwnas": "0.1"},
        fusions=Fusions(block=BLOCK),
        networks=tuple(found.records()),
        canaries=found.canaries,
        curve=(
            CurvePoint(networks=20, seconds=1.5, mape=0.1, within_10=0.5),
            CurvePoint(networks=30, seconds=2.5, mape=0.05, within_10=0.9),
        ),
        ended_by="target",
        spent_s=found.spent_s,
    )


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    return ProfileStore(tmp_path / "profiles" / "cpu")


# ---- finished profiles


def test_the_round_trip_is_exact(store: ProfileStore) -> None:
    """Everything that was measured comes back to the last bit, and what derives from it derives again."""
    profile = finished()
    store.save(profile)
    found = store.load(SETTING)
    assert_same_networks(list(found.networks), list(profile.networks))
    assert list(found.canaries) == list(profile.canaries)
    for one, other in zip(found.canaries.values(), profile.canaries.values(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert replace(found, networks=(), canaries={}, digest="") == replace(profile, networks=(), canaries={}, digest="")
    assert len(found.digest) == 64


def test_saving_again_gives_the_same_digest(store: ProfileStore) -> None:
    """The digest is that of the measurements: equal profiles have equal ones, and what was loaded can be saved."""
    store.save(finished())
    first = store.load(SETTING)
    store.save(first)
    assert store.load(SETTING).digest == first.digest
    store.save(finished(2))
    assert store.load(SETTING).digest != first.digest


def test_settings_live_side_by_side(store: ProfileStore) -> None:
    """A device's settings share a folder; saving one leaves the others."""
    other = replace(SETTING, threads=2)
    store.save(finished(3))
    store.save(replace(finished(2), setting=other))
    assert (len(store.load(SETTING).networks), len(store.load(other).networks)) == (3, 2)
    assert store.spaces(SETTING)
    assert store.spaces(other)
    assert not store.spaces(replace(SETTING, batch=8))


def test_the_toml_is_for_people(store: ProfileStore) -> None:
    """It states format, device with fingerprint, and for each setting how much was measured, how long, and how it ended."""
    store.save(finished())
    text = tomllib.loads((store.folder / "profile.toml").read_text())
    assert text["format"] == FORMAT
    assert text["device"]["fingerprint"] == FakeDevice().spec.fingerprint
    entry = text["settings"][KEY]
    assert (entry["networks"], entry["ended_by"], entry["curve"][1]["mape"]) == (3, "target", 0.05)


def test_what_the_runtime_fuses_is_kept(store: ProfileStore) -> None:
    """All of it; a file from before that was kept, which has the block alone, stands for an otherwise usual runtime."""
    facts = Fusions(block=16, conv_activations=frozenset({"Relu"}), patterns=PATTERNS - {"ConvNorm"})
    store.save(replace(finished(), fusions=facts))
    assert store.load(SETTING).fusions == facts
    path = store.folder / "profile.toml"
    text = tomllib.loads(path.read_text())
    del text["settings"][KEY]["fusions"]
    path.write_text(tomli_w.dumps(text))
    assert store.load(SETTING).fusions == Fusions(block=16)


def test_unknown_facts_about_fusions(store: ProfileStore) -> None:
    """A profile of a later version that knows more patterns is refused with the remedy."""
    store.save(finished())
    path = store.folder / "profile.toml"
    path.write_text(path.read_text().replace("ConvNorm = true", "ConvSwap = true"))
    with pytest.raises(FormatError, match=r"unknown pattern about fusions 'ConvSwap'.*; use the hwnas that wrote it, or profile again"):
        store.load(SETTING)


def test_nothing_was_measured(store: ProfileStore) -> None:
    """Without a profile the message says how to measure one."""
    assert not store.spaces(SETTING)
    with pytest.raises(NotFoundError, match=r"no profile of 'cpu' in '.*'; run 'hwnas profile --device cpu --threads 1 --batch 1'"):
        store.load(SETTING)


def test_another_setting_was_measured(store: ProfileStore) -> None:
    """For another setting the message lists what was measured, and the command for this one."""
    store.save(finished())
    with pytest.raises(NotFoundError) as caught:
        store.load(replace(SETTING, threads=4, batch=2))
    assert f"was not profiled with onnxruntime-cpu-t4-b2-fp32, only with {KEY}" in str(caught.value)
    assert "--threads 4 --batch 2" in str(caught.value)


# ---- damage


def refused(store: ProfileStore, words: str) -> None:
    with pytest.raises(FormatError, match=words) as caught:
        store.load(SETTING)
    assert "\n" not in str(caught.value)


def test_an_unknown_format(store: ProfileStore) -> None:
    """A profile of a later version is refused with both versions and what to do, when it is read and when it would be written over."""
    store.save(finished())
    path = store.folder / "profile.toml"
    path.write_text(tomli_w.dumps({**tomllib.loads(path.read_text()), "format": FORMAT + 1}))
    refused(store, f"has format {FORMAT + 1}, this hwnas reads {FORMAT}; use the hwnas that wrote it, or profile again")
    with pytest.raises(FormatError):
        store.save(finished())


@pytest.mark.parametrize("content", [b"format = ", b"\xff\xfe", b"format = 1\n", b"format = 1\nsettings = 3\n"])
def test_a_damaged_toml(store: ProfileStore, content: bytes) -> None:
    """What is no profile is refused."""
    store.save(finished())
    (store.folder / "profile.toml").write_bytes(content)
    refused(store, r"profile\.toml' is damaged .*; remove it and profile again")


def test_a_toml_cut_anywhere(store: ProfileStore) -> None:
    """A TOML that ends too early is never read as if it were whole, even where what is left is proper TOML."""
    store.save(replace(finished(), curve=()))
    path = store.folder / "profile.toml"
    lines = path.read_text().splitlines(keepends=True)
    last = next(i for i, line in enumerate(lines) if line.endswith(".environment]\n"))
    for cut in range(last + 1):
        path.write_text("".join(lines[:cut]))
        with pytest.raises((FormatError, NotFoundError)):
            store.load(SETTING)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("damage", ["missing", "cut", "another's"])
def test_damaged_tables(store: ProfileStore, table: str, damage: str) -> None:
    """A table that is missing, truncated or of another profile is refused: figures that do not belong together are worth nothing."""
    store.save(finished())
    path = store.folder / f"{table}-{KEY}.parquet"
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        other = ProfileStore(store.folder.parent / "other")
        other.save(finished(2))
        path.write_bytes((other.folder / path.name).read_bytes())
    refused(store, "profile again")


# ---- a disk that refuses


def test_a_place_that_cannot_be_a_folder(tmp_path: Path) -> None:
    """Below a file nothing can be written, and the error says so in one line; the same for a journal."""
    (tmp_path / "file").touch()
    store = ProfileStore(tmp_path / "file" / "cpu")
    with pytest.raises(DiskError, match=r"cannot write to '.*cpu' \(Not a directory\); what was measured stays in the journal"):
        store.save(finished())
    with pytest.raises(DiskError, match=r"\(Not a directory\); make room or give another place with --home"):
        store.journal(SETTING, "mobilenet-small").start(HEADER)


def test_a_full_disk_keeps_the_journal(store: ProfileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the tables cannot be written, the journal stays, and saving can be tried again."""
    journal = store.journal(SETTING, "mobilenet-small")
    journal.start(HEADER)
    found = measuring(3, journal)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DiskError, match=r"\(No space left on device\).*--resume"):
            store.save(finished())
        with pytest.raises(DiskError, match="what was measured before is kept"):
            journal.visit(found.visits[0][0], 1.0)
    assert journal.exists()
    store.save(finished())
    assert not journal.exists()
