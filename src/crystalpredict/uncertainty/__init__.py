"""Prediction intervals and the applicability domain; NumPy only."""

LEVELS = (50, 68, 80, 90, 95)  # percent of the crystals whose label is in the interval
DEFAULT_LEVEL = 90  # percent; level of the intervals in tables
