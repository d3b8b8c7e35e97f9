"""The catalogue of devices that need not be at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwnas import assets
from hwnas.devices import catalogue
from hwnas.errors import FormatError, NotFoundError

SHIPPED = assets.root("profiles")


def test_what_ships() -> None:
    """The five cards for which predictors ship are described."""
    assert set(catalogue.names()) >= {"a100", "h100", "l4", "t4", "v100"}


@pytest.mark.parametrize("name", catalogue.names())
def test_figures_agree(name: str) -> None:
    """Every part's peak follows from its lanes and clock, its parts and model names are unique, and every figure has a source."""
    found = catalogue.entry(name)
    assert found.name == name
    assert len({part.id for part in found.parts}) == len({part.spec.model for part in found.parts}) == len(found.parts)
    for part in found.parts:
        spec = part.spec
        assert spec.lanes is not None
        assert spec.clock_hz is not None
        assert spec.units * spec.lanes * 2 * spec.clock_hz == pytest.approx(spec.peak_flops["fp32"], rel=0.01)
        assert {"units", "peak_flops", "memory_bytes_per_s", "power_limit_w"} <= set(part.sources)
        assert all(part.sources.values())


def test_parts() -> None:
    """A part is found by its id and by what NVML calls it; the name alone stands for the default."""
    a100 = catalogue.entry("a100")
    assert a100.part().id == a100.default
    assert a100.part("sxm4-80gb") == a100.part("NVIDIA A100-SXM4-80GB") == catalogue.find_model("NVIDIA A100-SXM4-80GB")
    with pytest.raises(NotFoundError, match=r"'a100' has no part 'sxm4-80' \(did you mean 'sxm4-80gb'\?\)"):
        a100.part("sxm4-80")


def test_unknown_names() -> None:
    """A device or a model that nobody described is refused with the nearest one."""
    with pytest.raises(NotFoundError, match=r"does not describe 'h10' \(did you mean 'h100'\?\)"):
        catalogue.entry("h10")
    with pytest.raises(NotFoundError, match="does not describe a 'NVIDIA L5'"):
        catalogue.find_model("NVIDIA L5")


def test_a_users_own_file_goes_first(tmp_path: Path) -> None:
    """A device that a user described replaces the one that ships."""
    folder = tmp_path / "l4"
    folder.mkdir()
    text = (SHIPPED / "l4" / "device.toml").read_text()
    (folder / "device.toml").write_text(text.replace("units = 58", "units = 60", 1))
    assert catalogue.entry("l4", [tmp_path]).part().spec.units == 60
    assert catalogue.entry("l4").part().spec.units == 58


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("format = 1", "format = 9", "has format 9, this hwnas reads 1"),
        ('units = "', 'unknown = "', "gives no source for 'units'"),
        ('default = "pcie-24gb"', 'default = "sxm"', "has no part 'sxm'"),
        ("units = 58", "cores = 58", "is damaged"),
        ("[[part]]", "[[part", "is damaged"),
    ],
)
def test_damage_is_said(tmp_path: Path, old: str, new: str, message: str) -> None:
    """A file that is of another version, lacks a source or a figure, or is no TOML is refused in one line."""
    folder = tmp_path / "l4"
    folder.mkdir()
    text = (SHIPPED / "l4" / "device.toml").read_text()
    assert old in text
    (folder / "device.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(FormatError, match=message) as caught:
        catalogue.entry("l4", [tmp_path])
    assert "\n" not in str(caught.value)
