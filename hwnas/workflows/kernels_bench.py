"""`hwnas kernels bench`: measures on a card whether the custom kernels pay, by themselves and on a network."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from hwnas.devices import find as find_device
from hwnas.devices.nvidia import NvidiaDevice
from hwnas.errors import DeviceUnavailable, HwnasError, UsageError, require
from hwnas.ir import Graph
from hwnas.kernels import Case, KernelSource, Tuning
from hwnas.kernels.launch import check, prepare, random_tensors
from hwnas.kernels.source import PRECISIONS
from hwnas.runtimes.samples import Clock, Ratio, Samples, interleave, ratio
from hwnas.workflows.kernels import chosen, uses

WORTH = 1.02  # a speed-up below this is not worth code of one's own
LAUNCHES = 100  # in one recorded graph: what the host does between samples is then less than a percent
ROUNDS = 50
Verdict = Literal["pays", "does not pay", "not resolved"]
Run = Callable[[], object]


class Bench(Protocol):
    """Makes the two things that are compared.

    Attributes:
        where: it measures, for people: the card and the versions.
    """

    where: str

    def kernel(self, source: KernelSource, case: Case, tuning: Tuning) -> Run:
        """Work that launches a kernel `LAUNCHES` times and waits for the end.

        Raises:
            MeasurementError: its results are not within the tolerance.
        """
        ...

    def baseline(self, source: KernelSource, case: Case) -> Run:
        """Work that has the runtime do the same as often, as it fuses it, and waits for the end."""
        ...

    def network(self, graph: Graph) -> Run:
        """Work that runs the network once, as the runtime fuses it, and waits for the end."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """A kernel against the runtime's own.

    Attributes:
        kernel: its name.
        case: what was measured.
        places: of the network that have it; 1 without a network.
        tuning: the fastest way to launch it.
        kernel_s: median time of a launch.
        baseline_s: the same of what the runtime does.
        speedup: baseline over kernel, measured A B A B.
    """

    kernel: str
    case: Case
    places: int
    tuning: Tuning
    kernel_s: float
    baseline_s: float
    speedup: Ratio

    @property
    def verdict(self) -> Verdict:
        """Whether the kernel pays for this work."""
        return judge(self.speedup)

    def saved_s(self, speedup: float) -> float:
        """What all places save at a speed-up."""
        return self.places * self.baseline_s * (1 - 1 / speedup)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "kernel": self.kernel,
            "case": self.case.name,
            "attrs": dict(self.case.attrs),
            "places": self.places,
            "warps": self.tuning.warps,
            "sizes": dict(self.tuning.sizes),
            "kernel_s": self.kernel_s,
            "baseline_s": self.baseline_s,
            "speedup": asdict(self.speedup),
            "verdict": self.verdict,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Benched:
    """What the kernels are worth.

    Attributes:
        where: it was measured.
        timings: of every kind of work.
        network_s: median time of the network, where one was given.
    """

    where: str
    timings: tuple[Timing, ...]
    network_s: float | None

    @property
    def speedup(self) -> Ratio | None:
        """Of the network, if the kernels that pay replace what the runtime does; the intervals count in full, as if all erred alike."""
        if self.network_s is None:
            return None
        paying = [timing for timing in self.timings if timing.verdict == "pays"]

        def whole(which: str) -> float:
            saved = sum(timing.saved_s(getattr(timing.speedup, which)) for timing in paying)
            return float(self.network_s or 0) / max(float(self.network_s or 0) - saved, 1e-12)

        return Ratio(median=whole("median"), low=whole("low"), high=whole("high"))

    @property
    def verdict(self) -> Verdict | None:
        """Whether the kernels pay on the network."""
        return judge(self.speedup) if self.speedup else None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        speedup = self.speedup
        return {
            "where": self.where,
            "timings": [timing.as_json() for timing in self.timings],
            "network_s": self.network_s,
            "network_speedup": asdict(speedup) if speedup else None,
            "verdict": self.verdict,
        }


def judge(speedup: Ratio) -> Verdict:
    """What an interval of a speed-up says.

    >>> [judge(Ratio(median=1.1, low=low, high=high)) for low, high in ((1.05, 1.2), (0.9, 1.01), (0.9, 1.3))]
    ['pays', 'does not pay', 'not resolved']
    """
    return "pays" if speedup.low > WORTH else "does not pay" if speedup.high < WORTH else "not resolved"


def measure(
    bench: Bench,
    cases: Sequence[tuple[KernelSource, Case, int]],
    graph: Graph | None = None,
    *,
    rounds: int = ROUNDS,
    clock: Clock = time.perf_counter_ns,
) -> Benched:
    """Measures kernels against a runtime.

    Every way to launch a kernel is tried first, side by side; the fastest one then meets the baseline in samples of its own, since the
    best of several looks better than it is.

    Args:
        bench: makes what is compared.
        cases: kernels, what they do, and at how many places.
        graph: the network that has the places.
        rounds: samples of each.
        clock: nanoseconds, monotonic.
    """
    timings = []
    for source, case, places in cases:
        runs = {str(i): bench.kernel(source, case, tuning) for i, tuning in enumerate(source.tunings)}
        tried = interleave(runs, rounds=max(3, rounds // 5), clock=clock)
        best = min(runs, key=lambda name: tried[name].median_s)
        pair = interleave({"kernel": runs[best], "baseline": bench.baseline(source, case)}, rounds=rounds, clock=clock)
        each = {name: Samples(samples.seconds / LAUNCHES) for name, samples in pair.items()}
        timings.append(
            Timing(
                kernel=source.name,
                case=case,
                places=places,
                tuning=source.tunings[int(best)],
                kernel_s=each["kernel"].median_s,
                baseline_s=each["baseline"].median_s,
                speedup=ratio(each["baseline"], each["kernel"]),
            )
        )
    whole = interleave({"network": bench.network(graph)}, rounds=rounds, clock=clock)["network"].median_s if graph is not None else None
    return Benched(where=bench.where, timings=tuple(timings), network_s=whole)


def bench(graph: Graph | None, *, device: str, precision: str, baseline: str, names: Sequence[str] = ()) -> Benched:
    """Measures the kernels on a card: those that a network has use for, or the typical cases of `kernel.toml`.

    Raises:
        DeviceUnavailable: the card is not here; says what is needed.
        UsageError: a device that is no GPU, or a network that has no use for the kernels.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"kernels are measured in {', '.join(PRECISIONS)}; got '{precision}'")
    card = CudaBench.of(device, precision, baseline)
    sources = chosen(names)
    if graph is None:
        return measure(card, [(source, case, 1) for source in sources for case in source.cases])
    by_name = {source.name: source for source in sources}
    cases = [(by_name[use.kernel], use.case, len(use.places)) for use in uses(graph, None) if use.kernel in by_name]
    if not cases:
        raise UsageError(f"network '{graph.name}' has no place for {', '.join(by_name)}; 'hwnas kernels match' shows what is looked for")
    return measure(card, cases, graph)


