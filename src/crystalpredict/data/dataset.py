"""Labelled crystals and their neighbour lists as concatenated arrays, which can be saved as one file."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from importlib.util import find_spec
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from crystalpredict._files import write_atomically
from crystalpredict._safe_path import leave_working_directory, safe_children
from crystalpredict._schema import read_record
from crystalpredict.crystals.cell import MIN_DISTANCE, cell_error, valid_cells
from crystalpredict.crystals.crystal import (
    ATOMIC_NUMBERS,
    Crystal,
    FloatArray,
    IntArray,
    Neighbors,
    lattice_from_parameters,
)
from crystalpredict.crystals.equivalence import (
    FINGERPRINT_FREQUENCIES,
    FINGERPRINT_TOLERANCE,
    ORBIT_TOLERANCE,
    Merging,
    merge_equivalent,
    merge_rotated,
)
from crystalpredict.crystals.neighbors import RADIUS_MARGIN, find_neighbors_of_many
from crystalpredict.errors import DataError
from crystalpredict.properties import TRAINED, Property

TRAIN, VALIDATION, TEST = 0, 1, 2
COLUMNS = TRAINED  # of the labels of a JSONL file
MIN_CRYSTALS_PARALLEL = 5000  # for fewer, starting processes takes longer than the neighbour search
CRYSTALS_PER_CHUNK = 200  # of a neighbour search


@dataclass(frozen=True)
class CrystalTable:
    """C ordered crystals with labels; their N atoms are concatenated.

    Attributes:
        ids: names of the crystals, (C,).
        splits: TRAIN, VALIDATION or TEST, (C,).
        first: first atom of each crystal, and the number of atoms, (C + 1,).
        lattices: rows a, b, c, Å, (C, 3, 3).
        fractional: coordinates of the atoms, (N, 3).
        numbers: atomic numbers, (N,).
        labels: in the units of the properties, not a number where missing, (C, P).
        properties: P of them.
    """

    ids: np.ndarray
    splits: IntArray
    first: IntArray
    lattices: FloatArray
    fractional: FloatArray
    numbers: IntArray
    labels: FloatArray
    properties: tuple[Property, ...]

    def __len__(self) -> int:
        return len(self.lattices)

    @property
    def sizes(self) -> IntArray:
        """Number of atoms of each crystal, (C,)."""
        return np.diff(self.first)

    def crystal(self, index: int) -> Crystal:
        """Return the crystal of a row, in float64."""
        atoms = slice(self.first[index], self.first[index + 1])
        lattice = self.lattices[index].astype(float)
        return Crystal.ordered(lattice, self.fractional[atoms].astype(float) @ lattice, self.numbers[atoms])

    def moved(self, crystals: Mapping[int, Crystal]) -> CrystalTable:
        """Return the table with the cells and positions that crystals have now, by their rows."""
        lattices, fractional = self.lattices.copy(), self.fractional.astype(float)
        for row, crystal in crystals.items():
            lattices[row] = crystal.lattice
            places = np.linalg.solve(crystal.lattice.T, crystal.positions.T).T
            fractional[self.first[row] : self.first[row + 1]] = places - np.floor(places)
        return replace(self, lattices=lattices, fractional=fractional)

    def take(self, rows: IntArray) -> CrystalTable:
        """Return the table of some rows (R,), in their order."""
        atoms = np.concatenate([np.arange(self.first[row], self.first[row + 1]) for row in rows])
        first = np.concatenate([[0], np.cumsum(self.sizes[rows])])
        return CrystalTable(
            self.ids[rows], self.splits[rows], first, self.lattices[rows], self.fractional[atoms], self.numbers[atoms],
            self.labels[rows], self.properties,
        )  # fmt: skip

    def checksum(self) -> str:
        """Return a checksum of crystals, labels and splits, in the precision of a saved file."""
        digest = hashlib.sha256()
        for array in (self.splits, self.first, self.lattices, self.fractional, self.numbers, self.labels):
            digest.update(np.ascontiguousarray(array, dtype=np.float32).tobytes())
        return digest.hexdigest()[:16]

    def check_cells(self) -> None:
        """Check all cells before a neighbour search.

        Raises:
            ValueError: no crystal can have a cell.
        """
        sizes = self.sizes.tolist()
        for row in np.flatnonzero(~valid_cells(self.lattices.astype(float), sizes, MIN_DISTANCE)):
            if error := cell_error(self.lattices[row].astype(float), sizes[row]):
                raise ValueError(f"{self.ids[row]}: {error}")

    def save(self, path: Path) -> None:
        """Write a compressed .npz file with coordinates in float32; 104,000 crystals take some 30 MB."""
        arrays = {
            "ids": self.ids.astype(str),
            "splits": self.splits.astype(np.uint8),
            "first": self.first.astype(np.int64),
            "lattices": self.lattices.astype(np.float32),
            "fractional": self.fractional.astype(np.float32),
            "numbers": self.numbers.astype(np.uint8),
            "labels": self.labels,
            "properties": np.array([json.dumps(asdict(prop)) for prop in self.properties]),
        }
        with write_atomically(path) as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> CrystalTable:
        """Return the table of a file that `save` wrote.

        Raises:
            DataError: the file is missing, damaged or another file, or no crystal can have one of its cells.
        """
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                columns = {name: arrays[name] for name in arrays.files}
            properties = tuple(read_record(str(text), Property) for text in columns.pop("properties"))
            table = cls(**columns, properties=properties)
            table.check_cells()
            return table
        except (OSError, ValueError, TypeError, KeyError, BadZipFile) as error:
            message = f"{path}: not a prepared table of crystals ({error}); make one with scripts/prepare.py"
            raise DataError(message) from error


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSONL file, which may be gzipped.

    Raises:
        DataError: a line is not JSON.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise DataError(f"{path}, line {number}: not JSON ({error})") from error


def crystal_of_row(row: Mapping[str, Any]) -> Crystal:
    """Return the ordered crystal of a row of a JSONL file, with the keys `lattice`, `species` and `frac_coords`.

    They are as for `table_from_rows`, which checks them; here they are those of checked data.
    """
    lattice = lattice_from_parameters(row["lattice"])
    numbers = np.array([ATOMIC_NUMBERS[symbol] for symbol in row["species"]])
    return Crystal.ordered(lattice, np.array(row["frac_coords"], dtype=float) @ lattice, numbers)


def table_from_rows(rows: Iterable[tuple[dict[str, Any], int]]) -> CrystalTable:
    """Return the table of (row, split) pairs.

    Args:
        rows: dictionaries, and TRAIN, VALIDATION or TEST for each. Keys are `id`, `lattice` (a, b, c in Å, alpha, beta,
            gamma in degrees), `species`, `frac_coords` and the names of COLUMNS, with labels in their units.
            Properties without labels are left out.

    Raises:
        DataError: a row cannot be read, no crystal can have its cell, or there are no rows.
    """
    ids: list[str] = []
    splits: list[int] = []
    sizes: list[int] = []
    lattices: list[FloatArray] = []
    fractional: list[FloatArray] = []
    numbers: list[int] = []
    labels: list[list[float]] = []
    for number, (row, split) in enumerate(rows, start=1):
        try:
            ids.append(str(row["id"]))
            splits.append(split)
            sizes.append(len(row["species"]))
            lattices.append(lattice_from_parameters(row["lattice"]))
            coordinates = np.asarray(row["frac_coords"], dtype=float).reshape(sizes[-1], 3)
            fractional.append(coordinates - np.floor(coordinates))  # float32 is too coarse far from the cell
            numbers.extend(ATOMIC_NUMBERS[symbol] for symbol in row["species"])
            if not sizes[-1] or not np.isfinite(fractional[-1]).all():
                raise ValueError("no atoms, or a coordinate that is not a number")
            if error := cell_error(lattices[-1], sizes[-1]):
                raise ValueError(error)
            labels.append([np.nan if row.get(prop.name) is None else float(row[prop.name]) for prop in COLUMNS])
        except (KeyError, TypeError, ValueError) as error:
            name = row.get("id") if isinstance(row, dict) else row
            raise DataError(f"row {number} ({name}): {type(error).__name__}: {error}") from error
    if not ids:
        raise DataError("no crystals in the data")
    matrix = np.array(labels)
    labelled = np.isfinite(matrix).any(axis=0)
    return CrystalTable(
        np.array(ids), np.array(splits), np.concatenate([[0], np.cumsum(sizes)]), np.array(lattices),
        np.concatenate(fractional), np.array(numbers), matrix[:, labelled],
        tuple(prop for prop, wanted in zip(COLUMNS, labelled, strict=True) if wanted),
    )  # fmt: skip


@dataclass(frozen=True)
class NeighborTable:
    """Concatenated neighbour lists of the C crystals of a table, with equivalent atoms merged.

    Attributes:
        sites: first listed atom of each crystal, and their number S, (C + 1,).
        atoms: as in `Neighbors`, (S,).
        counts: as in `Neighbors`, (S,).
        first: first edge of each listed atom, and the number of edges E, (S + 1,).
        indices: as in `Neighbors`, (E,).
        distances: Å, (E,).
        vectors: Å, (E, 3), or None.
    """

    sites: IntArray
    atoms: IntArray
    counts: IntArray
    first: IntArray
    indices: IntArray
    distances: FloatArray
    vectors: FloatArray | None = None

    def neighbors(self, row: int) -> Neighbors:
        """Return the neighbour list of the crystal in a row of the table."""
        (found,) = Neighbors.from_concatenated(
            self.sites[row : row + 2], self.first, self.indices, self.distances, self.atoms, self.counts, self.vectors
        )
        return found


def neighbor_table(
    table: CrystalTable, radius: float, cache: Path | None = None, jobs: int = 1, merging: Merging = "distances"
) -> NeighborTable:
    """Return the neighbour lists of a table, with vectors unless atoms are merged by distances.

    Args:
        table: C crystals.
        radius: Å.
        cache: folder from which the lists are read, or where they are saved. Its file names contain a checksum of the
            crystals, the radius and the settings, so that an outdated file is never read.
        jobs: processes of the search.
        merging: how equivalent atoms are merged.
    """
    if cache is None:
        return _find_neighbors(table, radius, jobs, merging)
    keys = {
        "distances": (FINGERPRINT_TOLERANCE, FINGERPRINT_FREQUENCIES, "middle", "alone"),
        "rotations": ("rotations", ORBIT_TOLERANCE, find_spec("spglib") is not None),
        "nothing": ("vectors",),
    }
    key = (radius, RADIUS_MARGIN, *keys[merging])
    digest = hashlib.sha256(repr(key).encode())
    for array in (table.first, table.lattices, table.fractional, table.numbers):
        digest.update(np.ascontiguousarray(array).tobytes())
    folder = cache / f"neighbors-{digest.hexdigest()[:16]}"
    names = [f.name for f in fields(NeighborTable) if merging != "distances" or f.name != "vectors"]
    if not (folder / f"{names[-1]}.npy").exists():
        found = _find_neighbors(table, radius, jobs, merging)
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            with write_atomically(folder / f"{name}.npy") as file:
                np.save(file, getattr(found, name))
    return NeighborTable(*(np.load(folder / f"{name}.npy") for name in names))


def _find_neighbors(table: CrystalTable, radius: float, jobs: int, merging: Merging) -> NeighborTable:
    chunks = np.array_split(np.arange(len(table)), max(1, len(table) // CRYSTALS_PER_CHUNK))
    crystals = ([table.crystal(row) for row in rows] for rows in chunks)
    if jobs == 1 or len(table) < MIN_CRYSTALS_PARALLEL:
        parts = [_neighbor_arrays(part, radius, merging) for part in crystals]
    else:
        # spawned: a forked process may hang if this one has threads
        with safe_children():  # map starts all processes
            pool = ProcessPoolExecutor(jobs, get_context("spawn"), leave_working_directory)
            results = pool.map(_neighbor_arrays, crystals, repeat(radius), repeat(merging))
        with pool:
            parts = list(results)
    sites, atoms, counts, widths, *edges = (np.concatenate(part) for part in zip(*parts, strict=True))
    sites, first = (np.concatenate([[0], np.cumsum(part)]) for part in (sites, widths))
    return NeighborTable(sites, atoms, counts, first, *edges)


def _neighbor_arrays(crystals: list[Crystal], radius: float, merging: Merging) -> tuple[np.ndarray, ...]:
    """Return the arrays of a NeighborTable of some crystals, with the numbers of atoms and edges for `sites`, `first`.

    These are: listed atoms of each crystal; atom, count and number of edges of each listed atom; index, distance and,
    unless atoms are merged by distances, vector of each edge.
    """
    vectors = merging != "distances"
    lists = find_neighbors_of_many([(each.lattice, each.positions) for each in crystals], radius, vectors=vectors)
    if merging == "distances":
        lists = merge_equivalent(crystals, lists, radius)
    elif merging == "rotations":
        lists = merge_rotated(crystals, lists)
    found = [edges.vectors for edges in lists if edges.vectors is not None]
    return (
        np.array([edges.size for edges in lists]),
        _shrink(np.concatenate([edges.atoms for edges in lists])),
        _shrink(np.concatenate([edges.counts for edges in lists])),
        np.concatenate([edges.edge_counts for edges in lists]),
        _shrink(np.concatenate([edges.indices for edges in lists])),
        np.concatenate([edges.distances for edges in lists]).astype(np.float32),
        *([np.concatenate(found).astype(np.float32)] if found else []),
    )


def _shrink(numbers: IntArray) -> IntArray:
    """Return numbers as uint16 if they fit, else as uint32."""
    return numbers.astype(np.uint16 if numbers.max() < 2**16 else np.uint32)


def encoded_labels(table: CrystalTable, properties: Sequence[Property]) -> FloatArray:
    """Return labels of some properties on the trained scale, not a number where missing, (C, outputs)."""
    known = [prop.identity for prop in table.properties]
    columns = [table.labels[:, known.index(prop.identity)].astype(float) for prop in properties]
    return np.stack([prop.encode(column) for prop, column in zip(properties, columns, strict=True)], axis=1)


def scale_of_labels(encoded: FloatArray, properties: Sequence[Property]) -> tuple[FloatArray, FloatArray]:
    """Return mean and standard deviation of training labels, on the trained scale, each (outputs,).

    Args:
        encoded: labels on the trained scale, (R, outputs).
        properties: of the columns.

    Raises:
        DataError: all labels of a property are equal, or there are none.
    """
    for prop, column in zip(properties, encoded.T, strict=True):
        different = np.unique(column[np.isfinite(column)])
        if len(different) < 2:
            found = f"all are {prop.in_unit(different)[0]:g}" if len(different) else "there are none"
            raise DataError(f"{prop.name}: training needs labels of at least two values ({found})")
    return np.nanmean(encoded, axis=0), np.nanstd(encoded, axis=0)


def rows_with_labels(wanted: np.ndarray, encoded: FloatArray, part: str) -> IntArray:
    """Return the rows of a part of the data with at least one label, (R,).

    Args:
        wanted: whether a row belongs to the part, (C,).
        encoded: labels on the trained scale, (C, P).
        part: its name, for the message.

    Raises:
        DataError: there are none.
    """
    rows = np.flatnonzero(wanted & np.isfinite(encoded).any(axis=1))
    if not len(rows):
        raise DataError(f"no crystal with a usable label in the {part} part of the data")
    return rows
