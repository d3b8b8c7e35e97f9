"""What a user gets who asks for what cannot be: one line with a remedy, an exit code, never a traceback."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import onnx as onnx_library
import pytest
from commands import QUICK, TINY, Done, finish, invoke, start
from tiny_space import TinySpace

from hwnas import __version__
from hwnas.assets import Workspace
from hwnas.cli import cli
from hwnas.export.quantize import int8
from hwnas.ir import GraphBuilder, onnx
from hwnas.profiling import ProfileStore, Setting
from hwnas.search.archive import Archive
from hwnas.workflows import runs
from hwnas.workflows.runs import SearchOptions

SETTING = Setting(device="cpu", runtime="onnxruntime-cpu")


def refused(done: Done, code: int, *parts: str) -> None:
    """The command failed with this exit code, and its one line holds these parts."""
    complaint = done.complaint
    assert done.code == code
    for part in parts:
        assert part in complaint


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A network of the tiny space as an ONNX file."""
    space = TinySpace()
    path = tmp_path / "model.onnx"
    onnx.save(space.graph(space.reference()).materialize(np.random.default_rng(0)), path)
    return path


def changed(model: Path, change: Callable[[onnx_library.ModelProto], None]) -> Path:
    """The same file after a change."""
    proto = onnx_library.load(model)
    change(proto)
    onnx_library.save(proto, model)
    return model


@pytest.mark.parametrize("verb", ["profile", "fit", "predict", "search"])
def test_unknown_device(verb: str, learned: Path) -> None:
    """Every verb that takes a device suggests the one that was meant."""
    files = ("model.onnx",) if verb == "predict" else ()
    refused(invoke(verb, *files, "--device", "h10", "--home", learned), 2, "'h10'", "did you mean 'h100'?", "cpu")


def test_a_device_that_is_not_here(tmp_path: Path) -> None:
    """Profiling a device that this machine lacks says what there is and what to do."""
    refused(invoke("profile", "--device", "a100", "--home", tmp_path), 1, "'a100'", "here: cpu (", "use --device cpu")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["predict", "search"])
def test_no_predictor_yet(verb: str, tmp_path: Path) -> None:
    """Without a predictor for the setting: which there are, and the command that makes it."""
    files = ("model.onnx",) if verb == "predict" else ()
    remedy = "run 'hwnas profile --device cpu --threads 1 --batch 7 --space "
    refused(invoke(verb, *files, "--batch", "7", "--home", tmp_path), 1, "onnxruntime-cpu-t1-b7-fp32", remedy)


def test_no_profile_yet(tmp_path: Path) -> None:
    """`fit` needs a profile."""
    refused(invoke("fit", "--home", tmp_path), 1, "run 'hwnas profile --device cpu --threads 1 --batch 1'")


@pytest.mark.parametrize(
    "option", [("--threads", "0"), ("--threads", "9999"), ("--batch", "0"), ("--target-error", "0%"), ("--max-time", "0s")]
)
def test_impossible_numbers(option: tuple[str, str], tmp_path: Path) -> None:
    """Numbers that no machine can serve are refused, with the number."""
    refused(invoke("profile", *option, "--home", tmp_path), 2, option[1].rstrip("%s"))
    assert not list(tmp_path.rglob("*.jsonl"))


def test_a_time_needs_its_unit() -> None:
    """What does not parse is refused with an example and where to read more."""
    refused(invoke("profile", "--max-time", "90"), 2, "'90'", "hwnas profile --help")
    refused(invoke("frobnicate"), 2, "'frobnicate'", "hwnas --help")
    refused(invoke("search", "--frobnicate"), 2, "--frobnicate", "hwnas search --help")


