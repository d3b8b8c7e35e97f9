"""`hwnas profile --device a100`, whole: the real client over a scripted driver, a runtime that is played, a clock that is turned."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pynvml
import pytest
from commands import QUICK, TINY, invoke
from fake_nvml import FakeDriver, build
from played_card import IDLE_W, POWER_CAP, SLOWDOWN, SPEED, Episode, PlayedCard, energy_j, latency_s, model_of
from tiny_space import TinySpace

from hwnas.assets import Workspace
from hwnas.profiling import Profile, ProfileStore, Setting
from hwnas.workflows.export import load_finalist
from hwnas.workflows.runs import find as find_run

SPACE = TinySpace()
ASKED = ("profile", "--device", "a100", "--runtime", "tensorrt", "--space", TINY, *QUICK)
BOTH = ("--precision", "fp16,int8", "--energy", "--energy-time", "18m")
HOT, CAPPED, HOT_AGAIN = Episode(SLOWDOWN, 2.0, 5.0), Episode(POWER_CAP, 12.0, 13.0), Episode(SLOWDOWN, 200.0, 203.0)
LOST, NOT_SUPPORTED = 15, 3


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@contextmanager
def plugged_in(library: Path, *episodes: Episode, script: str = "") -> Iterator[PlayedCard]:
    """A machine with the card."""
    with FakeDriver(library).under(pynvml) as driver, pytest.MonkeyPatch.context() as patch:
        card = PlayedCard.of(driver, *episodes, script=script)
        card.plug_in(patch)
        yield card


@pytest.fixture(scope="module")
def profiled(library: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A workspace in which a card was profiled that was slowed down twice, and what the command said; not to be written to."""
    home = tmp_path_factory.mktemp("profiled")
    with plugged_in(library, HOT, CAPPED, HOT_AGAIN):
        return home, invoke(*ASKED, *BOTH, "--home", home, "--json").json


def load(home: Path, precision: str) -> Profile:
    return ProfileStore(home / "profiles" / "a100").load(Setting(device="a100", runtime="tensorrt", precision=precision), TINY)


def test_a_profile_for_each_precision(profiled: tuple[Path, list[dict[str, Any]]]) -> None:
    """Each precision has its profile; every kernel in it says in which precision it computed, and of which batch."""
    home, said = profiled
    assert [(one["device"], one["runtime"], one["precision"]) for one in said] == [("a100", "tensorrt", name) for name in SPEED]
    for one in said:
        profile = load(home, one["precision"])
        kernels = {kernel.call.kernel for network in profile.networks for kernel in network.kernels}
        assert {kernel.precision for kernel in kernels if kernel.op == "Conv"} == {one["precision"]}
        assert {kernel.outputs[0].shape[0] for kernel in kernels} == {1}
        assert len(profile.networks) == one["networks"] >= 40
        assert profile.environment["driver"] == "580.65.06"
        assert profile.environment["clock"] == "1095 MHz"


def test_no_sample_of_a_slowed_down_card_counts(profiled: tuple[Path, list[dict[str, Any]]]) -> None:
    """What was sampled on a slowdown is dropped and taken again; that it was, and why, stays on record with the card's state."""
    home, said = profiled
    assert said[0]["dropped"] == {"slowed down (hardware thermal slowdown)": 2}  # then pauses of 2 and 4 s outlast the slowdown
    assert list(said[0]["flagged"]) == ["software power cap"]
    assert said[1]["dropped"] == said[1]["flagged"] == {}
    profile = load(home, "fp16")
    for network in profile.networks:
        true_s = latency_s(SPACE.graph(network.genotype), "fp16")
        assert 0.999 * true_s < network.samples.seconds.min() <= network.samples.seconds.max() < 1.011 * true_s
    for batch in profile.batches:
        hot = HOT.start_s <= batch.when_s < HOT.end_s
        assert batch.grade == ("C" if hot else "B" if CAPPED.start_s <= batch.when_s < CAPPED.end_s else "A")
        assert batch.clock_hz == (705e6 if hot else 1410e6)
        assert None not in (batch.memory_clock_hz, batch.temperature_c, batch.power_w)
    visits = sum(len(np.unique(network.pooled.rounds)) for network in profile.networks)
    assert sum(batch.grade != "C" for batch in profile.batches) == len(profile.networks) + visits + sum(map(len, profile.canaries.values()))


