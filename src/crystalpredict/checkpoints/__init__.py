"""Checkpoint folders: reading, writing, and finding them by name."""
