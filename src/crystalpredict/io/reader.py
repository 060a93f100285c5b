"""Read many files to entries in their order, in worker processes while the caller computes."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from itertools import chain, groupby, islice
from os import PathLike, fspath
from typing import Any

from crystalpredict.crystals.crystal import Crystal, Neighbors
from crystalpredict.crystals.equivalence import merge_equivalent
from crystalpredict.crystals.neighbors import find_neighbors_of_many
from crystalpredict.io.entries import (
    MAX_ATOMS_READ_TOGETHER,
    Entry,
    Inline,
    Lookup,
    Origin,
    Parsed,
    Source,
    begin,
    entries_of,
    entries_of_plain,
    entries_of_structures,
    start_of,
    with_plain,
)
from crystalpredict.io.time_limit import TimeLimitExceeded, time_limits
from crystalpredict.io.worker_pool import Limits, Stage, Workers, through, within_memory

CHUNK_FILES = 64  # most files that a worker reads at a time
CHUNK_BYTES = 2**17  # and their total size: a crystal takes some twenty times the memory of its file
MAX_CHUNKS_AHEAD = 128  # chunks that are being read, or are read but not yet used: bounds the memory
MAX_CHUNKS_AHEAD_PER_WORKER = 4  # the same with many workers
MAX_BYTES_AHEAD = 2**25  # total size of these chunks; what comes from an archive or a table is in memory already
WINDOW_ATOMS = 8000  # entries are collected up to this number of atoms before they are sorted into batches,
WINDOW_ENTRIES = 1000  # or up to this number of entries;
FIRST_WINDOW_ENTRIES = 125  # the first window is smaller, and each one twice the last: a run killed early keeps rows
MIN_SOURCES_FOR_WORKERS = 64  # for fewer, starting workers takes longer than reading
NO_MEMORY = "needs more memory to be read than there is for a process: see --memory-per-process"


class Reader:
    """Reads files and texts of structures in worker processes, which start at once and end with this context manager.

    Create it before torch is imported: workers are then forked from a small process with one thread, and read files
    during the import.
    """

    def __init__(
        self,
        sources: Iterable[Source],
        radius: float,
        jobs: int = 1,
        *,
        merge: bool = True,
        vectors: bool = False,
        limits: Limits | None = None,
        known: Lookup | None = None,
    ) -> None:
        """Start the workers, unless `jobs` is 1 or there are few files.

        Args:
            sources: Files and texts, in the order of the entries.
            radius: Of the neighbour lists, Å.
            jobs: Number of workers.
            merge: Whether to keep one of each kind of equivalent atoms in the neighbour lists.
            vectors: Whether the neighbour lists have the vectors of their edges; no atoms are merged then.
            limits: Of time and memory for each file; None: the defaults.
            known: Finds the results of earlier runs; the sources of these are not read.
        """
        self.radius, self.merge, self.jobs, self.limits = radius, merge, jobs, limits or Limits()
        self.stages = stages_of(radius, vectors=vectors, known=known)
        sources = iter(sources)
        first = first_of(sources)
        self.chunks = chunks_of(chain(first, sources))
        self.waiting: deque[tuple[Future[list[Entry]], int]] = deque()
        self.pool: Workers | None = None
        self.ahead = 0  # sources that workers have been given
        if jobs > 1 and (len(first) >= MIN_SOURCES_FOR_WORKERS or sum(map(bytes_of, first)) > MAX_BYTES_AHEAD):
            # a fork is fastest, but unsafe in a process with threads, which torch starts
            quick = sys.platform == "linux" and "torch" not in sys.modules and threading.active_count() == 1
            finish = partial(merge_entries, radius=radius) if merge else _unchanged
            self.pool = Workers(jobs, "fork" if quick else "spawn", self.stages, finish, self.limits)
            self._submit()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.close()

    @property
    def busy(self) -> int:
        """Number of workers that have files to read."""
        return min(self.jobs, sum(not future.done() for future, _ in self.waiting))

    def entries(self) -> Iterator[Entry]:
        """Yield every structure of the files, in their order."""
        if self.pool is None:
            for chunk, _ in self.chunks:
                with within_memory(self.limits):
                    entries = in_time(self.stages, chunk, self.limits)
                yield from merge_entries(entries, self.radius) if self.merge else entries
        while self.waiting:
            future, _ = self.waiting.popleft()
            self._submit()
            yield from future.result()

    def _submit(self) -> None:
        """Submit chunks to the workers up to the limits on their number and size."""
        most = max(MAX_CHUNKS_AHEAD, MAX_CHUNKS_AHEAD_PER_WORKER * self.jobs)
        size = sum(size for _, size in self.waiting)
        while len(self.waiting) < most and size < MAX_BYTES_AHEAD and (found := next(self.chunks, None)):
            assert self.pool is not None
            chunk, weight = found
            self.waiting.append((self.pool.submit(chunk), weight))
            self.ahead += len(chunk)
            size += weight


def first_of(sources: Iterator[Source]) -> list[Source]:
    """Return the first MIN_SOURCES_FOR_WORKERS sources, or fewer once their texts exceed MAX_BYTES_AHEAD."""
    first: list[Source] = []
    size = 0
    for source in islice(sources, MIN_SOURCES_FOR_WORKERS):
        first.append(source)
        size += bytes_of(source)
        if size > MAX_BYTES_AHEAD:
            break
    return first


def bytes_of(source: Source) -> int:
    """Return the size of a source that is in memory, bytes; 0 for a file."""
    return len(source.text) if isinstance(source, Inline) else 0


def chunks_of(sources: Iterable[Source]) -> Iterator[tuple[Sequence[Source], int]]:
    """Yield the sources in their order, a few at a time, with the total size of their files in bytes."""
    chunk: list[Source] = []
    size = 0
    for source in sources:
        try:
            weight = len(source.text) if isinstance(source, Inline) else os.stat(source).st_size
        except (OSError, ValueError):
            weight = 0
        if chunk and (len(chunk) == CHUNK_FILES or size + weight > CHUNK_BYTES):
            yield chunk, size
            chunk, size = [], 0
        chunk.append(source)
        size += weight
    if chunk:
        yield chunk, size


def windows_of(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Yield the entries in windows that are sorted into batches together; the last window may be empty."""
    window: list[Entry] = []
    atoms, most = 0, FIRST_WINDOW_ENTRIES
    for entry in entries:
        window.append(entry)
        atoms += entry.neighbors.size if entry.neighbors else 0
        if atoms >= WINDOW_ATOMS or len(window) >= min(most, WINDOW_ENTRIES):
            yield window
            window, atoms, most = [], 0, 2 * most
    yield window


