"""The catalogue of devices that need not be at hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from hwnas import assets
from hwnas.devices import catalogue
from hwnas.errors import FormatError, NotFoundError

SHIPPED = assets.root("profiles")


SOLD = "a10 a100 a30 b200 h100 h200 l4 l40s orin rtx3090 rtx4090 rtx5090 t4 v100"
TENSOR_CLOCK = 0.86  # of the highest clock: what makers reckon the rates of tensor cores with, at the least


def test_what_ships() -> None:
    """Fourteen devices are described, and the parts in which they are sold."""
    assert catalogue.names() == tuple(SOLD.split())
    assert [part.id for part in catalogue.entry("a100").parts] == ["pcie-40gb", "pcie-80gb", "sxm4-40gb", "sxm4-80gb"]
    assert {part.spec.model for part in catalogue.entry("h100").parts} >= {"NVIDIA H100 PCIe", "NVIDIA H100 80GB HBM3"}


@pytest.mark.parametrize("name", catalogue.names())
def test_figures_agree(name: str) -> None:
    """Every part's peak follows from its lanes and clock, its parts can be told apart, and every figure has a source."""
    found = catalogue.entry(name)
    assert found.name == name
    assert len({part.id for part in found.parts}) == len({(part.spec.model, part.spec.memory_bytes) for part in found.parts})
    assert len({part.id for part in found.parts}) == len(found.parts)
    for part in found.parts:
        spec = part.spec
        assert spec.lanes is not None
        assert spec.clock_hz is not None
        assert spec.units * spec.lanes * 2 * spec.clock_hz == pytest.approx(spec.peak_flops["fp32"], rel=0.01)
        assert {"units", "peak_flops", "memory_bytes_per_s", "power_limit_w"} <= set(part.sources)
        assert all(source.document for source in part.sources.values())


@pytest.mark.parametrize("part", catalogue.parts(), ids=lambda part: f"{part.spec.name}-{part.id}")
def test_tensor_cores_do_a_power_of_two_a_clock(part: catalogue.Part) -> None:
    """Each rate is a power of two of operations in each multiprocessor and clock, and halving the width never slows it down."""
    rates = part.spec.peak_flops
    assert part.spec.clock_hz is not None
    for rate in rates.values():
        each = math.log2(rate / part.spec.units / part.spec.clock_hz)
        assert math.log2(TENSOR_CLOCK) - 0.01 < each - math.ceil(each - 0.02) <= 0.02
    for narrow, wide in (("int8", "fp16"), ("fp8", "fp16"), ("fp16", "tf32"), ("tf32", "fp32"), ("bf16", "tf32")):
        assert rates.get(narrow, math.inf) >= rates.get(wide, 0)
    assert rates.get("bf16", rates.get("fp16")) == rates.get("fp16")
    assert ("tf32" in rates) == ("bf16" in rates)


def test_power_readings() -> None:
    """An A100 tells the power of now, of a quarter of the time; later cards average theirs, unless asked; a Jetson tells none."""
    a100, l4, h100, orin = (catalogue.entry(name).part().power for name in ("a100", "l4", "h100", "orin"))
    assert set(a100) == {"usage"}
    assert a100["usage"].part_time
    assert a100["usage"].lag_s == 0
    assert l4["usage"].lag_s == l4["average"].lag_s == h100["usage"].lag_s == 1
    assert not l4["instant"].part_time
    assert h100["instant"].part_time
    assert orin == {}


def test_what_was_not_looked_up_is_marked() -> None:
    """A part may share its siblings' figures and sources, and have some of its own that nobody found in a document."""
    a100 = catalogue.entry("a100")
    assert a100.part("pcie-40gb").unverified == ()
    assert a100.part("pcie-80gb").unverified == ("base_clock_hz",)
    assert a100.part("sxm4-80gb").sources["memory_bytes_per_s"] != a100.part("sxm4-40gb").sources["memory_bytes_per_s"]
    assert a100.part("sxm4-80gb").sources["units"] == a100.part("sxm4-40gb").sources["units"]


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
        ("format = 2", "format = 9", "has format 9, this hwnas reads 2"),
        ('"model", "units",', '"model",', "gives no source for 'units'"),
        ("usage = {", "mean = {", "a power reading that NVML has not: mean"),
        ("seen_s = 0.1 }", "seen_s = 0.2 }", "a meter sees a part of each period"),
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
