"""Builds TensorRT engines: strongly typed, from ONNX, for this card (TensorRT) or for named generations of cards (TensorRT-RTX).

TensorRT is another's machine code, and dies rather than raises in some states of a machine (no driver, a damaged plan). So nothing here
imports it: every build and every look at an engine is a child process (`hwnas.runtimes.trt_worker`), whose end, however it comes, is
told as one of our errors. Building with TensorRT-RTX runs in our tests; TensorRT itself and every deserialisation that succeeds are not
yet run on hardware.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from hwnas import errors
from hwnas.errors import HwnasError, MissingExtraError, UsageError, did_you_mean
from hwnas.runtimes.trt_layers import LayerRecord, View, from_inspector, from_json

Flavor = Literal["tensorrt", "rtx"]
MODULES: Mapping[Flavor, str] = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
CAPABILITIES = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")  # that TensorRT-RTX builds for by name
DEFAULT_CAPABILITIES = ("sm80", "sm86", "sm89", "sm120")  # what it builds for unless told
_SHOWN = 300  # characters of a child's last words


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The shapes that an input may have in an engine, where the network leaves them open.

    Attributes:
        input: its name.
        least: smallest shape.
        usual: shape that the engine is made fast for.
        most: largest shape.
    """

    input: str
    least: tuple[int, ...]
    usual: tuple[int, ...]
    most: tuple[int, ...]

    def __post_init__(self) -> None:
        shapes = (self.least, self.usual, self.most)
        ordered = all(a <= b <= c for a, b, c in zip(*shapes, strict=False))
        if len({len(shape) for shape in shapes}) != 1 or not ordered or min((*self.least, 1)) < 1:
            raise UsageError(f"shapes of input '{self.input}' must be given as least <= usual <= most, got {', '.join(map(str, shapes))}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How an engine is built.

    Attributes:
        flavor: `tensorrt` builds on the card that the engine is for; `rtx` for cards that need not be there.
        capabilities: generations to build for, such as `sm86`; TensorRT-RTX only.
        profiles: of the inputs whose shape is open.
        tf32: whether fp32 matrix products may round their factors to TF32; fp32 means fp32 unless asked otherwise.
        version_compatible: the engine loads in later versions of TensorRT too.
        hardware_compatible: the engine runs on every card since Ampere.
        refittable: its weights can be replaced without a build.
        workspace_bytes: memory that kernels may use besides tensors; TensorRT's own limit unless given.
    """

    flavor: Flavor = "tensorrt"
    capabilities: tuple[str, ...] = ()
    profiles: tuple[Profile, ...] = ()
    tf32: bool = False
    version_compatible: bool = False
    hardware_compatible: bool = False
    refittable: bool = False
    workspace_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.flavor not in get_args(Flavor):
            raise UsageError(f"flavor is {' or '.join(get_args(Flavor))}, got '{self.flavor}'")
        for name in self.capabilities:
            if name not in CAPABILITIES:
                raise UsageError(
                    f"TensorRT-RTX does not build for '{name}'{did_you_mean(name, CAPABILITIES)}; it has: {', '.join(CAPABILITIES)}"
                )
        if self.flavor == "tensorrt" and self.capabilities:
            raise UsageError("TensorRT builds for the card that it runs on; leave the compute capability out, or use --flavor rtx")
        if self.flavor == "rtx" and (self.version_compatible or self.hardware_compatible):
            raise UsageError("engines of TensorRT-RTX are neither version- nor hardware-compatible; name compute capabilities instead")
        if self.flavor == "rtx" and self.refittable and len(self.targets) != 1:
            raise UsageError(f"TensorRT-RTX builds a refittable engine for one compute capability, got {', '.join(self.targets)}")

    @property
    def targets(self) -> tuple[str, ...]:
        """What the engine is for: compute capabilities, or none where it is the card at hand."""
        return () if self.flavor == "tensorrt" else self.capabilities or DEFAULT_CAPABILITIES

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Options:
        """From what JSON keeps of them."""
        profiles = tuple(
            Profile(input=row["input"], **{key: tuple(row[key]) for key in ("least", "usual", "most")}) for row in plain["profiles"]
        )
        return cls(**{**plain, "profiles": profiles, "capabilities": tuple(plain["capabilities"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A built engine.

    Attributes:
        plan: the engine itself.
        layers: by the engine inspector where the engine could be loaded, by the parser otherwise.
        view: which of the two.
        version: of the library.
        cache: the timing cache after the build; empty where there is none.
        warnings: what TensorRT said, each once.
        seconds: that the build took.
    """

    plan: bytes
    layers: tuple[LayerRecord, ...]
    view: View
    version: str
    cache: bytes
    warnings: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Whether an engine can be loaded on this machine.

    Attributes:
        loads: whether it does.
        reason: why not, in one line; empty where it does.
        layers: kernels by the engine inspector; empty where it does not load.
    """

    loads: bool
    reason: str
    layers: tuple[LayerRecord, ...] = ()


def build(
    model: bytes,
    options: Options,
    *,
    caches: Path | None = None,
    device: str = "any",
    environment: Mapping[str, str] | None = None,
) -> Engine:
    """Builds an engine in a process of its own.

    Args:
        model: serialised ONNX; its types are the engine's (Cast, Q/DQ).
        options: how.
        caches: folder where timing caches are kept, a file for each flavour, version and device. TensorRT-RTX needs none: it does not
            time kernels when it builds.
        device: the card's name, for the cache.
        environment: of the child process, which says which card it sees (`hwnas.runtimes.cuda.only`); this one's unless given.

    Raises:
        MissingExtraError: the library is not installed.
        GraphError: the parser or the builder refuses the network; gives its reason and the node.
        DeviceUnavailable: the builder needs a card, and there is none.
        UsageError: an input has an open shape and no profile, or the other way round.
        HwnasError: the build died; says how.
    """
    with tempfile.TemporaryDirectory(prefix="hwnas-trt-") as scratch:
        folder = Path(scratch)
        (folder / "model.onnx").write_bytes(model)
        asked = {"options": asdict(options), "caches": str(caches) if caches else "", "device": device}
        done = _child("build", options.flavor, folder, asked, environment)
        plan = folder / "model.plan"
        found = probe(plan, options.flavor, environment) if options.flavor == "tensorrt" else None
        _, parsed = from_json((folder / "layers.json").read_text(encoding="utf-8"))
        cache = folder / "timing.cache"
        return Engine(
            plan=plan.read_bytes(),
            layers=found.layers if found and found.layers else parsed,
            view="engine" if found and found.layers else "parser",
            version=done["version"],
            cache=cache.read_bytes() if cache.is_file() else b"",
            warnings=tuple(done["warnings"]),
            seconds=done["seconds"],
        )


def probe(plan: Path, flavor: Flavor, environment: Mapping[str, str] | None = None) -> Probe:
    """Tries to load an engine in a process of its own; a crash is an answer, too.

    Raises:
        MissingExtraError: the library is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="hwnas-trt-") as scratch:
        try:
            done = _child("probe", flavor, Path(scratch), {"plan": str(plan.resolve())}, environment)
        except MissingExtraError:
            raise
        except HwnasError as error:
            return Probe(loads=False, reason=str(error))
    return Probe(loads=done["loads"], reason=done["reason"], layers=from_inspector(done["layers"]) if done["layers"] else ())


