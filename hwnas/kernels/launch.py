"""Running a kernel on tensors: on a card, or on the processor by Triton's interpreter (`TRITON_INTERPRET=1` before Triton is imported)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hwnas.errors import MeasurementError, UsageError, require
from hwnas.kernels.source import PRECISIONS, Attrs, Case, KernelSource, Tuning

LARGEST_GRID = 65_535  # programs along any axis but the first
LARGEST_PLANE = 2**31 - 1  # elements of a tensor: offsets inside a plane, and counts, have 32 bits


def cdiv(a: int, b: int) -> int:
    """How many blocks of b hold a.

    >>> cdiv(9, 4)
    3
    """
    return -(-a // b)


def random_tensors(case: Case, precision: str, device: str, seed: int = 0) -> dict[str, Any]:
    """Inputs for a case: standard normal, weights scaled so that outputs stay of that size (torch tensors)."""
    torch = require("torch")
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in case.shapes.items():
        values = torch.randn(shape, generator=generator)
        if name not in ("x", "residual") and len(shape) > 1:
            values /= (values.numel() / shape[0]) ** 0.5
        found[name] = values.to(device, getattr(torch, PRECISIONS[precision]))
    return found


def prepare(source: KernelSource, tensors: Mapping[str, Any], attrs: Attrs, tuning: Tuning) -> Callable[[], tuple[Any, ...]]:
    """A call that launches the kernel into outputs that are made once.

    Args:
        source: the kernel.
        tensors: its inputs (torch), contiguous, of one precision.
        attrs: its attributes.
        tuning: how to launch it.

    Raises:
        UsageError: a tensor is not contiguous, or too large.
    """
    torch, code = require("torch"), source.code
    for name, tensor in tensors.items():
        if not tensor.is_contiguous() or tensor.numel() > LARGEST_PLANE:
            raise UsageError(
                f"'{source.name}' takes contiguous tensors of fewer than 2^31 elements, and '{name}' is not one; copy or split it"
            )
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    constants = code.constants(shapes, attrs, tuning.sizes)
    grid = code.grid(shapes, attrs, constants, cdiv)
    if any(size > LARGEST_GRID for size in grid[1:]):
        raise UsageError(
            f"'{source.name}' would need {max(grid[1:])} programs along an axis that holds {LARGEST_GRID}; give it smaller images"
        )
    outputs = tuple(
        torch.empty(shape, dtype=tensors["x"].dtype, device=tensors["x"].device) for shape in code.outputs(shapes, attrs).values()
    )
    arguments = (*(tensors.get(name) for name in code.INPUTS), *code.scalars(shapes, attrs).values(), *outputs)

    def launch() -> tuple[Any, ...]:
        code.ENTRY[grid](*arguments, **constants, num_warps=tuning.warps)
        return outputs

    return launch


def check(source: KernelSource, found: tuple[Any, ...], tensors: Mapping[str, Any], attrs: Attrs, precision: str) -> float:
    """The largest difference from the truth, in tolerances: at most 1.

    Raises:
        MeasurementError: it is larger, or there are values that are no numbers where the truth has some.
    """
    torch = require("torch")
    allowed = source.tolerance[precision]
    truth = source.reference({name: tensor.double() for name, tensor in tensors.items()}, attrs)
    worst = 0.0
    for output, value, exact in zip(source.code.OUTPUTS, found, truth, strict=True):
        error = (value.double() - exact).abs() / (allowed.absolute + allowed.relative * exact.abs())
        largest = float(torch.nan_to_num(error, nan=torch.inf).max())
        if largest > 1:
            raise MeasurementError(
                f"'{source.name}' in {precision}: output '{output}' is off by {largest:.3g} times the tolerance of kernel.toml"
            )
        worst = max(worst, largest)
    return worst
