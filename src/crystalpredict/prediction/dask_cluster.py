"""Predictions by the workers of a Dask cluster, in order. Dask pickles what goes to and fro between its nodes."""

from __future__ import annotations

import faulthandler
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
from crystalpredict.io.reader import AHEAD_BYTES, WINDOW_ENTRIES, chunks_of, merge_entries, read_source
from crystalpredict.io.text import read_content
from crystalpredict.prediction.rows import Prediction

if TYPE_CHECKING:
    from crystalpredict.prediction.predictor import Predictor

NO_DASK = "--scheduler needs Dask: pip install 'crystalpredict[dask]'"
CONNECT = 15  # seconds
AHEAD = 4  # chunks in flight for each thread of the workers
LEAST_AHEAD = 16
LOOK = 5  # seconds between looks at how many workers there are
DIED = "reading it ended each worker that tried, for lack of memory or of time: see --timeout-per-file"
_one = threading.Lock()  # a worker with several threads computes in one of them at a time


@dataclass(frozen=True)
class Job:
    """What the workers need to know of a run; they find the model by its folder or, if they have none, by its name.

    `identity`: items of `identity_of` the model, the same for all; `base`: where relative paths begin; `seconds` that
    reading one file may take, None for any time.
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


def predict_sources(job: Job, sources: Sequence[Source]) -> list[Prediction]:
    """What a worker does: predictions of some sources in their order; the process ends if one takes too long to read.

    CrystalPredictError if it has not the model of the run.
    """
    with _one:
        predictor = _predictor(job)
        config = predictor.model.config
        entries = []
        for source in sources:
            with _ended_after(job.seconds):
                entries += read_source(_with_content(source, job.base), config.radius, vectors=config.vectors)
        if job.merge:
            entries = merge_entries(entries, config.radius)
        return list(predictor.stream(entries))


@contextmanager
def connected(address: str, job: Job, say: Callable[[str], None]) -> Iterator[Any]:
    """A client of the scheduler at an address or of a scheduler file, when a worker is ready; UsageError if not.

    `say` is called where there is none yet.
    """
    try:
        from distributed import Client
    except ImportError:
        raise UsageError(NO_DASK) from None
    try:
        place = {"scheduler_file": address} if Path(address).is_file() else {"address": address}
        client = Client(**place, timeout=CONNECT, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).split("\n")[0] or type(error).__name__
        raise UsageError(f"--scheduler {address}: no scheduler of Dask answers ({reason[:160]})") from None
    try:
        if not client.nthreads():
            say(f"{address} has no workers yet: waiting for the first")
        try:
            client.submit(predict_sources, job, [], pure=False).result()
        except CrystalPredictError:
            raise
        except Exception as error:
            raise UsageError(f"--scheduler {address}: its workers cannot predict ({_brief(error)})") from None
        yield client
    finally:
        client.close()


def rows_of(client: Any, job: Job, sources: Iterable[Source]) -> Iterator[Prediction]:
    """The predictions of all sources, in their order; some chunks of them are in flight, and in memory, at a time.

    Dask gives a chunk whose worker died to another. When it gives a chunk up, the sources are tried one by one.
    """
    chunks = chunks_of(sources)
    waiting: deque[tuple[Any, Sequence[Source], int]] = deque()
    looked, most = -float(LOOK), LEAST_AHEAD
    while True:
        if time.monotonic() - looked > LOOK:
            looked, most = time.monotonic(), max(LEAST_AHEAD, AHEAD * sum(client.nthreads().values()))
        size = sum(size for *_, size in waiting)
        while len(waiting) < most and size < AHEAD_BYTES and (found := next(chunks, None)):
            chunk, weight = found
            waiting.append((client.submit(predict_sources, job, chunk, pure=False), chunk, weight))
            size += weight
        if not waiting:
            return
        future, chunk, _ = waiting.popleft()
        rows = _result(future)
        if rows is None:
            for other, *_ in waiting:
                other.exception()  # waits: or one of them may be what ends the workers
            rows = []
            for source in chunk:
                path, index = start_of(source)
                alone = _result(client.submit(predict_sources, job, [source], pure=False))
                rows += [Prediction(path, index, "", None, error=DIED)] if alone is None else alone
        yield from rows


def windows_of_rows(rows: Iterator[Prediction]) -> Iterator[Iterator[Prediction]]:
    """The rows, as many at a time as are written at a time; the last window has none."""
    for first in rows:
        yield chain([first], islice(rows, WINDOW_ENTRIES - 1))
    yield iter(())


def _result(future: Any) -> list[Prediction] | None:
    """What a chunk gave; None if Dask gave it up."""
    from distributed.scheduler import KilledWorker

    try:
        rows: list[Prediction] = future.result()
    except KilledWorker:
        return None
    except CrystalPredictError:
        raise
    except Exception as error:
        raise OutputError(f"the cluster failed ({_brief(error)}): go on with --resume when it is well again") from None
    return rows


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}"


@lru_cache(maxsize=1)
def _predictor(job: Job) -> Predictor:
    from crystalpredict.prediction.predictor import load_model

    folder = Path(job.folder) if Path(job.folder).is_dir() else find_model(job.name)
    here, there = identity_of(folder), dict(job.identity)
    if differing := [name for name in here if here[name] != there[name]]:
        what = f"its {differing[0]} differs ({here[differing[0]][:20]}, not {there[differing[0]][:20]})"
        raise CheckpointError(f"a worker has another model or program: {what}; install the same on all nodes")
    return load_model(folder, job.device, job.targets, job.batch_atoms, uncertainty=job.uncertainty)


def _with_content(source: Source, base: str) -> Source:
    """A source with its content, read from where the run was started, but called as it was named there."""
    if isinstance(source, Inline):
        return source
    try:
        return Inline(source, read_content(os.path.join(base, source)))
    except StructureError as error:
        return Inline(source, error=str(error))


@contextmanager
def _ended_after(seconds: float | None) -> Iterator[None]:
    """The process ends if the block takes longer, even within C; whoever keeps it starts another."""
    if not seconds:
        yield
        return
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or sys.stderr)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
