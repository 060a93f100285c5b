"""Output that grows beside its place and survives whatever ends the run, so that the same command can go on."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from crystalpredict._files import is_file_at, permissions_of, restore, sync_folder, write_all
from crystalpredict.errors import OutputError, UsageError
from crystalpredict.io.entries import Entry, Source, start_of
from crystalpredict.prediction.journal import Position, facts_of, line_as
from crystalpredict.prediction.rows import Prediction
from crystalpredict.prediction.shards import JOURNAL, PART, RECORD, last_line

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

BESIDE = ".new"  # ends the name of a file that is about to replace another
UNFINISHED = "rows of a run that was interrupted, or goes on: say --resume, or delete it"
LET_GO = 3.0  # s: readers of a run that was killed hold its lock until they see that it is gone
Row = TypeVar("Row", Entry, Prediction)


class Cursor:
    """Hands out sources and follows the rows that come of them, to know which are done."""

    def __init__(self, sources: Iterable[Source]) -> None:
        self.sources = iter(sources)
        self.ahead: deque[tuple[str, int]] = deque()
        self.digest = hashlib.blake2b(digest_size=16)
        self.begun = self.into = 0
        self.again: Source | None = None

    def skip(self, position: Position) -> None:
        """Go to where a run stopped: to the last source that it began; UsageError if others stand before."""
        for _ in range(position.sources):
            self.again = next(self.sources, None)
            if self.again is None:
                break
            self._begin(start_of(self.again))
        if position.sources and (self.begun, self.digest.hexdigest()) != (position.sources, position.seen):
            raise UsageError(
                f"the inputs are not those of the interrupted run: one of its first {position.sources} files or "
                "structures was added, removed or renamed; delete what it wrote to begin anew"
            )
        self.into = position.into

    def __iter__(self) -> Iterator[Source]:
        if self.again is not None:  # it may have more structures than were written
            yield self.again
        for source in self.sources:
            self.ahead.append(start_of(source))
            yield source

    def rest(self, entries: Iterator[Row]) -> Iterator[Row]:
        """The entries, or the rows of them, without those of the source begun that were written already."""
        done = self.into
        for number, entry in enumerate(entries):
            if self.again is None or number >= done or entry.path != start_of(self.again)[0]:
                yield entry

    def passed(self, path: str, index: int) -> None:
        """Take note of a row that is written."""
        if self.ahead and self.ahead[0] == (path, index):
            self._begin(self.ahead.popleft())
            self.into = 0
        self.into += 1

    def position(self, rows: int, failed: int) -> Position:
        """Where the run stands."""
        seen = self.digest.hexdigest()
        return Position(rows=rows, failed=failed, sources=self.begun, into=self.into, seen=seen)

    def _begin(self, start: tuple[str, int]) -> None:
        self.begun += 1
        self.digest.update(f"{start[1]} {start[0]}\0".encode("utf-8", "surrogatepass"))


class PartialFile:
    """FILE.part, which becomes FILE in the end, and FILE.part-journal: what the run is, and how far it has come.

    Rows go to `stream`; `commit` writes them out. What follows the last commit is cut off when a run goes on. The
    journal, and the record of a shard, are written beside their places and renamed, so that whatever fails leaves the
    old one or the new one.
    """

    def __init__(self, path: Path, facts: dict[str, Any], *, resume: bool) -> None:
        """`facts` of the run, in JSON's types, must be the same for it to be resumed."""
        self.shown = path.with_name(path.name + PART)
        self.path = path.absolute()  # which stays the same if the working directory is removed
        self.part, self.journal, self.record = (
            self.path.with_name(path.name + ending) for ending in (PART, JOURNAL, RECORD)
        )
        self.stream = io.StringIO(newline="")
        self.places: list[int] = []
        self.position = Position()
        self.finished = False
        self.rows = self.log = -1
        try:
            found = self.part.exists()
            if found and not resume and self.part.stat().st_size:
                raise UsageError(f"{self.shown}: {UNFINISHED}")
            # neither is emptied before it is locked: it may belong to a run that goes on
            self.rows = os.open(self.part, os.O_RDWR | os.O_CREAT | (0 if found else os.O_EXCL), 0o666)
        except OSError as error:
            raise UsageError(f"{self.shown}: cannot be opened ({error.strerror})") from None
        try:
            self._lock()
            self._refuse_renamed()
            self._begin(facts, resume=resume)
        except BaseException as error:
            if not found and is_file_at(self.rows, self.part):
                self._remove()
            self._close()
            if isinstance(error, OSError):
                reason = f"cannot be written ({error.strerror}): {_advice(error, 'run it again')}"
                raise OutputError(f"{self.shown}: {reason}") from None
            raise

    def __enter__(self) -> PartialFile:
        return self

    def __exit__(self, *_: object) -> None:
        if self.finished or is_file_at(self.rows, self.path):  # an interrupt may have come before `finished` was set
            with suppress(OSError):
                self.journal.unlink(missing_ok=True)
        elif not self.position.rows:
            self._remove()
        else:
            with suppress(OSError):
                self._restore()
        self._close()

    def discard(self) -> None:
        """Forget what was written to the stream since the last commit."""
        self.stream.seek(0)
        self.stream.truncate()
        self.places = []

    def commit(self, position: Position) -> None:
        """Write out what is in the stream, after which the run stands at this position."""
        content = self.stream.getvalue().encode("utf-8", "backslashreplace")
        reached = replace(position, size=self.position.size + len(content), places=self.places)
        try:
            write_all(self.rows, content)
            os.fsync(self.rows)  # the journal must not count rows that a power cut takes away
            write_all(self.log, json.dumps(asdict(reached)).encode() + b"\n")
            os.fsync(self.log)
        except OSError as error:
            raise OutputError(f"{self.shown}: cannot be written ({error.strerror}): {self._hint(error)}") from None
        self.position = reached
        self.discard()

    def finish(self, sums: dict[str, Any] | None = None) -> None:
        """Give the file its name; the run is over. `sums`, of a shard, end the journal, which is kept as its record."""
        try:
            self._restore()
            if sums is not None:
                lines = self.journal.read_bytes()
                _put(self.record, lines + last_line(lines, {**sums, "size": self.position.size}, self.part))
            self.part.chmod(permissions_of(self.path))
            self.part.replace(self.path)
        except OSError as error:
            raise OutputError(f"{self.shown}: cannot be renamed ({error.strerror}): {self._hint(error)}") from None
        self.finished = True
        with suppress(OSError):
            self.journal.unlink(missing_ok=True)
            if sums is None:
                self.record.unlink(missing_ok=True)  # of a shard that was in this file before
        sync_folder(self.path.parent)

    def _begin(self, facts: dict[str, Any], *, resume: bool) -> None:
        """Go to the last position of the journal, and write the journal up to there anew."""
        size = os.fstat(self.rows).st_size
        header, *lines = self.journal.read_bytes().split(b"\n") if self.journal.exists() else [b""]
        kept = [json.dumps(facts).encode()]
        for line in lines:
            with suppress(ValueError):  # torn, or of nothing at all, after a power cut
                position = line_as(Position, line)
                if self.position.size <= position.size <= size:
                    self.position = position
                    kept.append(line)
        if self.position.rows and not resume:
            raise UsageError(f"{self.shown}: {UNFINISHED}")
        if size and not header:
            raise UsageError(
                f"{self.shown}: cannot be resumed, its journal {self.journal.name} is missing or empty: delete it"
            )
        if size or self.position.rows:
            self._refuse_other(header, facts)
        self.log = _put(self.journal, b"".join(line + b"\n" for line in kept), keep=True)
        os.ftruncate(self.rows, self.position.size)
        os.lseek(self.rows, 0, os.SEEK_END)

    def _refuse_other(self, header: bytes, facts: dict[str, Any]) -> None:
        try:
            before = facts_of(header)
        except ValueError:
            journal = self.shown.with_name(self.journal.name)
            raise UsageError(f"{journal}: damaged: delete it and {self.part.name}") from None
        for name, value in facts.items():
            if before.get(name) != value:
                was, now = (str(each)[:60] for each in (before.get(name), value))
                raise UsageError(
                    f"{self.shown}: cannot be resumed, its {name} differs (it was {was}, now {now}): "
                    "give the same command, or delete it"
                )

    def _lock(self) -> None:
        if fcntl is None:
            return
        ends = time.monotonic() + LET_GO
        while True:
            try:
                fcntl.flock(self.rows, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > ends:
                    raise UsageError(f"{self.shown}: another run is writing it") from None
                time.sleep(0.1)
            except OSError:  # a file system without locks
                return

    def _refuse_renamed(self) -> None:
        """UsageError if the run that held the lock has ended meanwhile, and its file has the name it was to get."""
        if not is_file_at(self.rows, self.part):
            path = self.shown.with_name(self.path.name)
            raise UsageError(f"{path}: the run that wrote it has just ended: there is nothing to resume")

    def _restore(self) -> None:
        """Write the rows and their journal again if their folder was removed."""
        restore(self.log, self.journal)
        restore(self.rows, self.part)

    def _hint(self, error: OSError) -> str:
        if self.position.rows:
            return f"its rows are kept: {_advice(error, 'go on with --resume')}"
        return _advice(error, "run it again")

    def _remove(self) -> None:
        for path in (self.part, self.journal):
            with suppress(OSError):
                path.unlink()

    def _close(self) -> None:
        for handle in (self.rows, self.log):
            with suppress(OSError):
                os.close(handle)


def _advice(error: OSError, then: str) -> str:
    return f"make room, and {then}" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else then


def _put(path: Path, content: bytes, *, keep: bool = False) -> int:
    """Let a path lead to a new file of this content; `keep`: the file stays open, its handle is returned.

    The name beside it is always the same, so that a run that is killed leaves one such file, which the next replaces.
    """
    beside = path.with_name(path.name + BESIDE)
    handle = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        write_all(handle, content)
        os.fsync(handle)
        beside.replace(path)
        sync_folder(path.parent)
    except BaseException:
        os.close(handle)
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise
    if not keep:
        os.close(handle)
    return handle
