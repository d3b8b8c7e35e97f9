"""Whole populations are scored as their networks would be one by one, from blocks that are lowered and predicted once."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from paper_device import BLOCK
from tiny_space import TinySpace

from hwnas import spaces
from hwnas.errors import UncoveredKernelError
from hwnas.ir import Graph, KernelCall
from hwnas.predict import Predictor, population
from hwnas.predict.model import Bounds
from hwnas.predict.population import PopulationPredictor
from hwnas.runtimes.fusions import Fusions
from hwnas.spaces.base import Population, SearchSpace

SHIPPED = ("mobilenet", "mobilenet-small", "resnet", "resnet-small")


def adjusted(predictor: Predictor, *, block: int = BLOCK, batch: int = 1, precision: str = "fp32") -> Predictor:
    """The predictor on another device, in another setting; what it learned then covers less."""
    setting = replace(predictor.setting, batch=batch, precision=precision)
    return replace(predictor, fusions=Fusions(block=block), setting=setting)


def assert_agree(found: Bounds, predictor: Predictor, space: SearchSpace, networks: Population) -> None:
    """As `Predictor.estimate`, to the rounding of sums."""
    graphs = [space.graph(tuple(row), batch=predictor.setting.batch) for row in networks.tolist()]
    estimates = predictor.estimate(graphs)
    for name in Bounds.__slots__:
        np.testing.assert_allclose(getattr(found, name), [getattr(estimate, name) for estimate in estimates], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("block", "batch"), [(8, 1), (1, 1), (16, 4)])
@pytest.mark.parametrize("name", SHIPPED)
def test_both_paths_agree(name: str, block: int, batch: int, predictor: Predictor) -> None:
    """Values, intervals and covered shares, in every space, layout and batch; again when all blocks are known; not canonical as well."""
    chosen, space = adjusted(predictor, block=block, batch=batch), spaces.load(name)
    scored = PopulationPredictor(chosen, space)
    networks = space.sample_batch(np.random.default_rng([block, batch]), 8)
    first = scored.bounds(networks)
    assert_agree(first, chosen, space, networks)
    again = scored.bounds(space.canonical_batch(networks)[::-1])
    assert [getattr(again, n).tolist() for n in Bounds.__slots__] == [getattr(first, n)[::-1].tolist() for n in Bounds.__slots__]
    assert not scored.refusal
    if name in ("mobilenet", "resnet"):  # learned at 24 to 64 pixels on another family: sizes and kinds are out of range
        assert first.coverage.min() < 0.9
    assert (first.low < first.value).all()
    assert (first.value < first.high).all()


def test_nothing_known_is_lowered_again(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """New networks of known blocks cost no lowering: children of two networks that differ in the kernels of their blocks."""
    space = spaces.load("mobilenet-small")
    scored = PopulationPredictor(predictor, space)
    kernels = [i for i, gene in enumerate(space.genes) if gene.name.startswith("kernel")]
    parents = np.tile(np.array(space.reference()), (3, 1))
    parents[:, kernels] = np.arange(3)[:, None]
    scored.bounds(parents)
    rng = np.random.default_rng(0)
    children = np.tile(parents[0], (50, 1))
    children[:, kernels] = rng.integers(3, size=(50, len(kernels)))
    assert len(np.unique(space.canonical_batch(children), axis=0)) > 40

    def lower(_: Predictor, graph: Graph) -> Sequence[KernelCall]:
        raise AssertionError(f"{graph.name} was lowered")

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "kernels", lower)
        found = scored.bounds(children)
    assert scored.alone == 0
    assert_agree(found, predictor, space, children)


@pytest.mark.parametrize("name", ["mobilenet-small", "resnet-small"])
def test_new_blocks_are_lowered_together(name: str, predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks lowered as they stand in their networks have the kernels that they have by themselves, and need fewer graphs."""
    space, kernels = spaces.load(name), Predictor.kernels
    networks, lowered = space.sample_batch(np.random.default_rng(4), 30), [0]

    def count(self: Predictor, graph: Graph) -> Sequence[KernelCall]:
        lowered[0] += 1
        return kernels(self, graph)

    monkeypatch.setattr(Predictor, "kernels", count)
    together, few = PopulationPredictor(predictor, space).bounds(networks), lowered[0]
    monkeypatch.setattr("hwnas.predict.lowering.Lowering._together", lambda *_: None)
    alone = PopulationPredictor(predictor, space).bounds(networks)
    assert few < 0.9 * (lowered[0] - few)
    for end in Bounds.__slots__:
        np.testing.assert_allclose(getattr(together, end), getattr(alone, end), rtol=1e-15)


