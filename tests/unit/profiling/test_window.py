"""Which networks are visited when, and what counts."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from hwnas.profiling.journal import Measuring
from hwnas.profiling.waves import PATIENCE, Stage, Visit
from hwnas.profiling.window import AGREEING, LEAST_VISITS, SETTLED, VISITS_S, Window, settled, visits_of


@pytest.fixture
def window() -> Window:
    """Of networks that want three visits, two rounds apart."""
    return Window(found=Measuring(), visits=3, apart=2, room=100)


def begin(window: Window, *numbers: int) -> None:
    for number in numbers:
        window.found.genotypes[number] = (number,)
        window.open(number, cast("Stage", object()), 30)


def visit(window: Window, round_: int, *numbers: int) -> None:
    for number in numbers:
        window.found.visits.setdefault(number, []).append(Visit(network=number, round=round_, seconds=np.full(3, 1e-3)))


def test_visits_lie_apart(window: Window) -> None:
    """A network is due again so many rounds after its last visit, one that was never visited at once."""
    begin(window, 0, 1)
    assert list(window.due(0, closing=False)) == [0, 1]
    visit(window, 0, 0)
    assert list(window.due(1, closing=False)) == [1]
    visit(window, 1, 1)
    assert list(window.due(2, closing=False)) == [0]


def test_at_the_end_nobody_waits(window: Window) -> None:
    """When the profile comes to its end, or nobody is due, all networks are."""
    begin(window, 0, 1)
    visit(window, 0, 0)
    assert list(window.due(1, closing=True)) == [0, 1]
    visit(window, 0, 1)
    assert list(window.due(1, closing=False)) == [0, 1]


def test_networks_leave_when_they_lack_nothing(window: Window) -> None:
    """Then their memory is free for others, and they are done, as far as those before them are."""
    begin(window, 0, 1, 2)
    assert window.room == 10
    for round_ in range(3):
        visit(window, round_, 1)
    visit(window, 0, 0, 2)
    assert window.left == 4
    window.close()
    assert list(window.stages) == [0, 2]
    assert window.room == 40
    assert window.done == 0
    for round_ in (1, 2):
        visit(window, round_, 0)
    assert window.done == 2


def test_another_state_does_not_count(window: Window) -> None:
    """Visits of rounds in which the machine was another are made again, up to a bound; those found out later call a network back."""
    begin(window, 0)
    for round_ in range(3):
        visit(window, round_, 0)
    window.close()
    assert list(window.lacking()) == []
    window.other_state = {0, 1}
    assert list(window.lacking()) == [0]
    assert window.lacks(0) == 2
    window.other_state = range(100)
    for round_ in range(3, 3 * PATIENCE):
        assert window.lacks(0) == min(3, 3 * PATIENCE - round_)
        visit(window, round_, 0)
    assert list(window.lacking()) == []


def test_what_another_session_began_is_lacking(window: Window) -> None:
    """Networks on record that are not built; those that are built are not said twice."""
    window.found.genotypes.update({0: (0,), 1: (1,)})
    begin(window, 1)
    assert list(window.lacking()) == [0]
    assert window.unseen
    visit(window, 0, 1)
    assert not window.unseen


def seen(*seconds: float) -> list[Visit]:
    return [Visit(network=0, round=i, seconds=np.full(3, one)) for i, one in enumerate(seconds)]


def test_visits_that_agree_are_enough() -> None:
    """From the least number on; what differs needs as many more as make its standard error as small."""
    assert settled(seen(*[1e-3] * AGREEING))
    assert not settled(seen(*[1e-3] * (AGREEING - 1)))
    apart = 2.5 * SETTLED
    assert not settled(seen(*[1e-3, 1e-3 * (1 + 2 * apart)] * (AGREEING // 2)))
    assert settled(seen(*[1e-3, 1e-3 * (1 + 2 * apart)] * 4))


def test_a_network_gets_as_many_visits_as_it_needs() -> None:
    """All that are planned where they differ, the least where they agree, and no more than fit into their time where they take long."""
    noisy, quiet, dear = [1e-3, 1.1e-3] * 6, [1e-3] * 12, [0.06, 0.07] * 6
    for seconds, visits in ((noisy, 12), (quiet, AGREEING), (dear, LEAST_VISITS)):
        window = Window(found=Measuring(), visits=12, apart=1, room=100)
        begin(window, 0)
        made = 0
        while window.lacks(0):
            assert window.done == 0
            window.found.visits.setdefault(0, []).append(Visit(network=0, round=made, seconds=np.full(3, seconds[made])))
            made += 1
        assert made == visits
        assert window.done == 1


def test_visits_that_take_long_are_fewer() -> None:
    """As many as fit into the time for all of them, never fewer than the least nor more than are planned."""
    assert [visits_of(cost, 12) for cost in (1e-3, VISITS_S / 8, VISITS_S, 1.0)] == [12, 8, LEAST_VISITS, LEAST_VISITS]
    assert visits_of(1e-3, 2) == 2


def test_visits_of_another_state_of_the_machine_do_not_settle_anything() -> None:
    """However well they agree: they do not count."""
    window = Window(found=Measuring(), visits=12, apart=1, room=100)
    begin(window, 0)
    window.found.visits[0] = seen(*[1e-3] * AGREEING)
    assert not window.lacks(0)
    window.other_state = range(AGREEING)
    assert window.lacks(0) == 12
    assert window.done == 0
