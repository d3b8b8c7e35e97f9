"""Torch is set for reproducible numbers, and put back."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from hwnas.accuracy.running import channels_last_is_safe, module_of, reproducible, tensor_of
from hwnas.ir import GraphBuilder


def settings() -> tuple[int, bool, bool]:
    return torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory


def test_settings_hold_inside_and_are_restored_even_after_an_error() -> None:
    """Threads and determinism are global to the process, so they are borrowed."""
    before = settings()

    def fail() -> None:
        with reproducible(threads=before[0] + 1):
            assert settings()[:2] == (before[0] + 1, True)
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fail()
    assert settings() == before


def test_channels_last_changes_storage_and_not_the_numbers() -> None:
    """The module gives what the graph means, whatever the order in memory."""
    b = GraphBuilder("net")
    graph = b.finish(b.op("HardSwish", [b.conv(b.input("x", (1, 3, 8, 8)), 4, kernel=3)])).materialize(np.random.default_rng(0))
    images = np.random.default_rng(1).random((2, 3, 8, 8), dtype=np.float32)
    module, tensor = module_of(graph), tensor_of(images)
    assert tensor.is_contiguous(memory_format=torch.channels_last)
    (weight,) = (parameter for parameter in module.parameters() if parameter.ndim == 4)
    with torch.no_grad():
        plain = torch.nn.functional.conv2d(torch.from_numpy(images), weight, padding=1)
        expected = plain * torch.clamp(plain + 3, 0, 6) / 6
        np.testing.assert_allclose(module(tensor).numpy(), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(("channels", "kernel", "stride", "safe"), [(2, 1, 2, False), (8, 1, 2, True), (2, 3, 2, True), (2, 1, 1, True)])
def test_dangerous_convolutions_keep_channels_first(channels: int, kernel: int, stride: int, safe: bool) -> None:
    """A strided 1x1 convolution of few channels, which corrupts torch's heap with channels last, sees its channels first."""
    b = GraphBuilder("few")
    x = b.conv(b.input("x", (1, channels, 8, 8)), 4, kernel=kernel, stride=stride)
    graph = b.finish(x).materialize(np.random.default_rng(0))
    assert channels_last_is_safe(graph) == safe
    module, seen = module_of(graph), []
    layer = next(iter(module.layers.values()))
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    module(tensor_of(np.random.default_rng(0).random((4, channels, 8, 8), dtype=np.float32)))
    assert seen[0].is_contiguous() != safe
