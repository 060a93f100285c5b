"""Output that is written to a partial file with a journal, so that an interrupted run can be resumed."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from crystalpredict._files import is_file_at, permissions_of, restore, sync_folder, write_all
from crystalpredict.errors import DataError, OutputError, UsageError
from crystalpredict.io.entries import Entry, Source, start_of
from crystalpredict.io.sources import TableRow, source_in
from crystalpredict.prediction.journal import Position, differ, difference, facts_of, line_as
from crystalpredict.prediction.rows import Prediction
from crystalpredict.prediction.shards import JOURNAL, PART, RECORD, last_line

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NEW_SUFFIX = ".new"  # of a file that is about to replace another
UNFINISHED = "rows of an unfinished run: continue it with --resume, or delete the file"
RUNS = ("the interrupted run", "this command")
LOCK_RELEASE_SECONDS = 3.0  # reader processes of a killed run hold its lock until they end
Row = TypeVar("Row", Entry, Prediction)


class HandedOut(NamedTuple):
    """A source that was handed out: path and index of its first structure, and the other cells of its table's row."""

    start: tuple[str, int]
    cells: Mapping[str, Any]
    source: Source | None


NOTHING = HandedOut(("", 0), {}, None)


class Cursor:
    """Iterates over sources, and counts those whose rows are written.

    Attributes:
        current: Source of the row that was passed last.
    """

    def __init__(
        self,
        sources: Iterable[Source | TableRow],
        skips: Callable[[Entry, Mapping[str, Any]], bool] | None = None,
        *,
        keep_sources: bool = False,
    ) -> None:
        """Begin at the first source.

        Args:
            sources: The sources.
            skips: Whether a structure need not be computed, given also the other cells of its table's row.
            keep_sources: Whether `current` has its source, to be read again.
        """
        self.sources, self.skips, self.keep_sources = iter(sources), skips, keep_sources
        self.ahead: deque[HandedOut] = deque()
        self.unread: deque[HandedOut] = deque()  # the same up to the last entry that was read; empty without `skips`
        self.digest = hashlib.blake2b(digest_size=16)
        self.begun = self.into = 0
        self.again: Source | None = None
        self.current = NOTHING

    def skip(self, position: Position) -> None:
        """Skip to the last source that an interrupted run began.

        Raises:
            UsageError: The sources before it are not those of that run.
        """
        for _ in range(position.sources):
            found = next(self.sources, None)
            if found is None:
                self.again = None
                break
            self.again, self.current = source_in(found), self._handed_out(found)
            self._begin(self.current.start)
        if position.sources and (self.begun, self.digest.hexdigest()) != (position.sources, position.seen):
            raise UsageError(
                f"the inputs differ from those of the interrupted run: one of the first {position.sources} files or "
                "structures was added, removed or renamed; delete its output to start again"
            )
        self.into = position.into

    def __iter__(self) -> Iterator[Source]:
        if self.again is not None:  # some of its structures may not be written yet
            if self.skips:
                self.unread.append(self.current)
            yield self.again
        for found in self.sources:
            given = self._handed_out(found)
            self.ahead.append(given)
            if self.skips:
                self.unread.append(given)
            yield source_in(found)

    def rest(self, entries: Iterator[Row]) -> Iterator[Row]:
        """Yield the entries or rows, without those of the first source that were written before.

        Entries that are skipped lose their crystals: their rows have neither values nor errors.
        """
        done, read = self.into, NOTHING
        for number, entry in enumerate(entries):
            if self.unread and self.unread[0].start == (entry.path, entry.index):
                read = self.unread.popleft()
            if self.again is None or number >= done or entry.path != start_of(self.again)[0]:
                yield self._unless_skipped(entry, read.cells) if self.skips else entry

    def _unless_skipped(self, entry: Any, cells: Mapping[str, Any]) -> Any:
        """Return an entry or a row; an entry that is skipped without its crystal."""
        if not (self.skips and isinstance(entry, Entry) and entry.neighbors and self.skips(entry, cells)):
            return entry
        return replace(entry, crystal=None, neighbors=None, origin=None)

    def passed(self, path: str, index: int) -> None:
        """Count a written row."""
        if self.ahead and self.ahead[0].start == (path, index):
            self.current = self.ahead.popleft()
            self._begin(self.current.start)
            self.into = 0
        self.into += 1

    def position(self, rows: int, failed: int, skipped: int = 0) -> Position:
        """Return the progress of the run."""
        seen = self.digest.hexdigest()
        return Position(rows=rows, failed=failed, sources=self.begun, into=self.into, seen=seen, skipped=skipped)

    def _handed_out(self, found: Source | TableRow) -> HandedOut:
        source = source_in(found)
        cells = found.cells if isinstance(found, TableRow) else {}
        return HandedOut(start_of(source), cells, source if self.keep_sources else None)

    def _begin(self, start: tuple[str, int]) -> None:
        self.begun += 1
        self.digest.update(f"{start[1]} {start[0]}\0".encode("utf-8", "surrogatepass"))