def test_energies_are_those_of_the_networks(profiled: tuple[Path, list[dict[str, Any]]]) -> None:
    """Energy of some networks, from the fastest to the slowest, each within its uncertainty; a trial on a slowdown is taken again."""
    home, said = profiled
    for one in said:
        profile = load(home, one["precision"])
        assert 20 <= len(profile.energies) == one["energy_networks"] < len(profile.networks)
        ranked = sorted(profile.networks, key=lambda network: network.latency_s)
        places = [i for i, network in enumerate(ranked) if network.id in profile.energies]
        assert (places[0], places[-1]) == (0, len(ranked) - 1)
        assert max(np.diff(places)) <= 2 * len(ranked) / len(places)  # evenly, give or take
        for network in profile.networks:
            if network.id in profile.energies:
                gross = profile.energies[network.id].gross
                assert gross.joules == pytest.approx(energy_j(SPACE.graph(network.genotype), one["precision"]), abs=gross.uncertainty)
    windows = [trial for found in load(home, "fp16").energies.values() for trial in found.trials]
    assert all(trial.start_s + trial.seconds <= HOT_AGAIN.start_s or trial.start_s >= HOT_AGAIN.end_s for trial in windows)
    assert min(trial.start_s for trial in windows) < HOT_AGAIN.start_s < max(trial.start_s for trial in windows)


def test_fit_and_predict_use_it(profiled: tuple[Path, list[dict[str, Any]]], library: Path, tmp_path: Path) -> None:
    """It is a profile like any other: learned again it says the same, and networks never seen are predicted, time and energy."""
    home = Path(shutil.copytree(profiled[0], tmp_path / "home"))
    shutil.rmtree(home / "predictors")
    with plugged_in(library):
        for one in profiled[1]:
            at = ("--device", "a100", "--precision", one["precision"], "--home", home)
            assert invoke("fit", *at, "--runtime", "tensorrt", "--json").json == one
            apart = []
            for seed in range(100, 106):
                graph = SPACE.graph(SPACE.sample(np.random.default_rng(seed)))
                said = invoke("predict", model_of(graph, tmp_path), *at, "--json").json
                apart.append(
                    (
                        said["latency_s"]["value"] / latency_s(graph, one["precision"]),
                        said["energy_j"]["value"] / energy_j(graph, one["precision"]),
                    )
                )
                assert said["energy"].endswith("measured by nvml-counter: the board's energy counter")
            assert np.abs(np.mean(apart, axis=0) - 1).max() < 0.02
            assert np.abs(np.array(apart) - 1).max() < 0.1


def test_search_keeps_a_limit_on_energy(profiled: tuple[Path, list[dict[str, Any]]], library: Path) -> None:
    """Energy is a limit and an objective of a search wherever it was learned."""
    at = ("--device", "a100", "--precision", "fp16", "--space", TINY, "--home", profiled[0], "--num-evals", "8", "--dry-run", "--json")
    with plugged_in(library):
        said = invoke("search", *at, "--constraint", "energy<=70%", "--minimize", "energy").json
    energy = said["feasible_start"]["energy"]
    assert 0 < energy["low"] < energy["value"] < energy["high"] <= 0.7 * said["reference"]["energy"]["value"]
    assert said["reference"]["energy"]["value"] == pytest.approx(energy_j(SPACE.graph(SPACE.reference()), "fp16"), rel=0.1)


