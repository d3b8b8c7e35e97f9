"""Specs and their fingerprints."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwnas.devices import DeviceSpec

SPEC = DeviceSpec(
    name="cpu",
    kind="cpu",
    model="some processor",
    units=4,
    clock_hz=3e9,
    peak_flops={"fp32": 1e11},
    caches_bytes={"l1d": 32768, "l2": 1048576},
    memory_bytes=2**34,
    features=("avx2", "fma"),
)


def test_the_fingerprint_is_stable() -> None:
    """The same device has the same 12 digits in every process and version: profiles on disk are told by them."""
    assert SPEC.fingerprint == "0aac696be4ad"


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "gpu"},
        {"model": "another processor"},
        {"units": 8},
        {"caches_bytes": {"l1d": 32768, "l2": 2097152}},
        {"caches_bytes": {"l1d": 32768}},
        {"features": ("avx2", "fma", "avx512f")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_fingerprint_tells_devices_apart(change: dict[str, object]) -> None:
    """Whatever changes how kernels run changes the fingerprint."""
    assert replace(SPEC, **change).fingerprint != SPEC.fingerprint


@pytest.mark.parametrize(
    "change",
    [{"clock_hz": None}, {"peak_flops": {"fp32": 2e11}}, {"memory_bytes": 2**35}, {"caches_bytes": {"l2": 1048576, "l1d": 32768}}],
    ids=["clock", "peak", "memory", "order of caches"],
)
def test_the_fingerprint_ignores_the_rest(change: dict[str, object]) -> None:
    """What a machine does not always tell, or what only scales the roofline, does not invalidate a profile."""
    assert replace(SPEC, **change).fingerprint == SPEC.fingerprint


def test_as_plain_values() -> None:
    """A spec goes into TOML: no None, no tuple, and the fingerprint beside it."""
    plain = replace(SPEC, clock_hz=None).as_dict()
    assert "clock_hz" not in plain
    assert plain["features"] == ["avx2", "fma"]
    assert plain["fingerprint"] == SPEC.fingerprint
    assert plain["caches_bytes"] == {"l1d": 32768, "l2": 1048576}
