"""What commands that compute begin with: a predictor, and the reader of what it computes."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from crystalpredict.checkpoints.registry import needs_vectors, radius_of_model
from crystalpredict.cli.render import say
from crystalpredict.errors import UsageError

if TYPE_CHECKING:
    from crystalpredict.io.entries import Source
    from crystalpredict.io.reader import Reader
    from crystalpredict.io.worker_pool import Limits
    from crystalpredict.prediction.cache import Cache
    from crystalpredict.prediction.predictor import Predictor


@contextmanager
def quick_imports() -> Iterator[None]:
    """Until the model is opened, no search for garbage: what is imported stays, and to look through it takes long."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def opened_model(
    sources: Iterable[Source],
    folder: Path,
    device: str,
    batch_atoms: int | None,
    jobs: int,
    *,
    targets: Sequence[str] = (),
    merge: bool = True,
    uncertainty: bool = True,
    limits: Limits | None = None,
    cache: Cache | None = None,
    quiet: bool = False,
) -> Iterator[tuple[Callable[[], Predictor], Reader]]:
    """What loads the predictor of a checkpoint's folder, once, and the reader of the sources.

    `limits` of reading one file; None: those of everyone. What the predictor is, is said on stderr.
    """
    with quick_imports():
        from crystalpredict.io.reader import Reader

        # workers start before torch is imported: they are small then, and read meanwhile
        radius, vectors = radius_of_model(folder), needs_vectors(folder)
        workers = (jobs or cores()) if radius else 1
        with Reader(
            sources, radius or 0.0, workers, merge=merge, vectors=vectors, limits=limits, cache=cache
        ) as reader:

            @lru_cache
            def load() -> Predictor:
                from crystalpredict.prediction.predictor import load_model

                predictor = load_model(folder, device, targets, batch_atoms, uncertainty=uncertainty)
                gc.freeze()
                gc.enable()
                if not quiet:
                    atoms = "equivalent atoms once" if merge and not vectors else "all atoms"
                    say(f"model {predictor.checkpoint.name}, device {predictor.device}, {atoms}")
                return predictor

            yield load, reader


def atoms_of(batch_atoms: str) -> int | None:
    """What --batch-atoms says; None for auto."""
    if batch_atoms == "auto":
        return None
    if not (batch_atoms.isdecimal() and 0 < int(batch_atoms) < 10**12):
        raise UsageError(f"--batch-atoms {batch_atoms}: give a number of atoms, or auto")
    return int(batch_atoms)


def limits_of(timeout_per_file: float, memory_per_process: float | None) -> Limits:
    """What --timeout-per-file, seconds, and --memory-per-process, GiB, say."""
    from crystalpredict.io.worker_pool import Limits

    return Limits(timeout_per_file or None, int(memory_per_process * 2**30) if memory_per_process else None)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
