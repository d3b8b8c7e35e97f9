"""Runs kernels by Triton's interpreter on random shapes; wants a process of its own with TRITON_INTERPRET=1.

Prints a JSON list of `{kernel, precision, shapes, attrs, worst}`: `worst` is the largest difference from the truth in tolerances.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import numpy as np
import torch

from hwnas.errors import MeasurementError
from hwnas.kernels import Case, KernelSource, Tuning, all_kernels, launch
from hwnas.kernels.launch import check, prepare, random_tensors
from hwnas.kernels.source import PRECISIONS, Attrs


def depthwise_conv(rng: np.random.Generator) -> Iterator[Case]:
    """Windows larger than the image, single rows and columns, strides that leave pixels over, every activation and addition."""
    activations, additions = ("none", "relu", "relu6", "hardswish", "silu"), ("none", "before", "after")
    for i in range(8):
        window, stride = int(rng.choice([1, 3, 5, 7])), int(rng.choice([1, 2, 3]))
        pad = window // 2 if i % 4 else 0
        batch, channels = int(rng.integers(1, 4)), int(rng.integers(1, 20))
        height, width = (int(size) for size in rng.integers(max(1, window - 2 * pad), 12, 2) + (0 if pad else 1))
        shapes = {"x": (batch, channels, height, width), "weight": (channels, 1, window, window), "bias": (channels,)}
        attrs = {"stride": stride, "pad": pad, "activation": activations[i % 5], "add": additions[i % 3]}
        if attrs["add"] != "none":
            size = [(side + 2 * pad - window) // stride + 1 for side in (height, width)]
            shapes["residual"] = (batch, channels, size[0], size[1])
        yield Case(name="", shapes=shapes, attrs=attrs)


def squeeze_excite(rng: np.random.Generator) -> Iterator[Case]:
    """One hidden unit, one pixel, widths that are no powers of two, more channels than a block."""
    for i in range(6):
        batch, channels, hidden = (int(size) for size in rng.integers(1, (4, 90, 40)))
        height, width = (1, 1) if i == 0 else (int(size) for size in rng.integers(1, 12, 2))
        shapes = {
            "x": (batch, channels, height, width),
            "reduce": (hidden, channels),
            "reduce_bias": (hidden,),
            "expand": (channels, hidden),
            "expand_bias": (channels,),
        }
        yield Case(name="", shapes=shapes, attrs={"activation": ("relu", "silu")[i % 2], "gate": ("sigmoid", "hardsigmoid")[i // 2 % 2]})


def layer_norm_residual(rng: np.random.Generator) -> Iterator[Case]:
    """One element to a row, widths around powers of two, two to four axes."""
    for i in range(6):
        width = (1, 64, 63, 65, 197, 300)[i]
        rows = tuple(int(size) for size in rng.integers(1, 6, 1 + i % 3))
        shapes = {"x": (*rows, width), "residual": (*rows, width), "weight": (width,), "bias": (width,)}
        yield Case(name="", shapes=shapes, attrs={"epsilon": (1e-5, 1e-6)[i % 2]})


def run(source: KernelSource, case: Case, precision: str, tuning: Tuning) -> float:
    """The largest difference in tolerances; infinite where the kernel's own check refuses it."""
    tensors = random_tensors(case, precision, "cpu", seed=len(str(case)))
    try:
        return check(source, prepare(source, tensors, case.attrs, tuning)(), tensors, case.attrs, precision)
    except MeasurementError as error:
        sys.stderr.write(f"{error} {case}\n")
        return float("inf")


def not_a_number(source: KernelSource) -> bool:
    """Whether NaN in the first element comes out as NaN."""
    shapes = {name: tuple(min(size, 9) for size in shape) for name, shape in source.cases[0].shapes.items()}
    case = Case(name="", shapes=shapes, attrs={**source.cases[0].attrs, **({"pad": 1} if "pad" in source.attrs else {})})
    tensors = random_tensors(case, "fp32", "cpu")
    tensors["x"].view(-1)[0] = float("nan")
    return all(bool(torch.isnan(value.view(-1)[0])) for value in prepare(source, tensors, case.attrs, source.tunings[0])())


def in_a_row(source: KernelSource, case: Case) -> float:
    """What launches in a row with products come to, against the same with the reference in the kernel's place; the largest difference."""

    def by_reference(source: KernelSource, tensors: dict[str, torch.Tensor], attrs: Attrs, _: Tuning) -> object:
        outputs = tuple(torch.empty_like(value) for value in source.reference(tensors, attrs))
        return lambda: tuple(into.copy_(value) for into, value in zip(outputs, source.reference(tensors, attrs), strict=True))

    how = {"tuning": source.tunings[0], "precision": "fp32", "device": "cpu", "products": 2, "works": 2}
    found = launch.row(source, case, **how)()["value"]
    prepared, launch.prepare = launch.prepare, by_reference
    expected = launch.row(source, case, **how)()["value"]
    launch.prepare = prepared
    return float((found - expected).abs().max() / expected.abs().max())


def main() -> None:
    """Runs all kernels in all precisions, the ways to launch them in turn."""
    torch.set_num_threads(1)
    cases = {"depthwise_conv": depthwise_conv, "squeeze_excite": squeeze_excite, "layer_norm_residual": layer_norm_residual}
    found: list[dict[str, object]] = []
    for source in all_kernels():
        found.append({"kernel": source.name, "precision": "nan", "worst": 0.0 if not_a_number(source) else float("inf")})
        for i, case in enumerate(cases[source.name](np.random.default_rng(7))):
            if i == 1:
                found.append({"kernel": source.name, "precision": "row", "worst": in_a_row(source, case)})
            for precision in PRECISIONS:
                worst = run(source, case, precision, source.tunings[i % len(source.tunings)])
                found.append({"kernel": source.name, "precision": precision, "worst": worst})
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
