"""Values of options that several commands share."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from crystalpredict.errors import UsageError

if TYPE_CHECKING:
    from crystalpredict.io.worker_pool import Limits

MAX_BATCH_ATOMS = 10**12 - 1  # twelve digits


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Disable garbage collection in the block: it is slow while libraries are imported."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def collect_garbage_again() -> None:
    """Resume garbage collection, except of existing objects."""
    gc.freeze()
    gc.enable()


def atoms_of(batch_atoms: str) -> int | None:
    """Return the value of --batch-atoms; None for auto."""
    if batch_atoms == "auto":
        return None
    if not re.fullmatch(r"0*[1-9][0-9]{0,11}", batch_atoms):
        raise UsageError(
            f"--batch-atoms {batch_atoms[:60]}: give a number of atoms from 1 to {MAX_BATCH_ATOMS:,}, or auto"
        )
    return int(batch_atoms)


def limits_of(timeout_per_file: float, memory_per_process: float | None) -> Limits:
    """Return the limits of --timeout-per-file, seconds, and --memory-per-process, GiB."""
    from crystalpredict.io.worker_pool import Limits

    return Limits(timeout_per_file or None, int(memory_per_process * 2**30) if memory_per_process else None)
