"""Running a kernel on tensors: on a card, or on the processor by Triton's interpreter (`TRITON_INTERPRET=1` before Triton is imported)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from hwnas.errors import MeasurementError, UsageError, require
from hwnas.kernels.chain import on_rows
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


def row(
    source: KernelSource, case: Case, *, tuning: Tuning, precision: str, device: str, products: int, works: int
) -> Callable[[], dict[str, Any]]:
    """A call that does what a network of `hwnas.kernels.chain` does: products in a row, with the kernel before the first `works` of them.

    Each launch and each product has weights of its own, reads what was written before it, and writes into memory that is made once.

    Returns:
        The call; it gives the outputs of the last launch, and `value`, that of the last product.
    """
    torch = require("torch")
    tensors = random_tensors(case, precision, device)
    value = x = tensors["x"]
    steps: list[Callable[[], object]] = []
    last: dict[str, Any] = {}
    for i in range(products):
        made = value
        if i < works:
            fresh = random_tensors(case, precision, device, seed=i)
            carried = {key: last.get("total", tensors[key]) for key in ("residual",) if key in tensors}
            launch = prepare(source, {**fresh, **carried, "x": value if value.shape == x.shape else x}, case.attrs, tuning)
            last = dict(zip(source.code.OUTPUTS, launch(), strict=True))
            steps.append(launch)
            made = last["y"]
        product, value = _product(torch, made, rows=on_rows(source.name), seed=i)
        steps.append(product)

    def run() -> dict[str, Any]:
        for step in steps:
            step()
        return {**last, "value": value}

    return run


def _product(torch: Any, value: Any, *, rows: bool, seed: int) -> tuple[Callable[[], object], Any]:
    """A product of a value with weights that keeps its shape and its size, into memory that is made once."""
    flat = value.reshape(1, -1, value.shape[-1]) if rows else value.flatten(2)
    width = flat.shape[2] if rows else flat.shape[1]
    drawn = torch.randn((width, width), generator=torch.Generator().manual_seed(seed)) / width**0.5
    weight = drawn.to(value.device, value.dtype).expand(flat.shape[0], width, width)
    out = torch.empty_like(flat)
    product = partial(torch.bmm, *((flat, weight) if rows else (weight, flat)), out=out)
    product()
    return product, out.view(value.shape)


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
