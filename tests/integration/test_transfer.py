"""`hwnas transfer` from one setting of this processor to another, interrupted and not."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from commands import TINY, end, invoke, start, wait_frozen

from hwnas import spaces
from hwnas.ir.onnx import save
from hwnas.profiling import ProfileStore, Setting
from hwnas.profiling.slowdowns import UNDISTURBED, low
from hwnas.profiling.store import slug
from hwnas.profiling.waves import OTHER_STATE, PATIENCE
from hwnas.profiling.window import AGREEING
from hwnas.workflows.transfer import FOLDER, VISITS

TRANSFER = ("transfer", "--batch", "2", "--networks", "4", "--json")
SETTING = Setting(device="cpu", runtime="onnxruntime-cpu", batch=2)


def of_the_known(home: Path) -> Path:
    """Where the predictor for single images lies."""
    return home / "predictors" / "cpu" / "latency" / "onnxruntime-cpu-t1-b1-fp32" / slug(TINY)


def test_from_one_setting_to_another(home: Path, tmp_path: Path) -> None:
    """Four networks make a predictor that says where it comes from, and no longer needs the one that it came from."""
    found = invoke(*TRANSFER, "--from", "cpu", "--home", home).json
    assert found["networks"] == 4
    assert found["batch"] == 2
    assert found["from"] == f"cpu/onnxruntime-cpu-t1-b1-fp32 ({TINY})"
    assert found["source"] == f"transferred from {found['from']} with 4 networks"
    assert found["left_out"]["networks"] == 4
    model = tmp_path / "model.onnx"
    exported(model)
    shutil.rmtree(of_the_known(home))
    predicted = invoke("predict", model, "--batch", "2", "--home", home, "--json").json
    assert predicted["source"] == found["source"]
    assert predicted["latency_s"]["low"] < predicted["latency_s"]["value"] < predicted["latency_s"]["high"]


def exported(path: Path) -> None:
    """A network of the tiny space as a file."""
    space = spaces.load(TINY)
    save(space.graph(space.reference(), batch=2).materialize(np.random.default_rng(0)), path)


def test_from_a_folder(home: Path, tmp_path: Path) -> None:
    """A colleague's predictor need not be in the workspace."""
    folder = Path(shutil.copytree(of_the_known(home), tmp_path / "theirs"))
    found = invoke(*TRANSFER, "--from", folder, "--home", tmp_path / "mine").json
    assert found["networks"] == 4


def test_what_may_not_be_replaced_or_started_from(home: Path) -> None:
    """A predictor from a whole profile stays unless told otherwise, and one that was transferred is no start."""
    invoke(*TRANSFER, "--home", home)
    there = home / "predictors" / "cpu" / "latency" / "onnxruntime-cpu-t1-b2-fp32" / slug(TINY)
    chained = invoke("transfer", "--batch", "4", "--from", there, "--home", home)
    assert chained.code == 2
    assert "it was itself transferred from" in chained.complaint
    same = invoke("transfer", "--from", of_the_known(home), "--home", home)
    assert same.code == 2
    assert "it already is for this device and setting" in same.complaint
    shutil.copytree(of_the_known(home), there, dirs_exist_ok=True)
    kept = invoke(*TRANSFER, "--from", of_the_known(home), "--home", home)
    assert kept.code == 2
    assert "give --force to replace it" in kept.complaint
    assert invoke(*TRANSFER, "--from", of_the_known(home), "--force", "--home", home).code == 0


def visited(home: Path) -> list[tuple[int, int]]:
    """Network and round of each visit in the journal."""
    path = ProfileStore(home / "profiles" / "cpu" / FOLDER).journal(SETTING, TINY).path
    lines = path.read_text().split("\n")[1:-1] if path.exists() else []
    return [(row["visit"], row["round"]) for row in map(json.loads, lines) if "visit" in row]


@pytest.mark.process
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT])
def test_goes_on_where_it_was_cut_off(home: Path, blow: signal.Signals) -> None:
    """Visits that were made before count, whatever ended the command; the same command goes on."""
    process = start(*TRANSFER, "--from", "cpu", "--home", home, freeze_after=6)
    wait_frozen(process)
    done = end(process, blow)
    assert done.code != 0
    if blow == signal.SIGINT:
        assert done.code == 130
        assert "'transfer' when it is run again" in done.complaint
    before = visited(home)
    assert len(before) == 6
    assert invoke(*TRANSFER, "--from", "cpu", "--home", home).json["networks"] == 4
    profile = ProfileStore(home / "profiles" / "cpu" / FOLDER).load(SETTING, TINY)
    kept = {(network.id, int(number)) for network in profile.networks for number in network.pooled.rounds}
    assert set(before) <= kept
    log_s = np.log([[low(seconds) for seconds in row] for row in profile.canaries.values()])
    calm = np.median(log_s - np.quantile(log_s, UNDISTURBED, axis=0), axis=1).max() <= np.log(OTHER_STATE)
    most = VISITS if calm else PATIENCE * VISITS  # more than planned only where the canaries saw another state of the machine
    assert all(AGREEING <= len(set(network.pooled.rounds.tolist())) <= most for network in profile.networks)
