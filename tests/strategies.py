"""The Hypothesis vocabulary that test files share."""

from __future__ import annotations

from hypothesis import strategies as st

from hwnas.spaces import Genotype, SearchSpace


def archs(space: SearchSpace) -> st.SearchStrategy[Genotype]:
    """Any genotype of a space; shrinks towards the first choice of every gene."""
    return st.tuples(*(st.integers(0, len(gene.choices) - 1) for gene in space.genes))
