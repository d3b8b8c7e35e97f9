"""Ships a network: folded, quantised where that is faster, measured, verified, with a manifest."""
