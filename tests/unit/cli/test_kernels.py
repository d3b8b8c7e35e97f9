"""`hwnas kernels`."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import invoke

from hwnas.cli.kernels import print_benched
from hwnas.kernels import Tuning, find
from hwnas.runtimes.samples import Ratio
from hwnas.workflows.kernels_worth import Benched, Fusion, Timing


def test_list() -> None:
    """Every kernel with what it fuses."""
    assert [row["name"] for row in invoke("kernels", "list", "--json").json] == ["depthwise_conv", "layer_norm_residual", "squeeze_excite"]
    assert "squeeze-and-excite as one kernel" in invoke("kernels", "list").out


def test_build(tmp_path: Path) -> None:
    """The table has a row for every case and architecture; JSON has the exact figures."""
    words = ("kernels", "build", "--kernel", "layer_norm_residual", "--arch", "sm80", "--arch", "sm90")
    rows = invoke(*words, "--json").json["kernels"]
    assert [(row["case"], row["arch"]) for row in rows[:2]] == [("197 x 192", "sm80"), ("197 x 192", "sm90")]
    assert all(row["registers"] > 0 for row in rows)
    done = invoke(*words, "--out", tmp_path / "out")
    assert done.code == 0
    assert f"wrote {2 * len(rows)} files" in " ".join(done.out.split())
    assert len(list((tmp_path / "out").iterdir())) == 2 * len(rows) + 1


def test_match(tmp_path: Path) -> None:
    """Places and shares of a network of a space; what the shares stand on is said."""
    words = ("kernels", "match", "--space", "mobilenet-small", "--device", "a100", "--home", tmp_path)
    found = invoke(*words, "--json").json
    assert found["kernels"]["depthwise_conv"]["places"] == sum(
        len(use["places"]) for use in found["uses"] if use["kernel"] == "depthwise_conv"
    )
    assert "NeuSight" in found["source"]
    assert "of the predicted time" in invoke(*words).out


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (("bench", "--device", "a100"), 1, "no 'a100' on this machine"),
        (("bench", "--device", "a10000"), 2, "unknown device"),
        (("bench", "--device", "cpu"), 2, "run on NVIDIA cards"),
        (("bench",), 2, "--device"),
        (("bench", "--device", "a100", "--precision", "bf16"), 2, "hwnas drives tensorrt in fp32 or fp16, not in bf16"),
        (("bench", "--device", "a100", "--precision", "bf16", "--against", "onnxruntime-cuda"), 2, "not in bf16; change --precision"),
        (("bench", "--device", "a100", "--against", "tensorflow"), 2, "measured against one of tensorrt, onnxruntime-cuda"),
        (("build", "--arch", "sm91"), 2, "unknown architecture 'sm91'"),
        (("build", "--kernel", "gemm"), 2, "unknown kernel 'gemm'"),
        (("match",), 2, "give a network"),
        (("match", "--space", "mobilenet", "--genotype", "1"), 2, "1"),
    ],
)
def test_refusals(words: tuple[str, ...], code: int, complaint: str) -> None:
    """One line each, and the exit code says whose fault it was."""
    done = invoke("kernels", *words)
    assert done.code == code
    assert complaint in done.complaint


def test_a_verdict_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """With the interval and what the runtime made of the work, for every kernel and for the network; what has to be known is a note."""
    case, tuning, speedup = find("squeeze_excite").cases[0], Tuning(warps=4, sizes={}), Ratio(median=2.0, low=1.9, high=2.1)
    timing = Timing(
        kernel="squeeze_excite",
        case=case,
        places=5,
        tuning=tuning,
        kernel_s=2e-6,
        baseline_s=4e-6,
        speedup=speedup,
        fusion=Fusion(kernels=6, alone=True, copies=2),
    )
    print_benched(Benched(where="some card", timings=(timing,), network_s=50e-6, notes=("1 of 2 batches are flagged",)))
    said = capsys.readouterr()
    text = " ".join(said.out.split())
    assert "pays: 1.250 [1.234, 1.265] times as fast on this network (50 us without), from single kernels" in text.replace("µs", "us")
    assert "some card" in text
    assert said.err == "hwnas: note: 1 of 2 batches are flagged\n"
