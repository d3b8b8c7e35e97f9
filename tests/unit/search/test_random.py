"""Random search: nothing but the seed decides what it looks at."""

from __future__ import annotations

import numpy as np
from toy_problem import SPACE, TableEvaluator, problem

from hwnas.search import random
from hwnas.search.archive import Archive


def asked_by(seed: int, **options):
    evaluator = TableEvaluator()
    with Archive.open(":memory:") as archive:
        random.search(problem(evaluations=200, seed=seed), evaluator, archive, stop_early=False, **options)
    return evaluator.asked


def test_it_draws_what_the_space_samples(golden):
    """In order, each network once; a golden file holds the first twenty of a seed."""
    rng = np.random.default_rng(3)
    drawn = dict.fromkeys(SPACE.canonical(SPACE.sample(rng)) for _ in range(300))
    assert asked_by(3) == list(drawn)[:200]
    assert [list(genotype) for genotype in asked_by(3)[:20]] == golden("search/random.json", [list(g) for g in list(drawn)[:20]])


def test_what_it_finds_does_not_change_what_it_draws():
    """Nor does the size of its generations."""
    assert asked_by(3, population=7) == asked_by(3, population=50)
    assert asked_by(3) != asked_by(4)


def test_given_networks_come_first():
    """As for every algorithm."""
    given = [(3,) * 7, (0,) * 7]
    assert asked_by(0, initial=given)[:2] == given
