"""Cache of predictions in SQLite; the key is a digest of a source's bytes and of everything a prediction depends on."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from crystalpredict._schema import Summary, Text
from crystalpredict.errors import StructureError
from crystalpredict.io.entries import Inline, Origin, Source
from crystalpredict.io.text import read_content
from crystalpredict.prediction.rows import Prediction
from crystalpredict.prediction.sqlite_file import SqliteFile, Table
from crystalpredict.properties import TEXT_COLUMNS
from crystalpredict.uncertainty import DEFAULT_LEVEL, LEVELS

FILE = "predictions-3.sqlite"  # in the cache folder, with the number of the format
LIBRARIES = ("gemmi", "numpy", "pymatgen", "pymatgen-core", "torch", "vesin")  # predictions depend on their versions
MAX_ROW_BYTES = 2**16
MAX_ROWS_PER_SOURCE = 10**6
TABLE = Table(
    "predictions",
    """CREATE TABLE predictions (
    key BLOB, number INTEGER, count INTEGER, texts TEXT, numbers BLOB, digest BLOB, PRIMARY KEY (key, number)
) WITHOUT ROWID""",
    "SELECT number, count, texts, numbers, digest FROM predictions WHERE key = ? ORDER BY number",
    "INSERT OR REPLACE INTO predictions VALUES (?, ?, ?, ?, ?, ?)",
    MAX_ROW_BYTES,
)
Atoms = Annotated[int, msgspec.Meta(ge=0, le=10**9)] | None
Texts = tuple[Text, Atoms, list[Summary], Summary, list[Summary]]  # formula, atoms, warnings, error, columns of texts


class Cache(SqliteFile):
    """A SQLite file of predictions."""

    def __init__(
        self, folder: Path, facts: dict[str, Any], columns: Sequence[str], warn: Callable[[str], None]
    ) -> None:
        """Open the cache, or create it.

        Args:
            folder: Folder of the cache.
            facts: What predictions depend on besides the source, as JSON types.
            columns: Names of all values of a prediction.
            warn: Called with a message if the cache cannot be read or written.
        """
        self.columns = tuple(name for name in columns if name not in TEXT_COLUMNS)
        self.text_columns = tuple(name for name in columns if name in TEXT_COLUMNS)
        libraries = {name: _version(name) for name in LIBRARIES}
        facts = {**facts, "columns": [*self.columns, *self.text_columns], "libraries": libraries}
        self.context = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=32).digest()
        self.added: list[tuple[bytes, int, int, str, bytes, bytes]] = []
        super().__init__(folder / FILE, TABLE, warn)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "added": []}

    def key_of(self, source: Source) -> tuple[Source, bytes]:
        """Return a source with its content, which is read if it is a file, and its key; b"" if it cannot be cached."""
        if isinstance(source, str):
            try:
                source = Inline(source, read_content(source))
            except StructureError:
                return source, b""
        if source.error or not self.mode:
            return source, b""
        digest = hashlib.blake2b(key=self.context, digest_size=32)
        digest.update(b"text" if isinstance(source.text, str) else b"file")
        digest.update(source.text.encode("utf-8", "surrogatepass") if isinstance(source.text, str) else source.text)
        return source, digest.digest()

    def find(self, key: bytes) -> list[Prediction]:
        """Return the predictions of a source, without its name; empty unless all are stored and undamaged."""
        if not self.mode:
            return []
        found: list[Prediction] = []
        count = 0
        try:
            for number, count, texts, numbers, digest in self.rows(key):
                whole = type(count) is int and 0 < count <= MAX_ROWS_PER_SOURCE and number == len(found) < count
                if not (whole and isinstance(texts, str) and isinstance(numbers, bytes)):
                    return []
                if digest != self._digest(key, number, count, texts, numbers):
                    return []
                found.append(self._unpacked(texts, numbers))
        except (sqlite3.Error, ValueError, TypeError, RecursionError):  # `commit` reports errors of the file
            return []
        return found if len(found) == count else []

    def add(self, origin: Origin, row: Prediction) -> None:
        """Add a prediction to those that the next `commit` writes."""
        said = [row.texts[column] for column in self.text_columns] if row.values else []
        texts = json.dumps([row.formula, row.n_atoms, row.warnings, row.error, said])
        numbers = b""
        if row.values:
            # a column without an interval has one of no width
            ends = [row.interval(column) if column in row.bounds else (0.0, 0.0) for column in self.columns]
            table = [[row.values[column], *end] for column, end in zip(self.columns, ends, strict=True)]
            numbers = bytes([bool(row.bounds)]) + np.array(table, dtype="<f8").tobytes()
        if len(texts) + len(numbers) < MAX_ROW_BYTES - 1000 and all(map(isfinite, row.values.values())):
            digest = self._digest(origin.key, origin.number, origin.count, texts, numbers)
            self.added.append((origin.key, origin.number, origin.count, texts, numbers, digest))

    def _digest(self, key: bytes, number: int, count: int, texts: str, numbers: bytes) -> bytes:
        """Return a digest of a row, its position and the context, which detects damage and rows of another model."""
        whole = b"%s %d %d %d " % (key, number, count, len(numbers)) + numbers + texts.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(whole, key=self.context, digest_size=16).digest()

    def commit(self) -> None:
        """Write the added predictions; if that fails, warn and stop writing."""
        added, self.added = self.added, []
        self.write(added)

    def _unpacked(self, texts: str, numbers: bytes) -> Prediction:
        """Return the prediction of a stored row; ValueError if the row is damaged."""
        formula, n_atoms, warnings, error, said = texts_decoder().decode(texts)
        if bool(error) == bool(numbers):
            raise ValueError("needs either values or an error")
        row = Prediction("", 0, formula, n_atoms, warnings=tuple(warnings), error=error)
        if numbers:
            table = np.frombuffer(numbers[1:], dtype="<f8").reshape(len(self.columns), 3)
            if numbers[0] > 1 or not (np.isfinite(table[:, 0]).all() and (table[:, 1] <= table[:, 2]).all()):
                raise ValueError("not finite, or bounds in the wrong order")
            row.texts.update(zip(self.text_columns, said, strict=True))
            row.values.update(zip(self.columns, table[:, 0].tolist(), strict=True))
            if numbers[0]:
                bounds = np.full((len(self.columns), len(LEVELS), 2), np.nan)  # other levels are not kept
                bounds[:, LEVELS.index(DEFAULT_LEVEL)] = table[:, 1:]
                row.bounds.update(zip(self.columns, bounds, strict=True))
        return row


@cache
def texts_decoder() -> msgspec.json.Decoder[Texts]:
    """Return the decoder of the texts of a row."""
    return msgspec.json.Decoder(Texts)


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""