def check_installed(flavor: Flavor) -> None:
    """Refuses a flavour whose library is not there, before anything is spent.

    Raises:
        MissingExtraError: it is not installed.
    """
    if find_spec(MODULES[flavor]) is None:
        other = ", or use --flavor rtx, which needs no card to build" if flavor == "tensorrt" else ""
        raise MissingExtraError(f"'{MODULES[flavor]}' is not installed; run: pip install 'hwnas[{flavor}]'{other}")


def _child(
    job: str, flavor: Flavor, folder: Path, asked: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Has the worker do a job; gives its answer, or raises its error here."""
    check_installed(flavor)
    module = MODULES[flavor]
    (folder / "request.json").write_text(json.dumps({"job": job, "flavor": flavor, **asked}), encoding="utf-8")
    command = [sys.executable, "-m", "hwnas.runtimes.trt_worker", str(folder)]
    child = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    answer = folder / "answer.json"
    if child.returncode != 0 or not answer.is_file():
        raise HwnasError(f"{module} died while hwnas had it {job} an engine: {_last_words(child)}; check the NVIDIA driver with nvidia-smi")
    done: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    if "error" in done:
        raise getattr(errors, done["error"])(done["message"])
    return done


def _last_words(child: subprocess.CompletedProcess[str]) -> str:
    """How a process ended, and the last line that it wrote."""
    code = child.returncode
    end = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}"
    lines = child.stderr.strip().splitlines()
    return f"{end} ({lines[-1][-_SHOWN:]})" if lines else end
