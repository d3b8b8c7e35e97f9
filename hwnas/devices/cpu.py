"""The processor of this machine."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

import cpuinfo
import psutil

from hwnas.devices.base import DeviceSpec, DeviceState, EnergyMeter, Unavailable
from hwnas.devices.rapl import rapl_meter

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")

# float32 operations per cycle and core: vector lanes x 2 (fused multiply-add) x 2 pipes; the widest set that is there counts
_OPS_PER_CYCLE = {"avx512f": 64, "avx2": 32, "avx": 16, "asimd": 16, "sse2": 8}
_TELLING = ("sse2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "sve")
_NOMINAL_HZ = 2.5e9  # where a machine does not tell its clock: sets the scale of the roofline only, which the predictor learns anyway


class CpuDevice:
    """The processor on which this process runs; satisfies `hwnas.devices.base.Device`."""

    @cached_property
    def spec(self) -> DeviceSpec:
        """What the processor says of itself, through the operating system."""
        info = cpuinfo.get_cpu_info()
        features = tuple(flag for flag in _TELLING if flag in set(info.get("flags", ())))
        clock = (info.get("hz_advertised") or info.get("hz_actual") or (None,))[0]
        cores = len(os.sched_getaffinity(0))
        per_cycle = next((ops for flag, ops in _OPS_PER_CYCLE.items() if flag in features), 4)
        peak = cores * per_cycle * (clock or _NOMINAL_HZ)
        return DeviceSpec(
            name="cpu",
            kind="cpu",
            model=str(info.get("brand_raw", "unknown processor")),
            units=cores,
            clock_hz=float(clock) if clock else None,
            peak_flops={"fp32": peak, "int8": 2 * peak},
            caches_bytes=_caches(_CACHES),
            memory_bytes=psutil.virtual_memory().total,
            features=features,
        )

    def state(self) -> DeviceState:
        """Clock, temperature, load of the last 0.1 s and governor, each where the machine tells."""
        frequency = psutil.cpu_freq()
        sensors = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
        hottest = max((reading.current for readings in sensors.values() for reading in readings), default=None)
        return DeviceState(
            clock_hz=frequency.current * 1e6 if frequency else None,
            temperature_c=hottest,
            load=psutil.cpu_percent(interval=0.1) / 100,
            governor=_GOVERNOR.read_text().strip() if _GOVERNOR.is_file() else None,
        )

    def energy_meter(self) -> EnergyMeter | Unavailable:
        """RAPL's counters of the processor packages and their memory, or why they cannot be read."""
        return rapl_meter()


def _caches(folder: Path) -> dict[str, int]:
    """Sizes by level in bytes, from sysfs; empty where it has none."""
    sizes: dict[str, int] = {}
    for index in sorted(folder.glob("index*")):
        kind, level = (index / "type").read_text().strip(), (index / "level").read_text().strip()
        if kind == "Instruction":
            continue
        text = (index / "size").read_text().strip()
        scale = {"K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1], 1)
        sizes[f"l{level}d" if level == "1" else f"l{level}"] = int(text.rstrip("KMG")) * scale
    return sizes
