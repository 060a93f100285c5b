"""The version of the package, alone: whoever needs it imports nothing else."""

__version__ = "0.2.0"
