"""Processes that are killed, interrupted and crowded: nothing that was measured or trained is lost, nothing is done twice."""

from __future__ import annotations

import json
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from commands import QUICK, TINY, Done, end, finish, invoke, start, wait_frozen, wait_until

from hwnas.profiling import Plan, ProfileStore, Setting
from hwnas.profiling.waves import PATIENCE
from hwnas.profiling.window import AGREEING
from hwnas.search.archive import Archive, Stored, Trial

pytestmark = pytest.mark.process

SETTING = Setting(device="cpu", runtime="onnxruntime-cpu")
# Every network keeps the limit, and the finalist takes two long trainings.
BUDGET = ("--num-evals", "16", "--population", "8", "--trainings", "2", "--finalists", "1", "--seeds", "2")
SEARCH = ("search", "--space", TINY, "--constraint", "latency<=900%", *BUDGET, "--json")
RESUME = ("search", "--resume", "--name", "cut", "--json")  # a run's options need not be repeated
PROFILE = ("profile", "--space", TINY, *QUICK, "--json")


def assert_interrupted(done: Done) -> None:
    """Control-C ends a command with the shells' exit code, and one line that says how to go on."""
    assert done.code == 130
    assert "--resume" in done.complaint


def journal(home: Path) -> Path:
    """The file of an unfinished profile."""
    return ProfileStore(home / "profiles" / "cpu").journal(SETTING, TINY).path


def visits(home: Path) -> list[tuple[int, int, list[float]]]:
    """What the journal of an unfinished profile holds by now: network, round and durations of each visit, in order."""
    if not journal(home).exists():
        return []
    lines = journal(home).read_text().split("\n")[1:-1]
    return [(row["visit"], row["round"], row["seconds"]) for row in map(json.loads, lines) if "visit" in row]


def database(home: Path, run: str = "cut") -> Path:
    """Where a search keeps its trials."""
    return home / "runs" / run / "trials.sqlite"


def count(home: Path, kind: str) -> int:
    """How many results of a kind are on record by now; cheap, to be asked over and over."""
    try:
        with closing(sqlite3.connect(f"file:{database(home)}?mode=ro", uri=True)) as connection:
            (found,) = connection.execute("SELECT count(*) FROM results WHERE kind = ?", (kind,)).fetchone()
            return int(found)
    except sqlite3.OperationalError:  # it is not there yet, or being made
        return 0


def stored(home: Path, kind: str) -> tuple[Stored, ...]:
    """Results of a kind on record by now."""
    with Archive.open(database(home), readonly=True) as archive:
        return archive.results(kind)  # type: ignore[arg-type]


def trials(home: Path, run: str = "cut") -> tuple[Trial, ...]:
    """Trials on record by now."""
    with Archive.open(database(home, run), readonly=True) as archive:
        return archive.trials()


def test_a_profile_survives_interrupt_and_kill(tmp_path: Path) -> None:
    """Interrupted, killed, refused to a second process and to a call without --resume, a profile ends with all that was measured."""
    at = ("--home", tmp_path)
    first = start(*PROFILE, *at, freeze_after=12)
    wait_frozen(first)
    assert_interrupted(end(first, signal.SIGINT))
    interrupted = visits(tmp_path)
    assert len(interrupted) == 12

    second = start(*PROFILE, "--resume", *at, freeze_after=100)
    wait_frozen(second)
    crowded = invoke(*PROFILE, "--resume", *at)
    assert crowded.code == 1
    assert f"another process (id {second.pid})" in crowded.complaint
    assert end(second, signal.SIGKILL).code == -signal.SIGKILL
    killed = visits(tmp_path)
    assert killed[:12] == interrupted
    assert len(killed) == 112

    with journal(tmp_path).open("ab") as file:
        file.write(b'{"visit": 0, "round": 99, "seco')  # as a kill in the middle of a write leaves it
    unasked = invoke(*PROFILE, *at)
    assert unasked.code == 2
    assert "--resume" in unasked.complaint
    assert "--restart" in unasked.complaint
    assert visits(tmp_path) == killed

    said = invoke(*PROFILE, "--resume", *at).json
    found = {network.id: network for network in ProfileStore(tmp_path / "profiles" / "cpu").load(SETTING).networks}
    assert not journal(tmp_path).exists()
    assert said["networks"] > max(network for network, _, _ in killed)
    assert sorted(found) == list(range(said["networks"]))
    for network, number, seconds in killed:
        assert found[network].samples.seconds[found[network].pooled.rounds == number].tolist() == seconds
    for network in found.values():
        # as many as settle it, as in an undisturbed profile, and more than planned only where this machine was another meanwhile
        assert AGREEING <= len(set(network.pooled.rounds.tolist())) <= PATIENCE * Plan().visits


def test_a_search_survives_interrupt_and_kill(home: Path) -> None:
    """Interrupted, killed and refused to a second process, a search ends as if nothing had happened, and computes nothing twice."""
    at = ("--home", home)
    first = start(*SEARCH, "--name", "cut", *at)
    wait_until(first, lambda: count(home, "proxies") >= 5)
    first.send_signal(signal.SIGINT)
    assert_interrupted(finish(first))
    interrupted = stored(home, "proxies")

    second = start(*RESUME, *at)
    wait_until(second, lambda: count(home, "training") >= 2)
    second.send_signal(signal.SIGSTOP)
    wait_frozen(second)
    crowded = invoke(*RESUME, *at)
    assert crowded.code == 1
    assert f"another process (id {second.pid})" in crowded.complaint
    assert end(second, signal.SIGKILL).code == -signal.SIGKILL
    before = {kind: stored(home, kind) for kind in ("proxies", "training", "measurement")}
    evaluated = trials(home)
    assert before["proxies"][: len(interrupted)] == interrupted
    assert evaluated

    unasked = invoke(*SEARCH, "--name", "cut", *at)
    assert unasked.code == 2
    assert "--resume" in unasked.complaint

    said = invoke(*RESUME, *at).json
    assert trials(home)[: len(evaluated)] == evaluated
    for kind, results in before.items():
        after = stored(home, kind)
        assert after[: len(results)] == results  # payload, cost and time of each as they were
        assert len({(result.genotype, result.variant) for result in after}) == len(after)
    assert len(stored(home, "training")) == 2 + 2
    (finalist,) = said["finalists"]
    assert len(finalist["accuracies"]) == 2
    assert said["evaluations"] == 16

    whole = invoke(*SEARCH, "--name", "whole", *at).json
    for key in ("genotype", "predicted_latency_s", "accuracies", "validation_accuracies"):
        assert whole["finalists"][0][key] == finalist[key]
    undisturbed = [(trial.generation, trial.epoch, trial.evaluation) for trial in trials(home, "whole")]
    assert [(trial.generation, trial.epoch, trial.evaluation) for trial in trials(home)] == undisturbed
