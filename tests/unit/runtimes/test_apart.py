"""The thread on which networks run."""

from __future__ import annotations

import os
import threading

import pytest

from hwnas.runtimes.apart import apart


def test_one_thread_for_all_work() -> None:
    """Work is done on one and the same thread, which is not the caller's, and its result comes back."""
    found = {apart(threading.get_ident) for _ in range(3)}
    assert len(found) == 1
    assert threading.get_ident() not in found


def test_what_it_raises() -> None:
    """An error of the work is the caller's."""
    with pytest.raises(ZeroDivisionError):
        apart(lambda: 1 / 0)
    assert apart(lambda: 1) == 1


def test_the_callers_processors_stay_as_they_were() -> None:
    """Pinning holds for that thread alone, so that whoever builds networks meanwhile may use every processor."""
    allowed = os.sched_getaffinity(0)
    apart(lambda: os.sched_setaffinity(0, {max(allowed)}))
    try:
        assert os.sched_getaffinity(0) == allowed
    finally:
        apart(lambda: os.sched_setaffinity(0, allowed))


def test_a_forked_process_has_its_own() -> None:
    """The thread of the parent is not there after a fork; work is done all the same."""
    apart(lambda: None)
    child = os.fork()
    if child == 0:
        os._exit(apart(lambda: 7))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
