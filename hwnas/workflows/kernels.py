"""`hwnas kernels list`, `build` and `match`: compiles the custom kernels and finds where a network has use for them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hwnas import spaces
from hwnas.assets import Workspace, disk_errors
from hwnas.errors import NotFoundError, UsageError, require
from hwnas.ir import Graph
from hwnas.ir.onnx import load
from hwnas.kernels import Case, KernelSource, all_kernels
from hwnas.kernels import find as find_kernel
from hwnas.kernels.compile import Compiled, architecture, compile_kernel
from hwnas.kernels.match import matches
from hwnas.predict import Predictor
from hwnas.workflows.context import versions
from hwnas.workflows.predict import load_predictor, warnings

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A kernel compiled for a case.

    Attributes:
        kernel: its name.
        case: of its `kernel.toml`.
        precision: of its tensors.
        arch: for which it is compiled.
        code: what came of it.
    """

    kernel: str
    case: Case
    precision: str
    arch: str
    code: Compiled

    @property
    def stem(self) -> str:
        """Of its files, such as `depthwise_conv-28x28-5x5.fp16.sm90`."""
        case = re.sub(r"[^a-z0-9]+", "-", self.case.name.lower()).strip("-")
        return f"{self.kernel}-{case}.{self.precision}.{self.arch}"

    def as_json(self) -> dict[str, Any]:
        """Plain values; what a launcher has to know is among them."""
        return {
            "kernel": self.kernel,
            "case": self.case.name,
            "shapes": {name: list(shape) for name, shape in self.case.shapes.items()},
            "attrs": dict(self.case.attrs),
            "precision": self.precision,
            "arch": self.arch,
            "symbol": self.code.symbol,
            "threads": self.code.threads,
            **asdict(self.code.usage),
            "code_bytes": len(self.code.cubin),
            "file": self.stem,
        }


def build(*, archs: Sequence[str], precisions: Sequence[str], names: Sequence[str] = (), out: Path | None = None) -> list[Built]:
    """Compiles the typical cases of kernels ahead of time; no card is needed.

    Args:
        archs: such as `sm90`.
        precisions: of the tensors.
        names: of kernels; all where it is empty.
        out: folder that gets PTX, machine code and `kernels.json`, which says how to launch them.

    Raises:
        UsageError: an unknown name, architecture or precision.
        MissingExtraError: triton is not installed.
        DiskError: the folder cannot be written.
    """
    for arch in archs:
        architecture(arch)
    found = [
        Built(
            kernel=source.name,
            case=case,
            precision=precision,
            arch=arch,
            code=compile_kernel(source, case, arch=arch, precision=precision, tuning=source.tunings[0]),
        )
        for source in chosen(names)
        for case in source.cases
        for precision in precisions
        for arch in archs
    ]
    if out is not None:
        with disk_errors(out, "give another folder with --out"):
            out.mkdir(parents=True, exist_ok=True)
            for built in found:
                (out / f"{built.stem}.ptx").write_text(built.code.ptx)
                (out / f"{built.stem}.cubin").write_bytes(built.code.cubin)
            index = {"format": FORMAT, **provenance(), "kernels": [built.as_json() for built in found]}
            (out / "kernels.json").write_text(json.dumps(index, indent=1) + "\n")
    return found


def provenance() -> dict[str, str]:
    """Versions on which compiled kernels depend."""
    return {**versions(), "triton": str(require("triton", "triton").__version__)}


def chosen(names: Sequence[str]) -> tuple[KernelSource, ...]:
    """The kernels of these names; all where there are none.

    Raises:
        UsageError: an unknown name.
    """
    return tuple(find_kernel(name) for name in names) or all_kernels()


def network(*, model: Path | None, space: str | None, genotype: str | None, batch: int) -> Graph:
    """The network that a call names: an ONNX file, or a genotype of a space (its reference network where none is given).

    Raises:
        UsageError: both or neither are given, or the genotype is none of the space.
    """
    if (model is None) == (space is None):
        raise UsageError("give a network: an ONNX file, or --space with or without --genotype")
    if model is not None:
        if genotype is not None:
            raise UsageError("--genotype belongs to --space; drop it, or give --space instead of a file")
        return load(model, batch=batch)
    known = spaces.load(str(space))
    try:
        genes = tuple(int(gene) for gene in genotype.split(",")) if genotype is not None else known.reference()
    except ValueError as error:
        raise UsageError(f"--genotype takes integers with commas between them, such as 0,1,2; got '{genotype}'") from error
    known.validate(genes)
    return known.graph(known.canonical(genes), batch=batch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """Places of a network where a kernel would do the same work.

    Attributes:
        kernel: its name.
        case: sizes and attributes.
        places: for each, the nodes that it would replace.
        share: of the network's predicted time that is spent in kernels which lie entirely within these places; None without a predictor.
    """

    kernel: str
    case: Case
    places: tuple[tuple[str, ...], ...]
    share: float | None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        shapes = {name: list(shape) for name, shape in self.case.shapes.items()}
        attrs = dict(self.case.attrs)
        return {
            "kernel": self.kernel,
            "shapes": shapes,
            "attrs": attrs,
            "places": [list(nodes) for nodes in self.places],
            "share": self.share,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Uses:
    """Where a network has use for the kernels.

    Attributes:
        nodes: of the network.
        uses: by place.
        source: of the shares, or why there are none.
        notes: what has to be known about the shares.
    """

    nodes: int
    uses: tuple[Use, ...]
    source: str
    notes: tuple[str, ...]

    def share(self, kernel: str) -> float | None:
        """Share of the predicted time for all uses of a kernel."""
        shares = [use.share for use in self.uses if use.kernel == kernel]
        return None if any(share is None for share in shares) else sum(share for share in shares if share is not None)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        names = dict.fromkeys(use.kernel for use in self.uses)
        totals = {
            name: {"places": sum(len(use.places) for use in self.uses if use.kernel == name), "share": self.share(name)} for name in names
        }
        uses = [use.as_json() for use in self.uses]
        return {"nodes": self.nodes, "kernels": totals, "uses": uses, "source": self.source, "notes": list(self.notes)}


def find_uses(workspace: Workspace, graph: Graph, *, device: str, batch: int, precision: str = "fp32") -> Uses:
    """Finds where kernels would match, how often, and what share of the predicted time that is.

    Raises:
        UsageError: an unknown device.
    """
    try:
        predictor = load_predictor(workspace, device, threads=1, batch=batch, precision=precision)
    except NotFoundError as error:
        return Uses(nodes=len(graph.nodes), uses=uses(graph, None), source=f"no shares: {error}", notes=())
    notes = tuple(warnings(predictor))
    return Uses(nodes=len(graph.nodes), uses=uses(graph, predictor), source=predictor.source, notes=notes)


def uses(graph: Graph, predictor: Predictor | None) -> tuple[Use, ...]:
    """The matches of a network, those of the same work together, in the order of their first places."""
    seconds: list[tuple[frozenset[str], float]] = []
    if predictor is not None:
        seconds = [(frozenset(kernel.call.nodes), kernel.share) for kernel in predictor.explain(graph)]
    groups: dict[tuple[object, ...], list[Any]] = {}
    for match in matches(graph):
        groups.setdefault((match.kernel, match.case.key), []).append(match)
    found = []
    for (kernel, _), same in groups.items():
        places = tuple(match.nodes for match in same)
        inside = sum(share for nodes, share in seconds if any(nodes <= set(place) for place in places))
        found.append(Use(kernel=str(kernel), case=same[0].case, places=places, share=inside if predictor is not None else None))
    return tuple(found)
