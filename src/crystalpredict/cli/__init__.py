"""The command line: parse, call, render. Neither torch nor pymatgen is imported before a command needs it."""

from crystalpredict.cli.app import main

__all__ = ["main"]
