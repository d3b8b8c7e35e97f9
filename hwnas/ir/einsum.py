"""Equations of Einsum: each dimension of each input is a letter, and the result names those that stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from string import ascii_letters

from hwnas.errors import GraphError

ELLIPSIS = "..."


def explicit(equation: str, ranks: Sequence[int]) -> str:
    """The equation with letters for an ellipsis and with its result stated.

    Args:
        equation: as ONNX has it: terms joined by commas, perhaps `->` and a result; without one, letters that occur once, sorted.
        ranks: of the inputs.

    Raises:
        GraphError: when the terms do not fit the inputs.

    >>> explicit("b i d, b j d -> b i j", [3, 3])
    'bid,bjd->bij'
    >>> explicit("...ij,...jk", [4, 3])
    'ABij,Bjk->ABik'
    """
    left, arrow, result = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise GraphError(f"equation '{equation}' has {len(terms)} terms for {len(ranks)} inputs")
    free = [letter for letter in ascii_letters[26:] + ascii_letters[:26] if letter not in equation]
    hidden = [rank - len(term.replace(ELLIPSIS, "")) if ELLIPSIS in term else 0 for term, rank in zip(terms, ranks, strict=True)]
    if min(hidden) < 0 or max(hidden) > len(free):
        raise GraphError(f"equation '{equation}' does not fit inputs of ranks {list(ranks)}")
    shared = "".join(free[: max(hidden)])
    if not arrow:
        counts = Counter(left.replace(",", "").replace(".", ""))
        result = ELLIPSIS * (ELLIPSIS in left) + "".join(sorted(letter for letter, count in counts.items() if count == 1))
    terms = [term.replace(ELLIPSIS, shared[len(shared) - many :]) for term, many in zip(terms, hidden, strict=True)]
    return f"{','.join(terms)}->{result.replace(ELLIPSIS, shared)}"


def index_sizes(equation: str, shapes: Sequence[tuple[int, ...]]) -> Mapping[str, int]:
    """The size of every letter of an explicit equation; a dimension of 1 broadcasts.

    Raises:
        GraphError: when a letter stands for two sizes.
    """
    sizes: dict[str, int] = {}
    left, _, result = equation.partition("->")
    for term, shape in zip(left.split(","), shapes, strict=True):
        if len(term) != len(shape):
            raise GraphError(f"term '{term}' of '{equation}' does not fit a tensor of rank {len(shape)}")
        for letter, size in zip(term, shape, strict=True):
            if size != sizes.setdefault(letter, size):
                if 1 not in (size, sizes[letter]):
                    raise GraphError(f"index '{letter}' of '{equation}' stands for {sizes[letter]} and for {size}")
                sizes[letter] = max(size, sizes[letter])
    unknown = sorted(set(result) - set(sizes))
    if unknown or len(set(result)) != len(result):
        raise GraphError(f"the result of '{equation}' names an index twice, or one that no input has")
    return sizes
