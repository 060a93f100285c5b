"""Many files to entries, in order, read by worker processes while the caller computes."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from multiprocessing import get_context

from crystalpredict.equivalence import merge_equivalent
from crystalpredict.structures import Entry, Inline, Source, read_entries, start_of

CHUNK_FILES = 64  # files that a worker reads at a time, at most,
CHUNK_BYTES = 2**17  # and their size: a crystal takes some twenty times the memory of its file
AHEAD = 128  # chunks that are being read or wait to be used, while torch is imported: it bounds the memory
AHEAD_OF_EACH = 4  # the same for each worker, if there are many
FEW = 64  # files, below which starting workers takes longer than reading


class Reader:
    """Reads files and texts of structures, in worker processes that start at once and end with this context manager.

    Make it before torch is imported: workers are then forked from a small process with one thread, and read meanwhile.
    """

    def __init__(
        self, sources: Iterable[Source], radius: float, jobs: int = 1, *, merge: bool = True, vectors: bool = False
    ) -> None:
        """radius, Å, of the neighbour lists; `jobs` workers, none for 1 or few files; `merge` equivalent atoms.

        `vectors`: lists with the vectors of their edges, whose atoms are never merged.
        """
        self.read: Callable[[Sequence[Source]], list[Entry]] = partial(
            read_chunk, radius=radius, merge=merge, vectors=vectors
        )
        self.jobs = jobs
        sources = iter(sources)
        first = list(islice(sources, FEW))
        self.chunks = chunks_of(chain(first, sources))
        self.waiting: deque[tuple[Sequence[Source], Future[list[Entry]]]] = deque()
        self.pool: ProcessPoolExecutor | None = None
        self.apart: ProcessPoolExecutor | None = None
        if jobs > 1 and len(first) >= FEW:
            # a fork is quickest, but not safe once there are threads, as there are when torch is in use
            quick = sys.platform == "linux" and "torch" not in sys.modules
            self.pool = _new_pool(jobs, "fork" if quick else "spawn")
            self._submit()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in filter(None, (self.pool, self.apart)):
            pool.shutdown(cancel_futures=True)

    @property
    def busy(self) -> int:
        """Workers that have something to do at present."""
        return min(self.jobs, sum(not future.done() for _, future in self.waiting))

    def entries(self) -> Iterator[Entry]:
        """Every structure of the files, in their order."""
        if self.pool is None:
            for chunk in self.chunks:
                yield from self.read(chunk)
        while self.waiting:
            chunk, future = self.waiting.popleft()
            self._submit()
            try:
                yield from future.result()
            except BrokenProcessPool:
                yield from self._read_apart(chunk)

    def _submit(self) -> None:
        """Hand out chunks as far as memory goes."""
        most = max(AHEAD, AHEAD_OF_EACH * self.jobs)
        while len(self.waiting) < most and (chunk := next(self.chunks, None)):
            assert self.pool is not None
            try:
                future = self.pool.submit(self.read, chunk)
            except BrokenProcessPool:
                self.pool = _new_pool(self.jobs, "spawn")
                future = self.pool.submit(self.read, chunk)
            self.waiting.append((chunk, future))

    def _read_apart(self, sources: Sequence[Source]) -> list[Entry]:
        """Entries of files of which one may have ended a worker, read by one process beside the others."""
        self.apart = self.apart or _new_pool(1, "spawn")
        try:
            return self.apart.submit(self.read, sources).result()
        except BrokenProcessPool:
            self.apart = None
        if len(sources) == 1:
            (only,) = sources
            path, index = start_of(only)
            return [Entry(path, index, error="reading it ended the process: is there enough memory for this file?")]
        half = len(sources) // 2
        return self._read_apart(sources[:half]) + self._read_apart(sources[half:])


def chunks_of(sources: Iterable[Source]) -> Iterator[Sequence[Source]]:
    """The sources in their order, a few at a time."""
    chunk: list[Source] = []
    size = 0
    for source in sources:
        try:
            weight = len(source.text) if isinstance(source, Inline) else os.stat(source).st_size
        except (OSError, ValueError):
            weight = 0
        if chunk and (len(chunk) == CHUNK_FILES or size + weight > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(source)
        size += weight
    if chunk:
        yield chunk


def read_chunk(sources: Sequence[Source], radius: float, *, merge: bool, vectors: bool = False) -> list[Entry]:
    """Entries of some sources, in their order, their equivalent atoms merged if wanted."""
    entries = [entry for source in sources for entry in read_entries(source, radius, vectors=vectors)]
    return merge_entries(entries, radius) if merge else entries


def merge_entries(entries: list[Entry], radius: float) -> list[Entry]:
    """The entries with one of each kind of equivalent atoms in their neighbour lists; radius, Å, of these."""
    found = [(entry.crystal, entry.neighbors) for entry in entries if entry.crystal and entry.neighbors]
    crystals, neighbors = [crystal for crystal, _ in found], [edges for _, edges in found]
    merged = iter(merge_equivalent(crystals, neighbors, radius))
    return [replace(entry, neighbors=next(merged)) if entry.crystal else entry for entry in entries]


def _new_pool(jobs: int, method: str) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(jobs, get_context(method), initializer=_begin_worker, initargs=(os.getpid(),))


def _begin_worker(parent: int) -> None:
    """Leave Ctrl-C to the parent, let it go first, end when it ends, and do without torch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(5)  # readers are ahead of the network as a rule
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    if "torch" not in sys.modules:  # vesin imports it where it can: seconds and 200 MB that a reader does not need
        sys.modules["torch"] = None  # type: ignore[assignment]
        with suppress(ImportError):
            import vesin  # noqa: F401
        del sys.modules["torch"]
    gc.freeze()


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, even by kill -9."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
