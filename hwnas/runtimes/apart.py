"""A thread that does nothing but run networks, so that what else the process does leaves no trace in their times.

ONNX Runtime takes some hundred small pieces of memory in every run. The allocator of the C library keeps what was freed by size and hands
out the oldest piece first, so in a process that has built and dropped many networks those pieces are strewn over memory, and a run meets
cold ones. After 450 networks of `mobilenet-small` the runs of a visit went round 1,235 pages instead of 112, and all networks, however old,
took 2 to 5 % longer. Every thread has a heap of its own (glibc's arenas), and a thread that builds nothing keeps it in order: 0.1 to 0.3 %.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

Result = TypeVar("Result")


@cache
def _thread(_process: int) -> ThreadPoolExecutor:
    """The thread of a process; one that was forked has its own."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="hwnas-runs")


def apart(work: Callable[[], Result]) -> Result:
    """Does on that thread what runs a network, and waits for it; what it raises is raised here.

    Work must not ask for work in its turn: there is one thread.
    """
    return _thread(os.getpid()).submit(work).result()
