"""Intervals and the applicability domain: NumPy only."""

LEVELS = (50, 68, 80, 90, 95)  # percent of crystals whose label lies in the interval
DEFAULT_LEVEL = 90  # percent, of the intervals in tables and columns
