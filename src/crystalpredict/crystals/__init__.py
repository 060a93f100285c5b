"""A cell and its neighbours: NumPy only."""
