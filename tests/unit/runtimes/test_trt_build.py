"""Engines are really built here, by TensorRT-RTX, which needs no card; what it refuses is told as one of our errors."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from trained import residual

from hwnas import spaces
from hwnas.errors import GraphError, HwnasError, MissingExtraError, UsageError
from hwnas.ir import Graph
from hwnas.ir.fold import fold
from hwnas.ir.onnx import to_bytes
from hwnas.runtimes import trt_build
from hwnas.runtimes.trt_build import DEFAULT_CAPABILITIES, Options, Profile, build, probe
from hwnas.runtimes.trt_precision import Precisions, activations, quantisable, write

PRODUCTS = ("CONVOLUTION", "MATRIX_MULTIPLY")
rtx = pytest.mark.skipif(trt_build.find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX is not installed: pip install 'hwnas[rtx]'")


def network(space: str) -> Graph:
    """A network of a space, folded, with weights."""
    rng = np.random.default_rng(4)
    found = spaces.load(space)
    return fold(found.graph(found.sample(rng)).materialize(rng))


def in_precision(graph: Graph, precision: str) -> bytes:
    """A network as a model in which products compute in a precision, and the rest in fp32 or fp16."""
    how = {
        "fp32": Precisions(),
        "fp16": Precisions(base="fp16"),
        "int8": Precisions(base="fp16", int8=frozenset(quantisable(graph))),
    }[precision]
    return bytes(write(graph, how, dict.fromkeys(activations(graph), (-3.0, 3.0))).SerializeToString())


@rtx
@pytest.mark.parametrize("capability", ["sm80", "sm86", "sm89"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("space", ["mobilenet-small", "resnet-small"])
def test_an_engine_is_built_in_the_precision_of_its_model(
    space: str, precision: str, capability: str, record_property: Callable[[str, object], None]
) -> None:
    """Every product computes in the precision that was written for it, by the parser's own types, and each node is found again."""
    graph = network(space)
    engine = build(in_precision(graph, precision), Options(flavor="rtx", capabilities=(capability,)))
    found = Counter(layer.precision for layer in engine.layers if layer.kind in PRODUCTS)
    record_property("engine", f"{space} {precision} {capability}: {len(engine.plan):,} bytes, products in {dict(found)}")
    assert found == {precision: len(quantisable(graph))}
    floats = {layer.precision for layer in engine.layers if layer.kind in ("ACTIVATION", "REDUCE", "POOLING")}
    assert floats == {"fp32" if precision == "fp32" else "fp16"}
    assert {name for layer in engine.layers for name in layer.origins} >= {node.name for node in graph.nodes}
    assert len(engine.plan) > 100_000
    assert engine.view == "parser"
    assert not engine.cache


@rtx
def test_an_engine_does_not_load_without_a_driver(tmp_path: Path) -> None:
    """A probe of a good plan says that CUDA is not there (or loads it, on a card), and one of a damaged plan that it is damaged."""
    engine = build(to_bytes(fold(residual())), Options(flavor="rtx", capabilities=("sm80", "sm89")))
    plan = tmp_path / "model.plan"
    plan.write_bytes(engine.plan)
    found = probe(plan, "rtx")
    assert found.loads or "CUDA error" in found.reason
    plan.write_bytes(b"no engine" * 50)
    found = probe(plan, "rtx")
    assert not found.loads
    assert "\n" not in found.reason
    assert "does not load the engine" in found.reason


def opened(graph: Graph) -> bytes:
    """A network whose batch is open."""
    model = onnx.load_from_string(to_bytes(graph))
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.shape.dim[0].dim_param = "batch"
    return bytes(model.SerializeToString())


@rtx
def test_an_open_batch_needs_shapes() -> None:
    """With shapes it is built; without, with those of another input, or with others than the network has, it is refused."""
    model = opened(fold(residual()))
    fits = Profile(input="image", least=(1, 3, 16, 16), usual=(4, 3, 16, 16), most=(8, 3, 16, 16))
    engine = build(model, Options(flavor="rtx", capabilities=("sm86",), profiles=(fits,)))
    assert engine.layers[0].inputs[0].shape == (-1, 3, 16, 16)
    with pytest.raises(UsageError, match=r"the shape of input 'image' is open \(\(-1, 3, 16, 16\)\)"):
        build(model, Options(flavor="rtx"))
    with pytest.raises(UsageError, match="the network has no input 'x'; it has: image"):
        build(model, Options(flavor="rtx", profiles=(Profile(input="x", least=(1,), usual=(1,), most=(1,)),)))
    wrong = Profile(input="image", least=(1, 3, 9, 9), usual=(4, 3, 9, 9), most=(8, 3, 9, 9))
    with pytest.raises(UsageError, match="does not fit it"):
        build(model, Options(flavor="rtx", profiles=(wrong,)))


def quantised(zero: int, dtype: type) -> bytes:
    """A model that only quantises its input, with a zero point."""
    constants = [numpy_helper.from_array(np.array(0.1, np.float32), "s"), numpy_helper.from_array(np.array(zero, dtype), "z")]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="quantise_x"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], name="back"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 4, 4]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())


