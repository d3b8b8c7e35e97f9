"""`hwnas predict`: what networks will take on a device, without running them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hwnas.assets import Workspace
from hwnas.devices import Unavailable, here
from hwnas.errors import NotFoundError
from hwnas.ir import Kernel
from hwnas.ir.onnx import load
from hwnas.predict import Estimate, KernelEstimate, Predictor, energy_store, store
from hwnas.profiling import Setting
from hwnas.runtimes.registry import EAGER
from hwnas.workflows.context import setting_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What is predicted of one file.

    Attributes:
        model: the file.
        estimate: of its latency.
        energy: of a call, or why it is not known.
        kernels: all of them with their part, the most expensive first.
        setting: of the predictor.
    """

    model: Path
    estimate: Estimate
    energy: Estimate | Unavailable
    kernels: tuple[KernelEstimate, ...]
    setting: Setting

    def as_json(self, top: int = 5) -> dict[str, Any]:
        """Plain values; all but `kernels` may be relied on. An energy that is not known is null, and `energy` says why."""
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
            "kernels": [
                {
                    "kind": kernel.call.kernel.op,
                    "nodes": list(kernel.call.nodes),
                    "latency_s": kernel.seconds,
                    "share": kernel.share,
                    "bound": kernel.bound,
                    "covered": kernel.covered,
                }
                for kernel in self.kernels[:top]
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
    threads: int = 1,
    batch: int = 1,
    precision: str = "fp32",
    strict: bool = False,
) -> tuple[list[Prediction], list[str]]:
    """Predicts ONNX files, in their order.

    Returns:
        The predictions, and what the user has to know about them (such as a predictor that was learned on another machine).

    Raises:
        UsageError: an unknown device.
        NotFoundError: the device has no predictor yet.
        GraphError: a file is corrupt or not supported.
    """
    predictor = load_predictor(workspace, device, threads=threads, batch=batch, precision=precision)
    graphs = [load(path, batch=batch) for path in models]
    estimates = predictor.estimate(graphs, strict=strict)
    kernels = [predictor.explain(graph) for graph in graphs]
    energies = predict_energy(workspace, predictor.setting, [[kernel.call.kernel for kernel in network] for network in kernels])
    found = [
        Prediction(
            model=path,
            estimate=estimate,
            energy=energy,
            kernels=tuple(sorted(network, key=lambda kernel: -kernel.seconds)),
            setting=predictor.setting,
        )
        for path, estimate, energy, network in zip(models, estimates, energies, kernels, strict=True)
    ]
    return found, warnings(predictor)


def predict_energy(
    workspace: Workspace, setting: Setting, networks: Sequence[Sequence[Kernel]], space: str | None = None
) -> Sequence[Estimate | Unavailable]:
    """Energy of a call of each network, given by its kernels; or why it is not known, and what this machine knows about that."""
    found = energy_store.find(workspace, setting, space)
    if not isinstance(found, Unavailable):
        return found.estimate(networks)
    meters = [device.energy_meter() for device in here() if device.spec.name == setting.device]
    reasons = [found.reason, *(meter.reason for meter in meters if isinstance(meter, Unavailable))]
    return [Unavailable("; ".join(reasons))] * len(networks)


def load_predictor(
    workspace: Workspace, device: str, *, threads: int, batch: int, precision: str = "fp32", space: str | None = None
) -> Predictor:
    """The predictor of a setting for networks of a space, or for any.

    A device that this version cannot measure may still have one: of a profile brought here, else of what others measured.
    """
    if device == "cpu":
        return store.load(workspace, setting_of(device, threads=threads, batch=batch, precision=precision), space)
    setting = setting_of(device, runtime="tensorrt", threads=threads, batch=batch, precision=precision)
    try:
        return store.load(workspace, setting, space)
    except NotFoundError:
        with suppress(NotFoundError):
            return store.load(workspace, replace(setting, runtime=EAGER), space)
        raise


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