def stages_of(radius: float, *, vectors: bool = False, known: Lookup | None = None) -> tuple[Stage, ...]:
    """Return the stages that turn sources into entries; sources that are `known` are not read.

    Each stage runs for many sources before the next one starts. Its code and tables then stay in the processor's cache,
    which saves a fifth of the time, and neighbours are searched for all plain crystals together.

    Args:
        radius: Of the neighbour lists, Å.
        vectors: Whether the neighbour lists have the vectors of their edges.
        known: Finds the results of earlier runs.
    """
    return (
        Stage(partial(begin_source, known=known)),
        Stage(plain_source),
        Stage(partial(entries_of_plain_sources, radius=radius, vectors=vectors), together=True),
        Stage(partial(entries_of_source, radius=radius, vectors=vectors)),
    )


def read_source(source: Source, radius: float, *, vectors: bool = False) -> list[Entry]:
    """Return the entries of a source; an unexpected error becomes an entry, so that other sources are still read."""
    return entries_of_source(plain_source(begin_source(source)), radius, vectors=vectors)


def plain_source(parsed: Parsed | list[Entry]) -> Parsed | list[Entry]:
    """Return a source with its crystals if all are plain; entries that exist already are returned unchanged."""
    if isinstance(parsed, list):
        return parsed
    try:
        return with_plain(parsed)
    except Exception as error:
        return [Entry(parsed.path, parsed.first, error=_unforeseen(error))]


def begin_source(source: Source, known: Lookup | None = None) -> Parsed | list[Entry]:
    """Return the text of a source and its CIF items, or its entries if it is `known` or an unexpected error occurs."""
    path, index = start_of(source)
    try:
        content, key = known.key_of(source) if known else (source, b"")
        rows = known.find(key) if known and key else []
        return [Entry(path, number, known=row) for number, row in enumerate(rows, start=index)] or begin(content, key)
    except Exception as error:
        return [Entry(path, index, error=_unforeseen(error))]


def entries_of_plain_sources(
    found: Sequence[Parsed | list[Entry]], radius: float, *, vectors: bool = False
) -> list[Parsed | list[Entry]]:
    """Return the sources, with those of sound plain crystals replaced by their entries.

    A file with a large crystal or very many crystals is left to the next stage, where the time limit can stop it.
    """
    parsed = (each for each in found if isinstance(each, Parsed) and 0 < len(each.plain) <= CHUNK_FILES)
    plain = [each for each in parsed if max(len(crystal.numbers) for crystal in each.plain) <= MAX_ATOMS_READ_TOGETHER]
    try:
        entries = entries_of_plain(plain, radius, vectors=vectors)
    except Exception:  # the next stage reads the sources one by one and finds which of them failed
        return list(found)
    done = {
        id(parsed): _with_origins(parsed, own) if own else replace(parsed, plain=())
        for parsed, own in zip(plain, entries, strict=True)
    }
    return [done.get(id(each), each) for each in found]


