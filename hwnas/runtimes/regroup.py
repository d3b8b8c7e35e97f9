"""Times of the kernels that ran, given to the kernels that were foretold.

Where a runtime's fusions are foretold approximately, what a card ran and what a predictor is asked about are not the same kernels. A
predictor learns those that it will be asked about, so a kernel that ran as it was foretold keeps its time, and that of any other goes to
the foretold ones that compute its nodes: a copy to the kernel that needs it, a part to the whole, and a block to its members by the bytes
that each of them moves. Nothing is lost of the sum.
"""

from __future__ import annotations

from collections.abc import Sequence

from hwnas.ir import KernelCall
from hwnas.runtimes.base import KernelTime


def regroup(times: Sequence[KernelTime], foretold: Sequence[KernelCall]) -> tuple[KernelTime, ...]:
    """The foretold kernels, each with its part of the time.

    Args:
        times: of the kernels that ran.
        foretold: of the same network, together with every node that ran.

    Returns:
        The foretold kernels in their order; one whose nodes nothing ran for has 0 s.

    Raises:
        ValueError: a kernel that ran computes no node of any that was foretold.
    """
    owner = {name: i for i, call in enumerate(foretold) for name in call.nodes}
    same = {call: i for i, call in enumerate(foretold)}
    seconds = [0.0] * len(foretold)
    for row in times:
        if row.call in same:
            seconds[same[row.call]] += row.seconds
            continue
        places = list(dict.fromkeys(owner[name] for name in row.call.nodes if name in owner))
        if not places:
            raise ValueError(f"kernel '{row.call.output}' computes {', '.join(row.call.nodes)}, of which nothing was foretold")
        moved = [_bytes(foretold[place]) for place in places]
        for place, part in zip(places, moved, strict=True):
            seconds[place] += row.seconds * part / sum(moved)
    return tuple(KernelTime(call=call, seconds=part) for call, part in zip(foretold, seconds, strict=True))


def _bytes(call: KernelCall) -> int:
    kernel = call.kernel
    return max(1, sum(spec.nbytes for spec in (*kernel.inputs, *kernel.weights, *kernel.outputs)))
