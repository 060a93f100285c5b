"""Predict on the workers of a Dask cluster, in order. Dask pickles what it sends between its nodes."""

from __future__ import annotations

import faulthandler
import gc
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalpredict.checkpoints.registry import find_model, identity_of
from crystalpredict.errors import CheckpointError, CrystalPredictError, OutputError, StructureError, UsageError
from crystalpredict.io.entries import Inline, Source, start_of
from crystalpredict.io.reader import MAX_BYTES_AHEAD, WINDOW_ENTRIES, chunks_of, merge_entries, read_source
from crystalpredict.io.text import read_content
from crystalpredict.prediction.rows import Prediction

if TYPE_CHECKING:
    from crystalpredict.prediction.predictor import Predictor
    from crystalpredict.prediction.relaxation_by_potential import Relaxation

NO_DASK = "--scheduler needs Dask: pip install 'crystalpredict[dask]'"
CONNECT_TIMEOUT_SECONDS = 15
CHUNKS_PER_THREAD = 4  # in flight
MIN_CHUNKS_IN_FLIGHT = 16
POLL_SECONDS = 5  # between counts of the workers
DIED = "reading it ended several workers: give them more memory, or raise --timeout-per-file"
_COMPUTING = threading.Lock()  # one thread of a worker computes at a time


@dataclass(frozen=True)
class Job:
    """Parameters of a run for the workers.

    Attributes:
        folder: Folder of the model.
        name: Name of the model, for workers without this folder.
        identity: From `identity_of_run`, which must be the same on all workers.
        base: Folder of relative paths.
        seconds: Timeout of reading one file; None for none.
        relaxation: How structures are relaxed before they are predicted; None: they are predicted as they are.
    """

    folder: str
    name: str | None
    identity: tuple[tuple[str, str], ...]
    base: str
    device: str = "auto"
    batch_atoms: int | None = None
    targets: tuple[str, ...] = ()
    uncertainty: bool = True
    merge: bool = True
    seconds: float | None = None
    relaxation: Relaxation | None = None


def identity_of_run(folder: Path, relaxation: Relaxation | None) -> tuple[tuple[str, str], ...]:
    """Return what the rows of a run depend on: names and values of the model in a folder, and of a potential."""
    found = identity_of(folder)
    if relaxation:
        from crystalpredict.prediction.potentials import identity_of_potential

        found["potential"] = identity_of_potential(relaxation.potential)
    return tuple(found.items())


def predict_sources(job: Job, sources: Sequence[Source]) -> list[Prediction]:
    """Return the predictions of a chunk of sources, in order, on a worker; reading beyond the timeout ends its process.

    Raises:
        CrystalPredictError: The worker does not have the model of the run.
    """
    with _COMPUTING:
        predictor = _predictor(job)
        config = predictor.config
        entries = []
        for source in sources:
            with _ended_after(job.seconds):
                entries += read_source(_with_content(source, job.base), config.radius, vectors=config.vectors)
        if job.merge:
            entries = merge_entries(entries, config.radius)
        return list(predictor.stream(entries))


