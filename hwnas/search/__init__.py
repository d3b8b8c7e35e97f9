"""Searching a space: the problem, the evaluator's seam, the archive, and the algorithms `nsga2` and `random` over one loop."""
