"""Processes that read, each watched by a thread, which stops one that hangs and replaces one that died."""

from __future__ import annotations

import gc
import os
import signal
import sys
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
from crystalpredict.io.entries import Entry, Source, start_of
from crystalpredict.io.packing import Packed, pack, unpack

LOOK = 0.5  # seconds between looks at a worker that has not answered
TIME_LIMIT = 300.0  # seconds
STARTING = -1  # in the place of a source's number: a new process imports for seconds, at nobody's expense
LEAST_MEMORY = 2**30  # bytes
DIED = "reading it ended the process: is there enough memory for this file?"

ReadAll = Callable[[list[Entry]], list[Entry]]


@dataclass(frozen=True)
class Stage:
    """A stage of reading, of one source at a time or of all `together`.

    The first has the sources; each makes of them what the next one has; the last makes lists of entries.
    """

    work: Callable[[Any], Any]
    together: bool = False


def through(
    stages: Sequence[Stage], sources: Sequence[Source], alone: Callable[[Callable[[Any], Any], int, Any], Any]
) -> list[Entry]:
    """The entries of the sources after all stages; `alone` has a stage's work, a source's number and what it is by now.

    It is called for each source at each stage of its own, and gives what the work makes of it.
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
    """What reading one file may take: seconds, None for any time; bytes of a process, None for its part of all."""

    seconds: float | None = TIME_LIMIT
    memory: int | None = None

    @property
    def exceeded(self) -> str:
        """The error of a file that takes longer."""
        return f"not read in {self.seconds:g} s, then stopped: give it more with --timeout-per-file, or look into it"


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerEnded(Exception):
    """A worker that died or was stopped, and the number of the source that it was reading."""

    def __init__(self, place: int, *, stopped: bool) -> None:
        super().__init__(place)
        self.place, self.stopped = place, stopped


class Workers:
    """Processes that turn chunks of sources into entries; a source that hangs or kills one becomes an error."""

    def __init__(self, count: int, method: str, stages: Sequence[Stage], finish: ReadAll, limits: Limits) -> None:
        """`method` of starting them, as multiprocessing names it; `stages` of reading; `finish` entries of a chunk."""
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
        """The entries of some sources, to come."""
        future: Future[list[Entry]] = Future()
        self.chunks.put((sources, future))
        return future

    def close(self) -> None:
        """End the workers, whatever they are at."""
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
            except BaseException as error:  # whoever waits shall have it
                future.set_exception(error)

    def _read(self, worker: _Worker, sources: Sequence[Source], *, again: bool = False) -> list[Entry]:
        """Entries of the sources; `again`: a worker died of the only one before."""
        if not sources:
            return []
        try:
            return worker.ask(sources, self.limits.seconds)
        except WorkerEnded as end:
            if self.closing:
                raise
            place, stopped = end.place, end.stopped
        if place >= len(sources) and len(sources) > 1:  # it was not reading, but at what is done with all of them
            return [entry for source in sources for entry in self._read(worker, [source])]
        place = max(0, min(place, len(sources) - 1))
        entries = self._read(worker, sources[:place])
        path, index = start_of(sources[place])
        if stopped:
            entries.append(Entry(path, index, error=self.limits.exceeded))
        elif again:
            entries.append(Entry(path, index, error=DIED))
        else:  # it may not have been its fault
            entries += self._read(worker, [sources[place]], again=True)
        return entries + self._read(worker, sources[place + 1 :])


class _Worker:
    """One process, and the way to ask it; started again when it has ended."""

    def __init__(self, task: Callable[[Connection, Any], None]) -> None:
        self.task = task
        self.process: Any = None

    def start(self, method: str) -> None:
        context = get_context(method)
        self.connection, theirs = context.Pipe()
        self.place = context.RawValue("q", 0)
        process: Any = context.Process(target=self.task, args=(theirs, self.place), daemon=True)  # type: ignore[attr-defined]
        with safe_children() if method == "spawn" else nullcontext():
            if method == "spawn" and os.name == "posix":  # it begins this first, which would let Ctrl-C pass again
                resource_tracker.ensure_running()
            with _without_interrupts():  # of which a process that is still importing would tell by a traceback
                process.start()
        theirs.close()  # or its end is not noticed
        self.process = process

    def ask(self, sources: Sequence[Source], seconds: float | None) -> list[Entry]:
        """What the process makes of the sources; WorkerEnded if it ends, or stays at one for too long."""
        if self.process is None:
            self.start("spawn")
        self.place.value = place = STARTING
        waited = 0.0
        look = min(LOOK, seconds / 4) if seconds else LOOK
        try:
            self.connection.send(sources)
            while not self.connection.poll(look):
                # time is counted in looks: a program that sleeps meanwhile, as after Ctrl-Z, is not at fault
                place, waited = self.place.value, waited + look if self.place.value == place else 0.0
                if seconds and waited >= seconds and place != STARTING:
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
    """Answer each list of sources with their entries, until nobody asks any more."""
    _begin_worker(parent)
    if memory:
        _limit_memory(memory)
    with suppress(EOFError, OSError):
        while True:
            connection.send(_answer(connection.recv(), place, stages, finish))  # nothing of a chunk outlives it


def _answer(sources: Sequence[Source], place: Any, stages: Sequence[Stage], finish: ReadAll) -> Packed:
    def alone(work: Callable[[Any], Any], number: int, each: Any) -> Any:
        place.value = number
        made = work(each)
        place.value = len(sources)  # what comes next may be for all of them
        return made

    try:
        return pack(finish(through(stages, sources, alone)))
    except MemoryError:
        os._exit(1)  # each is tried alone then


def share_of_memory(count: int) -> int | None:
    """Bytes of memory for each of some processes, beside the one that computes; None where nobody knows."""
    try:
        return max(LEAST_MEMORY, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // (count + 1))
    except (AttributeError, ValueError, OSError):
        return None


def _limit_memory(memory: int) -> int | None:
    """Let this process have so many bytes more: then MemoryError; the limit before, None where there are no limits."""
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
    """MemoryError if the block, in a process that does more than reading, takes more than a process that reads may."""
    before = _limit_memory(memory) if (memory := limits.memory or share_of_memory(1)) else None
    try:
        yield
    finally:
        if before is not None:
            import resource

            resource.setrlimit(resource.RLIMIT_AS, (before, resource.getrlimit(resource.RLIMIT_AS)[1]))


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ctrl-C waits for the end of the block; processes that begin in it never hear of one."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker(parent: int) -> None:
    """Leave Ctrl-C to the parent, let it go first, end when it ends, and do without torch and the working directory."""
    leave_working_directory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which in the parent is Ctrl-C
    if hasattr(os, "nice"):
        os.nice(5)  # readers are ahead of the network as a rule
    with suppress(RuntimeError):  # of a system that starts no thread, of which the parent tells
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    if "torch" not in sys.modules:  # vesin imports it where it can: seconds and 200 MB that a reader does not need
        sys.modules["torch"] = None  # type: ignore[assignment]
        with suppress(ImportError):
            import vesin  # noqa: F401
        del sys.modules["torch"]
    gc.freeze()
    gc.enable()  # off since the parent imports: what parsers leave in cycles would stay


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, even by kill -9."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