SEARCH = (
    "search",
    "--device",
    "a100",
    "--precision",
    "fp16",
    "--space",
    TINY,
    "--num-evals",
    "16",
    "--population",
    "8",
    "--trainings",
    "0",
)
BY_ENERGY = ("--finalists", "2", "--seeds", "1", "--constraint", "energy<=70%", "--minimize", "energy")


def test_search_measures_the_energy_of_its_finalists(profiled: tuple[Path, list[dict[str, Any]]], library: Path, tmp_path: Path) -> None:
    """Energy is predicted, then read from the card, and the reading decides on the limit; report and export tell both."""
    home = Path(shutil.copytree(profiled[0], tmp_path / "home"))
    with plugged_in(library):
        said = invoke(*SEARCH, *BY_ENERGY, "--home", home, "--json").json
        assert (said["limits_kept"], said["energies_measured"]) == (2, 2)
        limit_j = 0.7 * invoke(*SEARCH, *BY_ENERGY, "--home", home, "--dry-run", "--json").json["reference"]["energy"]["value"]
        for one in said["finalists"]:
            true_j = energy_j(SPACE.graph(tuple(one["genotype"])), "fp16")
            assert one["measured_energy_j"] == pytest.approx(true_j, abs=one["measured_energy_uncertainty_j"])
            assert one["measured_energy_j"] <= limit_j
            above_idle_j = true_j - IDLE_W * latency_s(SPACE.graph(tuple(one["genotype"])), "fp16")
            assert one["measured_net_energy_j"] == pytest.approx(above_idle_j, abs=one["measured_net_energy_uncertainty_j"])
            assert one["predicted_energy_j"]["value"] == pytest.approx(true_j, rel=0.1)
            assert one["limit_kept"] is True
            assert one["energy_source"] == "nvml-counter"
        page = Path(invoke("report", "--home", home).out.strip()).read_text()
        assert "Energy measured by nvml-counter: the board&#39;s energy counter." in page
        resumed = invoke("search", "--resume", "--home", home)
        assert "energy measured by nvml-counter: the board's energy counter" in resumed.out
        assert resumed.out.count("energy") > 1
    finalist = load_finalist(find_run(Workspace(home)), 1, lambda _: None)
    (first, *_) = said["finalists"]
    assert finalist.predicted["energy"].bounds() == first["predicted_energy_j"]
    assert finalist.energy is not None
    assert (finalist.energy.joules, finalist.energy.source) == (first["measured_energy_j"], "nvml-counter")


def test_search_where_the_meter_is_gone(profiled: tuple[Path, list[dict[str, Any]]], library: Path, tmp_path: Path) -> None:
    """A limit on energy that cannot be checked is not kept: nothing is promised of it, and why is said."""
    home = Path(shutil.copytree(profiled[0], tmp_path / "home"))
    with plugged_in(library, script=f"fail energy {NOT_SUPPORTED} 0 ever\n"):
        said = invoke(*SEARCH, *BY_ENERGY[2:], "--finalists", "1", "--home", home, "--json").json
    (one,) = said["finalists"]
    assert (said["limits_kept"], said["energies_measured"]) == (0, 0)
    assert (one["measured_energy_j"], one["limit_kept"]) == (None, None)
    assert one["predicted_energy_j"]["value"] > 0
    assert one["energy"].startswith("unavailable: the card has no energy counter")


