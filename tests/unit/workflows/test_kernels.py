"""`hwnas kernels`: what is compiled, and what is at stake on a network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hwnas import spaces
from hwnas.assets import Workspace
from hwnas.errors import UsageError
from hwnas.ir import Graph, GraphBuilder
from hwnas.ir.onnx import save
from hwnas.kernels import find
from hwnas.workflows.kernels import build, find_uses, network, uses
from hwnas.workflows.predict import load_predictor


def small() -> Graph:
    """A network with three depthwise convolutions, two of which are the same work."""
    b = GraphBuilder("net")
    x = b.input("x", (1, 8, 6, 6))
    for stride in (1, 1, 2):
        x = b.op("Relu", [b.batch_norm(b.conv(x, 8, kernel=3, stride=stride, groups=8, bias=False))])
    return b.finish(b.conv(x, 4))


def test_uses_of_a_network() -> None:
    """The same work is one row, with all its places; without a predictor there is no share."""
    first, second = uses(small(), None)
    assert [len(use.places) for use in (first, second)] == [2, 1]
    assert first.places[0] == ("conv_0", "batchnormalization_0", "relu_0")
    assert first.share is second.share is None


def test_shares_of_the_predicted_time(tmp_path: Path) -> None:
    """They add up to those of the kernels that lie within the places; the rest of the network has the rest."""
    space = spaces.load("mobilenet-small")
    graph = space.graph(space.reference())
    found = find_uses(Workspace.at(tmp_path), graph, device="a100", batch=1)
    inside = {node for use in found.uses for nodes in use.places for node in nodes}
    predictor = load_predictor(Workspace.at(tmp_path), "a100", threads=1, batch=1)
    expected = sum(kernel.share for kernel in predictor.explain(graph) if inside.issuperset(kernel.call.nodes))
    assert 0 < expected < 1
    assert sum(found.share(name) or 0 for name in {use.kernel for use in found.uses}) == pytest.approx(expected)
    assert found.notes


def test_without_a_predictor(tmp_path: Path) -> None:
    """The places are found all the same, and why there are no shares is said."""
    found = find_uses(Workspace.at(tmp_path), small(), device="b200", batch=1)
    assert len(found.uses) == 2
    assert found.share("depthwise_conv") is None
    assert found.source.startswith("no shares: ")
    assert found.as_json()["kernels"] == {"depthwise_conv": {"places": 3, "share": None}}


def test_networks_are_named_in_two_ways(tmp_path: Path) -> None:
    """A file, or a genotype of a space; never both, never neither."""
    path = tmp_path / "net.onnx"
    save(small().materialize(np.random.default_rng(0)), path)
    assert len(uses(network(model=path, space=None, genotype=None, batch=1), None)) == 2
    space = spaces.load("mobilenet-small")
    text = ",".join(str(gene) for gene in space.sample(np.random.default_rng(3)))
    assert network(model=None, space="mobilenet-small", genotype=text, batch=2).inputs["x"].shape[0] == 2
    for wrong in ({"model": path, "space": "resnet"}, {}, {"model": path, "genotype": "1"}, {"space": "resnet", "genotype": "a,b"}):
        with pytest.raises(UsageError):
            network(**{"model": None, "space": None, "genotype": None, **wrong}, batch=1)  # type: ignore[arg-type]  # wrong on purpose


def test_building_writes_what_a_launcher_needs(tmp_path: Path) -> None:
    """PTX and machine code of every case, and an index with name, threads, shared memory and inputs."""
    found = build(archs=["sm90"], precisions=["bf16"], names=["layer_norm_residual"], out=tmp_path / "out")
    index = json.loads((tmp_path / "out" / "kernels.json").read_text())
    assert index["format"] == 1
    assert index["triton"]
    assert [row["case"] for row in index["kernels"]] == [case.name for case in find("layer_norm_residual").cases]
    for row, built in zip(index["kernels"], found, strict=True):
        assert row["symbol"] in (tmp_path / "out" / f"{row['file']}.ptx").read_text()
        assert (tmp_path / "out" / f"{row['file']}.cubin").read_bytes() == built.code.cubin
        assert row["threads"] == 128
        assert row["registers"] == built.code.usage.registers
