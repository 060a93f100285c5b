"""Predictions kept between runs, by what they are of: the bytes of a source and all that the answer depends on."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import numpy as np

from crystalpredict._schema import Summary, Text
from crystalpredict.errors import StructureError, printable
from crystalpredict.io.entries import Inline, Origin, Source
from crystalpredict.io.text import read_content
from crystalpredict.prediction.rows import Prediction
from crystalpredict.properties import TEXT_COLUMNS
from crystalpredict.uncertainty import DEFAULT_LEVEL, LEVELS

FILE = "predictions-3.sqlite"  # in the folder of the cache; the number is that of the format
LIBRARIES = ("gemmi", "numpy", "pymatgen", "pymatgen-core", "torch", "vesin")  # that answers depend on
PATIENCE = 30  # seconds to wait for another run that is writing
LONGEST_ROW = 2**16  # bytes
MOST_STEPS = 10**6  # of SQLite's machine, to read what there is in a file
MOST_ROWS = 10**6  # of a source
TABLE = """CREATE TABLE predictions (
    key BLOB, number INTEGER, count INTEGER, texts TEXT, numbers BLOB, digest BLOB, PRIMARY KEY (key, number)
) WITHOUT ROWID"""
SCHEMA = "SELECT type, name, sql FROM sqlite_master LIMIT 2"
FIND = "SELECT number, count, texts, numbers, digest FROM predictions WHERE key = ? ORDER BY number"
ADD = "INSERT OR REPLACE INTO predictions VALUES (?, ?, ?, ?, ?, ?)"
Atoms = Annotated[int, msgspec.Meta(ge=0, le=10**9)] | None
Texts = tuple[Text, Atoms, list[Summary], Summary, list[Summary]]  # formula, atoms, warnings, error, columns of texts


class Cache:
    """A file of SQLite, read by many processes and written by one thread of each run.

    Whatever is wrong with it is said once, and the run goes on without. It is pickled without its connections.
    """

    def __init__(self, folder: Path, facts: dict[str, Any], columns: Sequence[str], say: Callable[[str], None]) -> None:
        """`facts`, in JSON's types: what answers depend on besides the source; `columns`: all values of a prediction.

        `say` is called with what is wrong.
        """
        self.path, self.say = folder / FILE, say
        self.columns = tuple(name for name in columns if name not in TEXT_COLUMNS)
        self.text_columns = tuple(name for name in columns if name in TEXT_COLUMNS)
        self.writable = True
        libraries = {name: _version(name) for name in LIBRARIES}
        facts = {**facts, "columns": [*self.columns, *self.text_columns], "libraries": libraries}
        self.context = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=32).digest()
        self.added: list[tuple[bytes, int, int, str, bytes, bytes]] = []
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
        if not self.way:
            return []
        found: list[Prediction] = []
        count = 0
        try:
            for number, count, texts, numbers, digest in self._connected().execute(FIND, (key,)):
                whole = type(count) is int and 0 < count <= MOST_ROWS and number == len(found) < count
                if not (whole and isinstance(texts, str) and isinstance(numbers, bytes)):
                    return []
                if digest != self._digest(key, number, count, texts, numbers):
                    return []
                found.append(self._unpacked(texts, numbers))
        except (sqlite3.Error, ValueError, TypeError, RecursionError):  # `commit` meets what is wrong with the file
            return []
        return found if len(found) == count else []

    def add(self, origin: Origin, row: Prediction) -> None:
        """Keep a prediction, from the next `commit` on."""
        said = [row.texts[column] for column in self.text_columns] if row.values else []
        texts = json.dumps([row.formula, row.n_atoms, row.warnings, row.error, said])
        numbers = b""
        if row.values:
            ends = [row.interval(column) if row.bounds else (0.0, 0.0) for column in self.columns]
            table = [[row.values[column], *end] for column, end in zip(self.columns, ends, strict=True)]
            numbers = bytes([bool(row.bounds)]) + np.array(table, dtype="<f8").tobytes()
        if len(texts) + len(numbers) < LONGEST_ROW - 1000 and all(map(isfinite, row.values.values())):
            digest = self._digest(origin.key, origin.number, origin.count, texts, numbers)
            self.added.append((origin.key, origin.number, origin.count, texts, numbers, digest))

    def _digest(self, key: bytes, number: int, count: int, texts: str, numbers: bytes) -> bytes:
        """Of a row and all that it depends on: a row in another place, or for another model, has another."""
        whole = b"%s %d %d %d " % (key, number, count, len(numbers)) + numbers + texts.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(whole, key=self.context, digest_size=16).digest()

    def commit(self) -> None:
        """Write out what was added; where that is not possible, it is said and nothing more is kept."""
        added, self.added = self.added, []
        if not added or not self.writable:
            return
        try:
            connection = connected(self.path, "mode=rw")
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
            if self.path.exists() and not self.path.is_file():
                raise OSError("no file")
            connection = connected(self.path, "mode=rwc")
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                with connection:
                    connection.execute(TABLE.replace("TABLE", "TABLE IF NOT EXISTS", 1))
                connection.execute("SELECT count FROM predictions LIMIT 1").fetchall()
                connection.execute("BEGIN IMMEDIATE")  # fails where the file may only be read
                self.way = "mode=ro"
            finally:
                connection.close()
        except (sqlite3.Error, OSError) as error:
            self.way = "immutable=1"  # SQLite needs files beside it to know of those who write
            readable = not all(os.access(path, os.W_OK) for path in (self.path, self.path.parent)) and self._readable()
            self.way = self.way if readable else ""
            self._complain(f"only read ({error})" if readable else f"not used ({error})")

    def _readable(self) -> bool:
        try:
            self._connected().execute(FIND, (b"",)).fetchall()
        except sqlite3.Error:
            return False
        return True

    def _connected(self) -> sqlite3.Connection:
        """A connection of this process, to read."""
        if self.connection is None or self.owner != os.getpid():  # one from before a fork must not be used
            connection = connected(self.path, self.way)
            connection.execute("PRAGMA query_only = ON")
            self.connection, self.owner = connection, os.getpid()
        return self.connection

    def _complain(self, what: str) -> None:
        self.writable = False
        self.say(f"cache {self.path}: {printable(what)}; the run goes on")

    def _unpacked(self, texts: str, numbers: bytes) -> Prediction:
        """The prediction of a row; ValueError if it is none."""
        formula, n_atoms, warnings, error, said = decoder().decode(texts)
        if bool(error) == bool(numbers):
            raise ValueError("neither values nor an error, or both")
        row = Prediction("", 0, formula, n_atoms, warnings=tuple(warnings), error=error)
        if numbers:
            table = np.frombuffer(numbers[1:], dtype="<f8").reshape(len(self.columns), 3)
            if numbers[0] > 1 or not (np.isfinite(table[:, 0]).all() and (table[:, 1] <= table[:, 2]).all()):
                raise ValueError("a value that is not a number, or no interval")
            row.texts.update(zip(self.text_columns, said, strict=True))
            row.values.update(zip(self.columns, table[:, 0].tolist(), strict=True))
            if numbers[0]:
                bounds = np.full((len(self.columns), len(LEVELS), 2), np.nan)  # other levels are not kept
                bounds[:, LEVELS.index(DEFAULT_LEVEL)] = table[:, 1:]
                row.bounds.update(zip(self.columns, bounds, strict=True))
        return row


@cache
def decoder() -> msgspec.json.Decoder[Texts]:
    """What reads the texts of a row."""
    return msgspec.json.Decoder(Texts)


def connected(path: Path, way: str) -> sqlite3.Connection:
    """A connection to a file from anywhere, opened in the `way` of SQLite's addresses.

    sqlite3.Error unless it is empty or has the table of predictions and nothing else: no view in its place, no trigger.
    """
    address = f"file:{quote(os.fsencode(path.absolute()))}?{way}"
    connection = sqlite3.connect(address, uri=True, timeout=PATIENCE, check_same_thread=False)
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_ROW)
        connection.set_progress_handler(lambda: True, MOST_STEPS)
        if connection.execute(SCHEMA).fetchall() not in ([], [("table", "predictions", TABLE)]):
            raise sqlite3.DatabaseError("it is no cache of this program: delete it, or name another folder")
        connection.set_progress_handler(None, 0)
    except BaseException:
        connection.close()
        raise
    return connection


def _nobody(message: str) -> None:
    """Takes the complaints of a process that reads: the one that writes meets the same."""


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""
