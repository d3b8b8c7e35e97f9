"""`hwnas export` refuses options that do not go together before anything is read or spent."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import invoke

from hwnas.runtimes import trt_build


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--flavor", "rtx"), "--flavor is for engines; add --to tensorrt"),
        (("--ep-context",), "--ep-context is for engines; add --to tensorrt"),
        (("--batches", "1,8,32"), "--batches is for engines; add --to tensorrt"),
        (("--precision", "fp16"), "--to onnx has the precisions fp32, int8, auto, not 'fp16'"),
        (("--to", "tensorrt", "--precision", "auto"), "--to tensorrt has the precisions fp32, fp16, int8, mixed, not 'auto'"),
        (("--to", "tensorrt", "--batches", "8"), "batches are given as smallest,usual,largest, such as 1,8,32; got '8'"),
        (("--to", "tensorrt", "--compute-capability", "sm86"), "TensorRT builds for the card that it runs on"),
        (("--to", "tensorrt", "--flavor", "rtx", "--compute-capability", "sm8"), "TensorRT-RTX does not build for 'sm8'"),
        (("--to", "tensorrt", "--flavor", "rtx", "--version-compatible"), "neither version- nor hardware-compatible"),
    ],
)
def test_options_that_do_not_go_together(words: tuple[str, ...], reason: str, tmp_path: Path) -> None:
    """The call is wrong: exit code 2, one line."""
    done = invoke("export", "-o", tmp_path / "out", "--home", tmp_path / "home", *words)
    assert done.code == 2
    assert reason in done.complaint
    assert not (tmp_path / "out").exists()


def test_without_tensorrt_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The library is looked for first: exit code 1, one line that says what to install and what works without."""
    monkeypatch.setattr(trt_build, "find_spec", lambda name: None)
    done = invoke("export", "--to", "tensorrt", "-o", tmp_path / "out", "--home", tmp_path / "home")
    assert done.code == 1
    assert done.complaint == (
        "'tensorrt' is not installed; run: pip install 'hwnas[tensorrt]', or use --flavor rtx, which needs no card to build"
    )
