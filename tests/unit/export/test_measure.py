"""Contenders are timed alone and side by side, and disturbed attempts are repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from hwnas.export.measure import ATTEMPTS, FEWEST_ALONE, FEWEST_ROUNDS, eager_torch, predictor, time_all
from hwnas.ir import Graph, GraphBuilder
from hwnas.runtimes.ort import OrtRuntime


class Scripted:
    """A clock that only runs forward when a contender runs."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.calls: list[str] = []

    def __call__(self) -> int:
        return self.now_ns

    def contender(self, name: str, durations_ms: Iterator[float]) -> Callable[[], None]:
        def run() -> None:
            self.calls.append(name)
            self.now_ns += int(next(durations_ms) * 1e6)

        return run


def steady(value: float) -> Iterator[float]:
    while True:
        yield value


def test_a_quiet_machine_is_measured_once() -> None:
    """Each contender's time is its own, alone and side by side; the pairs alternate."""
    clock = Scripted()
    runs = {"a": clock.contender("a", steady(2)), "b": clock.contender("b", steady(5))}
    latencies = time_all(runs, threads=1, seconds=0.01, clock=clock)
    for table in (latencies.alone, latencies.side_by_side):
        assert table["a"].median_s == pytest.approx(0.002)
        assert table["b"].median_s == pytest.approx(0.005)
    assert latencies.side_by_side["a"].n == latencies.side_by_side["b"].n == FEWEST_ROUNDS
    assert latencies.alone["a"].n == FEWEST_ALONE
    assert clock.calls[4 + 6 : 4 + 6 + 2 * FEWEST_ROUNDS] == ["a", "b"] * FEWEST_ROUNDS


def test_a_disturbed_attempt_is_taken_again() -> None:
    """The quietest of three attempts counts where none is quiet."""
    clock = Scripted()
    rng = np.random.default_rng(0)
    spread = iter([1.0, 1.0, *rng.uniform(1, 9, 2 * (3 + FEWEST_ROUNDS)), *rng.uniform(1, 4, 10_000)])
    latencies = time_all({"a": clock.contender("a", spread)}, threads=1, seconds=0.01, clock=clock)
    assert len(clock.calls) == 2 + ATTEMPTS * (3 + FEWEST_ALONE + 3 + FEWEST_ROUNDS)
    assert latencies.side_by_side["a"].seconds.max() <= 0.004


def test_eager_torch_answers_like_the_runtime(graph: Graph, feeds: list[dict[str, np.ndarray]]) -> None:
    """The rival computes the same function, and torch gets its threads back afterwards."""
    torch.set_num_threads(1)
    with eager_torch(graph, feeds[0], threads=1) as run:
        found = run()
    assert isinstance(found, torch.Tensor)
    assert not found.requires_grad
    np.testing.assert_allclose(found.numpy(), OrtRuntime().build(graph).run(feeds[0])[0], atol=1e-4)
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("batch", [1, 4])
def test_any_number_of_images_is_served(batch: int) -> None:
    """Batches of the network's own size, the last one padded, give each image its own answer in order."""
    b = GraphBuilder("mean")
    graph = b.finish(b.op("ReduceMean", [b.input("x", (batch, 2, 3, 3))], axes=(2, 3), keepdims=0))
    images = np.random.default_rng(0).standard_normal((6, 2, 3, 3), dtype=np.float32)
    predict = predictor(OrtRuntime().build(graph), graph)
    np.testing.assert_allclose(predict(images), images.mean(axis=(2, 3)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(predict(images[:3]), images[:3].mean(axis=(2, 3)), rtol=1e-5, atol=1e-6)