@contextmanager
def connected(address: str, job: Job, report: Callable[[str], None]) -> Iterator[Any]:
    """Yield a client of a scheduler when a worker is ready.

    Args:
        address: Address of the scheduler, or a scheduler file.
        job: The run.
        report: Called with a message while there is no worker.

    Raises:
        UsageError: Dask is missing, no scheduler answers, or its workers cannot predict.
    """
    try:
        from distributed import Client
    except ImportError:
        raise UsageError(NO_DASK) from None
    try:
        place = {"scheduler_file": address} if Path(address).is_file() else {"address": address}
        client = Client(**place, timeout=CONNECT_TIMEOUT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        client, reason = None, str(error).split("\n")[0] or type(error).__name__
    if client is None:
        # not in the `except`, whose exception keeps the failed client: closed by the collector while the next client
        # starts, it would wait for a lock of that one
        gc.collect()
        raise UsageError(f"--scheduler {address}: no Dask scheduler answers ({reason[:160]})")
    try:
        if not client.nthreads():
            report(f"{address} has no workers yet: waiting for the first")
        try:
            client.submit(predict_sources, job, [], pure=False).result()
        except CrystalPredictError:
            raise
        except Exception as error:
            raise UsageError(f"--scheduler {address}: its workers cannot predict ({_first_line(error)})") from None
        yield client
    finally:
        client.close()


def rows_of(client: Any, job: Job, sources: Iterable[Source]) -> Iterator[Prediction]:
    """Yield the predictions of all sources, in order, with a limited number of chunks in flight.

    Dask repeats a chunk whose worker ended on another worker. If that fails repeatedly, each source is tried alone.
    """
    chunks = chunks_of(sources)
    waiting: deque[tuple[Any, Sequence[Source], int]] = deque()
    checked, max_chunks = -float(POLL_SECONDS), MIN_CHUNKS_IN_FLIGHT
    while True:
        if time.monotonic() - checked > POLL_SECONDS:
            checked, max_chunks = (
                time.monotonic(),
                max(MIN_CHUNKS_IN_FLIGHT, CHUNKS_PER_THREAD * sum(client.nthreads().values())),
            )
        size = sum(size for *_, size in waiting)
        while len(waiting) < max_chunks and size < MAX_BYTES_AHEAD and (found := next(chunks, None)):
            chunk, weight = found
            waiting.append((client.submit(predict_sources, job, chunk, pure=False), chunk, weight))
            size += weight
        if not waiting:
            return
        future, chunk, _ = waiting.popleft()
        rows = _result(future)
        if rows is None:
            for other, *_ in waiting:
                other.exception()  # wait, because one of these chunks may be what ends the workers
            rows = []
            for source in chunk:
                path, index = start_of(source)
                alone = _result(client.submit(predict_sources, job, [source], pure=False))
                rows += [Prediction(path, index, "", None, error=DIED)] if alone is None else alone
        yield from rows


def windows_of_rows(rows: Iterator[Prediction]) -> Iterator[Iterator[Prediction]]:
    """Yield the rows in windows of the size written at a time; the last window is empty."""
    for first in rows:
        yield chain([first], islice(rows, WINDOW_ENTRIES - 1))
    yield iter(())


def _result(future: Any) -> list[Prediction] | None:
    """Return the predictions of a chunk; None if it ended several workers."""
    from distributed.scheduler import KilledWorker

    try:
        rows: list[Prediction] = future.result()
    except KilledWorker:
        return None
    except CrystalPredictError:
        raise
    except Exception as error:
        raise OutputError(
            f"the cluster failed ({_first_line(error)}): restart it, and continue with --resume"
        ) from None
    return rows


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}"


@lru_cache(maxsize=1)
def _predictor(job: Job) -> Predictor:
    from crystalpredict.prediction.predictor import load_model

    folder = Path(job.folder) if Path(job.folder).is_dir() else find_model(job.name)
    here, there = dict(identity_of_run(folder, job.relaxation)), dict(job.identity)
    if differing := [name for name in here if here[name] != there[name]]:
        what = f"its {differing[0]} differs ({here[differing[0]][:20]}, not {there[differing[0]][:20]})"
        raise CheckpointError(f"a worker has another model or version: {what}; install the same on all nodes")
    return load_model(
        folder, job.device, job.targets, job.batch_atoms, uncertainty=job.uncertainty, relax=job.relaxation
    )


def _with_content(source: Source, base: str) -> Source:
    """Return a source with its content, under its own name; relative paths begin at `base`."""
    if isinstance(source, Inline):
        return source
    try:
        return Inline(source, read_content(os.path.join(base, source)))
    except StructureError as error:
        return Inline(source, error=str(error))


@contextmanager
def _ended_after(seconds: float | None) -> Iterator[None]:
    """End the process if the block takes longer, even in C code; Dask's nanny starts another."""
    if not seconds:
        yield
        return
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or sys.stderr)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
