"""What this machine is, as `hwnas devices` tells it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_nvml import A100, build

from hwnas.workflows.devices import look

STRANGE = "card\nname NVIDIA A100-SXM-64GB\nuuid GPU-0c\ncapability 8 0\nmemory 68719476736\nclocks 1410 1215 1095\n"


def test_a_machine_without_a_driver() -> None:
    """The processor, and why there is no card."""
    machine = look()
    assert [found.spec.name for found in machine.devices] == ["cpu"]
    assert "no NVIDIA driver" in machine.absent["NVIDIA GPU"]


@pytest.fixture(scope="module")
def on_a_machine_with_cards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that finds a driver with two cards under its usual name."""
    folder = tmp_path_factory.mktemp("driver")
    build(folder)
    script = folder / "script"
    script.write_text(A100 + STRANGE)
    return {**os.environ, "LD_LIBRARY_PATH": str(folder), "FAKE_NVML_SCRIPT": str(script)}


def hwnas(environment: dict[str, str], *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from hwnas.cli.main import main; main()", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_machine_with_cards(on_a_machine_with_cards: dict[str, str]) -> None:
    """Through the loader and the real client: the card's figures, its state and its meter; of the other card, what is missing."""
    done = hwnas(on_a_machine_with_cards, "devices", "--json")
    assert done.returncode == 0, done.stderr
    machine = json.loads(done.stdout)
    _, card = machine["devices"]
    assert (card["name"], card["model"], card["energy"]) == ("a100", "NVIDIA A100-SXM4-40GB", "available")
    assert card["picks"] == ["cuda:0", "GPU-0a"]
    assert card["state"]["driver"] == "580.65.06"
    assert card["state"]["mig"] is False
    assert "cuda:1 is a 'NVIDIA A100-SXM-64GB'" in machine["absent"]["NVIDIA GPU"]


def test_it_is_told_in_words(on_a_machine_with_cards: dict[str, str]) -> None:
    """A line for the card, with what its driver and the catalogue say."""
    done = hwnas(on_a_machine_with_cards, "devices")
    assert done.returncode == 0, done.stderr
    assert "a100  NVIDIA A100-SXM4-40GB, 108 multiprocessors" in done.stdout
    assert "card     cuda:0, GPU-0a" in done.stdout
    state = "clock 1410 MHz, memory clock 1215 MHz, temperature 36 °C, power 60 W, clock events idle, MIG off, other processes 0, driver"
    assert state in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("asked", "said"),
    [("h100", "cuda:0 NVIDIA A100-SXM4-40GB (a100, GPU-0a)"), ("cuda:7", "no 'cuda:7'"), ("cuda:1", "which no device.toml describes")],
)
def test_a_card_that_is_not_meant(on_a_machine_with_cards: dict[str, str], tmp_path: Path, asked: str, said: str) -> None:
    """`hwnas profile` refuses it in one line that lists what is there."""
    done = hwnas(on_a_machine_with_cards, "profile", "--device", asked, "--home", tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert said in line