class CudaBench:
    """Measures on an NVIDIA card through PyTorch: launches recorded in CUDA graphs, so that no host time is counted, with warm caches.

    Not yet run on hardware.
    """

    def __init__(self, name: str, precision: str, baseline: str) -> None:
        self._torch = require("torch", "gpu")
        self._precision = precision
        self._compiled = baseline == "compile"
        versions = f"torch {self._torch.__version__}, triton {require('triton', 'triton').__version__}"
        self.where = f"{name}, {versions}, {precision}, against torch {'compiled' if self._compiled else 'eager'}; CUDA graphs, warm caches"

    @classmethod
    def of(cls, device: str, precision: str, baseline: str) -> CudaBench:
        """The bench of a device.

        Raises:
            DeviceUnavailable: it is not here, or this torch cannot use it.
        """
        no_card = "the kernels run on NVIDIA cards; give one with --device"
        if device == "cpu":
            raise UsageError(no_card)
        needs = "'hwnas kernels bench' needs the card, its driver, a CUDA build of torch and 'hwnas[triton]'"
        try:
            found = find_device(device)
        except DeviceUnavailable as error:
            raise DeviceUnavailable(f"{needs}; {str(error).split('; run ')[0]}") from error
        if not isinstance(found, NvidiaDevice):
            raise UsageError(no_card)
        torch, uuid = require("torch", "gpu"), found.card.uuid.lower()
        seen = [str(torch.cuda.get_device_properties(index).uuid).lower() for index in range(torch.cuda.device_count())]
        index = next((index for index, name in enumerate(seen) if uuid.endswith(name)), None)
        if index is None:
            raise DeviceUnavailable(f"{needs}; '{device}' is here, but torch {torch.__version__} sees {len(seen)} cards and not this one")
        torch.cuda.set_device(index)
        return cls(found.card.name, precision, baseline)

    def kernel(self, source: KernelSource, case: Case, tuning: Tuning) -> Run:
        """See `Bench.kernel`."""
        tensors = random_tensors(case, self._precision, "cuda")
        launch = prepare(source, tensors, case.attrs, tuning)
        check(source, launch(), tensors, case.attrs, self._precision)
        return self._recorded(launch, LAUNCHES)

    def baseline(self, source: KernelSource, case: Case) -> Run:
        """See `Bench.baseline`."""
        tensors = random_tensors(case, self._precision, "cuda")

        def reference(tensors: Mapping[str, Any]) -> Any:
            return source.reference(tensors, case.attrs)

        run = self._torch.compile(reference, dynamic=False) if self._compiled else reference
        return self._recorded(lambda: run(tensors), LAUNCHES)

    def network(self, graph: Graph) -> Run:
        """See `Bench.network`."""
        import numpy as np

        from hwnas.ir.torch import lower

        dtype, rng = getattr(self._torch, PRECISIONS[self._precision]), np.random.default_rng(0)
        module = lower(graph.materialize(rng)).eval().to("cuda", dtype)
        inputs = [self._torch.from_numpy(value).to("cuda") for value in graph.random_inputs(rng).values()]
        inputs = [value.to(dtype) if value.is_floating_point() else value for value in inputs]
        run = self._torch.compile(module, dynamic=False) if self._compiled else module
        return self._recorded(lambda: run(*inputs), 1)

    def _recorded(self, run: Run, times: int) -> Run:
        """The work recorded so often in a CUDA graph, ready to be replayed."""
        cuda = self._torch.cuda
        try:
            with self._torch.inference_mode():
                side = cuda.Stream()
                side.wait_stream(cuda.current_stream())
                with cuda.stream(side):
                    for _ in range(3):
                        run()
                cuda.current_stream().wait_stream(side)
                graph = cuda.CUDAGraph()
                with cuda.graph(graph):
                    for _ in range(times):
                        run()
        except RuntimeError as error:
            raise HwnasError(f"the card refuses to run or record it ({' '.join(str(error).split())[:200]})") from error

        def replay() -> None:
            graph.replay()
            cuda.synchronize()

        return replay
