"""The main job, end to end, as a user types it: profile, fit, predict, search, export, report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import QUICK, TINY, Done, invoke, once

from hwnas import spaces
from hwnas.assets import Workspace
from hwnas.export.engine import verify_engine
from hwnas.export.verify import verify
from hwnas.ir import onnx
from hwnas.units import format_fraction, format_seconds
from hwnas.workflows import search as workflow
from hwnas.workflows.evaluator import NOT_SCORED
from hwnas.workflows.runs import SearchOptions

SPACE = "mobilenet-small"
LIMIT, SHARE = "latency<=25%", 0.25


@dataclass(frozen=True)
class Job:
    """A workspace in which the main job was done, and what its commands printed.

    Attributes:
        home: the workspace.
        folder: in which the export and the networks lie.
        said: by each command, as JSON; `report` printed the path of its page.
    """

    home: Path
    folder: Path
    said: dict[str, Any]

    def do(self, *words: str | Path) -> Done:
        """Another command in this workspace."""
        return invoke(*words, "--home", self.home)


@pytest.fixture(scope="session")
def job(shared: Path) -> Job:
    """The main job on a tiny budget, done once."""
    folder = shared / "main-job"
    home, memory = folder / "home", folder / "said.json"
    with once(folder) as first:
        if first:
            budget = ("--num-evals", "16", "--population", "8", "--trainings", "2", "--finalists", "1", "--seeds", "2")
            commands: dict[str, Sequence[str | Path]] = {
                "profile": ("--space", SPACE, *QUICK, "--json"),
                "fit": ("--json",),
                "search": ("--space", SPACE, "--constraint", LIMIT, *budget, "--json"),
                "export": ("-o", folder / "export", "--json"),
                "report": (),
            }
            done = {name: invoke(name, *words, "--home", home) for name, words in commands.items()}
            said = {name: result.out if name == "report" else result.json for name, result in done.items()}
            memory.write_text(json.dumps(said))
    return Job(home, folder, json.loads(memory.read_text()))


def test_profile_says_how_good_the_predictor_is(job: Job) -> None:
    """`profile` measures networks, learns them, and gives its error on networks that the predictor did not see."""
    said = job.said["profile"]
    assert said["space"] == SPACE
    assert (said["device"], said["runtime"], said["threads"], said["batch"]) == ("cpu", "onnxruntime-cpu", 1, 1)
    assert said["networks"] == said["held_out"]["networks"] >= 20
    assert said["ended_by"] == "target"
    assert 0 < said["held_out"]["mape"] < 0.5
    assert said["spent_s"] >= said["curve"][-1]["seconds"] > 0


def test_fit_learns_the_same_from_the_same_profile(job: Job) -> None:
    """`fit` needs no measuring: it gives what `profile` gave at its end."""
    assert job.said["fit"] == job.said["profile"]


def test_predict_answers_for_files_in_their_order(job: Job, tmp_path: Path) -> None:
    """One file gives an object, several give a list in the order of the files; scripts find what the documentation promises."""
    space, rng = spaces.load(SPACE), np.random.default_rng(0)
    files = [tmp_path / f"{name}.onnx" for name in ("b", "a", "c")]
    for file in files:
        onnx.save(space.graph(space.sample(rng)).materialize(rng), file)
    one, several = job.do("predict", files[0], "--json").json, job.do("predict", *files, "--json").json
    assert isinstance(several, list)
    assert [Path(said["model"]) for said in several] == files
    assert several[0] == one
    assert len({said["latency_s"]["value"] for said in several}) == 3
    for said in several:
        latency = said["latency_s"]
        assert set(latency) == {"value", "low", "high"}
        assert 0 < latency["low"] < latency["value"] < latency["high"] < 1
        assert 0 <= said["coverage"] <= 1
        keys = ("device", "runtime", "threads", "batch", "precision")
        assert [said[key] for key in keys] == ["cpu", "onnxruntime-cpu", 1, 1, "fp32"]
        assert SPACE in said["source"]
        shares = [kernel["share"] for kernel in said["kernels"]]
        assert len(shares) == 5
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) <= 1
        assert all(kernel["nodes"] for kernel in said["kernels"])


def test_predict_shows_people_the_most_expensive_kernels(job: Job, tmp_path: Path) -> None:
    """Without --json: the latency with its interval, and five kernels with their share; brackets in a name stay as they are."""
    space = spaces.load(SPACE)
    file = tmp_path / "net[v2].onnx"
    onnx.save(space.graph(space.reference()).materialize(np.random.default_rng(0)), file)
    done, said = job.do("predict", file), job.do("predict", file, "--json").json
    first, *table = done.out.splitlines()
    latency = said["latency_s"]
    interval = f"{format_seconds(latency['value'])} [{format_seconds(latency['low'])}, {format_seconds(latency['high'])}]"
    assert first.startswith(f"{file}: {interval} per call, ")
    for kernel in said["kernels"]:
        assert any(kernel["nodes"][0] in line and format_fraction(kernel["share"]) in line for line in table)


def test_search_ends_with_finalists(job: Job) -> None:
    """Every finalist has the promise, the measurement, the verdict on the limit, and the accuracy over its seeds."""
    said = job.said["search"]
    assert said["evaluations"] == 16
    assert said["stopped_by"] == "evaluations"
    (finalist,) = said["finalists"]
    predicted, measured = finalist["predicted_latency_s"], finalist["measured_latency_s"]
    reference = job.do("search", "--space", SPACE, "--dry-run", "--json").json["reference"]["latency"]["value"]
    assert 0 < predicted["low"] < predicted["value"] < predicted["high"] <= SHARE * reference
    assert finalist["limit_kept"] is (measured <= SHARE * reference)
    assert said["limits_kept"] == int(finalist["limit_kept"])
    assert finalist["measured_n"] >= 50
    assert len(finalist["accuracies"]) == len(finalist["seeds"]) == 2
    assert finalist["accuracy_mean"] == pytest.approx(np.mean(finalist["accuracies"]))
    assert finalist["accuracy_sd"] == pytest.approx(np.std(finalist["accuracies"], ddof=1))
    assert finalist["accuracy_mean"] > 0.8  # digits; one in ten is chance


def test_a_run_is_written_down(job: Job) -> None:
    """A run records its seed, versions, data, device, predictor and the command that repeats it; its costs are on record."""
    run = workflow.find_run(Workspace.at(job.home), job.said["search"]["run"])
    record = run.record
    assert record["seed"] == 0
    assert {"hwnas", "python", "numpy", "onnxruntime", "torch"} <= set(record["versions"])
    assert len(record["data"]) == len(record["predictor"]) == len(record["profile"]) == 64
    assert record["device_fingerprint"]
    assert record["replay"] == job.said["search"]["replay"]
    with run.archive(readonly=True) as archive:
        cost = archive.cost()
        kept = [each for each in archive.latest().values() if each.source["accuracy"] != NOT_SCORED]
        assert len(archive.results("training")) == min(2, len(kept)) + 2  # briefly, and with two seeds
        assert len(archive.latest()) == 16
    assert all(cost[kind] > 0 for kind in ("proxies", "training", "measurement", "export"))


def test_export_is_verified(job: Job) -> None:
    """What `export` wrote passes `verify`, and carries predicted and measured figures with its lineage."""
    verified = verify(job.folder / "export")
    manifest, said = verified.manifest, job.said["export"]
    assert said["folder"] == str(job.folder / "export")
    assert said["precision"] == manifest.precision
    assert manifest.lineage.run == job.said["search"]["run"]
    finalist = job.said["search"]["finalists"][0]
    assert list(manifest.lineage.genotype) == finalist["genotype"]
    assert manifest.predicted["latency"].value == finalist["predicted_latency_s"]["value"]
    fp32 = next(variant for variant in manifest.variants if variant.precision == "fp32")
    best = int(np.argmax(finalist["validation_accuracies"]))
    assert fp32.accuracy == pytest.approx(finalist["accuracies"][best], abs=2 / 359)  # folded weights round otherwise
    assert said["median_s"] == manifest.shipped.latency.median_s > 0


def test_an_export_is_not_overwritten_unasked(job: Job) -> None:
    """Exporting to the folder of an earlier export needs --force."""
    done = job.do("export", "-o", job.folder / "export")
    assert done.code == 2
    assert "--force" in done.complaint


def test_report_holds_the_figures_of_the_run(job: Job) -> None:
    """`report` prints the path of one HTML page that works offline and holds the figures that `search` and `export` printed."""
    path = Path(job.said["report"].strip())
    assert path.parent == Path(job.said["search"]["folder"])
    page = path.read_text()
    (finalist,) = job.said["search"]["finalists"]
    assert page.lstrip().startswith("<!")
    assert " src=" not in page.split("<script>")[0]
    for figure in (
        job.said["search"]["run"],
        format_seconds(finalist["predicted_latency_s"]["value"]),
        format_seconds(finalist["measured_latency_s"]),
        format_fraction(finalist["accuracy_mean"]),
        format_seconds(job.said["export"]["median_s"]),
        format_fraction(job.said["profile"]["held_out"]["mape"]),
        str(job.folder / "export"),
    ):
        assert figure in page


def test_resuming_a_finished_run_changes_nothing(job: Job) -> None:
    """`search --resume` of a run that has ended gives the same finalists, and computes nothing."""
    run = workflow.find_run(Workspace.at(job.home), job.said["search"]["run"])

    def results() -> list[object]:
        with run.archive(readonly=True) as archive:
            return [archive.trials(), *(archive.results(kind) for kind in ("proxies", "training", "measurement"))]

    before = results()
    again = job.do("search", "--resume", "--json").json
    assert again == job.said["search"]
    assert results() == before


def test_a_dry_run_spends_and_writes_nothing(job: Job) -> None:
    """`search --dry-run` says what would be done, with a network that keeps the limit; the workspace stays as it was."""

    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in job.home.rglob("*")}

    before = files()
    said = job.do("search", "--space", SPACE, "--constraint", LIMIT, "--dry-run", "--json").json
    start, reference = said["feasible_start"]["latency"], said["reference"]["latency"]
    assert start["high"] <= SHARE * reference["value"]
    assert said["replay"].startswith("hwnas search --space mobilenet-small ")
    assert files() == before


def test_a_limit_that_nobody_keeps_is_refused(job: Job) -> None:
    """Exit code 1 and one line with the smallest reachable value, which itself can be asked for; no run is made."""
    before = sorted((job.home / "runs").iterdir())
    done = job.do("search", "--space", SPACE, "--constraint", "params<=500")
    assert done.code == 1
    said = done.complaint.split("the smallest reachable params is ")
    assert len(said) == 2
    assert sorted((job.home / "runs").iterdir()) == before
    value, unit = said[1].split(";")[0].split(" ")
    asked = job.do("search", "--space", SPACE, "--constraint", f"params<={float(value) * 1.001:.6g}{unit}", "--dry-run", "--json").json
    assert asked["feasible_start"]["params"]["value"] == pytest.approx(float(value) * 1e3, rel=1e-3)


def test_the_same_seed_gives_the_same_front(home: Path) -> None:
    """Two searches with one seed and one predictor end with the same front, to the last digit."""
    workspace = Workspace.at(home)

    options = SearchOptions(
        space=TINY, constraint=("latency<=300%",), num_evals=16, population=8, trainings=2, finalists=1, seeds=1, seed=3
    )

    def front(name: str) -> list[tuple[Any, ...]]:
        outcome = workflow.search(workspace, options, name=name, watch=workflow.Watch())
        return [(evaluation.genotype, evaluation.metrics) for evaluation in outcome.result.front]

    first = front("one")
    assert len(first) > 1
    assert front("two") == first


def test_a_run_goes_on_with_a_larger_budget(home: Path) -> None:
    """More networks may be asked for when a run is resumed: nothing is done anew, and the run is known by its new budget from then on."""
    budget = ("--population", "4", "--trainings", "0", "--finalists", "1", "--seeds", "1")
    small = invoke("search", "--space", TINY, "--num-evals", "4", *budget, "--name", "grown", "--home", home, "--json").json
    run = workflow.find_run(Workspace.at(home), "grown")
    with run.archive(readonly=True) as archive:
        before = {kind: archive.results(kind) for kind in ("proxies", "training", "measurement")}
    large = invoke("search", "--resume", "--num-evals", "12", "--home", home, "--json").json
    assert (small["evaluations"], large["evaluations"]) == (4, 12)
    assert "--num-evals 12" in large["replay"]
    again = workflow.find_run(Workspace.at(home), "grown")
    assert (again.options.num_evals, again.record["replay"]) == (12, large["replay"])
    with again.archive(readonly=True) as archive:
        for kind, results in before.items():
            assert archive.results(kind)[: len(results)] == results
        assert len(archive.latest()) == 12
    refused = invoke("search", "--resume", "--num-evals", "8", "--home", home)
    assert refused.code == 2
    assert "12" in refused.complaint


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX is not installed: pip install 'hwnas[rtx]'")
def test_a_finalist_becomes_an_engine(job: Job, tmp_path: Path) -> None:
    """`export --to tensorrt` builds an engine for cards that are not here, says what its precision costs and what was not tried."""
    words = (
        "export",
        "--to",
        "tensorrt",
        "--flavor",
        "rtx",
        "--precision",
        "mixed",
        "--compute-capability",
        "sm86",
        "-o",
        tmp_path / "out",
    )
    said = job.do(*words, "--json").json
    found = verify_engine(tmp_path / "out")
    assert (said["precision"], said["targets"], said["engine_bytes"]) == ("mixed", ["sm86"], found.manifest.engine_bytes)
    assert said["accuracy"] == found.manifest.accuracy
    assert abs(said["accuracy"] - said["accuracy_fp32"]) < 0.05
    assert said["output_error"] <= 0.1
    assert found.manifest.lineage.run == job.said["search"]["run"]
    shown = job.do(*words, "--force")
    assert shown.code == 0
    assert "accuracy is that of the engine's model on this processor" in shown.out
    assert "on the card: tensorrt_rtx --onnx=model.onnx" in shown.out
    if not said["loads"]:
        assert "not measured" in said["latency"]
        assert "the engine was not loaded here: " in shown.out
