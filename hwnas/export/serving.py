"""What stands around an engine where it is served: Triton's configuration, the EPContext model, the command that builds it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwnas.ir.node import TensorSpec
from hwnas.runtimes.trt_build import Flavor, Options

if TYPE_CHECKING:
    from onnx import ModelProto

PLAN = "1/model.plan"  # Triton looks for a model of version 1 here, relative to the folder of its configuration
CONFIG = "config.pbtxt"
LAYERS = "layers.json"
TIMING_CACHE = "timing.cache"
EP_CONTEXT = "model_ctx.onnx"

_TRITON_TYPES: Mapping[str, str] = {
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "bfloat16": "TYPE_BF16",
    "float64": "TYPE_FP64",
    "int64": "TYPE_INT64",
    "int32": "TYPE_INT32",
    "int8": "TYPE_INT8",
    "uint8": "TYPE_UINT8",
    "bool": "TYPE_BOOL",
}
_PROVIDERS: Mapping[Flavor, str] = {"tensorrt": "TensorrtExecutionProvider", "rtx": "NvTensorRTRTXExecutionProvider"}
_BATCH = "batch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """What goes into a network and what comes out of it.

    Attributes:
        inputs: by name, with the batch that the network was made for.
        outputs: by name.
        batches: smallest, usual and largest batch where the engine leaves it open; None where it is fixed.
    """

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    batches: tuple[int, int, int] | None = None


def triton_config(interface: Interface) -> str:
    """Triton's model configuration for an engine of TensorRT; the model has the name of its folder.

    An engine of fixed batch is served whole, batch dimension included; one of open batch has Triton gather requests.
    """
    largest = interface.batches[2] if interface.batches else 0
    parts = ['platform: "tensorrt_plan"', f"max_batch_size: {largest}"]
    for kind, specs in (("input", interface.inputs), ("output", interface.outputs)):
        rows = [_triton_tensor(name, spec, without_batch=largest > 0) for name, spec in specs.items()]
        parts.append(f"{kind} [\n" + ",\n".join(rows) + "\n]")
    if largest:
        parts.append("dynamic_batching { }")
    parts.append("instance_group [\n  { count: 1 kind: KIND_GPU }\n]")
    return "\n".join(parts) + "\n"


def _triton_tensor(name: str, spec: TensorSpec, *, without_batch: bool) -> str:
    dims = ", ".join(map(str, spec.shape[1:] if without_batch else spec.shape))
    return f'  {{ name: "{name}" data_type: {_TRITON_TYPES[spec.dtype]} dims: [ {dims} ] }}'


def ep_context(interface: Interface, *, flavor: Flavor, version: str, capability: str, name: str) -> ModelProto:
    """An ONNX model whose only node is the engine, for ONNX Runtime's provider to load without a build.

    Args:
        interface: of the engine.
        flavor: decides which provider takes it.
        version: of the library that built the engine.
        capability: of the card that it is for, such as `86`; left out where it is empty.
        name: of the network.
    """
    from onnx import helper

    from hwnas.ir.onnx_forms import to_element_type

    def infos(specs: Mapping[str, TensorSpec]) -> list[object]:
        shapes = {key: [_BATCH, *spec.shape[1:]] if interface.batches else list(spec.shape) for key, spec in specs.items()}
        return [helper.make_tensor_value_info(key, to_element_type(spec.dtype), shapes[key]) for key, spec in specs.items()]

    attrs = {"main_context": 1, "embed_mode": 0, "ep_cache_context": PLAN, "onnx_model_filename": "model.onnx"}
    texts = {"source": _PROVIDERS[flavor], "ep_sdk_version": version, "hardware_architecture": capability, "partition_name": name}
    node = helper.make_node(
        "EPContext",
        list(interface.inputs),
        list(interface.outputs),
        name=name,
        domain="com.microsoft",
        **attrs,
        **{key: text for key, text in texts.items() if text},
    )
    graph = helper.make_graph([node], name, infos(interface.inputs), infos(interface.outputs))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)], ir_version=8)


def open_batch(model: ModelProto) -> ModelProto:
    """The model with the first dimension of every input and output left open; whether its nodes bear that has to be tried."""
    from onnx import ModelProto

    opened = ModelProto()
    opened.CopyFrom(model)
    for info in (*opened.graph.input, *opened.graph.output):
        info.type.tensor_type.shape.dim[0].dim_param = _BATCH
    del opened.graph.value_info[:]
    return opened


def commands(options: Options, version: str) -> tuple[str, str]:
    """The command lines, run in the export's folder, that build the engine again and that time it.

    Args:
        options: with which it was built.
        version: of the library.
    """
    if options.flavor == "rtx":
        capabilities = ",".join(name.removeprefix("sm") for name in options.targets)
        tool, build = "tensorrt_rtx", [f"--computeCapabilities={capabilities}", "--skipInference"]
    else:
        tool, build = "trtexec", [f"--timingCacheFile={TIMING_CACHE}", "--profilingVerbosity=detailed", "--skipInference"]
        if version.startswith("10."):
            build.append("--stronglyTyped")  # from 11 on there is nothing else
        build += ["--versionCompatible"] * options.version_compatible
        build += ["--hardwareCompatibilityLevel=ampere+"] * options.hardware_compatible
    build += [] if options.tf32 else ["--noTF32"]
    build += ["--refit"] * options.refittable
    if options.workspace_bytes is not None:
        build.append(f"--memPoolSize=workspace:{options.workspace_bytes}B")
    build += _shapes(options)
    timing = [f"--loadEngine={PLAN}", *_usual_shapes(options), "--useCudaGraph", "--useSpinWait", "--noDataTransfers"]
    return shlex.join([tool, "--onnx=model.onnx", f"--saveEngine={PLAN}", *build]), shlex.join([tool, *timing])


def _shapes(options: Options) -> Sequence[str]:
    if not options.profiles:
        return ()
    sides = {
        "min": {profile.input: profile.least for profile in options.profiles},
        "opt": {profile.input: profile.usual for profile in options.profiles},
        "max": {profile.input: profile.most for profile in options.profiles},
    }
    return [f"--{side}Shapes={_listed(shapes)}" for side, shapes in sides.items()]


def _usual_shapes(options: Options) -> Sequence[str]:
    return [f"--shapes={_listed({profile.input: profile.usual for profile in options.profiles})}"] if options.profiles else ()


def _listed(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())