def test_damaged_files(model: Path, learned: Path) -> None:
    """A file that is cut short, empty, no ONNX at all, or not there is named; with several files nothing is printed of the good ones."""
    whole = model.read_bytes()
    for name, content in {"short": whole[: len(whole) // 2], "empty": b"", "text": b"no model " * 100}.items():
        file = model.with_name(f"{name}.onnx")
        file.write_bytes(content)
        refused(invoke("predict", model, file, "--home", learned), 1, str(file))
    missing = model.with_name("missing.onnx")
    refused(invoke("predict", missing, "--home", learned), 1, str(missing), "No such file")
    refused(invoke("predict", model.parent, "--home", learned), 1, str(model.parent))


def test_a_quantised_file(model: Path, home: Path) -> None:
    """It is told in 8 bits, beside files in floats; another precision is refused, and a predictor that is missing is named."""
    graph = onnx.load(model)
    rng = np.random.default_rng(0)
    feeds = [{name: rng.normal(size=spec.shape).astype(np.float32) for name, spec in graph.inputs.items()}]
    (quantised := model.with_name("quantised.onnx")).write_bytes(int8(graph, feeds).SerializeToString())
    (partly := model.with_name("partly.onnx")).write_bytes(int8(graph, feeds, ends_in_fp32=True).SerializeToString())
    refused(invoke("predict", quantised, "--home", home), 1, "onnxruntime-cpu-t1-b1-int8", "--precision int8")
    refused(
        invoke("predict", model, quantised, "--precision", "fp32", "--home", home),
        2,
        "quantised.onnx",
        "int8, not fp32",
        "leave --precision out",
    )
    assert invoke("profile", "--space", TINY, "--precision", "int8", *QUICK, "--home", home).code == 0
    done = invoke("predict", quantised, model, partly, "--home", home, "--json", "--explain").json
    assert [(Path(each["model"]).name, each["precision"]) for each in done] == [
        ("quantised.onnx", "int8"),
        ("model.onnx", "fp32"),
        ("partly.onnx", "int8"),
    ]
    assert done[0]["latency_s"] == invoke("predict", model, "--precision", "int8", "--home", home, "--json").json["latency_s"]
    assert done[0]["coverage"] == 1 > done[2]["coverage"]  # no network of the profile has ends in floats
    kinds = [{kernel["kind"] for kernel in each["kernels"]} for each in done]
    assert "QuantizeLinear" in kinds[0] & kinds[2]
    assert not any(kind.endswith("Linear") for kind in kinds[1])


def test_dynamic_shapes(model: Path, learned: Path) -> None:
    """A dynamic batch becomes that of --batch; any other dynamic dimension is refused, with the input that has it."""
    static = invoke("predict", model, "--home", learned, "--json").json

    def dynamic(axis: int, name: str) -> None:
        def change(proto: onnx_library.ModelProto) -> None:
            proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name

        changed(model, change)

    dynamic(0, "N")
    assert invoke("predict", model, "--home", learned, "--json").json == static
    dynamic(2, "height")
    refused(invoke("predict", model, "--home", learned), 1, str(model), "input 'x'", "'height'")


def test_an_operator_that_is_not_known(model: Path, learned: Path) -> None:
    """The node is named."""

    def change(proto: onnx_library.ModelProto) -> None:
        proto.graph.node[0].op_type = "Frobnicate"
        proto.graph.node[0].name = "the culprit"

    refused(invoke("predict", changed(model, change), "--home", learned), 1, "node 'the culprit'", "'Frobnicate'")


def test_kernels_that_were_not_measured(tmp_path: Path, learned: Path) -> None:
    """They are said to be a guess in `coverage`; --strict refuses them, with the node."""
    b = GraphBuilder("other")
    x = b.conv(b.input("x", (1, 1, 8, 8)), 4)
    graph = b.finish(b.op("Softmax", [x], axis=1)).materialize(np.random.default_rng(0))
    onnx.save(graph, tmp_path / "other.onnx")
    said = invoke("predict", tmp_path / "other.onnx", "--home", learned, "--json").json
    assert 0 <= said["coverage"] < 1
    assert any(kernel["nodes"] == ["softmax_0"] and not kernel["covered"] for kernel in said["kernels"])
    done = invoke("predict", tmp_path / "other.onnx", "--strict", "--home", learned)
    refused(done, 1, "--strict")
    assert any(f"(node '{kernel['nodes'][0]}')" in done.complaint for kernel in said["kernels"] if not kernel["covered"])


def test_a_batch_that_a_file_does_not_have(tmp_path: Path, learned: Path) -> None:
    """A file of another batch than asked for is refused, with the input and both batches."""
    space = TinySpace()
    onnx.save(space.graph(space.reference(), batch=2).materialize(np.random.default_rng(0)), tmp_path / "two.onnx")
    refused(invoke("predict", tmp_path / "two.onnx", "--home", learned), 1, "two.onnx: input 'x'", "batch 2", "1 was asked for")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--constraint", "latency<3ms"), ("'latency<3ms'", "'latency<=3ms'")),
        (("--constraint", "latency<=3kg"), ("'3kg'", "ms")),
        (("--constraint", "latency<=3"), ("needs a unit", "'latency<=3'")),
        (("--constraint", "latency<=0ms"), ("above zero",)),
        (("--constraint", "latncy<=3ms"), ("'latncy'", "did you mean 'latency'?")),
        (("--constraint", "accuracy>=120%"), ("100%",)),
        (("--constraint", "params<=1M", "--constraint", "params>=2M"), ("params<=1M", "params>=2M")),
        (("--minimize", "energy"), ("energy is unavailable: ",)),
        (("--constraint", "energy<=1mJ"), ("energy is unavailable: ",)),
        (("--minimize", "watts"), ("'watts'", "latency")),
        (("--minimize", "accuracy"), ("'accuracy'", "both ways")),
        (("--num-evals", "0"), ("--num-evals", "got 0")),
        (("--population", "1"), ("--population", "got 1")),
        (("--trainings", "-1"), ("--trainings", "got -1")),
        (("--seed", "-1"), ("seed", "-1")),
        (("--data", "digit"), ("'digit'", "did you mean 'digits'?")),
        (("--space", "mobilnet"), ("'mobilnet'", "did you mean 'mobilenet'?")),
        (("--space", "missing.py:Space"), ("missing.py",)),
        (("--resume", "--dry-run"), ("--dry-run", "--resume")),
        (("--name", "up/down"), ("'up/down'",)),
    ],
)
def test_searches_that_make_no_sense(options: tuple[str, ...], parts: tuple[str, ...], home: Path) -> None:
    """They are refused with what was typed and what could be, before anything is spent or written."""
    refused(invoke("search", "--space", TINY, *options, "--home", home), 2, *parts)
    assert not list(home.glob("runs/*"))


