"""The `kernels/` tree: what it says of its kernels, and that it is loaded by path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hwnas.errors import FormatError, UsageError
from hwnas.kernels import KernelSource, all_kernels, find

NAMES = ["depthwise_conv", "layer_norm_residual", "squeeze_excite"]


def test_what_ships() -> None:
    """Each folder is named for its kernel and says what it fuses, its tolerances, its ways to launch and its cases."""
    assert [source.name for source in all_kernels()] == NAMES
    for source in all_kernels():
        assert source.folder.name == source.name
        assert all((source.fuses, source.tunings, source.cases))
        assert source.tolerance["fp32"].absolute < source.tolerance["fp16"].absolute < source.tolerance["bf16"].absolute
        for case in source.cases:
            assert set(case.attrs) == set(source.attrs)
            assert {name: type(value) for name, value in case.attrs.items()} == source.attrs


@pytest.mark.parametrize("name", NAMES)
def test_code_is_loaded_by_path(name: str) -> None:
    """As `hwnas._kernels.<kernel>`, once; its parameters are inputs, integers, outputs and constants, the order that launchers rely on."""
    source = find(name)
    assert source.code is sys.modules[f"hwnas._kernels.{name}.triton_impl"] is source.code
    case = source.cases[0]
    scalars, constants = (
        source.code.scalars(case.shapes, case.attrs),
        source.code.constants(case.shapes, case.attrs, source.tunings[0].sizes),
    )
    assert source.code.ENTRY.arg_names == [*source.code.INPUTS, *scalars, *source.code.OUTPUTS, *constants]


def test_an_unknown_kernel() -> None:
    """The nearest name is suggested."""
    with pytest.raises(UsageError, match=r"unknown kernel 'squeeze_exite' \(did you mean 'squeeze_excite'\?\)"):
        find("squeeze_exite")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("format = 1", "format = 2", "has format 2, this hwnas reads 1"),
        ("format = 1", "format = ", "cannot be read"),
        ("summary", "summery", "lacks or misspells 'summary'"),
        ("fp16 =", "fp8 =", "lacks or misspells 'fp16'"),
        ("absolute =", "absolut =", "absolut"),
        ('"float"', '"double"', "'double'"),
    ],
)
def test_a_damaged_file(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    """It is named, with what is wrong with it."""
    text = (find("layer_norm_residual").folder / "kernel.toml").read_text()
    (tmp_path / "kernel.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(FormatError, match=complaint) as caught:
        KernelSource.read(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    """A kernel without code says so when the code is asked for."""
    (tmp_path / "kernel.toml").write_text(
        (find("layer_norm_residual").folder / "kernel.toml").read_text().replace("layer_norm_residual", "elsewhere")
    )
    with pytest.raises(FormatError, match=r"kernel 'elsewhere' has no '.*triton_impl.py'"):
        _ = KernelSource.read(tmp_path).code
