"""What a predictor learns from, where what a card runs is not quite what is foretold of it.

A profile keeps the kernels that really ran. A predictor is asked on machines without the card, about the kernels that the rules foretell.
For runtimes whose rules are approximate it therefore learns those, with the times that a card took for them (`hwnas.runtimes.regroup`), so
that its errors on unseen networks are the errors that users will meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hwnas import spaces
from hwnas.errors import UsageError
from hwnas.profiling import NetworkRecord, Setting
from hwnas.profiling.profile import attribute
from hwnas.runtimes.base import KernelTime
from hwnas.runtimes.fusions import Fusions
from hwnas.runtimes.registry import CUDA, CUDA_TENSORRT, TENSORRT, fuser
from hwnas.runtimes.regroup import regroup
from hwnas.spaces import SearchSpace

APPROXIMATE = frozenset({TENSORRT, CUDA, CUDA_TENSORRT})


def as_foretold(networks: Sequence[NetworkRecord], setting: Setting, space: str, fusions: Fusions | int = 0) -> Sequence[NetworkRecord]:
    """Measured networks with the kernels that are foretold of them; as they are where these are exact, or the space is gone.

    Args:
        networks: of one profile.
        setting: in which they were measured.
        space: from which they were sampled.
        fusions: what the runtime fuses, as far as it could be asked.
    """
    if setting.runtime not in APPROXIMATE:
        return networks
    try:
        found = spaces.load(space)
    except UsageError:
        return networks
    return [_foretold(network, setting, found, fusions) for network in networks]


def _foretold(network: NetworkRecord, setting: Setting, space: SearchSpace, fusions: Fusions | int) -> NetworkRecord:
    graph = space.graph(network.genotype, batch=setting.batch)
    ran = [KernelTime(call=kernel.call, seconds=kernel.nanoseconds * 1e-9) for kernel in network.kernels]
    rows = regroup(ran, fuser(setting.runtime, setting.precision)(graph, fusions))
    kernels = attribute([(row.call, row.seconds) for row in rows], network.total_ns, network.call_ns)
    return replace(network, kernels=kernels)
