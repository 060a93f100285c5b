"""Reader processes, each watched by a thread that stops a process that hangs and replaces one that ended."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from crystalpredict._safe_path import leave_working_directory, safe_children
from crystalpredict.errors import UsageError
from crystalpredict.io.entries import Entry, Source, start_of
from crystalpredict.io.packing import Packed, pack, unpack
from crystalpredict.io.time_limit import DEFAULT_TIMEOUT_SECONDS, too_slow

POLL_SECONDS = 0.5  # between checks of a worker
WORKER_STARTING = -1  # in place of the number of a source: the imports of a new process do not count for the timeout
MIN_MEMORY_BYTES = 2**30  # of a reader process
DIED = "reading it ended the reader process: give it more memory, or check the file"

ReadAll = Callable[[list[Entry]], list[Entry]]


@dataclass(frozen=True)
class Stage:
    """A stage of reading, applied to each source alone or to all `together`.

    The first stage takes the sources, each further stage the results of the one before; the last returns lists of
    entries.
    """

    work: Callable[[Any], Any]
    together: bool = False


def through(
    stages: Sequence[Stage], sources: Sequence[Source], alone: Callable[[Callable[[Any], Any], int, Any], Any]
) -> list[Entry]:
    """Return the entries of the sources after all stages.

    Args:
        stages: The stages of reading.
        sources: The sources.
        alone: Runs a stage for one source, given its work, the number of the source and the result of the stage before.
    """
    found: list[Any] = list(sources)
    for stage in stages:
        if stage.together:
            found = stage.work(found)
        else:
            found = [alone(stage.work, number, each) for number, each in enumerate(found)]
    return list(chain.from_iterable(found))


@dataclass(frozen=True)
class Limits:
    """Limits on reading one file: seconds, None for none; bytes of a reader process, None for an equal share."""

    seconds: float | None = DEFAULT_TIMEOUT_SECONDS
    memory: int | None = None

    @property
    def exceeded(self) -> str:
        """Return the error of a file that takes longer."""
        return too_slow(self.seconds)


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processes_of(jobs: int) -> int:
    """Return the number of reader processes: `jobs`, or one for each core if it is 0.

    Raises:
        UsageError: It is no such number.
    """
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 0:
        raise UsageError(f"jobs={jobs!r}: give a number of reader processes, or 0 for one on each core")
    return jobs or available_cores()


class WorkerEnded(Exception):
    """A worker ended or was stopped while it was reading the source of number `place`."""

    def __init__(self, place: int, *, stopped: bool) -> None:
        super().__init__(place)
        self.place, self.stopped = place, stopped


class Workers:
    """Processes that turn chunks of sources into entries; a source that hangs or ends its process becomes an error."""

    def __init__(self, count: int, method: str, stages: Sequence[Stage], finish: ReadAll, limits: Limits) -> None:
        """Start the processes.

        Args:
            count: Number of processes.
            method: Start method of multiprocessing.
            stages: Stages of reading a chunk.
            finish: Applied to all entries of a chunk.
            limits: Limits on reading one file.
        """
        self.limits = limits
        self.closing = False
        self.chunks: SimpleQueue[tuple[Sequence[Source], Future[list[Entry]]] | None] = SimpleQueue()
        task = partial(
            _serve, stages=stages, finish=finish, memory=limits.memory or share_of_memory(count), parent=os.getpid()
        )
        self.workers = [_Worker(task) for _ in range(count)]
        for worker in self.workers:
            worker.start(method)  # all of them before the first thread, with which a fork would be unsafe
        self.threads = [threading.Thread(target=self._attend, args=(each,), daemon=True) for each in self.workers]
        for thread in self.threads:
            thread.start()

    def submit(self, sources: Sequence[Source]) -> Future[list[Entry]]:
        """Return a future of the entries of a chunk of sources."""
        future: Future[list[Entry]] = Future()
        self.chunks.put((sources, future))
        return future

    def close(self) -> None:
        """End the workers at once."""
        self.closing = True
        for _ in self.threads:
            self.chunks.put(None)
        for worker, thread in zip(self.workers, self.threads, strict=True):
            while thread.is_alive():  # it may be about to start a new process
                worker.kill()
                thread.join(0.05)
            worker.end()

    def _attend(self, worker: _Worker) -> None:
        while (item := self.chunks.get()) is not None and not self.closing:
            sources, future = item
            try:
                future.set_result(self._read(worker, sources))
            except WorkerEnded:  # closing
                return
            except BaseException as error:  # re-raised where the future is awaited
                future.set_exception(error)

    def _read(self, worker: _Worker, sources: Sequence[Source], *, again: bool = False) -> list[Entry]:
        """Return the entries of the sources; `again`: reading this single source ended a worker before."""
        if not sources:
            return []
        try:
            return worker.ask(sources, self.limits.seconds)
        except WorkerEnded as end:
            if self.closing:
                raise
            place, stopped = end.place, end.stopped
        if place >= len(sources) and len(sources) > 1:  # it ended at a stage of all sources together
            return [entry for source in sources for entry in self._read(worker, [source])]
        place = max(0, min(place, len(sources) - 1))
        entries = self._read(worker, sources[:place])
        path, index = start_of(sources[place])
        if stopped:
            entries.append(Entry(path, index, error=self.limits.exceeded))
        elif again:
            entries.append(Entry(path, index, error=DIED))
        else:  # something else may have ended the worker
            entries += self._read(worker, [sources[place]], again=True)
        return entries + self._read(worker, sources[place + 1 :])


class _Worker:
    """One process with its connection, started again after it ended."""

    def __init__(self, task: Callable[[Connection, Any], None]) -> None:
        self.task = task
        self.process: Any = None

    def start(self, method: str) -> None:
        context = get_context(method)
        self.connection, theirs = context.Pipe()
        self.place = context.RawValue("q", 0)
        process: Any = context.Process(target=self.task, args=(theirs, self.place), daemon=True)  # type: ignore[attr-defined]
        with safe_children() if method == "spawn" else nullcontext():
            if method == "spawn" and os.name == "posix":  # started later, it would unblock Ctrl-C
                resource_tracker.ensure_running()
            with _without_interrupts():  # which would print the traceback of a process that is importing
                process.start()
        theirs.close()  # otherwise the end of the process is not noticed
        self.process = process

    def ask(self, sources: Sequence[Source], seconds: float | None) -> list[Entry]:
        """Return the entries of the sources.

        Raises:
            WorkerEnded: The process ended, or was stopped because one source took too long.
        """
        if self.process is None:
            self.start("spawn")
        self.place.value = place = WORKER_STARTING
        waited = 0.0
        interval = min(POLL_SECONDS, seconds / 4) if seconds else POLL_SECONDS
        try:
            self.connection.send(sources)
            while not self.connection.poll(interval):
                # counted in checks, not by the clock: after Ctrl-Z no time has passed
                place, waited = self.place.value, waited + interval if self.place.value == place else 0.0
                if seconds and waited >= seconds and place != WORKER_STARTING:
                    self.end()
                    raise WorkerEnded(place, stopped=True)
            answer: Packed = self.connection.recv()
        except (EOFError, OSError):
            place = self.place.value
            self.end()
            raise WorkerEnded(place, stopped=False) from None
        return unpack(answer)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.connection.close()
            self.process = None


def _serve(
    connection: Connection, place: Any, *, stages: Sequence[Stage], finish: ReadAll, memory: int | None, parent: int
) -> None:
    """Send the entries of each list of sources received, until the connection closes."""
    _begin_worker(parent)
    if memory:
        _limit_memory(memory)
    with suppress(EOFError, OSError):
        while True:
            connection.send(_answer(connection.recv(), place, stages, finish))  # keeps no reference to the chunk


def _answer(sources: Sequence[Source], place: Any, stages: Sequence[Stage], finish: ReadAll) -> Packed:
    def alone(work: Callable[[Any], Any], number: int, each: Any) -> Any:
        place.value = number
        made = work(each)
        place.value = len(sources)  # the next stage may be of all together
        return made

    try:
        return pack(finish(through(stages, sources, alone)))
    except MemoryError:
        os._exit(1)  # then each source is read alone


def share_of_memory(count: int) -> int | None:
    """Return an equal share of the memory, bytes, for `count` readers and one computing process; None if unknown."""
    try:
        return max(MIN_MEMORY_BYTES, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // (count + 1))
    except (AttributeError, ValueError, OSError):
        return None


def _limit_memory(memory: int) -> int | None:
    """Limit this process to `memory` more bytes; return the previous limit, None without limits or on other systems."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        if soft == resource.RLIM_INFINITY or used + memory < soft:
            resource.setrlimit(resource.RLIMIT_AS, (used + memory, hard))
        return soft
    return None


@contextmanager
def within_memory(limits: Limits) -> Iterator[None]:
    """Limit the memory of the block as for a reader process: MemoryError beyond it."""
    before = _limit_memory(memory) if (memory := limits.memory or share_of_memory(1)) else None
    try:
        yield
    finally:
        if before is not None:
            import resource

            resource.setrlimit(resource.RLIMIT_AS, (before, resource.getrlimit(resource.RLIMIT_AS)[1]))


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Block Ctrl-C in the block, and in the processes that start in it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker(parent: int) -> None:
    """Prepare a reader process: no Ctrl-C, low priority, end with the parent, no working directory."""
    leave_working_directory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the parent handles it like Ctrl-C
    if hasattr(os, "nice"):
        os.nice(5)  # readers are usually ahead of the network
    with suppress(RuntimeError):  # no thread available: the parent reports it
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    gc.freeze()
    gc.enable()  # the parent disabled it; parsers leave reference cycles


def _end_with(parent: int) -> None:
    """End this process when its parent has ended, even by SIGKILL."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
