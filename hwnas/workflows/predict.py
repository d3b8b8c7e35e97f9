"""`hwnas predict`: what networks will take on a device, without running them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hwnas.assets import Workspace
from hwnas.devices import Unavailable, here
from hwnas.errors import NotFoundError, UsageError
from hwnas.ir import Kernel
from hwnas.ir.onnx import load_shipped
from hwnas.predict import Estimate, Predictor, energy_store, store
from hwnas.predict.explanation import Explanation
from hwnas.profiling import Setting
from hwnas.runtimes.registry import EAGER
from hwnas.workflows.context import runtime_there, setting_of
from hwnas.workflows.runs import SearchOptions

TOP = 5  # kernels that are listed unless all are asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What is predicted of one file.

    Attributes:
        model: the file.
        estimate: of its latency.
        energy: of a call, or why it is not known.
        explanation: what the latency is made of.
        setting: of the predictor.
    """

    model: Path
    estimate: Estimate
    energy: Estimate | Unavailable
    explanation: Explanation
    setting: Setting

    def as_json(self, top: int | None = TOP) -> dict[str, Any]:
        """Plain values; all but `kernels` may be relied on. An energy that is not known is null, and `energy` says why.

        Args:
            top: kernels that are listed, the most expensive first; None for all.
        """
        return {
            "model": str(self.model),
            "latency_s": self.estimate.bounds(),
            "coverage": self.estimate.coverage,
            "device": self.setting.device,
            "runtime": self.setting.runtime,
            "threads": self.setting.threads,
            "batch": self.setting.batch,
            "precision": self.setting.precision,
            "source": self.estimate.source,
            **self._energy_json(),
            "bounds": dict(self.explanation.bounds),
            "uncovered": [asdict(group) for group in self.explanation.uncovered],
            "kernels": [
                {
                    "kind": part.kernel.call.kernel.op,
                    "fused": list(part.kernel.call.kernel.fused),
                    "nodes": list(part.kernel.call.nodes),
                    "latency_s": part.kernel.seconds,
                    "share": part.kernel.share,
                    "bound": part.kernel.bound,
                    "covered": part.kernel.covered,
                    "flops": part.flops,
                    "bytes": part.bytes,
                }
                for part in self.explanation.parts[:top]
            ],
        }

    def _energy_json(self) -> dict[str, Any]:
        if isinstance(self.energy, Unavailable):
            return {"energy_j": None, "energy": f"unavailable: {self.energy.reason}"}
        energy = {"energy_j": self.energy.bounds(), "energy": self.energy.source, "energy_coverage": self.energy.coverage}
        return {**energy, "power_w": self.energy.value / self.estimate.value}


def predict(
    workspace: Workspace,
    models: Sequence[Path],
    *,
    device: str,
    runtime: str | None = None,
    threads: int = 1,
    batch: int = 1,
    precision: str | None = None,
    strict: bool = False,
) -> tuple[list[Prediction], list[str]]:
    """Predicts ONNX files, in their order.

    Args:
        workspace: that has the predictors.
        models: the files. One that is quantised (Q/DQ) is told in the form in which hwnas quantises its network.
        device: on which they will run.
        runtime: the device's usual one, or the only one that was profiled, unless named.
        threads: of the runtime.
        batch: of the networks.
        precision: of the arithmetic; that of each file (`fp32`, or `int8` where it is quantised) unless given.
        strict: refuse kernels that were not measured.

    Returns:
        The predictions, and what the user has to know about them (such as a predictor that was learned on another machine).

    Raises:
        UsageError: an unknown device or runtime; or no runtime is named and predictors of several would answer; or a file is quantised
            and another precision was asked for.
        NotFoundError: the device has no predictor yet.
        GraphError: a file is corrupt or not supported.
    """
    asked = partial(load_predictor, workspace, device, runtime=runtime, threads=threads, batch=batch)
    _refuse_unknown(asked, precision)
    networks = [load_shipped(path, batch=batch) for path in models]
    for path, network in zip(models, networks, strict=True):
        if network.precision != "fp32" and precision not in (None, network.precision):
            raise UsageError(
                f"'{path}' is quantised to {network.precision}, not {precision}; leave --precision out, or give the file in fp32"
            )
    found: dict[int, Prediction] = {}
    notes: list[str] = []
    for each in dict.fromkeys(precision or network.precision for network in networks):
        chosen = [i for i, network in enumerate(networks) if (precision or network.precision) == each]
        predictor = asked(precision=each)
        graphs, left = [networks[i].graph for i in chosen], [networks[i].left for i in chosen]
        estimates = predictor.estimate(graphs, strict=strict, left=left)
        explanations = [Explanation.of(predictor, *part) for part in zip(graphs, estimates, left, strict=True)]
        kernels = [explanation.kernels for explanation in explanations]
        energies = predict_energy(workspace, predictor.setting, kernels, [estimate.value for estimate in estimates])
        found |= {
            i: Prediction(model=models[i], estimate=estimate, energy=energy, explanation=explanation, setting=predictor.setting)
            for i, estimate, energy, explanation in zip(chosen, estimates, energies, explanations, strict=True)
        }
        notes += warnings(predictor)
    return [found[i] for i in range(len(models))], list(dict.fromkeys(notes))