class PartialFile:
    """FILE.part, which is renamed to FILE at the end, and FILE.part-journal with the facts and progress of the run.

    Rows go to `stream`; `commit` writes them to the file. Resuming cuts off what follows the last commit. The journal
    and the record of a shard are replaced atomically.
    """

    def __init__(self, path: Path, facts: dict[str, Any], *, resume: bool) -> None:
        """Open or create the files.

        Args:
            path: The output.
            facts: Options of the run as JSON types, which must be the same when it is resumed.
            resume: Continue an interrupted run.

        Raises:
            UsageError: The output cannot be opened, another run writes it, or it cannot be resumed.
            OutputError: The output cannot be written.
        """
        self.shown = path.with_name(path.name + PART)
        self.path = path.absolute()  # valid even if the working directory is removed
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
            # nothing is truncated before the lock: another run may be writing
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
        if self.finished or is_file_at(self.rows, self.path):  # an interrupt can come before `finished` is set
            with suppress(OSError):
                self.journal.unlink(missing_ok=True)
        elif not self.position.rows:
            self._remove()
        else:
            with suppress(OSError):
                self._restore()
        self._close()

    def discard(self) -> None:
        """Drop what was written to the stream since the last commit."""
        self.stream.seek(0)
        self.stream.truncate()
        self.places = []

    def commit(self, position: Position) -> None:
        """Write the stream to the file, and the position reached to the journal."""
        content = self.stream.getvalue().encode("utf-8", "backslashreplace")
        reached = replace(position, size=self.position.size + len(content), places=self.places)
        try:
            write_all(self.rows, content)
            os.fsync(self.rows)  # the journal must not count rows that a power cut loses
            write_all(self.log, json.dumps(asdict(reached)).encode() + b"\n")
            os.fsync(self.log)
        except OSError as error:
            raise OutputError(f"{self.shown}: cannot be written ({error.strerror}): {self._hint(error)}") from None
        self.position = reached
        self.discard()

    def finish(self, sums: dict[str, Any] | None = None) -> None:
        """Rename the partial file to the output; with `sums`, of a shard, keep the journal as its record."""
        try:
            self._restore()
            if sums is not None:
                lines = self.journal.read_bytes()
                _write_beside(self.record, lines + last_line(lines, {**sums, "size": self.position.size}, self.part))
            self.part.chmod(permissions_of(self.path))
            self.part.replace(self.path)
        except OSError as error:
            raise OutputError(f"{self.shown}: cannot be renamed ({error.strerror}): {self._hint(error)}") from None
        self.finished = True
        with suppress(OSError):
            self.journal.unlink(missing_ok=True)
            if sums is None:
                self.record.unlink(missing_ok=True)  # of an earlier shard in this file
        sync_folder(self.path.parent)

    def _begin(self, facts: dict[str, Any], *, resume: bool) -> None:
        """Go to the last valid position of the journal, and rewrite the journal up to it."""
        size = os.fstat(self.rows).st_size
        header, *lines = self.journal.read_bytes().split(b"\n") if self.journal.exists() else [b""]
        kept = [json.dumps(facts).encode()]
        for line in lines:
            with suppress(ValueError):  # incomplete or empty after a power cut
                position = line_as(Position, line)
                if self.position.size <= position.size <= size:
                    self.position = position
                    kept.append(line)
        if self.position.rows and not resume:
            raise UsageError(f"{self.shown}: {UNFINISHED}")
        if size and not header:
            raise UsageError(
                f"{self.shown}: cannot resume: its journal {self.journal.name} is missing or empty; delete the file"
            )
        if size or self.position.rows:
            self._refuse_other(header, facts)
        self.log = _write_beside(self.journal, b"".join(line + b"\n" for line in kept), keep=True)
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
                what = difference(name, before.get(name), value, RUNS)
                what = what or f"its {name} {differ(name)} (it was {was}, now {now})"
                raise UsageError(f"{self.shown}: cannot resume: {what}: give the same command, or delete the file")

    def _lock(self) -> None:
        if fcntl is None:
            return
        ends = time.monotonic() + LOCK_RELEASE_SECONDS
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
        """Raise UsageError if the run that held the lock has renamed its file meanwhile."""
        if not is_file_at(self.rows, self.part):
            path = self.shown.with_name(self.path.name)
            raise UsageError(f"{path}: the run that wrote it has just finished: there is nothing to resume")

    def _restore(self) -> None:
        """Write the rows and the journal again if their folder was removed."""
        restore(self.log, self.journal)
        restore(self.rows, self.part)

    def _hint(self, error: OSError) -> str:
        if self.position.rows:
            return f"its rows are kept: {_advice(error, 'continue with --resume')}"
        return _advice(error, "run it again")

    def _remove(self) -> None:
        for path in (self.part, self.journal):
            with suppress(OSError):
                path.unlink()

    def _close(self) -> None:
        for handle in (self.rows, self.log):
            with suppress(OSError):
                os.close(handle)


def refuse_other_columns(output: Path, columns: Sequence[str]) -> None:
    """Raise UsageError if a complete output has other columns of values than a command gives.

    Args:
        output: CSV or JSON lines.
        columns: Names of the columns of values.
    """
    from crystalpredict.io.table_formats import rows_of

    try:
        names = list(next(rows_of(output)))
        found = names[names.index("n_atoms") + 1 : names.index("warnings")]
    except (DataError, StopIteration, ValueError):  # empty, or not written by predict
        return
    if found != list(columns):
        other = ", ".join([name for name in columns if name not in found] or columns)[:200]
        raise UsageError(
            f"{output}: complete, but with other columns than this command gives ({other}): name another file with -o, "
            "or replace it with --force"
        )


def _advice(error: OSError, then: str) -> str:
    return f"free some space, and {then}" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else then


def _write_beside(path: Path, content: bytes, *, keep: bool = False) -> int:
    """Replace a file atomically by one with this content, and return its handle, which stays open if `keep`.

    The temporary name is fixed, so that a killed run leaves one such file, which the next run replaces.
    """
    beside = path.with_name(path.name + NEW_SUFFIX)
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
