"""Hardware-aware neural architecture search that measures what it predicts."""

__version__ = "0.1.0"
