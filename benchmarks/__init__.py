"""Measurements of speed that the documentation quotes; each prints its table: `python -m benchmarks.labels`."""
