"""Output that grows beside its place and survives whatever ends the run, so that the same command can go on."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from crystalpredict._files import permissions_of, write_atomically
from crystalpredict.errors import OutputError, UsageError
from crystalpredict.io.entries import Entry, Source, start_of
from crystalpredict.prediction.rows import Prediction
from crystalpredict.prediction.shards import PART, RECORD

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

JOURNAL = ".part-journal"
LET_GO = 3.0  # s: readers of a run that was killed hold its lock until they see that it is gone
Row = TypeVar("Row", Entry, Prediction)


@dataclass(frozen=True)
class Position:
    """How far a run has come: rows written, those of them that failed, and bytes.

    `sources` were begun, whose names have the digest `seen`; `into` rows are of the last of them. `places`: for each
    row written since the last position, the number of its source, if the run is one of several shards.
    """

    rows: int = 0
    failed: int = 0
    size: int = 0
    sources: int = 0
    into: int = 0
    seen: str = ""
    places: list[int] = field(default_factory=list)


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
            if self.again is not None:
                self._begin(start_of(self.again))
        if position.sources and self.digest.hexdigest() != position.seen:
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

    Rows go to `stream`; `commit` writes them out. What follows the last commit is cut off when a run goes on.
    """

    def __init__(self, path: Path, facts: dict[str, Any], *, resume: bool) -> None:
        """`facts` of the run, in JSON's types, must be the same for it to be resumed."""
        self.path = path
        self.part, self.journal = path.with_name(path.name + PART), path.with_name(path.name + JOURNAL)
        self.stream = io.StringIO(newline="")
        self.places: list[int] = []
        self.position = Position()
        self.finished = False
        found = self.part.exists()
        if found and not resume:
            raise UsageError(f"{self.part}: rows of a run that was interrupted, or goes on: say --resume, or delete it")
        try:
            # neither is emptied before it is locked: it may belong to a run that goes on
            self.rows = os.open(self.part, os.O_RDWR | os.O_CREAT | (0 if found else os.O_EXCL), 0o666)
            self._lock()
            self._refuse_renamed()
            self.log = os.open(self.journal, os.O_RDWR | os.O_CREAT | (0 if found else os.O_TRUNC), 0o666)
        except OSError as error:
            raise UsageError(f"{self.part}: cannot be opened ({error.strerror})") from None
        try:
            self._begin(facts)
        except BaseException as error:
            self._close()
            if not found:
                self.part.unlink(missing_ok=True)
                self.journal.unlink(missing_ok=True)
            if isinstance(error, OSError):
                reason = f"cannot be written ({error.strerror}): make room, and run it again"
                raise OutputError(f"{self.part}: {reason}") from None
            raise

    def __enter__(self) -> PartialFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        if not self.finished and not self.position.rows:
            self.part.unlink(missing_ok=True)
            self.journal.unlink(missing_ok=True)

    def discard(self) -> None:
        """Forget what was written to the stream since the last commit."""
        self.stream.seek(0)
        self.stream.truncate()
        self.places = []

    def commit(self, position: Position) -> None:
        """Write out what is in the stream, after which the run stands at this position."""
        content = self.stream.getvalue().encode("utf-8", "backslashreplace")
        size = self.position.size + len(content)
        try:
            _write(self.rows, content)
            os.fsync(self.rows)  # a journal must not know of more than there is after a power cut
            self.position = replace(position, size=size, places=self.places)
            _write(self.log, json.dumps(asdict(self.position)).encode() + b"\n")
        except OSError as error:
            kept = "its rows are kept: make room, and go on with --resume"
            hint = kept if self.position.rows else "make room, and run it again"
            raise OutputError(f"{self.part}: cannot be written ({error.strerror}): {hint}") from None
        self.discard()

    def finish(self, sums: dict[str, Any] | None = None) -> None:
        """Give the file its name; the run is over. `sums`, of a shard, end the journal, which is kept as its record."""
        record = self.path.with_name(self.path.name + RECORD)
        try:
            if sums is not None:
                ending = {**sums, "size": self.position.size}
                with self.journal.open("rb") as journal, write_atomically(record) as file:
                    shutil.copyfileobj(journal, file)
                    file.write(json.dumps(ending).encode() + b"\n")
            self.part.chmod(permissions_of(self.path))
            self.part.replace(self.path)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be replaced by {self.part} ({error.strerror})") from None
        self.journal.unlink(missing_ok=True)
        if sums is None:
            record.unlink(missing_ok=True)  # of a shard that was in this file before
        self.finished = True

    def _begin(self, facts: dict[str, Any]) -> None:
        with os.fdopen(os.dup(self.log), "rb") as file:
            header, *lines = file.read().split(b"\n")
        size = os.fstat(self.rows).st_size
        kept = [json.dumps(facts).encode()]
        if header and lines:
            self._refuse_other(header, facts)
            for line in lines:
                with suppress(ValueError, TypeError):  # torn, or of nothing at all, after a power cut
                    position = Position(**json.loads(line))
                    if self.position.size <= position.size <= size:
                        self.position = position
                        kept.append(line)
        elif size:
            raise UsageError(f"{self.part}: nobody knows of what run it is, {self.journal.name} is missing: delete it")
        os.ftruncate(self.rows, self.position.size)
        os.ftruncate(self.log, 0)
        for handle in (self.rows, self.log):
            os.lseek(handle, 0, os.SEEK_END)
        _write(self.log, b"".join(line + b"\n" for line in kept))

    def _refuse_other(self, header: bytes, facts: dict[str, Any]) -> None:
        try:
            before = dict(json.loads(header))
        except (ValueError, TypeError):
            raise UsageError(f"{self.journal}: damaged: delete it and {self.part.name}") from None
        for name, value in facts.items():
            if before.get(name) != value:
                was, now = (str(each)[:60] for each in (before.get(name), value))
                raise UsageError(
                    f"{self.part}: cannot be resumed, its {name} differs (it was {was}, now {now}): "
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
                    os.close(self.rows)
                    raise UsageError(f"{self.part}: another run is writing it") from None
                time.sleep(0.1)
            except OSError:  # a file system without locks
                return

    def _refuse_renamed(self) -> None:
        """UsageError if the run that held the lock has ended meanwhile, and its file has the name it was to get."""
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self.rows), self.part.stat()):
                return
        os.close(self.rows)
        raise UsageError(f"{self.path}: the run that wrote it has just ended: there is nothing to resume")

    def _close(self) -> None:
        for handle in (self.rows, self.log):
            with suppress(OSError):
                os.close(handle)


def _write(handle: int, content: bytes) -> None:
    """All of the content: the system may take a part only, as a disk fills."""
    while content:
        content = content[os.write(handle, content) :]
