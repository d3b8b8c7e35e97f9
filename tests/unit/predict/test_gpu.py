"""What a GPU makes of kernels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwnas.devices import DeviceSpec, catalogue
from hwnas.errors import UsageError
from hwnas.ir import Kernel, TensorSpec
from hwnas.predict.features import tabulate
from hwnas.predict.gpu import COLUMNS, ISSUE_SHARE, Figures, Seen, look, sustained_flops

A100 = catalogue.find_model("NVIDIA A100-PCIE-40GB").spec


def gemm(m: int, n: int, k: int) -> Kernel:
    specs = (TensorSpec((m, k)),), (TensorSpec((n, k)),), (TensorSpec((m, n)),)
    return Kernel(op="Gemm", inputs=specs[0], weights=specs[1], outputs=specs[2], attrs=(("transA", 0), ("transB", 1)))


def conv(stride: int = 1, window: int = 3, channels: int = 64) -> Kernel:
    size = 32 // stride
    attrs = (("dilations", (1, 1)), ("group", 1), ("kernel_shape", (window,) * 2), ("strides", (stride,) * 2))
    return Kernel(
        op="Conv",
        inputs=(TensorSpec((4, channels, 32, 32)),),
        weights=(TensorSpec((channels, channels, window, window)),),
        outputs=(TensorSpec((4, channels, size, size)),),
        attrs=attrs,
    )


def relu(*shape: int) -> Kernel:
    return Kernel(op="Relu", inputs=(TensorSpec(shape),), outputs=(TensorSpec(shape),))


def seen(*kernels: Kernel, spec: DeviceSpec = A100) -> Seen:
    return look(tabulate([list(kernels)]), spec)


def column(found: Seen, name: str) -> np.ndarray:
    return found.values[:, COLUMNS.index(name)]


def test_large_kernels_approach_their_limits() -> None:
    """A large product takes its arithmetic at the sustained rate, a large element-wise kernel its bytes at the memory's."""
    found = seen(gemm(16384, 16384, 16384), relu(16384, 16384))
    assert found.bound_s[0] == pytest.approx(2 * 16384**3 / sustained_flops(A100), rel=0.02)
    assert found.bound_s[1] == pytest.approx(2 * 4 * 16384**2 / 1555e9)


def test_whole_waves_of_whole_tiles() -> None:
    """One more row than fits costs another wave, and its padding shows."""
    found = seen(gemm(128 * 108, 128, 1024), gemm(128 * 108 + 1, 128, 1024))
    assert found.bound_s[1] > 1.1 * found.bound_s[0]
    assert column(found, "unpadded_128x128").tolist() == pytest.approx([1.0, (128 * 108 + 1) / (128 * 109)])
    assert column(found, "last_wave_128x128").tolist() == pytest.approx([1.0, 109 / 216])


def test_few_tiles_split_the_inner_dimension() -> None:
    """A product of one tile but much depth is shared among multiprocessors."""
    found = seen(gemm(128, 128, 65536), gemm(8192, 8192, 65536))
    assert column(found, "split")[0] > 1
    assert column(found, "split")[1] == 1


def test_who_answers() -> None:
    """Measured kinds have their models; others have stand-ins, and are said to be no measured ones."""
    product = Kernel(op="MatMul", inputs=(TensorSpec((8, 64, 64)),) * 2, outputs=(TensorSpec((8, 64, 64)),))
    one = replace(product, inputs=(TensorSpec((1, 64, 64)),) * 2, outputs=(TensorSpec((1, 64, 64)),))
    sigmoid = replace(relu(8, 8), op="Sigmoid")
    found = seen(gemm(8, 8, 8), product, one, conv(), conv(stride=2), conv(window=1), relu(8, 8), sigmoid)
    assert found.models.tolist() == ["Gemm", "MatMul", "Gemm", "Conv-dense", "Gemm", "Gemm", "Elementwise", "Elementwise"]
    assert found.measured.tolist() == [True, True, True, True, False, False, True, False]


def test_a_gather_reads_what_it_writes() -> None:
    """The rows that are not gathered stay where they are."""
    kernel = Kernel(op="Gather", inputs=(TensorSpec((16,), "int64"),), weights=(TensorSpec((50000, 64)),), outputs=(TensorSpec((16, 64)),))
    assert seen(kernel).bound_s[0] == pytest.approx((16 * 8 + 2 * 16 * 64 * 4) / 1555e9)


def test_every_column_is_finite() -> None:
    """From the smallest to very large."""
    found = seen(gemm(1, 1, 1), gemm(65536, 65536, 65536), relu(1), relu(65536, 65536), conv())
    assert np.isfinite(found.values).all()
    assert (found.bound_s > 0).all()


def test_power_and_issue_take_from_the_peak() -> None:
    """The clock falls until the power limit is kept, but not below the base clock; a single issue slot a clock costs its share."""
    free = replace(A100, power_limit_w=1000.0)
    assert sustained_flops(free) == A100.peak_flops["fp32"]
    assert sustained_flops(A100) < sustained_flops(free)
    starved = replace(A100, power_limit_w=1.0)
    assert sustained_flops(starved) == pytest.approx(A100.peak_flops["fp32"] * 0.765 / 1.41)
    wide = replace(free, lanes=128, compute_capability="8.9")
    assert sustained_flops(wide) == pytest.approx(ISSUE_SHARE * A100.peak_flops["fp32"])
    assert sustained_flops(replace(free, power_limit_w=None)) == A100.peak_flops["fp32"]


def test_an_incomplete_specification_is_refused() -> None:
    """Without memory rate nothing can be said."""
    with pytest.raises(UsageError, match=r"complete its device\.toml"):
        Figures.of(replace(A100, memory_bytes_per_s=None))
