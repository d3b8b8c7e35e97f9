"""`hwnas predict`: what networks will take on a device, without running them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hwnas.assets import Workspace
from hwnas.devices import here
from hwnas.errors import NotFoundError
from hwnas.ir.onnx import load
from hwnas.predict import Estimate, KernelEstimate, Predictor, store
from hwnas.profiling import Setting
from hwnas.runtimes.registry import EAGER
from hwnas.workflows.context import setting_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What is predicted of one file.

    Attributes:
        model: the file.
        estimate: of its latency.
        kernels: all of them with their part, the most expensive first.
        setting: of the predictor.
    """

    model: Path
    estimate: Estimate
    kernels: tuple[KernelEstimate, ...]
    setting: Setting

    def as_json(self, top: int = 5) -> dict[str, Any]:
        """Plain values; `latency_s`, `coverage`, `device`, `runtime`, `threads`, `batch`, `precision` and `source` may be relied on."""
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
    found = [
        Prediction(
            model=path,
            estimate=estimate,
            kernels=tuple(sorted(predictor.explain(graph), key=lambda kernel: -kernel.seconds)),
            setting=predictor.setting,
        )
        for path, graph, estimate in zip(models, graphs, estimates, strict=True)
    ]
    return found, warnings(predictor)


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
