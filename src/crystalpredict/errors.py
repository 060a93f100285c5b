"""Errors with messages for users, and hiding of third-party warnings."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

NO_MATPLOTLIB = "matplotlib is not installed: pip install 'crystalpredict[plots]'"
MAX_MESSAGE_LENGTH = 400  # characters, of a message that quotes a file


class CrystalPredictError(Exception):
    """Base of all errors of this package; the command line prints the message as one line."""


class UsageError(CrystalPredictError):
    """An option, a name or an argument is wrong (exit code 2)."""


class StructureError(CrystalPredictError):
    """A file or a structure cannot be read as a crystal; the message is one line even if it quotes the file."""

    def __init__(self, message: str) -> None:
        text = printable(message)
        super().__init__(text if len(text) <= MAX_MESSAGE_LENGTH else f"{text[:200]} ... {text[-100:]}")


class CheckpointError(CrystalPredictError):
    """A checkpoint folder is missing, damaged, altered or of an unknown format."""


class DataError(CrystalPredictError):
    """A table of labelled crystals cannot be used."""


class OutputError(CrystalPredictError):
    """A result cannot be written, as on a full disk."""


def printable(text: str, allowed: str = "") -> str:
    """Return a text with control characters escaped, except those allowed: in a file they may be terminal commands."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter in allowed else repr(letter)[1:-1] for letter in text)


def hint_of(name: str, known: Iterable[str]) -> str:
    """Return a hint for an unknown name: the most similar known one, or all of them."""
    known = list(known)
    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known)}"


def reason_of(message: str) -> str:
    """Return a message without advice, brackets, quotes and numbers, so that equal causes are counted together."""
    if "Å apart" in message:
        return "atoms too close"
    reason = re.sub(r"\s*\(.*\)|\s*\[.*\]|\s*'[^']*'|\s*\"[^\"]*\"", "", message).split(": ")[0]
    return re.sub(r"-?[0-9][0-9.e+-]*", "…", reason)[:80]


_FILTERS_LOCK = threading.RLock()  # warning filters are global: two threads could restore those of the other


@contextmanager
def suppress_warnings() -> Iterator[None]:
    """Hide all warnings in the block; then restore the filters."""
    with _FILTERS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