def test_estimates_do_not_depend_on_what_came_before(predictor: Predictor) -> None:
    """The same whatever was scored earlier, and with whom: a resumed search goes on as it would have."""
    space = spaces.load("resnet-small")
    networks = space.sample_batch(np.random.default_rng(3), 12)
    together = PopulationPredictor(predictor, space).bounds(networks)
    scored = PopulationPredictor(predictor, space)
    apart = [scored.bounds(networks[::-1][i : i + 1]) for i in range(12)][::-1]
    for name in Bounds.__slots__:
        np.testing.assert_allclose(getattr(together, name), [getattr(each, name)[0] for each in apart], rtol=1e-15)


def test_chunks_are_put_together(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A population larger than a chunk is scored in its order; one of nobody has no estimates."""
    space = spaces.load("resnet-small")
    monkeypatch.setattr(population, "CHUNK", 4)
    networks = space.sample_batch(np.random.default_rng(1), 11)
    scored = PopulationPredictor(predictor, space)
    assert_agree(scored.bounds(networks), predictor, space, networks)
    assert scored.bounds(networks[:0]).value.shape == (0,)


def test_strict_refuses(predictor: Predictor) -> None:
    """What is not covered is refused as `Predictor.estimate` refuses it; what is covered is not."""
    space = spaces.load("resnet-small")
    networks = space.sample_batch(np.random.default_rng(0), 3)
    with pytest.raises(UncoveredKernelError) as one_by_one:
        predictor.estimate([space.graph(tuple(networks[0].tolist()))], strict=True)
    with pytest.raises(UncoveredKernelError) as at_once:
        PopulationPredictor(predictor, space).bounds(networks, strict=True)
    assert str(at_once.value) == str(one_by_one.value)
    own = spaces.load("mobilenet-small")
    known = own.sample_batch(np.random.default_rng(0), 20)
    scored = PopulationPredictor(predictor, own)
    covered = known[scored.bounds(known).coverage == 1]
    assert len(covered)
    assert scored.bounds(covered, strict=True).value.shape == (len(covered),)


def test_a_space_of_whole_networks(predictor: Predictor) -> None:
    """A space that does not divide its networks is scored as well, each network a block."""
    space = TinySpace()
    networks = space.sample_batch(np.random.default_rng(0), 10)
    assert_agree(PopulationPredictor(predictor, space).bounds(networks), predictor, space, networks)


def test_int8(predictor: Predictor) -> None:
    """What 8-bit networks fuse across their blocks is either told apart or built one by one; the estimates are the same."""
    space = spaces.load("mobilenet-small")
    chosen = adjusted(predictor, precision="int8")
    networks = space.sample_batch(np.random.default_rng(0), 4)
    assert_agree(PopulationPredictor(chosen, space).bounds(networks), chosen, space, networks)


def _pairs(predictor: Predictor, graph: Graph, *, from_nodes: int) -> Sequence[KernelCall]:
    """A runtime that fuses neighbouring convolutions, in graphs of so many nodes."""
    calls = list(Predictor.kernels(predictor, graph))
    if len(graph.nodes) < from_nodes:
        return calls
    for at, (one, other) in enumerate(pairwise(calls)):
        if one.kernel.op == other.kernel.op == "Conv":
            fused = replace(one.kernel, fused=(*one.kernel.fused, "Conv"), outputs=other.kernel.outputs)
            calls[at : at + 2] = [KernelCall(kernel=fused, nodes=(*one.nodes, *other.nodes), output=other.output)]
            break
    return calls


class Odd(Predictor):
    """A predictor for a runtime that no small graph explains: only where networks are long does it fuse what it did not."""

    def kernels(self, graph: Graph, left: Set[str] = frozenset()) -> tuple[KernelCall, ...]:
        """See `Predictor.kernels`."""
        return tuple(_pairs(self, graph, from_nodes=40))


def test_a_runtime_that_blocks_do_not_explain_is_refused(predictor: Predictor) -> None:
    """Networks are built one by one from then on, the reason is told, and the estimates are right."""
    space = spaces.load("resnet")
    odd = Odd(**{name: getattr(predictor, name) for name in Predictor.__dataclass_fields__})
    networks = space.sample_batch(np.random.default_rng(2), 6)
    assert max(len(space.graph(tuple(row)).nodes) for row in networks.tolist()) >= 40
    scored = PopulationPredictor(odd, space)
    for _ in range(2):
        assert_agree(scored.bounds(networks), odd, space, networks)
    assert "are built one by one" in scored.refusal
    assert scored.alone == 12


def test_blocks_that_change_each_other_are_built(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks with two blocks that have other kernels together than apart are built one by one; the others are not."""
    space = spaces.load("resnet-small")
    networks = space.sample_batch(np.random.default_rng(2), 6)
    monkeypatch.setattr("hwnas.predict.lowering.Lowering._entangle", lambda self, state, number, *_: number % 7 == 3)
    scored = PopulationPredictor(predictor, space)
    assert_agree(scored.bounds(networks), predictor, space, networks)
    assert 0 < scored.alone <= 6
    assert not scored.refusal
