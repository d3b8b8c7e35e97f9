"""Custom fused kernels: their sources, compiling them ahead of time, launching them, where a network has use for them."""

from hwnas.kernels.source import Case, KernelSource, Tolerance, Tuning, all_kernels, find

__all__ = ["Case", "KernelSource", "Tolerance", "Tuning", "all_kernels", "find"]
