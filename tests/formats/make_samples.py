"""Writes the samples of the present profile and predictor formats; run by hand, once for each new version of a format.

A sample that is in the repository stays as it is: it stands for the files that users have.

    python tests/formats/make_samples.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

FORMATS = Path(__file__).parent
sys.path.insert(0, str(FORMATS.parent))

from paper_device import BLOCK, ROOFLINE, SETTING, kernel_s, latency_s, measured  # noqa: E402  (the path comes first)

from hwnas import spaces  # noqa: E402
from hwnas.ir import Graph, GraphBuilder  # noqa: E402
from hwnas.predict import Predictor, fitting, store  # noqa: E402
from hwnas.predict.adapted import AdaptedKind, adapt  # noqa: E402
from hwnas.predict.predictor import Transferred  # noqa: E402
from hwnas.profiling import CurvePoint, Profile, ProfileStore  # noqa: E402
from hwnas.profiling import store as profiles  # noqa: E402
from hwnas.profiling.waves import Visit  # noqa: E402
from hwnas.runtimes.fusions import PATTERNS, Fusions  # noqa: E402
from hwnas.runtimes.ort_fusion import fuse  # noqa: E402
from hwnas.testing import FakeDevice  # noqa: E402
from hwnas.workflows.transfer import name_of  # noqa: E402

FACTS = Fusions(block=BLOCK, gemm_activations=frozenset({"Relu", "Tanh"}), patterns=PATTERNS - {"BiasGelu", "ReluClip"})
"""What the runtime of the samples fuses: not quite the usual."""


def asked() -> Graph:
    """The network whose estimate is kept beside the predictor."""
    b = GraphBuilder("asked")
    x = b.op("Relu", [b.conv(b.input("x", (1, 3, 32, 32)), 16, kernel=3, stride=2)])
    x = b.op("Relu", [b.conv(x, 16, kernel=3, groups=16)])
    x = b.conv(x, 24)
    return b.finish(b.linear(b.op("Flatten", [b.op("GlobalAveragePool", [x])]), 10))


def profile() -> Profile:
    """Three networks in two rounds beside two canaries."""
    space, found = spaces.load("mobilenet-small"), profiles.Measuring()
    for i in range(3):
        genotype = space.canonical(space.sample(np.random.default_rng([0, i])))
        calls = fuse(space.graph(genotype), FACTS)
        found.genotypes[i], found.call_ns[i] = genotype, 5000
        found.times[i] = tuple((call, kernel_s(call.kernel)) for call in calls)
        latency = latency_s([call.kernel for call in calls])
        found.visits[i] = [Visit(network=i, round=number, seconds=latency * np.array([1.0, 1.01, 1.02])) for number in range(2)]
    found.canaries = {0: [np.array([1e-4] * 3), np.array([1e-3] * 3)], 1: [np.array([1.1e-4] * 3), np.array([1.1e-3] * 3)]}
    return Profile(
        setting=SETTING,
        space="mobilenet-small",
        seed=0,
        fingerprint=FakeDevice().spec.fingerprint,
        device=FakeDevice().spec.as_dict(),
        environment={"hwnas": "0.1", "onnxruntime": "1.22"},
        fusions=FACTS,
        networks=tuple(found.records()),
        canaries=found.canaries,
        curve=(CurvePoint(networks=20, seconds=1.5, mape=0.05, within_10=0.9),),
        ended_by="count",
        spent_s=2.5,
    )


KINDS = ("Conv-depthwise", "Conv-pointwise", "Gemm")
TREES = 3


def few_kinds(model: Any) -> Any:
    """The model without most kinds of kernels and most of its trees, so that its files are small."""
    kinds = {name: few_trees(kind) for name, kind in model.kinds.items() if name in KINDS}
    return replace(model, kinds=kinds)


def few_trees(kind: Any) -> Any:
    """The first trees of whatever a kind has."""
    if isinstance(kind, AdaptedKind):
        return replace(kind, part=few_trees(kind.part))
    beside = {name: booster[:TREES] for name in ("doubt", "reuse") if (booster := getattr(kind, name))}
    return replace(kind, booster=kind.booster[:TREES], **beside)


def predictor() -> Predictor:
    """A predictor of few, small trees."""
    with mock.patch.object(fitting, "THOROUGH", fitting.Growth(trees=TREES, eta=0.5)):
        learned = fitting.fit(measured(20), ROOFLINE)
    return Predictor(
        setting=SETTING,
        fusions=FACTS,
        model=few_kinds(learned),
        space="mobilenet-small",
        fingerprint=FakeDevice().spec.fingerprint,
        profile_digest="0" * 64,
        environment={"hwnas": "0.1", "onnxruntime": "1.22"},
    )


def adapted() -> Predictor:
    """The same, adapted to a device that takes longer."""
    known = predictor()
    return replace(
        known,
        model=few_kinds(adapt(known.model, measured(6, seed=1), ROOFLINE)),
        transferred=Transferred(source=name_of(known), digest="1" * 64, networks=6),
    )


def write_predictor(folder: Path, learned: Predictor) -> None:
    """A predictor and the estimate that it must keep giving."""
    store.save(learned, folder / "predictors")
    (estimate,) = learned.estimate([asked()])
    (folder / "expected.json").write_text(json.dumps({**estimate.bounds(), "coverage": estimate.coverage}) + "\n")


def write_profile(folder: Path) -> None:
    """A profile and what must keep being derived from it."""
    ProfileStore(folder).save(profile())
    networks = [
        {"genotype": n.genotype, "total_ns": n.total_ns, "parts_ns": [k.nanoseconds for k in n.kernels]} for n in profile().networks
    ]
    (folder / "expected.json").write_text(json.dumps(networks) + "\n")


def main() -> None:
    """Writes the samples that are not there yet, each with what it must keep saying."""
    samples: dict[str, Callable[[Path], None]] = {
        f"profile-{profiles.FORMAT}": write_profile,
        f"predictor-{store.FORMAT}": lambda folder: write_predictor(folder, predictor()),
        f"adapted-{store.FORMAT}": lambda folder: write_predictor(folder, adapted()),
    }
    for name, write in samples.items():
        if not (FORMATS / name).exists():
            write(FORMATS / name)


if __name__ == "__main__":
    main()