def _refuse_unknown(asked: Callable[..., Predictor], precision: str | None) -> None:
    """Says what is wrong with the question before a file is read: an unknown device, or no predictor for any file."""
    try:
        asked(precision=precision or "fp32")
    except NotFoundError:
        if precision is not None:
            raise
        with suppress(NotFoundError):
            asked(precision="int8")
            return
        raise


def predict_energy(
    workspace: Workspace, setting: Setting, networks: Sequence[Sequence[Kernel]], seconds: Sequence[float], space: str | None = None
) -> Sequence[Estimate | Unavailable]:
    """Energy of a call of each network, given by its kernels and its predicted time; or why it is not known, as far as that is known."""
    found = energy_store.find(workspace, setting, space)
    if not isinstance(found, Unavailable):
        return found.estimate(networks, seconds)
    meters = [device.energy_meter() for device in here() if device.spec.name == setting.device]
    reasons = [found.reason, *(meter.reason for meter in meters if isinstance(meter, Unavailable))]
    return [Unavailable("; ".join(reasons))] * len(networks)


def plot(predictions: Sequence[Prediction], path: Path) -> Path:
    """Writes what predictions are made of as a page with plots.

    Raises:
        HwnasError: when the file cannot be written.
        MissingExtraError: when plotly is not installed.
    """
    from hwnas.report.explain import render

    return render({str(prediction.model): prediction.explanation for prediction in predictions}, path)


def load_predictor(
    workspace: Workspace,
    device: str,
    *,
    runtime: str | None = None,
    threads: int,
    batch: int,
    precision: str = "fp32",
    space: str | None = None,
) -> Predictor:
    """The predictor of a setting for networks of a space, or for any.

    Unless a runtime is named, it is the device's usual one, else the only one that was profiled; where none was, PyTorch's as others
    measured it.

    Raises:
        UsageError: an unknown device or runtime; or no runtime is named and there are predictors of several, none of them the usual one.
        NotFoundError: the device has no predictor yet.
    """
    setting = setting_of(device, runtime=runtime, threads=threads, batch=batch, precision=precision)
    if runtime is not None:
        return store.load(workspace, setting, space)
    setting = replace(setting, runtime=runtime_there(setting, partial(store.has, workspace)))
    try:
        return store.load(workspace, setting, space)
    except NotFoundError:
        with suppress(NotFoundError):
            return store.load(workspace, replace(setting, runtime=EAGER), space)
        raise


def predictor_for(workspace: Workspace, options: SearchOptions) -> Predictor:
    """The predictor that a search works with; raises as `load_predictor`."""
    return load_predictor(
        workspace,
        options.device,
        runtime=options.runtime,
        threads=options.threads,
        batch=options.batch,
        precision=options.precision,
        space=options.space,
    )


def warnings(predictor: Predictor) -> list[str]:
    """What a user of a predictor has to know."""
    if predictor.origin:
        return [
            f"nothing was measured by hwnas on '{predictor.setting.device}': {predictor.source}; not measured: {predictor.origin.gaps}; "
            f"'hwnas profile --device {predictor.setting.device}' on the card replaces this"
        ]
    for device in here():
        if device.spec.name == predictor.setting.device and device.spec.fingerprint != predictor.fingerprint:
            return [
                f"the predictor was learned on another '{predictor.setting.device}' than this machine's {device.spec.model}; "
                f"run 'hwnas profile --device {predictor.setting.device}' here"
            ]
    return []
