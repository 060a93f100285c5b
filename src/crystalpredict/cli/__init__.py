"""The command line: parse, call, render. Neither torch nor pymatgen is imported before a command needs it."""

from crystalpredict.cli.app import main, program

__all__ = ["main", "program"]
