"""Errors that a user can act on: every message names what is wrong and what to do; and third-party warnings hidden."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

NO_MATPLOTLIB = "matplotlib is not installed: pip install 'crystalpredict[plots]'"
LONGEST_MESSAGE = 400  # characters, of those that quote a file


class CrystalPredictError(Exception):
    """Base of every error raised on purpose; the command line prints its message as one line."""


class UsageError(CrystalPredictError):
    """An option, a name or an argument that makes no sense (exit code 2)."""


class StructureError(CrystalPredictError):
    """A file or a structure from which no crystal can be read; one line, whatever of the file is quoted in it."""

    def __init__(self, message: str) -> None:
        text = printable(message)
        super().__init__(text if len(text) <= LONGEST_MESSAGE else f"{text[:200]} ... {text[-100:]}")


class CheckpointError(CrystalPredictError):
    """A checkpoint folder that is missing, damaged, altered or of an unknown format."""


class DataError(CrystalPredictError):
    """A table of labelled crystals that cannot be trained on."""


class OutputError(CrystalPredictError):
    """A result that cannot be written, as on a full disk."""


def printable(text: str, kept: str = "") -> str:
    """The text without control characters but those `kept`: in what others wrote they may be commands to a terminal."""
    return "".join(letter if letter.isprintable() or letter in kept else repr(letter)[1:-1] for letter in text)


_FILTERS_LOCK = threading.RLock()  # warning filters belong to the process: two threads would restore each other's


@contextmanager
def suppress_warnings() -> Iterator[None]:
    """Hide third-party warnings in the block; the filters of the program are restored afterwards."""
    with _FILTERS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
