"""What commands that compute begin with: a predictor, and the reader of what it computes."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from crystalpredict.cli.render import say
from crystalpredict.errors import UsageError
from crystalpredict.registry import needs_vectors, radius_of_model

if TYPE_CHECKING:
    from crystalpredict.cache import Cache
    from crystalpredict.predict import Predictor
    from crystalpredict.reading import Reader
    from crystalpredict.structures import Source
    from crystalpredict.workers import Limits

LARGEST = 1e12  # of numbers in options


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
        from crystalpredict.reading import Reader

        # workers start before torch is imported: they are small then, and read meanwhile
        radius, vectors = radius_of_model(folder), needs_vectors(folder)
        workers = (jobs or cores()) if radius else 1
        with Reader(
            sources, radius or 0.0, workers, merge=merge, vectors=vectors, limits=limits, cache=cache
        ) as reader:

            @lru_cache
            def load() -> Predictor:
                from crystalpredict.predict import load_model

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
    if not re.fullmatch(r"0*[1-9][0-9]{0,11}", batch_atoms):
        raise UsageError(f"--batch-atoms {batch_atoms[:60]}: give a number of atoms, or auto")
    return int(batch_atoms)


def limits_of(timeout_per_file: float, memory_per_process: float | None) -> Limits:
    """What --timeout-per-file, seconds, and --memory-per-process, GiB, say."""
    from crystalpredict.workers import Limits

    return Limits(timeout_per_file or None, int(memory_per_process * 2**30) if memory_per_process else None)


def refuse_numbers(params: Mapping[str, object]) -> None:
    """UsageError for an option whose number is beyond all that is counted or measured here."""
    for name, value in params.items():
        if isinstance(value, int | float) and not abs(value) <= LARGEST:
            raise UsageError(f"--{name.replace('_', '-')}: give a number below {LARGEST:.0e}")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
