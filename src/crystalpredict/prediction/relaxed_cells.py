"""Cache of relaxed crystals in SQLite; the key is a digest of the crystal as given and of how it is relaxed."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from crystalpredict.crystals.crystal import Crystal
from crystalpredict.prediction.sqlite_file import SqliteFile, Table

FILE = "relaxed-1.sqlite"  # in the cache folder, with the number of the format
MAX_ROW_BYTES = 2**24
TABLE = Table(
    "relaxed",
    "CREATE TABLE relaxed (key BLOB PRIMARY KEY, cell BLOB, digest BLOB) WITHOUT ROWID",
    "SELECT cell, digest FROM relaxed WHERE key = ?",
    "INSERT OR REPLACE INTO relaxed VALUES (?, ?, ?)",
    MAX_ROW_BYTES,
)
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class RelaxedCrystal:
    """A crystal at the end of a relaxation.

    Attributes:
        crystal: The crystal.
        steps: Steps that it took.
        force: Largest force that is left, of the cell too, eV/Å.
        converged: Whether this force is below the limit.
        seconds: Time that it took, if a time limit ended it; else 0.
    """

    crystal: Crystal
    steps: int
    force: float
    converged: bool
    seconds: float = 0.0


class RelaxedCells(SqliteFile):
    """A SQLite file of relaxed crystals."""

    def __init__(self, folder: Path, settings: str) -> None:
        """Open the file, or create it.

        Args:
            folder: Of the cache.
            settings: What a relaxation depends on, except the crystal.
        """
        self.context = hashlib.blake2b(settings.encode("utf-8", "surrogateescape"), digest_size=32).digest()
        super().__init__(folder / FILE, TABLE, LOG.warning)

    def find(self, given: Crystal) -> RelaxedCrystal | None:
        """Return what a crystal relaxed to; None if that is not stored, or damaged."""
        if not self.mode:
            return None
        key = self._key(given)
        try:
            for cell, digest in self.rows(key):
                if isinstance(cell, bytes) and digest == self._digest(key, cell):
                    return _unpacked(given, cell)
        except (sqlite3.Error, ValueError):  # `write` reports errors of the file
            return None
        return None

    def add(self, given: Crystal, found: RelaxedCrystal) -> None:
        """Store what a crystal relaxed to, unless a time limit ended it: on another day it may get further."""
        cell = _packed(found)
        if not found.seconds and len(cell) < MAX_ROW_BYTES - 1000:
            key = self._key(given)
            self.write([(key, cell, self._digest(key, cell))])

    def _key(self, given: Crystal) -> bytes:
        digest = hashlib.blake2b(key=self.context, digest_size=32)
        for numbers, kind in ((given.lattice, "<f8"), (given.positions, "<f8"), (given.numbers, "<i8")):
            digest.update(np.ascontiguousarray(numbers, dtype=kind).tobytes())
        return digest.digest()

    def _digest(self, key: bytes, cell: bytes) -> bytes:
        """Return a digest of a row, which detects damage and rows of other settings."""
        return hashlib.blake2b(key + cell, key=self.context, digest_size=16).digest()


def _packed(found: RelaxedCrystal) -> bytes:
    """Return a relaxed crystal as numbers: steps, force, convergence, lattice, positions."""
    head = [found.steps, found.force, found.converged]
    numbers = np.concatenate([head, found.crystal.lattice.ravel(), found.crystal.positions.ravel()])
    return numbers.astype("<f8").tobytes()


def _unpacked(given: Crystal, cell: bytes) -> RelaxedCrystal:
    """Return the relaxed crystal of `_packed`; ValueError if the numbers are damaged."""
    numbers = np.frombuffer(cell, dtype="<f8")
    if numbers.shape != (12 + 3 * given.n_atoms,) or not np.isfinite(numbers).all():
        raise ValueError("of another crystal, or not finite")
    steps, force, converged = numbers[:3].tolist()
    lattice, positions = numbers[3:12].reshape(3, 3), numbers[12:].reshape(-1, 3)
    crystal = replace(given, lattice=lattice.copy(), positions=positions.copy())
    return RelaxedCrystal(crystal, int(steps), force, bool(converged))
