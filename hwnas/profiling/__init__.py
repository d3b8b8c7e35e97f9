"""Measuring a device: networks sampled, timed whole, their kernels timed in place."""

from hwnas.profiling.profile import CurvePoint, KernelRecord, NetworkRecord, Profile, Setting
from hwnas.profiling.profiler import Look, Plan, Profiler, Progress
from hwnas.profiling.store import ProfileStore

__all__ = ["CurvePoint", "KernelRecord", "Look", "NetworkRecord", "Plan", "Profile", "ProfileStore", "Profiler", "Progress", "Setting"]