def biased() -> bytes:
    """A convolution in int8 whose bias is int32 behind a DequantizeLinear, as CPUs want it."""
    constants = {
        "s": np.array(0.1, np.float32),
        "z": np.array(0, np.int8),
        "w": np.ones((4, 3, 1, 1), np.int8),
        "ws": np.full(4, 0.1, np.float32),
        "wz": np.zeros(4, np.int8),
        "b": np.ones(4, np.int32),
        "bz": np.zeros(4, np.int32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="d"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], name="weights", axis=0),
        helper.make_node("DequantizeLinear", ["b", "ws", "bz"], ["bd"], name="bias_back", axis=0),
        helper.make_node("Conv", ["d", "wd", "bd"], ["y"], name="conv"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [1, 3, 4, 4]), ("y", [1, 4, 4, 4]))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(value, name) for name, value in constants.items()])
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())


@rtx
@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (quantised(3, np.int8), r"^tensorrt_rtx does not take node 'quantise_x' \(QuantizeLinear\): .*[Nn]on-zero zero point"),
        (quantised(128, np.uint8), r"^tensorrt_rtx does not take node 'quantise_x' \(QuantizeLinear\)"),
        (biased(), r"^tensorrt_rtx does not take node 'bias_back' \(DequantizeLinear\)"),
        (b"no model", r"^tensorrt_rtx does not take the model: "),
    ],
    ids=["zero point", "uint8", "int32 bias", "no model"],
)
def test_what_the_parser_refuses_names_the_node(model: bytes, reason: str) -> None:
    """Its reason becomes one line of ours that starts with the node."""
    with pytest.raises(GraphError, match=reason) as caught:
        build(model, Options(flavor="rtx", capabilities=("sm86",)))
    assert "\n" not in str(caught.value)


@rtx
def test_what_a_generation_of_cards_cannot_do_is_refused() -> None:
    """The builder's reason, with the node, where a target lacks the arithmetic; for others the same model gives an engine of their own."""
    model = to_bytes(fold(residual()))
    with pytest.raises(GraphError, match=r"^tensorrt_rtx does not build the network: .*'gemm_0' for Turing \(SM75\): FP32 GEMM"):
        build(model, Options(flavor="rtx", capabilities=("sm75",)))
    plans = {build(model, Options(flavor="rtx", capabilities=(name,))).plan for name in ("sm86", "sm89")}
    assert len(plans) == 2


def test_what_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the library there is one line with the remedy, for building and for loading alike."""
    monkeypatch.setattr(trt_build, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"^'tensorrt' is not installed; run: pip install 'hwnas\[tensorrt\]', or use --flavor rtx"):
        build(b"", Options())
    with pytest.raises(MissingExtraError, match=r"^'tensorrt_rtx' is not installed; run: pip install 'hwnas\[rtx\]'$"):
        probe(tmp_path / "model.plan", "rtx")


RUN = subprocess.run


def dying(code: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """In place of `subprocess.run`: a child that runs this code."""
    return lambda command, **how: RUN([sys.executable, "-c", code], **how)


def test_a_child_that_dies_is_an_error_and_not_our_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A segmentation fault in the library is told by its signal; for a probe it is an answer."""
    monkeypatch.setattr(trt_build, "check_installed", lambda flavor: None)
    crash = "import os, signal, sys; print('last words', file=sys.stderr); sys.stderr.flush(); os.kill(os.getpid(), signal.SIGSEGV)"
    monkeypatch.setattr(trt_build.subprocess, "run", dying(crash))
    with pytest.raises(HwnasError, match=r"^tensorrt died while hwnas had it build an engine: by signal SIGSEGV \(last words\); check"):
        build(b"", Options())
    assert "SIGSEGV" in probe(tmp_path / "model.plan", "rtx").reason
    monkeypatch.setattr(trt_build.subprocess, "run", dying("raise SystemExit(3)"))
    with pytest.raises(HwnasError, match="with exit status 3"):
        build(b"", Options())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"flavor": "lean"}, "flavor is tensorrt or rtx, got 'lean'"),
        ({"flavor": "rtx", "capabilities": ("sm81",)}, r"does not build for 'sm81' \(did you mean 'sm86'\?\)|does not build for 'sm81'"),
        ({"capabilities": ("sm86",)}, "builds for the card that it runs on"),
        ({"flavor": "rtx", "version_compatible": True}, "neither version- nor hardware-compatible"),
        ({"flavor": "rtx", "hardware_compatible": True}, "neither version- nor hardware-compatible"),
        ({"flavor": "rtx", "refittable": True}, "refittable engine for one compute capability, got sm80, sm86, sm89, sm120"),
    ],
)
def test_options_that_exclude_each_other_are_refused(options: dict[str, object], reason: str) -> None:
    """Before anything is spent."""
    with pytest.raises(UsageError, match=reason):
        Options(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("shapes", [((2,), (1,), (3,)), ((1,), (1, 2), (1,)), ((0,), (1,), (1,))])
def test_shapes_grow(shapes: tuple[tuple[int, ...], ...]) -> None:
    """The three shapes of an open input have one rank and grow from 1."""
    with pytest.raises(UsageError, match="least <= usual <= most"):
        Profile(input="x", least=shapes[0], usual=shapes[1], most=shapes[2])


def test_targets_are_named() -> None:
    """TensorRT-RTX builds for what is named, else for its own default; TensorRT for the card at hand."""
    assert Options(flavor="rtx").targets == DEFAULT_CAPABILITIES
    assert Options(flavor="rtx", capabilities=("sm89",)).targets == ("sm89",)
    assert Options().targets == ()
