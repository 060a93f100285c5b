"""Entries to rows of predictions, and the rows to files."""