def entries_of_source(parsed: Parsed | list[Entry], radius: float, *, vectors: bool = False) -> list[Entry]:
    """Return the entries of a parsed source; entries that exist already are returned unchanged."""
    if isinstance(parsed, list):
        return parsed
    try:
        return _with_origins(parsed, entries_of(parsed, radius, vectors=vectors))
    except Exception as error:
        return [Entry(parsed.path, parsed.first, error=_unforeseen(error))]


def _with_origins(parsed: Parsed, entries: list[Entry]) -> list[Entry]:
    """Return the entries of a source, with their origins if their predictions may be cached."""
    if not parsed.key:
        return entries
    return [replace(entry, origin=Origin(parsed.key, n, len(entries))) for n, entry in enumerate(entries)]


def _unforeseen(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return NO_MEMORY
    text = (str(error).strip() or "no message").splitlines()[0]
    return f"cannot be read ({type(error).__name__}: {text[:160]}): please report it with this file"


def read_chunk(
    sources: Sequence[Source], radius: float, *, merge: bool, vectors: bool = False, limits: Limits | None = None
) -> list[Entry]:
    """Return the entries of some sources, in their order, read in this process.

    Args:
        sources: Files and texts.
        radius: Of the neighbour lists, Å.
        merge: Whether to keep one of each kind of equivalent atoms in the neighbour lists.
        vectors: Whether the neighbour lists have the vectors of their edges.
        limits: Of time for each file; None: no limit.
    """
    entries = in_time(stages_of(radius, vectors=vectors), sources, limits or Limits(None))
    return merge_entries(entries, radius) if merge else entries


def in_time(stages: Sequence[Stage], sources: Sequence[Source], limits: Limits) -> list[Entry]:
    """Return the entries of the sources after all stages; a source that exceeds the time limit gets an error.

    The limit applies to the stages that treat one source at a time.
    """

    def alone(work: Callable[[Any], Any], number: int, each: Any) -> Any:
        try:
            with limit():
                return work(each)
        except TimeLimitExceeded:
            path, index = start_of(sources[number])
            return [Entry(path, index, error=limits.exceeded)]

    with time_limits(limits.seconds) as limit:
        return through(stages, sources, alone)


def found_in(entries: Sequence[Entry]) -> tuple[list[Crystal], list[Neighbors]]:
    """Return the crystals of the entries without an error, and their neighbour lists."""
    found = [(entry.crystal, entry.neighbors) for entry in entries if entry.crystal and entry.neighbors]
    return [crystal for crystal, _ in found], [edges for _, edges in found]


def merge_entries(entries: list[Entry], radius: float) -> list[Entry]:
    """Return the entries with one of each kind of equivalent atoms in their neighbour lists.

    Args:
        entries: The entries.
        radius: Of the neighbour lists, Å.
    """
    merged = iter(merge_equivalent(*found_in(entries), radius))
    return [replace(entry, neighbors=next(merged)) if entry.crystal and entry.neighbors else entry for entry in entries]


def entries_of_crystals(crystals: Sequence[Crystal], radius: float, *, vectors: bool = False) -> list[Entry]:
    """Return the entries of crystals that come from no file, in order, with equivalent atoms merged.

    Args:
        crystals: The crystals.
        radius: Of the neighbour lists, Å.
        vectors: Whether these lists have vectors; atoms are not merged then.

    Raises:
        ValueError: One has too many neighbours.
    """
    lists = find_neighbors_of_many([(each.lattice, each.positions) for each in crystals], radius, vectors=vectors)
    return [
        Entry("", number, n_atoms=crystal.n_atoms, crystal=crystal, neighbors=edges)
        for number, (crystal, edges) in enumerate(zip(crystals, merge_equivalent(crystals, lists, radius), strict=True))
    ]


def _unchanged(entries: list[Entry]) -> list[Entry]:
    return entries


def read_structures(structures: Any, radius: float, *, merge: bool, vectors: bool = False) -> Iterator[Entry]:
    """Yield the entries of structures given from Python, in order.

    Args:
        structures: paths of files, pymatgen structures or ASE Atoms, in any mixture, or one of these.
        radius: of the neighbour lists, Å.
        merge: whether equivalent atoms are merged.
        vectors: whether the lists have vectors.
    """
    one = isinstance(structures, str | bytes | dict | PathLike) or not isinstance(structures, Iterable)
    if one or any(hasattr(structures, name) for name in ("sites", "get_cell")):  # ASE's Atoms, which are no list
        structures = [structures]
    first = 0
    for paths, same in groupby(structures, lambda item: isinstance(item, str | PathLike)):
        while some := list(islice(same, CHUNK_FILES)):
            if paths:
                yield from read_chunk([fspath(path) for path in some], radius, merge=merge, vectors=vectors)
            else:
                entries = entries_of_structures(some, radius, first=first, vectors=vectors)
                yield from merge_entries(entries, radius) if merge else entries
            first += len(some)
