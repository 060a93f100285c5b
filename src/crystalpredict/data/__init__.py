"""Labelled crystals: tables, datasets and splits."""
