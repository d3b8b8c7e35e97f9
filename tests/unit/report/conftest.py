"""Two runs to report on: a finished one with everything in it, and one that has only begun."""

from __future__ import annotations

import numpy as np
import pytest

from hwnas.accuracy.quality import assess
from hwnas.devices.base import Energy, Unavailable
from hwnas.report.view import (
    Comparison,
    Engine,
    Export,
    Finalist,
    Interval,
    KernelShare,
    Limit,
    Objective,
    PredictorCard,
    RunView,
    Spent,
    Trial,
)

OBJECTIVES = (Objective(metric="latency", minimize=True), Objective(metric="accuracy", minimize=False))


ENGINE = Engine(
    folder="engine",
    flavor="rtx",
    precision="mixed",
    size_bytes=2_345_678,
    layers={"fp16": 12, "int8": 31},
    view="parser",
    runs_on="sm86, sm89",
    latency="not measured: no card",
    loading="there is no driver",
    accuracy=0.9605,
    accuracy_fp32=0.9639,
    commands=("tensorrt_rtx --onnx=model.onnx", "tensorrt_rtx --loadEngine=1/model.plan"),
)


def around(value: float, share: float = 0.04) -> Interval:
    """A value with an interval of +- a share."""
    return Interval(value, value * (1 - share), value * (1 + share))


@pytest.fixture
def full() -> RunView:
    """A finished run: three finalists, of which the last broke the limit; the first is exported."""
    rng = np.random.default_rng(5)
    latency = rng.uniform(0.8e-3, 4.5e-3, 120)
    accuracy = np.clip(0.9 + 0.02 * np.log(latency / 1e-3) + rng.normal(0, 0.01, 120), 0, 0.99)
    trials = tuple(
        Trial(
            network="-".join(map(str, rng.integers(0, 4, 12))),
            metrics={"latency": around(seconds), "accuracy": around(share, 0.01)},
            feasible=bool(seconds * 1.04 <= 3e-3),
            generation=i // 12,
        )
        for i, (seconds, share) in enumerate(zip(latency.tolist(), accuracy.tolist(), strict=True))
    )
    best = sorted((trial for trial in trials if trial.feasible), key=lambda trial: -trial.metrics["accuracy"].value)[:3]
    measured = (2.61e-3, 1.874e-3, 3.0400e-3)
    export = Export(
        folder="winner",
        precision="int8",
        latency_s=around(1.42e-3, 0.02),
        speedup_over_torch=Interval(5.314, 5.21, 5.44),
        speedup_over_fp32=Interval(1.84, 1.79, 1.88),
        accuracy=0.9611,
        accuracy_fp32=0.9639,
        size_bytes=412_311,
        reason="int8 is faster and loses 0.28 points",
    )
    finalists = tuple(
        Finalist(
            rank=rank,
            network=trial.network,
            summary=f"mobilenet at 48 px, depth 2-3-2, width 0.75, kernel 5, variant {rank}",
            predicted_latency_s=trial.metrics["latency"],
            measured_latency_s=Interval(seconds, seconds * 0.99, seconds * 1.03),
            limit_kept=seconds <= 3e-3,
            accuracies=(0.962, 0.958, 0.966),
            params=412_000,
            flops=21_400_000,
            predicted_energy_j=Interval(0.0403, 0.0391, 0.0415) if rank == 2 else None,
            energy=Energy(0.0421, 0.0021, ("software power cap",)) if rank == 2 else Unavailable("this machine has no RAPL counters"),
            net_energy=Energy(0.0311, 0.0022) if rank == 2 else None,
            energy_source="measured by nvml-counter: the board's energy counter" if rank == 2 else "",
            export=export if rank == 1 else None,
            engines=(ENGINE,) if rank == 1 else (),
        )
        for rank, (trial, seconds) in enumerate(zip(best, measured, strict=True), start=1)
    )
    held_out = rng.uniform(0.5e-3, 6e-3, 40)
    comparisons = tuple(
        Comparison(network=f"sampled {i}", kind="held-out", predicted_s=around(float(s * e)), measured_s=float(s))
        for i, (s, e) in enumerate(zip(held_out, rng.normal(1, 0.02, 40), strict=True))
    ) + tuple(
        Comparison(network=f.network, kind="finalist", predicted_s=f.predicted_latency_s, measured_s=f.measured_latency_s.value)
        for f in finalists
        if f.measured_latency_s
    )
    kernels = tuple(
        KernelShare(
            kernel=f"Conv+{'Relu' if i % 2 else 'HardSwish'} 3x3/{i % 4}", node=f"conv_{i}", seconds=float(rng.gamma(2.0)) * 6e-5 + 1e-6
        )
        for i in range(27)
    )
    accuracies = rng.uniform(0.8, 0.97, 24)
    noise = {"surrogate": 0.01, "prior": 0.04, "params": 0.05, "flops": 0.06, "naswot": 0.03, "snip": 0.2}
    quality = assess({name: accuracies + rng.normal(0, sd, 24) for name, sd in noise.items()}, accuracies, rng.uniform(1e6, 3e7, 24), top=3)
    spent = [Spent(part="profiling", finished_s=0, seconds=38.0), Spent(part="export", finished_s=212.0, seconds=11.0)]
    spent += [Spent(part=part, finished_s=20.0 + 16 * i, seconds=s) for i in range(11) for part, s in (("proxies", 3.1), ("training", 9.0))]
    return RunView(
        run="demo-2026-11-24",
        created="2026-11-24 10:15",
        space="mobilenet-small",
        device="cpu (onnxruntime-cpu 1.32.0, 1 thread, batch 1, fp32)",
        objectives=OBJECTIVES,
        limits=(Limit(metric="latency", bound=3e-3),),
        evaluations=120,
        generations=10,
        failures=1,
        stopped_by="stopped after 120 of 120 evaluations",
        trials=trials,
        finalists=finalists,
        comparisons=comparisons,
        kernels=kernels,
        spent=tuple(spent),
        quality=quality,
        predictor=PredictorCard(
            source="profile cpu/onnxruntime-cpu-t1-b1-fp32",
            networks=104,
            seconds=38.0,
            mape=0.0187,
            within_5=0.955,
            within_10=1.0,
            coverage_promised=0.9,
            coverage_held=0.925,
            curve=((5.0, 0.061), (12.0, 0.034), (20.0, 0.026), (30.0, 0.021), (38.0, 0.0187)),
        ),
        environment={"processor": "EPYC, 2 cores, avx2", "python": "3.11.7", "seed": "7", "data": "digits, sha256 1f2e3d"},
        replay="hwnas search --space mobilenet-small --constraint 'latency<=3ms' --num-evals 120 --seed 7",
    )


@pytest.fixture
def begun() -> RunView:
    """A run that was stopped before it scored anything."""
    return RunView(run="early", created="2026-11-24 10:15", space="resnet", device="cpu", objectives=OBJECTIVES)
