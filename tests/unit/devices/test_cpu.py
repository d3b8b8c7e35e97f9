"""The processor of this machine, and processors made up as files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hwnas.devices import DeviceState, Unavailable, cpu, find
from hwnas.devices.cpu import CpuDevice, _caches
from hwnas.devices.rapl import rapl_meter


def test_the_spec_is_sane() -> None:
    """Whatever machine this is: a model, the processors that this process may use, a peak, memory, and caches that grow outwards."""
    spec = find("cpu").spec
    assert (spec.name, spec.kind) == ("cpu", "cpu")
    assert spec.model
    assert spec.units == len(os.sched_getaffinity(0))
    assert spec.clock_hz is None or 1e8 < spec.clock_hz < 1e10
    assert spec.units * 1e8 < spec.peak_flops["fp32"] < spec.units * 1e13
    assert spec.peak_flops["int8"] == 2 * spec.peak_flops["fp32"]
    assert spec.memory_bytes > 2**27
    assert list(spec.caches_bytes.values()) == sorted(spec.caches_bytes.values())


def test_the_spec_does_not_change() -> None:
    """Two looks at the same machine give the same fingerprint."""
    assert CpuDevice().spec.fingerprint == find("cpu").spec.fingerprint


def info(monkeypatch: pytest.MonkeyPatch, **values: object) -> None:
    monkeypatch.setattr(cpu.cpuinfo, "get_cpu_info", lambda: values)


@pytest.mark.parametrize(("flags", "per_cycle"), [(("sse2", "avx2", "fma"), 32), (("avx512f", "avx2"), 64), (("asimd",), 16), ((), 4)])
def test_the_peak_follows_the_widest_instructions(monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], per_cycle: int) -> None:
    """The peak is cores x clock x operations per cycle of the widest instruction set."""
    info(monkeypatch, flags=list(flags), hz_advertised=(2_000_000_000, 0), brand_raw="X")
    spec = CpuDevice().spec
    assert spec.peak_flops["fp32"] == spec.units * 2e9 * per_cycle
    assert spec.features == tuple(flag for flag in spec.features if flag in flags)


def test_a_machine_that_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a clock, a name or flags there is still a spec, and what is unknown is None."""
    info(monkeypatch)
    spec = CpuDevice().spec
    assert spec.clock_hz is None
    assert spec.model == "unknown processor"
    assert spec.features == ()
    assert spec.peak_flops["fp32"] > 0


def cache(folder: Path, index: int, level: int, kind: str, size: str) -> None:
    place = folder / f"index{index}"
    place.mkdir(parents=True)
    for name, text in (("level", str(level)), ("type", kind), ("size", size)):
        (place / name).write_text(text + "\n")


def test_caches_from_sysfs(tmp_path: Path) -> None:
    """Data and unified caches by level in bytes; instruction caches are left out."""
    cache(tmp_path, 0, 1, "Data", "48K")
    cache(tmp_path, 1, 1, "Instruction", "32K")
    cache(tmp_path, 2, 2, "Unified", "2M")
    cache(tmp_path, 3, 3, "Unified", "107520K")
    cache(tmp_path, 4, 4, "Unified", "1G")
    assert _caches(tmp_path) == {"l1d": 48 * 2**10, "l2": 2 * 2**20, "l3": 105 * 2**20, "l4": 2**30}


def test_no_caches_told(tmp_path: Path) -> None:
    """A machine without sysfs has no known caches, and that is no error."""
    assert _caches(tmp_path / "none") == {}


def test_the_state_is_observed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Load is a share, the clock in Hz, the hottest sensor counts, the governor is read where there is one."""

    class Reading:
        def __init__(self, current: float) -> None:
            self.current = current

    monkeypatch.setattr(cpu.psutil, "cpu_freq", lambda: Reading(2500.0))
    monkeypatch.setattr(cpu.psutil, "cpu_percent", lambda interval: 25.0)
    monkeypatch.setattr(
        cpu.psutil, "sensors_temperatures", lambda: {"a": [Reading(41.0), Reading(55.5)], "b": [Reading(30.0)]}, raising=False
    )
    (tmp_path / "governor").write_text("powersave\n")
    monkeypatch.setattr(cpu, "_GOVERNOR", tmp_path / "governor")
    assert CpuDevice().state() == DeviceState(clock_hz=2.5e9, temperature_c=55.5, load=0.25, governor="powersave")


def test_a_state_that_is_not_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a machine does not tell is None, not 0."""
    monkeypatch.setattr(cpu.psutil, "cpu_freq", lambda: None)
    monkeypatch.setattr(cpu.psutil, "cpu_percent", lambda interval: 0.0)
    monkeypatch.setattr(cpu.psutil, "sensors_temperatures", dict, raising=False)
    monkeypatch.setattr(cpu, "_GOVERNOR", tmp_path / "none")
    assert CpuDevice().state() == DeviceState(load=0.0)


def test_the_meter_is_rapls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Energy is unavailable with its reason, never 0 J, where the machine has no counters; with them, they are the meter."""
    monkeypatch.setattr(cpu, "rapl_meter", lambda: rapl_meter(tmp_path))
    without = CpuDevice().energy_meter()
    assert isinstance(without, Unavailable)
    assert "no energy counter" in without.reason
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    for name, text in (("name", "package-0"), ("energy_uj", "1"), ("max_energy_range_uj", "262143328850")):
        (zone / name).write_text(text + "\n")
    meter = CpuDevice().energy_meter()
    assert not isinstance(meter, Unavailable)
    assert meter.source == "rapl"
