"""Warnings of libraries, which nobody asked for."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_ONE_AT_A_TIME = threading.RLock()  # filters belong to the process: threads that put each other's back would lose them


@contextmanager
def silence() -> Iterator[None]:
    """No warning is shown meanwhile; what is set for them afterwards is what was before, in programs of threads too."""
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
