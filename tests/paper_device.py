"""A device that exists on paper: kernels of real networks, times from a formula."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from functools import cache
from math import log

import numpy as np

from hwnas import spaces
from hwnas.ir import Kernel
from hwnas.predict.features import describe
from hwnas.predict.roofline import Roofline
from hwnas.profiling import NetworkRecord, Setting
from hwnas.profiling.profile import Raw, records_of
from hwnas.profiling.slowdowns import Slowdowns
from hwnas.profiling.waves import Pooled
from hwnas.runtimes.fusions import Fusions
from hwnas.runtimes.ort_fusion import fuse

BLOCK = 8
CALL_S = 5e-6
ROOFLINE = Roofline(flops_per_s=8e10, bytes_per_s=1.5e10)
SETTING = Setting(device="cpu", runtime="onnxruntime-cpu")


text_of = cache(Kernel.to_json)


def noise(text: str, spread: float) -> float:
    """A factor about 1 that is fixed for a text: e to the (normal x spread)."""
    return float(np.exp(spread * np.random.default_rng(zlib.crc32(text.encode())).standard_normal()))


@cache
def kernel_s(kernel: Kernel) -> float:
    """Time of a kernel: start, work at the rate of its kind, bytes, and 2 % that no feature explains."""
    seen = describe(kernel)
    rate = {"Conv-pointwise": 4e10, "Conv-dense": 5e10, "Conv-depthwise": 1e10}.get(seen.kind, 2e10)
    return (1.5e-6 + seen.flops / rate + seen.bytes / 1e10) * noise(text_of(kernel), 0.02)


def latency_s(kernels: Sequence[Kernel]) -> float:
    """Time of a network: its kernels and the call, more where there are more weights, and 1 % of chance."""
    weights = sum(describe(kernel).weight_bytes for kernel in kernels)
    return (CALL_S + sum(map(kernel_s, kernels))) * (1 + 0.02 * log(weights / 1e5)) * noise("".join(map(text_of, kernels)), 0.01)


def measured(
    count: int,
    *,
    seed: int = 0,
    space: str = "mobilenet-small",
    median: float = 1.0,
    fusions: Fusions | int = BLOCK,
    beyond: Callable[[Sequence[Kernel]], Sequence[float]] = lambda kernels: [0.0] * len(kernels),
) -> list[NetworkRecord]:
    """Random networks of a space as a profile would hold them.

    Args:
        count: of networks.
        seed: of the draw.
        space: its name.
        median: their median is so many times their p10.
        fusions: of the device.
        beyond: what the kernels of a network take beyond their usual time, in s.
    """
    source = spaces.load(space)
    rows = []
    for i in range(count):
        genotype = source.canonical(source.sample(np.random.default_rng([seed, i])))
        calls = fuse(source.graph(genotype), fusions)
        kernels = [call.kernel for call in calls]
        more = beyond(kernels)
        seconds = (latency_s(kernels) + sum(more)) * np.array([1.0] * 2 + [median] * 8)
        pooled = Pooled.from_samples(seconds, np.zeros(10, np.int64), Slowdowns.of({}))
        times = [(call, kernel_s(call.kernel) + extra) for call, extra in zip(calls, more, strict=True)]
        rows.append(Raw(i, genotype, pooled, times, round(CALL_S * 1e9)))
    return records_of(rows)