def test_a_card_that_is_lost(profiled: tuple[Path, list[dict[str, Any]]], library: Path, tmp_path: Path) -> None:
    """Lost among the latencies of a precision, then among its energies: one line each time, and resumed it goes on to its end.

    Networks that are drawn by chance, every second one, are those that would have been drawn; the others are chosen by what is known then.
    How many there are is decided by looks at the error while more are being measured, which come at other moments after a resume.
    """
    at = ("--home", tmp_path)
    with plugged_in(library, script=f"fail all {LOST} 3 4\nfail all {LOST} 200 215\n") as card:
        first = invoke(*ASKED, *BOTH, *at)
        assert (first.code, "does not answer" in first.complaint) == (1, True)
        card.clock.sleep(1)
        assert "--resume" in invoke(*ASKED, *BOTH, *at).complaint
        second = invoke(*ASKED, *BOTH, *at, "--resume", "--json")
        assert (second.code, "does not answer" in second.complaint) == (1, True)
        card.clock.sleep(15)
        built = len(card.built)
        cut = load(tmp_path, "fp16")
        energies = len(cut.energies)
        assert "does not answer" in cut.energy_reason
        assert energies >= 1
        third = invoke(*ASKED, *BOTH, *at, "--resume", "--json").json
        assert sum(precision == "fp16" for _, precision in card.built[built:]) == third[0]["energy_networks"] - energies  # nothing else
    uncut = profiled[1]
    for one, other in zip(third, uncut, strict=True):
        assert one["ended_by"] == other["ended_by"] == "target"
        both = [load(home, one["precision"]).networks[::2] for home in (tmp_path, profiled[0])]
        assert min(map(len, both)) >= 30
        assert all(mine.genotype == theirs.genotype for mine, theirs in zip(*both, strict=False))
    assert not list((tmp_path / "profiles" / "a100").glob("*.jsonl"))


def test_a_card_that_stays_slow(library: Path, tmp_path: Path) -> None:
    """After two minutes of waiting in vain it ends in one line, with what was measured kept; cooled down, it goes on."""
    with plugged_in(library, Episode(SLOWDOWN, 5.0, 1000.0)) as card:
        done = invoke(*ASKED, "--precision", "int8", "--home", tmp_path)
        assert (done.code, done.complaint.count("--resume")) == (1, 1)
        assert "stays slow: slowed down (hardware thermal slowdown), 7 times in a row over 126 s" in done.complaint
        assert 100 < card.clock.now() < 150
        card.clock.sleep(1000)
        said = invoke(*ASKED, "--precision", "int8", "--home", tmp_path, "--resume", "--json").json
        assert said["dropped"] == {"slowed down (hardware thermal slowdown)": 7}
        assert said["energy"] == "unavailable: no energy was measured; ask for it with --energy"


def test_without_a_meter(library: Path, tmp_path: Path) -> None:
    """A card that has no energy counter is profiled all the same; energy is unavailable, and why is on record."""
    with plugged_in(library, script=f"fail energy {NOT_SUPPORTED} 0 ever\n"):
        said = invoke(*ASKED, "--precision", "int8", "--energy", "--home", tmp_path, "--json").json
    assert said["energy"].startswith("unavailable: the card has no energy counter")
    assert (said["energy_networks"], said["energy_held_out"]) == (0, None)
    assert load(tmp_path, "int8").energy_reason.startswith("the card has no energy counter")
    assert (
        "energy   unavailable: the card has no energy counter" in invoke("fit", *ASKED[1:5], "--precision", "int8", "--home", tmp_path).out
    )


def test_energy_can_come_later(library: Path, tmp_path: Path) -> None:
    """A profile without energy, or with too little to learn from, goes on with --resume --energy; its latencies are not measured again."""
    with plugged_in(library) as card:
        invoke(*ASKED, "--precision", "int8", "--home", tmp_path)
        before, built = load(tmp_path, "int8"), len(card.built)
        few = invoke(*ASKED, "--precision", "int8", "--energy", "--energy-time", "4m", "--home", tmp_path, "--resume", "--json").json
        assert 3 <= few["energy_networks"] < 20
        assert few["energy"].endswith("a predictor needs 20; go on with --resume --energy and more --energy-time")
        enough = invoke(*ASKED, "--precision", "int8", "--energy", "--energy-time", "16m", "--home", tmp_path, "--resume", "--json").json
        assert len(card.built) - built == enough["energy_networks"] >= 20
    after = load(tmp_path, "int8")
    assert (after.digest, after.spent_s) == (before.digest, before.spent_s)
    assert enough["energy"].startswith("predicted from energies of a100")
