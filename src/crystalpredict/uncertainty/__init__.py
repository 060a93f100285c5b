"""Intervals and the applicability domain: NumPy only."""
