"""An A100 that is played: the real client over a scripted driver, and a runtime whose networks take time by a formula.

Time is that of a virtual clock. A network draws the power that the formula says while it runs, so that its energy is known exactly; while
the script slows the card down it takes twice as long.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_nvml import A100, FakeDriver
from paper_device import kernel_s, text_of
from virtual_clock import VirtualClock

from hwnas.devices import nvml_energy
from hwnas.ir import Graph
from hwnas.ir.node import Array
from hwnas.predict.features import describe
from hwnas.runtimes import registry
from hwnas.runtimes.base import KernelTime
from hwnas.runtimes.samples import Samples, StoppingRule, sample
from hwnas.runtimes.trt_fusion import FUSERS
from hwnas.testing import Recording, ReplayRuntime
from hwnas.testing.replay import ReplaySession
from hwnas.workflows import metering, profile

SLOWDOWN, POWER_CAP = 0x40, 0x4  # hardware thermal slowdown, software power cap
SPEED = {"fp16": 0.02, "int8": 0.028}  # times as fast as the device on paper: a visit is to take its time
CALL_S = 4e-6
IDLE_W, LEAST_W, PER_FLOP_J, PER_BYTE_J = 60.0, 85.0, 2e-8, 1e-7


@dataclass(frozen=True, slots=True)
class Episode:
    """Time in which something holds the card's clock back."""

    bits: int
    start_s: float
    end_s: float


def times(graph: Graph, precision: str) -> list[KernelTime]:
    """What each kernel takes."""
    return [KernelTime(call=call, seconds=kernel_s(call.kernel) / SPEED[precision] + CALL_S / 4) for call in FUSERS[precision](graph, 0)]


def latency_s(graph: Graph, precision: str) -> float:
    """What a network takes, undisturbed."""
    return CALL_S + sum(time.seconds for time in times(graph, precision))


def energy_j(graph: Graph, precision: str) -> float:
    """What it costs: power that is always drawn, operations and bytes."""
    seen = [describe(time.call.kernel) for time in times(graph, precision)]
    work_j = sum(PER_FLOP_J * one.flops + PER_BYTE_J * one.bytes for one in seen)
    return LEAST_W * latency_s(graph, precision) + work_j


class PlayedSession(ReplaySession):
    """A network on the card."""

    def __init__(self, graph: Graph, precision: str, card: PlayedCard) -> None:
        kernels = tuple(times(graph, precision))
        self.seconds, self.joules = latency_s(graph, precision), energy_j(graph, precision)
        super().__init__(graph, Recording(seconds=[self.seconds], kernels=kernels))
        self._card = card
        self._rng = np.random.default_rng(zlib.crc32("".join(text_of(time.call.kernel) for time in kernels).encode()))

    def time(self, feed: Mapping[str, Array], rule: StoppingRule) -> Samples:
        """Durations that scatter by a hundredth, upwards."""
        clock = self._card.clock

        def run() -> None:
            self._card.busy(self, self.seconds * (1 + 0.01 * self._rng.random()))

        return sample(run, rule, lambda: round(clock.now() * 1e9))

    def repeat(self, feed: Mapping[str, Array]) -> Callable[[int], None]:
        """Many runs, one after the other; then the card draws no more than when it waits."""

        def work(runs: int) -> None:
            self._card.busy(self, runs * self.seconds)
            self._card.driver.library.fake_nvml_idle(0)

        return work

    def kernel_times(self, feed: Mapping[str, Array], runs: int) -> tuple[KernelTime, ...]:
        """With the profiler on, which is twice as slow."""
        self._card.busy(self, 2 * runs * self.seconds)
        return super().kernel_times(feed, runs)


class PlayedCard:
    """The card, its clock, and what was built for it."""

    def __init__(self, driver: FakeDriver, clock: VirtualClock, episodes: Sequence[Episode]) -> None:
        self.driver, self.clock, self.episodes = driver, clock, episodes
        self.built: list[tuple[str, str]] = []

    @classmethod
    def of(cls, driver: FakeDriver, *episodes: Episode, script: str = "") -> PlayedCard:
        """A card on which these episodes will happen."""
        lines = "".join(f"event {one.bits} {one.start_s} {one.end_s} 1\n" for one in episodes)
        return cls(driver, driver.load(f"{A100}idle {IDLE_W}\nheat 30 0.01 10\n{lines}{script}"), episodes)

    def busy(self, session: PlayedSession, seconds: float) -> None:
        """Works for so long, undisturbed; twice as long where the card is slowed down."""
        slow = any(one.bits & SLOWDOWN and one.start_s <= self.clock.now() < one.end_s for one in self.episodes)
        self.driver.library.fake_nvml_draw(0, session.joules / session.seconds)
        self.driver.library.fake_nvml_run(0)
        self.clock.sleep(2 * seconds if slow else seconds)

    def runtime(self, *_: object) -> ReplayRuntime:
        """TensorRT, and whatever else is asked for, as this card plays it."""
        card = self

        class Played(ReplayRuntime):
            def build(self, model: Any, *, precision: str = "fp32") -> ReplaySession:
                graph = super().build(model, precision=precision).graph
                card.built.append((graph.name, precision))
                return PlayedSession(graph, precision, card)

        unused = Recording(seconds=[1.0], kernels=())
        return Played(lambda _: unused, name="tensorrt", version="11.4", precisions=tuple(SPEED), call_s=CALL_S)

    def plug_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Makes this machine one that has the card, in its own time."""
        for name in ("tensorrt", "onnxruntime-cuda"):
            monkeypatch.setitem(registry._MAKERS, name, self.runtime)
        monkeypatch.setattr(nvml_energy, "SystemClock", lambda: self.clock)
        monkeypatch.setattr(profile, "SystemClock", lambda: self.clock)
        monkeypatch.setattr(metering, "SystemClock", lambda: self.clock)


def model_of(graph: Graph, folder: Path) -> Path:
    """A network as a file."""
    from hwnas.ir.onnx import save

    return save(graph.materialize(np.random.default_rng(0)), folder / f"{graph.name}.onnx")