def test_a_space_that_does_not_work(tmp_path: Path, learned: Path) -> None:
    """A mistake in a user's own space is shown with its file and line, for `profile` as for `search`."""
    file = tmp_path / "mine.py"
    text = "from hwnas.spaces import Gene, SearchSpace\n\nclass Mine(SearchSpace):\n    genes = (Gene('a', (1, 2)),)\n\n"
    file.write_text(f"{text}    def graph(self, genotype, *, batch=1):\n        return nothing\n")
    for verb in ("profile", "search"):
        refused(invoke(verb, "--space", f"{file}:Mine", "--home", learned), 2, f"{file}, line 7", "nothing")
        refused(invoke(verb, "--space", f"{file}:Mein", "--home", learned), 2, "'Mein'", "did you mean 'Mine'?")


def test_nothing_to_resume(tmp_path: Path, home: Path) -> None:
    """Without a run, or with the name of none, `search --resume`, `export` and `report` say what there is."""
    commands: tuple[tuple[str | Path, ...], ...] = (("search", "--resume"), ("export", "-o", tmp_path / "out"), ("report",))
    for command in commands:
        refused(invoke(*command, "--home", home), 1, "no run", "hwnas search")
    runs.create(Workspace.at(home), SearchOptions(space=TINY), {}, "monday")
    refused(invoke("search", "--resume", "--name", "munday", "--home", home), 1, "'munday'", "did you mean 'monday'?")
    refused(invoke("report", "tuesday", "--home", home), 1, "'tuesday'", "monday")
    refused(invoke("export", "monday", "-o", tmp_path / "out", "--home", home), 1, "no finalists", "--resume --name monday")
    assert not (tmp_path / "out").exists()


def test_resuming_with_other_options(home: Path) -> None:
    """A run goes on as it was begun: another option is named with both values, another predictor with its digest."""
    workspace = Workspace.at(home)
    options = SearchOptions(space=TINY, constraint=("latency<=80%",))
    runs.create(workspace, options, {"predictor": "0" * 64}, "monday")
    resume = ("search", "--resume", "--home", home)
    refused(invoke(*resume, "--seed", "5"), 2, "--seed 0", "5")
    refused(invoke(*resume, "--constraint", "latency<=70%"), 2, "--constraint latency<=80%", "latency<=70%")
    refused(invoke(*resume, "--space", "mobilenet"), 2, f"--space {TINY}", "mobilenet")
    refused(invoke(*resume), 2, "predictor 000000000000", "start a new search")


