"""How close predictions of GPUs come that learned from others' operators: unseen sizes, unseen devices, whole transformers.

python bench/predictor_gpu.py

Data: NeuSight's public measurements (`bench/neusight.py`). Learned from the rows of its training split, judged on its test split, which has
larger sizes and three devices of which training has no row (but for convolutions of the A100-80GB): a device enters through its
specification. Rivals: the roofline with the launch, scaled by the median of the training rows of its kind, and the same XGBoost on raw
shapes and the device's figures. Whole networks: the sum of the predicted kernels, beside the paper's own predictions (its rows without a
parallelism option), its roofline, and the sum of the measured operators, which is what predicting every operator perfectly would give.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow.csv as csv
import xgboost
from _common import data_folder, publish
from neusight import FAMILIES, UNSEEN, Network, Operators, measured, networks, operators, spec_of

from hwnas.predict.features import Table, tabulate
from hwnas.predict.fitting import PARAMETERS
from hwnas.predict.gpu import Figures, look
from hwnas.predict.gpu_model import PRODUCT_GROWTH, GpuModel, Measured, fit
from hwnas.predict.model import HeldOut

NAMES = {
    "Gemm": "linear",
    "MatMul": "batched product",
    "Softmax": "softmax",
    "LayerNormalization": "layer norm",
    "Elementwise": "element-wise",
}

WAYS = ("hwnas", "paper", "roofline", "measured operators")
BEYOND_OPERATORS = 1.25  # of the sum of its operators: a forward pass that takes longer did something else besides


def model_for(kinds: Mapping[str, Any], device: str) -> GpuModel:
    """A device by its specification, on kinds learned elsewhere."""
    nothing = HeldOut(networks=0, mape=0.0, within_5=0.0, within_10=0.0, coverage=0.0)
    return GpuModel(kinds=kinds, spec=spec_of(device), half_width=0.0, usual_doubt=0.0, held_out=nothing)


def family(device: str) -> str:
    """The generation of library kernels that a device runs."""
    return next(name for name, members in FAMILIES.items() if device in members)


class Rivals:
    """The roofline with its launch, and XGBoost on raw shapes and figures, learned from the same rows."""

    def __init__(self, parts: Sequence[Measured]) -> None:
        self.scale, self.launch, self.raw = {}, {}, {}
        seen = [look(part.table, part.spec) for part in parts]
        for name in NAMES:
            rows = [each.models == name for each in seen]
            if not any(row.any() for row in rows):
                continue
            seconds = np.concatenate([part.seconds[row] for part, row in zip(parts, rows, strict=True)])
            bound = np.concatenate([self.bound(part.table, part)[row] for part, row in zip(parts, rows, strict=True)])
            self.launch[name] = float(np.quantile(seconds, 0.02))
            self.scale[name] = float(np.median(seconds / (self.launch[name] + bound)))
            values = np.concatenate([self.values(part.table, part)[row] for part, row in zip(parts, rows, strict=True)])
            parameters = {**PARAMETERS, "max_depth": PRODUCT_GROWTH.depth, "eta": PRODUCT_GROWTH.eta}
            self.raw[name] = xgboost.train(parameters, xgboost.DMatrix(values, np.log(seconds), nthread=1), PRODUCT_GROWTH.trees)

    @staticmethod
    def bound(table: Table, part: Measured) -> np.ndarray:
        """The plain roofline: peak rates as the maker gives them."""
        return np.maximum(table.flops / part.spec.peak_flops["fp32"], table.bytes / float(part.spec.memory_bytes_per_s or 1))

    @staticmethod
    def values(table: Table, part: Measured) -> np.ndarray:
        """Shapes and figures as they are."""
        figures = Figures.of(part.spec)
        device = [part.spec.peak_flops["fp32"], figures.bytes_per_s, figures.units, figures.cache_bytes, figures.capability]
        return np.column_stack([table.values, table.dims, np.tile(device, (len(table.values), 1))])

    def predict(self, part: Measured, models: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both rivals' times in s."""
        bound, values = self.bound(part.table, part), self.values(part.table, part)
        roofline, raw = np.empty(len(bound)), np.empty(len(bound))
        for name in np.unique(models).tolist():
            rows = models == name
            roofline[rows] = self.scale[name] * (self.launch[name] + bound[rows])
            raw[rows] = np.exp(self.raw[name].predict(xgboost.DMatrix(values[rows], nthread=1)))
        return roofline, raw


