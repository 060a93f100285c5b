"""Predictions kept between runs, by what they are of: the bytes of a source and all that the answer depends on."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import zlib
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from crystalpredict.errors import StructureError
from crystalpredict.io.entries import Inline, Origin, Source
from crystalpredict.io.text import read_content
from crystalpredict.prediction.rows import Prediction
from crystalpredict.uncertainty.intervals import LEVELS, SHOWN

FILE = "predictions-1.sqlite"  # in the folder of the cache; the number is that of the format
LIBRARIES = ("gemmi", "numpy", "pymatgen", "pymatgen-core", "torch", "vesin")  # that answers depend on
PATIENCE = 30  # seconds to wait for another run that is writing
TABLE = """CREATE TABLE IF NOT EXISTS predictions (
    key BLOB, number INTEGER, count INTEGER, texts TEXT, numbers BLOB, sum INTEGER, PRIMARY KEY (key, number)
) WITHOUT ROWID"""
FIND = "SELECT count, texts, numbers, sum FROM predictions WHERE key = ? ORDER BY number"
ADD = "INSERT OR REPLACE INTO predictions VALUES (?, ?, ?, ?, ?, ?)"


class Cache:
    """A file of SQLite, read by many processes and written by one thread of each run.

    Whatever is wrong with it is said once, and the run goes on without. It is pickled without its connections.
    """

    def __init__(self, folder: Path, facts: dict[str, Any], columns: Sequence[str], say: Callable[[str], None]) -> None:
        """`facts`, in JSON's types: what answers depend on besides the source; `columns`: all values of a prediction.

        `say` is called with what is wrong.
        """
        self.path, self.columns, self.say = folder / FILE, tuple(columns), say
        self.writable = True
        facts = {**facts, "columns": self.columns, "libraries": {name: _version(name) for name in LIBRARIES}}
        self.context = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=32).digest()
        self.added: list[tuple[bytes, int, int, str, bytes, int]] = []
        self.way = ""  # of opening the file to read; none if that is not possible
        self.connection: sqlite3.Connection | None = None
        self.owner = 0  # the process whose connection it is
        self._begin()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "connection": None, "say": _nobody, "added": []}

    def key_of(self, source: Source) -> tuple[Source, bytes]:
        """A source with its content, which is read if it is a file, and its key; b"" if there is nothing to be kept."""
        if isinstance(source, str):
            try:
                source = Inline(source, read_content(source))
            except StructureError:
                return source, b""
        if source.error or not self.way:
            return source, b""
        digest = hashlib.blake2b(key=self.context, digest_size=32)
        digest.update(b"text" if isinstance(source.text, str) else b"file")
        digest.update(source.text.encode("utf-8", "surrogatepass") if isinstance(source.text, str) else source.text)
        return source, digest.digest()

    def find(self, key: bytes) -> list[Prediction]:
        """The predictions of a source, without its name; none unless all of them are there and undamaged."""
        try:
            rows = self._connected().execute(FIND, (key,)).fetchall() if self.way else []
            whole = all(count == len(rows) and _sum(texts, numbers) == sum for count, texts, numbers, sum in rows)
            return [self._unpacked(texts, numbers) for _, texts, numbers, _ in rows] if whole else []
        except (sqlite3.Error, ValueError, TypeError):  # damaged: `commit` meets what is wrong with the whole file
            return []

    def add(self, origin: Origin, row: Prediction) -> None:
        """Keep a prediction, from the next `commit` on."""
        texts = json.dumps([row.formula, row.n_atoms, row.warnings, row.error])
        numbers = b""
        if row.values:
            ends = [row.interval(column) if row.bounds else (0.0, 0.0) for column in self.columns]
            table = [[row.values[column], *end] for column, end in zip(self.columns, ends, strict=True)]
            numbers = bytes([bool(row.bounds)]) + np.array(table, dtype="<f8").tobytes()
        self.added.append((origin.key, origin.number, origin.count, texts, numbers, _sum(texts, numbers)))

    def commit(self) -> None:
        """Write out what was added; where that is not possible, it is said and nothing more is kept."""
        added, self.added = self.added, []
        if not added or not self.writable:
            return
        try:
            connection = sqlite3.connect(self.path, timeout=PATIENCE)
            try:
                connection.execute("PRAGMA synchronous = NORMAL")
                with connection:
                    connection.executemany(ADD, added)
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")  # so that the file alone is all of it
            finally:
                connection.close()
        except sqlite3.Error as error:
            self._complain(f"no more predictions are kept there ({error})")

    def _begin(self) -> None:
        """Make the file if need be, and find out whether it can be read and written."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=PATIENCE)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                with connection:
                    connection.execute(TABLE)
                connection.execute("SELECT count FROM predictions LIMIT 1").fetchall()
                connection.execute("BEGIN IMMEDIATE")  # fails where the file may only be read
                self.way = "mode=ro"
            finally:
                connection.close()
        except (sqlite3.Error, OSError) as error:
            readable = self.path.is_file() and not os.access(self.path.parent, os.W_OK)
            self.way = "immutable=1" if readable else ""  # SQLite needs files beside it to know of those who write
            self._complain(f"only read ({error})" if readable else f"not used ({error})")

    def _connected(self) -> sqlite3.Connection:
        """A connection of this process, to read."""
        if self.connection is None or self.owner != os.getpid():  # one from before a fork must not be used
            address = f"file:{quote(os.fsencode(self.path.absolute()))}?{self.way}"
            self.connection = sqlite3.connect(address, uri=True, timeout=PATIENCE, check_same_thread=False)
            self.owner = os.getpid()
        return self.connection

    def _complain(self, what: str) -> None:
        self.writable = False
        self.say(f"cache {self.path}: {what}; the run goes on")

    def _unpacked(self, texts: str, numbers: bytes) -> Prediction:
        formula, n_atoms, warnings, error = json.loads(texts)
        row = Prediction("", 0, formula, n_atoms, warnings=tuple(warnings), error=error)
        if numbers:
            table = np.frombuffer(numbers[1:], dtype="<f8").reshape(len(self.columns), 3)
            row.values.update(zip(self.columns, table[:, 0].tolist(), strict=True))
            if numbers[0]:
                bounds = np.full((len(self.columns), len(LEVELS), 2), np.nan)  # other levels are not kept
                bounds[:, LEVELS.index(SHOWN)] = table[:, 1:]
                row.bounds.update(zip(self.columns, bounds, strict=True))
        return row


def _nobody(message: str) -> None:
    """Who hears the complaints of a process that reads: the one that writes meets the same."""


def _sum(texts: str, numbers: bytes) -> int:
    return zlib.crc32(numbers, zlib.crc32(texts.encode()))


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""