def test_resuming_a_profile_with_other_options(tmp_path: Path) -> None:
    """What was measured under other conditions is not mixed in: the difference is named."""
    header = {"space": TINY, "seed": 0, "fingerprint": "of another machine", "setting": SETTING.key}
    journal = ProfileStore(tmp_path / "profiles" / "cpu").journal(SETTING, TINY)
    journal.start(header)
    refused(invoke("profile", "--space", TINY, "--resume", "--home", tmp_path), 2, "fingerprint 'of another machine'", "--restart")
    refused(invoke("profile", "--space", TINY, "--seed", "3", "--resume", "--home", tmp_path), 2, "seed '0'", "'3'", "--restart")
    refused(invoke("profile", "--resume", "--restart", "--home", tmp_path), 2, "--resume", "--restart")
    assert journal.exists()


def test_a_workspace_that_is_a_file(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given as an option or by the environment, a file is no workspace."""
    refused(invoke("fit", "--home", model), 2, str(model), "--home")
    monkeypatch.setenv("HWNAS_HOME", str(model))
    refused(invoke("fit"), 2, str(model), "--home")


def test_a_workspace_that_cannot_be_written(model: Path, home: Path) -> None:
    """Verbs that write say where they could not, and what to do."""
    below = model / "home"
    refused(invoke("profile", "--space", TINY, "--home", below), 1, str(below), "Not a directory", "--home")
    (home / "runs").write_text("in the way")
    refused(invoke("search", "--space", TINY, "--home", home), 1, str(home / "runs"), "--home")
    shutil.rmtree(home / "predictors")
    (home / "predictors").write_text("in the way")
    refused(invoke("fit", "--home", home), 1, str(home / "predictors"), "--home")


def test_a_damaged_workspace(home: Path, model: Path) -> None:
    """Damaged files of a workspace are named, with the command that mends them."""
    (profile,) = home.glob("profiles/cpu/profile.toml")
    (card,) = home.glob("predictors/cpu/latency/*/*/card.toml")
    booster = max(card.parent.glob("*.ubj"), key=lambda path: path.stat().st_size)
    booster.write_bytes(booster.read_bytes()[:1000])
    refused(invoke("predict", model, "--home", home), 1, str(booster), "hwnas fit")
    card.write_text("half a card = [")
    refused(invoke("predict", model, "--home", home), 1, str(card), "hwnas fit")
    assert invoke("fit", "--home", home).code == 0
    assert invoke("predict", model, "--home", home).code == 0
    profile.write_text(profile.read_text().replace("format = 2", "format = 999"))
    refused(invoke("fit", "--home", home), 1, str(profile), "format 999")


def test_a_damaged_run(home: Path) -> None:
    """A run whose files are damaged is not taken up; the file is named."""
    run = runs.create(Workspace.at(home), SearchOptions(space=TINY), {}, "monday")
    (run.folder / "trials.sqlite").write_bytes(b"no database " * 1000)
    refused(invoke("report", "--home", home), 1, "trials.sqlite", "damaged")
    settings = run.folder / "run.toml"
    whole = settings.read_text()
    for damaged in (whole[:40], whole.replace("num_evals", "nimevals"), whole.replace("[options]", "[opinions]")):
        settings.write_text(damaged)
        refused(invoke("search", "--resume", "--home", home), 1, str(settings), "damaged")
    settings.write_text(whole.replace("format = 1", "format = 999"))
    refused(invoke("report", "--home", home), 1, str(settings), "format 999")


@pytest.mark.process
def test_a_disk_that_is_full_while_profiling(tmp_path: Path) -> None:
    """Profiling ends with one line; what was measured before stays, and is there to go on with."""
    command = ("profile", "--space", TINY, *QUICK, "--home", tmp_path)
    journal = ProfileStore(tmp_path / "profiles" / "cpu").journal(SETTING, TINY)
    process = start(*command)
    while process.poll() is None and not (journal.exists() and journal.path.stat().st_size > 20_000):
        time.sleep(0.01)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (80_000, 80_000))  # the disk is full from now on
    refused(finish(process), 1, str(tmp_path / "profiles" / "cpu"), "--resume")
    assert journal.path.stat().st_size <= 80_000
    refused(invoke(*command), 2, "an unfinished profile of 'cpu'", "--resume")
    _, found = journal.read()
    assert len(found.visits) > 5


@pytest.mark.process
def test_a_disk_that_is_full_for_the_profiler(tmp_path: Path) -> None:
    """Where the runtime's profiler cannot write, that is said in one line with the place."""
    refused(finish(start("profile", "--space", TINY, *QUICK, "--home", tmp_path, largest_file=20_000)), 1, "TMPDIR", "--resume")


@pytest.mark.process
def test_a_disk_that_is_full_while_searching(home: Path) -> None:
    """A search ends with one line; what was computed before is on record."""
    done = finish(start("search", "--space", TINY, "--name", "full", "--home", home, largest_file=150_000))
    refused(done, 1, str(home / "runs" / "full" / "trials.sqlite"), "resume")
    with Archive.open(home / "runs" / "full" / "trials.sqlite", readonly=True) as archive:
        assert len(archive.results("proxies")) > 1


@pytest.mark.process
def test_a_reader_that_has_gone(model: Path, learned: Path) -> None:
    """`hwnas ... | head` is nothing to complain about."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "hwnas.cli", "predict", str(model), "--home", str(learned)]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.process
def test_the_exit_code_of_the_process(tmp_path: Path) -> None:
    """The process itself ends with the exit code, its standard error holds the line and nothing else."""
    done = finish(start("predict", "missing.onnx", "--home", tmp_path))
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert done.err.startswith("hwnas: ")


@pytest.mark.process
def test_the_command_line_comes_up_light() -> None:
    """Reading the command line loads none of the libraries that only some commands need."""
    heavy = {"torch", "pymoo", "sklearn", "plotly", "xgboost", "onnxruntime", "pandas", "scipy"}
    code = f"import sys, hwnas.cli; print(sorted({heavy!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize("command", [(), *((name,) for name in cli.commands)])
def test_help(command: tuple[str, ...]) -> None:
    """Every command explains itself and each of its options."""
    done = invoke(*command, "--help")
    assert done.code == 0
    assert f"Usage: hwnas {' '.join(command)}".strip() in done.out
    options = [line for line in done.out.splitlines() if line.strip().startswith("-")]
    assert options
    explained = [option for name in command for option in cli.commands[name].params if isinstance(option, click.Option)]
    assert all(option.help for option in explained)


def test_version() -> None:
    """The version is that of the package."""
    assert invoke("--version").out.split() == ["hwnas,", "version", __version__]


def test_devices_for_scripts() -> None:
    """`devices --json`: what is here with its state and energy meter, what is not and why, which runtimes work."""
    said = invoke("devices", "--json").json
    assert set(said) == {"devices", "runtimes", "absent"}
    (cpu,) = [device for device in said["devices"] if device["name"] == "cpu"]
    assert cpu["kind"] == "cpu"
    assert cpu["units"] >= 1
    assert cpu["peak_flops"]["fp32"] > 0
    assert cpu["energy"]
    assert {"model", "clock_hz", "caches_bytes", "memory_bytes", "features", "state"} <= set(cpu)
    (runtime,) = [status for status in said["runtimes"] if status["name"] == "onnxruntime-cpu"]
    assert runtime["version"]
    assert runtime["problem"] == ""
    assert said["absent"]["NVIDIA GPU"]


def test_devices_for_people() -> None:
    """`devices` shows the same in lines."""
    said, shown = invoke("devices", "--json").json, invoke("devices").out
    for part in (said["devices"][0]["model"], said["absent"]["NVIDIA GPU"], said["runtimes"][0]["version"]):
        assert part in shown


def test_spaces() -> None:
    """`spaces` prints the size of every space, or of those named, a user's own among them."""
    shown = invoke("spaces").out.splitlines()
    assert [line.split(":")[0] for line in shown] == ["generic", "mobilenet", "mobilenet-small", "resnet", "resnet-small"]
    assert invoke("spaces", TINY).out.strip() == str(TinySpace())
    refused(invoke("spaces", "resnt"), 2, "did you mean 'resnet'?")
