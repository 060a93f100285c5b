"""One structure of a calculation's file, as plain arrays, and its text for the JSON reader."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from crystalpredict.crystals.crystal import ELEMENTS, FloatArray, cell_volume
from crystalpredict.errors import StructureError

NOT_PERIODIC = "a cell that is periodic in all three directions is needed"


def frame_text(lattice: FloatArray, symbols: Sequence[str], positions: FloatArray, *, fractional: bool = False) -> str:
    """Return a structure as JSON of plain arrays, which `structures_of_json` reads.

    Args:
        lattice: Cell vectors (3, 3), Å.
        symbols: Element of each atom.
        positions: Coordinates (atoms, 3), Å, or fractional ones.
        fractional: Whether the positions are fractional.

    Raises:
        StructureError: An array has the wrong shape, a number is not finite, the cell is flat, or an element is
            unknown.
    """
    lattice, positions = np.asarray(lattice, dtype=float), np.asarray(positions, dtype=float)
    if lattice.shape != (3, 3) or not np.isfinite(lattice).all():
        raise StructureError("the cell does not have three vectors of three numbers")
    if not cell_volume(lattice):
        raise StructureError("the three vectors of the cell lie in a plane")
    if not len(symbols) or positions.shape != (len(symbols), 3):
        raise StructureError(f"{len(symbols)} elements for coordinates of {len(positions)} atoms")
    if not np.isfinite(positions).all():
        raise StructureError("a coordinate is not a number")
    if unknown := next((symbol for symbol in symbols if symbol not in ELEMENTS), None):
        raise StructureError(f"unknown element {unknown[:40]!r}: the model covers H to {ELEMENTS[-1]}")
    arrays = {"lattice_mat": lattice.tolist(), "elements": list(symbols), "coords": positions.tolist()}
    return json.dumps({**arrays, "cartesian": not fractional})


def frame_of_numbers(lattice: FloatArray, numbers: Any, positions: FloatArray, periodic: Any) -> str:
    """Return a structure of atomic numbers as JSON of plain arrays.

    Args:
        lattice: Cell vectors (3, 3), Å.
        numbers: Atomic numbers (atoms,).
        positions: Cartesian coordinates (atoms, 3), Å.
        periodic: Whether the cell repeats along each vector (3,), or along all of them.

    Raises:
        StructureError: As `frame_text`, or the cell is not periodic.
    """
    along = np.broadcast_to(np.asarray(periodic, dtype=bool), 3).tolist()
    if not all(along):
        raise StructureError(f"pbc={along}: {NOT_PERIODIC}")
    whole = np.asarray(numbers)
    if whole.ndim != 1 or not np.issubdtype(whole.dtype, np.integer):
        raise StructureError("atomic numbers that are not whole numbers")
    odd = next((int(number) for number in whole if not 1 <= number <= len(ELEMENTS)), None)
    if odd is not None:
        raise StructureError(f"atomic number {odd}: the model covers H to {ELEMENTS[-1]} only")
    return frame_text(lattice, [ELEMENTS[number - 1] for number in whole.tolist()], positions)
