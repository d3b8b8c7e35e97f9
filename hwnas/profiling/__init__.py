"""Measuring a device: networks sampled, timed whole, their kernels timed in place, the energy of some of them metered."""

from hwnas.profiling.energies import Energies, EnergyPlan, EnergyProfiler
from hwnas.profiling.profile import CurvePoint, KernelRecord, NetworkRecord, Profile, Setting
from hwnas.profiling.profiler import Look, Plan, Profiler, Progress
from hwnas.profiling.steady import Batch, Guard
from hwnas.profiling.store import ProfileStore

__all__ = [
    "Batch",
    "CurvePoint",
    "Energies",
    "EnergyPlan",
    "EnergyProfiler",
    "Guard",
    "KernelRecord",
    "Look",
    "NetworkRecord",
    "Plan",
    "Profile",
    "ProfileStore",
    "Profiler",
    "Progress",
    "Setting",
]