def mape(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Mean absolute relative error in per cent."""
    return 100 * float(np.mean(np.abs(predicted / truth - 1)))


def operator_rows(data: Mapping[str, Operators], learned: Mapping[str, Any], rivals: Mapping[str, Rivals]) -> Iterator[dict[str, Any]]:
    """Errors per kind and device on the test split."""
    tests = {device: measured(device, ops, ops.test) for device, ops in data.items()}
    for name, title in NAMES.items():
        for device, part in tests.items():
            models = look(part.table, part.spec).models
            rows = models == name
            if not rows.any():
                continue
            ours = model_for(learned[family(device)], device).operators(part.table)
            roofline, raw = rivals[family(device)].predict(part, models)
            truth = part.seconds[rows]
            yield {
                "operator": title,
                "device": device,
                "unseen": "yes" if device in UNSEEN else "",
                "n": int(rows.sum()),
                "hwnas": mape(ours[rows], truth),
                "roofline": mape(roofline[rows], truth),
                "XGBoost, raw": mape(raw[rows], truth),
            }


class Judged(NamedTuple):
    """A network and how far each prediction of it is off, in per cent."""

    network: Network
    errors: Mapping[str, float]

    @property
    def told_by_operators(self) -> bool:
        """Whether the forward pass took about what its operators took; where it did not, something else ran, which no sum can tell."""
        return self.network.forward_s < BEYOND_OPERATORS * self.network.forward_operators_s()


def judged(found: Sequence[Network], learned: Mapping[str, Any], paper: Mapping[tuple[str, str], dict[str, float]]) -> Iterator[Judged]:
    """The networks that the paper predicted."""
    for network in found:
        theirs = paper.get((network.device, network.run))
        if theirs is None:
            continue
        model = model_for(learned[family(network.device)], network.device)
        value = float(model.bounds(tabulate([network.kernels()])).value[0])
        ours = {"hwnas": value, "measured operators": network.operators_s()}
        yield Judged(network, {**{key: 100 * (seconds / network.latency_s - 1) for key, seconds in ours.items()}, **theirs})


def network_rows(networks: Sequence[Judged]) -> Iterator[dict[str, Any]]:
    """Errors per device and mode."""
    groups: dict[tuple[str, str], list[Judged]] = {}
    for each in networks:
        groups.setdefault((each.network.device, "training" if each.network.trains else "inference"), []).append(each)
    for (device, mode), members in groups.items():
        yield {
            "device": device,
            "mode": mode,
            "unseen": "yes" if device in UNSEEN else "",
            "n": len(members),
            **{key: together(members, key) for key in WAYS},
            "hwnas, signed": float(np.mean([each.errors["hwnas"] for each in members])),
        }


def paper_errors() -> dict[tuple[str, str], dict[str, float]]:
    """The paper's errors and its roofline's, in per cent, of its rows without a parallelism option."""
    rows = csv.read_csv(data_folder("neusight") / "paper_predictions.csv").to_pylist()
    return {
        (device, f"{row['model_name']}-{row['mode']}-{row['seqlen']}-{row['batch']}"): {
            "paper": float(row["neusight_all_e2e_err"]),
            "roofline": float(row["roofline_all_e2e_err"]),
        }
        for row in rows
        for device in [device for members in FAMILIES.values() for device in members]
        if not row["option"] and row["device"] == device.replace(" ", "_") and row["roofline_all_e2e_err"] is not None
    }


def together(networks: Sequence[Judged], way: str) -> float:
    """Mean absolute error over networks, in per cent."""
    return float(np.mean([abs(each.errors[way]) for each in networks]))


def main() -> None:
    folder = data_folder("neusight")
    data = operators(folder)
    parts = {device: measured(device, ops, ~ops.test) for device, ops in data.items() if (~ops.test).any()}
    learned, rivals = {}, {}
    for name, members in FAMILIES.items():
        chosen = [parts[device] for device in members if device in parts]
        learned[name], rivals[name] = fit(chosen, calibrate=False), Rivals(chosen)
    operators_found = list(operator_rows(data, learned, rivals))
    found = list(judged(networks(folder), learned, paper_errors()))
    unseen = [each for each in found if each.network.device in UNSEEN]
    subsets = {
        "mean on unseen devices": unseen,
        f"of these, forward pass at most {BEYOND_OPERATORS} of its measured operators": [each for each in unseen if each.told_by_operators],
        "mean on known devices": [each for each in found if each.network.device not in UNSEEN],
    }
    publish(
        "predictor_gpu",
        "NeuSight's test split: mean absolute error in per cent, operators (each with its launch)",
        operators_found,
    )
    publish(
        "predictor_gpu_networks",
        "NeuSight's transformers as a whole: mean absolute error in per cent beside the paper's own predictions",
        list(network_rows(found)),
        **{title: {"n": len(members), **{way: round(together(members, way), 2) for way in WAYS}} for title, members in subsets.items()},
    )


if __name__ == "__main__":
    main()
