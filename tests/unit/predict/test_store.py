"""Predictors on disk."""

from __future__ import annotations

import os
import shutil
import tomllib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from paper_device import SETTING

from hwnas import spaces
from hwnas.assets import Workspace
from hwnas.errors import DiskError, FormatError, NotFoundError
from hwnas.ir import Graph
from hwnas.predict import Predictor
from hwnas.predict.features import SCHEMA
from hwnas.predict.store import DOUBT, FORMAT, REUSE, available, folder_of, load, save
from hwnas.runtimes.fusions import PATTERNS, Fusions
from hwnas.runtimes.ort_fusion import fuse


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """An empty workspace; nothing ships either."""
    monkeypatch.setattr("hwnas.assets.root", lambda tree: tmp_path / "shipped" / tree)
    return Workspace.at(tmp_path / "home")


@pytest.fixture
def stored(workspace: Workspace, predictor: Predictor) -> Path:
    """The folder of a predictor that was stored."""
    return save(predictor, workspace.predictors)


def graphs() -> list[Graph]:
    space = spaces.load("mobilenet-small")
    return [space.graph(space.sample(np.random.default_rng([5, i]))) for i in range(5)]


def test_the_round_trip_is_exact(workspace: Workspace, stored: Path, predictor: Predictor) -> None:
    """A predictor that was stored and loaded gives the same estimates, to the last bit, and knows where it comes from."""
    found = load(workspace, SETTING)
    assert found.estimate(graphs()) == predictor.estimate(graphs())
    assert found.model.held_out == predictor.model.held_out
    assert (found.model.correction, found.model.reuse) == (predictor.model.correction, predictor.model.reuse)
    assert found.model.roofline == predictor.model.roofline
    assert set(found.model.kinds) == set(predictor.model.kinds)
    assert (found.space, found.fingerprint, found.profile_digest, found.environment, found.fusions) == (
        predictor.space,
        predictor.fingerprint,
        predictor.profile_digest,
        predictor.environment,
        predictor.fusions,
    )
    assert len(found.digest) == 64


def test_storing_twice_gives_the_same_files(workspace: Workspace, stored: Path, predictor: Predictor) -> None:
    """Files depend on what was learned alone, and so does the digest; a loaded predictor can be stored again."""
    before = {path.name: path.read_bytes() for path in stored.iterdir()}
    save(predictor, workspace.predictors)
    assert {path.name: path.read_bytes() for path in stored.iterdir()} == before


def test_a_loaded_predictor_can_be_stored(workspace: Workspace, stored: Path, tmp_path: Path, predictor: Predictor) -> None:
    """What was loaded, recalibrated say, goes to the disk again."""
    again = save(load(workspace, SETTING).recalibrated(np.array([1e-3]), np.array([1.1e-3])), tmp_path / "other")
    assert {path.name for path in again.iterdir()} == {path.name for path in stored.iterdir()}


def test_the_card_is_for_people(stored: Path, predictor: Predictor) -> None:
    """The card states format, schema, figures of quality, and one model per kind, which stand beside it."""
    card = tomllib.loads((stored / "card.toml").read_text())
    assert (card["format"], card["schema"], card["unit"], card["target"]) == (FORMAT, SCHEMA, "s", "latency")
    assert card["held_out"]["networks"] == 100
    assert card["setting"]["device"] == "cpu"
    assert {f"{kind}{part}.ubj" for kind in card["kinds"] for part in ("", DOUBT, REUSE)} == {path.name for path in stored.glob("*.ubj")}
    assert stored == folder_of(stored.parents[3], SETTING, "mobilenet-small")


def test_the_card_says_what_the_runtime_fuses(workspace: Workspace, predictor: Predictor) -> None:
    """Wherever the card is read, kernels are told from it; one from before that was kept stands for the usual runtime of its block."""
    facts = Fusions(block=16, patterns=PATTERNS - {"QuickGelu"})
    folder = save(replace(predictor, fusions=facts), workspace.predictors)
    found = load(workspace, SETTING)
    assert found.fusions == facts
    assert found.kernels(graphs()[0]) == fuse(graphs()[0], facts)
    card = tomllib.loads((folder / "card.toml").read_text())
    del card["fusions"]
    (folder / "card.toml").write_text(tomli_w.dumps(card))
    assert load(workspace, SETTING).fusions == Fusions(block=16)


def test_models_are_read_when_they_are_asked(workspace: Workspace, stored: Path) -> None:
    """Loading reads the card alone; a damaged model is found at the first prediction, in one line."""
    (stored / "Gemm.ubj").write_bytes(b"no model")
    found = load(workspace, SETTING)
    with pytest.raises(FormatError, match=r"Gemm\.ubj' cannot be read .*; run 'hwnas fit' again") as caught:
        found.estimate(graphs())
    assert "\n" not in str(caught.value)


