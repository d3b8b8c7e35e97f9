"""Runtimes: build a network, run it, time it, and say which kernels it became."""
