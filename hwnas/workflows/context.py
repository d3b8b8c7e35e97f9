"""What every verb needs: the setting, its runtime, the software that figures depend on."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata

from hwnas import __version__, spaces
from hwnas.assets import Workspace
from hwnas.devices import Device, find, name_of
from hwnas.errors import UsageError, did_you_mean
from hwnas.predict.roofline import USUAL_BYTES_PER_S, Roofline
from hwnas.profiling import Profile, Setting
from hwnas.runtimes import registry
from hwnas.runtimes.base import Runtime

_PACKAGES = ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt", "torch", "xgboost-cpu", "pymoo", "scikit-learn")


def setting_of(device: str, *, runtime: str | None = None, threads: int = 1, batch: int = 1, precision: str = "fp32") -> Setting:
    """The setting that a call asks for.

    Raises:
        UsageError: for an unknown device, a runtime that it does not have, or an impossible number of threads or images.
        DeviceUnavailable: for a card, such as `cuda:1`, that is not here.
    """
    device = name_of(device)
    if threads < 1:
        raise UsageError(f"--threads must be at least 1, got {threads}")
    if batch < 1:
        raise UsageError(f"--batch must be at least 1, got {batch}")
    choices = registry.choices(device)
    known = choices if registry.CPU in choices else (*choices, registry.EAGER)
    if runtime is not None and runtime not in known:
        raise UsageError(f"unknown runtime '{runtime}'{did_you_mean(runtime, known)}; '{device}' has: {', '.join(known)}")
    return Setting(device=device, runtime=runtime or known[0], threads=threads, batch=batch, precision=precision)


def runtime_there(setting: Setting, there: Callable[[Setting], bool]) -> str:
    """The runtime that is meant where none is named: the device's usual one if something is there of it, else the only one that is.

    Args:
        setting: with the device's usual runtime.
        there: whether what is looked for, a profile or a predictor, is there for a setting.

    Returns:
        The usual runtime too where nothing is there at all, so that what is missing is said of that.

    Raises:
        UsageError: it is there for several others; lists them.
    """
    found = [name for name in registry.choices(setting.device) if there(replace(setting, runtime=name))]
    if setting.runtime in found or not found:
        return setting.runtime
    if len(found) > 1:
        raise UsageError(f"'{setting.device}' was profiled with {' and with '.join(found)}; say which is meant with --runtime")
    return found[0]


def device_and_runtime(
    workspace: Workspace, device: str, *, runtime: str | None = None, threads: int, batch: int, precision: str = "fp32"
) -> tuple[Device, Runtime, Setting]:
    """The device, if it is here, with the runtime that measures it: the one asked for, else the device's usual one.

    Raises:
        DeviceUnavailable: the device is not on this machine.
    """
    found = find(device)
    setting = setting_of(found.spec.name, runtime=runtime, threads=threads, batch=batch, precision=precision)
    return found, registry.make(setting.runtime, threads, found, workspace), setting


def space_for(name: str, num_classes: int) -> spaces.SearchSpace:
    """The space of this name with so many classes: as it stands where they agree, else as its constructor makes it."""
    space = spaces.load(name)
    return space if space.num_classes == num_classes else spaces.load(name, num_classes=num_classes)


def versions() -> dict[str, str]:
    """Versions of what figures depend on, those installed."""
    found = {"hwnas": __version__, "python": platform.python_version(), "os": f"{platform.system()} {platform.release()}"}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def clocks(device: Device) -> dict[str, str]:
    """What a device says of its clock (the default one where it tells that), of what sets it, and of its driver."""
    state = device.state()
    clock_hz = state.default_clock_hz or state.clock_hz
    found = {"governor": state.governor, "clock": f"{clock_hz / 1e6:.0f} MHz" if clock_hz else None, "driver": state.driver}
    return {key: value for key, value in found.items() if value}


def roofline_of(profile: Profile) -> Roofline:
    """The roofline of what a profile used: of its threads on a processor, of the whole card on a card."""
    device, setting = profile.device, profile.setting
    peak_flops = float(device["peak_flops"].get(setting.precision, device["peak_flops"]["fp32"]))
    if device.get("kind") == "gpu":
        return Roofline(flops_per_s=peak_flops, bytes_per_s=float(device.get("memory_bytes_per_s", USUAL_BYTES_PER_S)))
    return Roofline.of(peak_flops=peak_flops * setting.threads / int(device["units"]))
