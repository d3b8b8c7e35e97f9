"""Learning a device from its profile, and predicting networks with intervals."""

from hwnas.predict.estimate import Estimate
from hwnas.predict.predictor import KernelEstimate, Predictor

__all__ = ["Estimate", "KernelEstimate", "Predictor"]
