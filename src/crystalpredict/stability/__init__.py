"""Stability against decomposition: energies of known phases, and the convex hull over them."""
