"""Makes the predictors of GPUs that ship in `predictors/`, from NeuSight's public measurements.

python bench/make_gpu_predictors.py [--out predictors]

All rows are used, the paper's test split too. The five devices share what was learned and differ in the specification: their boosters are
equal, and each folder stands on its own. Intervals are calibrated on devices left out: of kernels on large operators, of networks on
the transformers of `e2e_ops.parquet`, each predicted from the other devices' operators alone.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from _common import data_folder
from neusight import FAMILIES, Network, Operators, measured, networks, operators, spec_of

from hwnas.devices import catalogue
from hwnas.predict import Predictor, store
from hwnas.predict.conformal import quantile
from hwnas.predict.features import tabulate
from hwnas.predict.gpu import look
from hwnas.predict.gpu_model import GpuModel, Measured, fit
from hwnas.predict.model import LEVEL, HeldOut
from hwnas.predict.predictor import Origin
from hwnas.profiling import Setting
from hwnas.runtimes.fusions import UNFUSED
from hwnas.runtimes.registry import EAGER
from hwnas.spaces import GENERIC

FAMILY = "Volta and later"
DEVICES = ("a100", "h100", "l4", "t4", "v100")
SPOKEN = {
    "Gemm": "linear layers",
    "MatMul": "batched matrix products",
    "Conv-dense": "convolutions",
    "Softmax": "softmax",
    "LayerNormalization": "layer norm",
    "Elementwise": "element-wise operators",
}
NOTHING = HeldOut(networks=0, mape=0.0, within_5=0.0, within_10=0.0, coverage=0.0)


def origin(device: str, parts: Mapping[str, Measured]) -> Origin:
    """Whose measurements these are, and what they lack for a device."""
    own = [part for part in parts.values() if part.spec.name == device]
    there = {name for part in own for name in np.unique(look(part.table, part.spec).models).tolist()}
    elsewhere = [spoken for name, spoken in SPOKEN.items() if name not in there]
    gaps = (
        "convolutions other than 3x3 at stride 1, grouped and depthwise ones, pooling, batch normalisation, activations other than ReLU, "
        "GELU and tanh (all by stand-ins or the roofline, and counted as not covered), convolutional networks as a whole"
    )
    return Origin(
        name="NeuSight's measurements",
        licence="MIT",
        reference="github.com/sitar-lab/NeuSight; Lee, Phanishayee and Mahajan, ASPLOS 2025",
        conditions="eager FP32 operators (PyTorch 2.1, TF32 off), not fused TensorRT engines",
        gaps=gaps + (f"; {', '.join(elsewhere)} (carried over from other devices)" if elsewhere else ""),
    )


def held_out(parts: Mapping[str, Measured], found: list[Network]) -> tuple[float, float, HeldOut]:
    """Half width, usual doubt and figures of whole networks, each device's predicted from the other devices' operators."""
    values, doubts, latencies = [], [], []
    for device in FAMILIES[FAMILY]:
        runs = [network for network in found if network.device == device and not network.trains]
        if not runs:
            continue
        name = spec_of(device).name
        kinds = fit([part for part in parts.values() if part.spec.name != name])
        model = GpuModel(kinds=kinds, spec=spec_of(device), half_width=0.0, usual_doubt=0.0, held_out=NOTHING)
        table = tabulate([network.kernels() for network in runs])
        kernels = model.kernels(table)
        doubts.append(table.total(kernels.seconds * kernels.doubt) / table.total(kernels.seconds))
        values.append(model.bounds(table).value)
        latencies.append(np.array([network.latency_s for network in runs]))
    value, latency, doubt = np.concatenate(values), np.concatenate(latencies), np.concatenate(doubts)
    usual = float(np.median(doubt))
    difficulty = (1 + doubt / usual) / 2
    return quantile(np.abs(np.log(latency / value)) / difficulty, LEVEL), usual, HeldOut.of(value, latency, difficulty)


def learned(folder: Path) -> tuple[GpuModel, dict[str, Measured]]:
    """The model, for no device yet, and what it learned from."""
    data: dict[str, Operators] = operators(folder)
    parts = {device: measured(device, data[device], np.ones(len(data[device].seconds), bool)) for device in FAMILIES[FAMILY]}
    half_width, usual, figures = held_out(parts, networks(folder))
    first = next(iter(parts.values()))
    kinds = fit(list(parts.values()))
    return GpuModel(kinds=kinds, spec=first.spec, half_width=half_width, usual_doubt=usual, held_out=figures), parts


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "predictors")
    out = parser.parse_args().out
    folder = data_folder("neusight")
    model, parts = learned(folder)
    digest = hashlib.sha256((folder / "nvidia_ops.parquet").read_bytes()).hexdigest()
    for device in DEVICES:
        spec = catalogue.entry(device).part().spec
        predictor = Predictor(
            setting=Setting(device=device, runtime=EAGER, batch=store.ANY_BATCH),
            fusions=UNFUSED,
            model=replace(model, spec=spec),
            space=GENERIC,
            fingerprint=spec.fingerprint,
            profile_digest=digest,
            environment={"torch": "2.1", "cuda": "12.1"},
            origin=origin(device, parts),
        )
        place = store.save(predictor, out)
        size = sum(file.stat().st_size for file in place.iterdir())
        print(f"{place}: {size / 1e3:.0f} kB")
    print(model.held_out, f"half width {model.half_width:.3f}, usual doubt {model.usual_doubt:.3f}")
    for name, kind in model.kinds.items():
        print(f"{name:20} {kind.part.rows:6} rows, launch {1e6 * kind.launch_s:.0f} us, half width {kind.half_width:.3f}")


if __name__ == "__main__":
    main()
