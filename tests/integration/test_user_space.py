"""The example of docs/spaces.md, run as a user would run it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from hwnas import spaces
from hwnas.ir import onnx

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "my_space.py"


@pytest.fixture(scope="module")
def space() -> spaces.SearchSpace:
    return spaces.load(f"{EXAMPLE}:MySpace")


def test_the_documentation_shows_the_file() -> None:
    """docs/spaces.md quotes docs/examples/my_space.py word for word."""
    assert f"```python\n{EXAMPLE.read_text()}```" in (ROOT / "docs" / "spaces.md").read_text()


@pytest.mark.parametrize("name", ["mobilenet", "mobilenet-small", "resnet", "resnet-small"])
def test_the_documentation_counts_right(name: str) -> None:
    """The table of shipped spaces agrees with what the spaces say of themselves."""
    (row,) = [line for line in (ROOT / "docs" / "spaces.md").read_text().splitlines() if line.startswith(f"| `{name}` |")]
    space = spaces.load(name)
    genes, genotypes, networks = (cell.strip() for cell in row.split("|")[5:8])
    assert str(space) == f"{name}: {genes} genes, {genotypes} genotypes, {networks} distinct networks"
    assert f"{space.genes[0].choices[0]}-{space.genes[0].choices[-1]} px | {space.num_classes} |" in row


def test_its_networks_run_in_onnx_runtime(space: spaces.SearchSpace) -> None:
    """Sampled, mutated and crossed networks build, load in ONNX Runtime, and give finite numbers of the promised shape."""
    rng = np.random.default_rng(0)
    a, b = space.sample(rng), space.sample(rng)
    for genotype in (a, b, space.mutate(a, rng), space.crossover(a, b, rng), space.reference()):
        graph = space.graph(genotype, batch=2).materialize(rng)
        session = onnxruntime.InferenceSession(onnx.to_bytes(graph), providers=["CPUExecutionProvider"])
        (logits,) = session.run(None, graph.random_inputs(rng))
        assert logits.shape == (2, space.num_classes)
        assert np.isfinite(logits).all()
        assert logits.std() > 0


def test_it_knows_its_size_and_folds_duplicates(space: spaces.SearchSpace) -> None:
    """Genes of stages that a network does not have make no new network."""
    assert space.size() == 3 * 4 * (4 * 2 * 2) ** 4
    assert space.distinct_size() == 3 * (16 + 16**2 + 16**3 + 16**4)
    arch = space.decode(space.reference()) | {"stages": 1}
    one, other = space.encode(arch | {"width_2": 8}), space.encode(arch | {"width_2": 64})
    assert one != other
    assert space.canonical(one) == space.canonical(other)
    assert space.graph(one).nodes == space.graph(other).nodes
