"""Search spaces: genotypes, the networks they stand for, and how to find a space by name."""

from hwnas.spaces.base import Block, Choice, Gene, Genotype, Layer, Population, SearchSpace
from hwnas.spaces.registry import GENERIC, load, names

__all__ = ["GENERIC", "Block", "Choice", "Gene", "Genotype", "Layer", "Population", "SearchSpace", "load", "names"]