# ---- which one


def test_own_predictors_go_first(workspace: Workspace, predictor: Predictor, tmp_path: Path) -> None:
    """The workspace's predictor is taken before the one that ships, which is taken where there is no other."""
    save(replace(predictor, space="shipped"), tmp_path / "shipped" / "predictors")
    assert load(workspace, SETTING).space == "shipped"
    save(replace(predictor, space="own"), workspace.predictors)
    assert load(workspace, SETTING).space == "own"


def test_nothing_there_yet(workspace: Workspace) -> None:
    """Without any predictor the message says how to get one."""
    with pytest.raises(NotFoundError, match=r"no latency predictor for 'cpu' with .*; there is none yet; run 'hwnas profile --device cpu "):
        load(workspace, SETTING)


def test_what_there_is_instead(workspace: Workspace, stored: Path) -> None:
    """For another setting the message lists those that there are, and the command that measures this one."""
    with pytest.raises(NotFoundError) as caught:
        load(workspace, replace(SETTING, threads=2, batch=8))
    message = str(caught.value)
    assert "there are: cpu onnxruntime-cpu-t1-b1-fp32" in message
    assert "--threads 2 --batch 8" in message
    assert list(available(workspace)) == [SETTING]


# ---- what is refused


def change(stored: Path, **values: object) -> None:
    card = tomllib.loads((stored / "card.toml").read_text())
    (stored / "card.toml").write_text(tomli_w.dumps({**card, **values}))


def refused(workspace: Workspace, words: str) -> None:
    with pytest.raises(FormatError, match=words) as caught:
        load(workspace, SETTING)
    assert "\n" not in str(caught.value)


def test_an_unknown_format(workspace: Workspace, stored: Path) -> None:
    """A card of a later version is refused with both versions and the remedy."""
    change(stored, format=FORMAT + 1)
    refused(workspace, f"has format {FORMAT + 1}, this hwnas reads {FORMAT}; run 'hwnas fit' again")


def test_another_schema(workspace: Workspace, stored: Path) -> None:
    """A predictor that learned from other features would answer nonsense, and is refused."""
    change(stored, schema="0" * 12)
    refused(workspace, f"was learned with features 000000000000, this hwnas has {SCHEMA}; run 'hwnas fit --device cpu' again")


def test_a_missing_model(workspace: Workspace, stored: Path) -> None:
    """A card whose models are not all there is refused, the first of them named."""
    (stored / "Conv-pointwise.ubj").unlink()
    refused(workspace, r"lacks the model 'Conv-pointwise\.ubj'")


@pytest.mark.parametrize("content", ["format = ", "\x00\x01", ""])
def test_a_damaged_card(workspace: Workspace, stored: Path, content: str) -> None:
    """What is no card is refused."""
    (stored / "card.toml").write_text(content)
    refused(workspace, "is damaged|has format None")


def test_a_card_that_is_no_text(workspace: Workspace, stored: Path) -> None:
    """Bytes that are no text are a damaged card."""
    (stored / "card.toml").write_bytes(b"\xff\xfe\x00")
    refused(workspace, "is damaged")


def test_a_card_cut_anywhere(workspace: Workspace, stored: Path, predictor: Predictor) -> None:
    """A card that ends too early is refused, even where what is left is proper TOML; kinds that were cut off whole are not covered."""
    lines = (stored / "card.toml").read_text().splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if line.startswith("[kinds"))
    for cut in range(len(lines) - 1):
        (stored / "card.toml").write_text("".join(lines[:cut]))
        with suppress(FormatError):
            found = load(workspace, SETTING)
            assert cut > first
            assert set(found.model.kinds) < set(predictor.model.kinds)
    (stored / "card.toml").write_text("".join(lines[:first]))
    refused(workspace, "run 'hwnas fit' again")


def test_a_card_with_a_strange_value(workspace: Workspace, stored: Path) -> None:
    """A value of the wrong type is damage, too."""
    change(stored, roofline="fast")
    refused(workspace, "run 'hwnas fit' again")


# ---- a disk that refuses


def test_a_place_that_cannot_be_a_folder(predictor: Predictor, tmp_path: Path) -> None:
    """Storing below a file is an error of the disk, in one line, with the remedy."""
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match=r"cannot write to '.*' \(Not a directory\); make room or give another place with --home"):
        save(predictor, tmp_path / "file")


def test_a_full_disk_leaves_the_old_predictor(
    workspace: Workspace, stored: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk fills up half-way, the old card still has its models, and estimates as before."""
    expected = predictor.estimate(graphs())
    left = [3]

    def full(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DiskError, match="No space left on device"):
            save(predictor, workspace.predictors)
    assert load(workspace, SETTING).estimate(graphs()) == expected
    shutil.rmtree(stored)
