"""One structure of a calculation's file, as plain arrays, and its text for the JSON reader."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from crystalpredict.crystals.crystal import ELEMENTS, FloatArray, cell_volume
from crystalpredict.errors import StructureError

NOT_PERIODIC = "a cell that is periodic in all three directions is needed"
PARTLY_OCCUPIED = "partly occupied sites, which Atoms cannot represent: give the CIF, or an ordered model"


def is_partly_occupied(info: Any) -> bool:
    """Whether the `info` of ASE's Atoms has the shares of sites of a CIF, and one of them is not 1.

    ASE fills each shared site with its first element, and notes {"0": {"Ni": 0.5, "Cu": 0.5}} as `occupancy`. Other
    programs may note other things by this name, such as a number.
    """
    occupancy = info.get("occupancy") if isinstance(info, dict) else None
    sites = occupancy.values() if isinstance(occupancy, dict) else ()
    return any(not _is_one(share) for site in sites if isinstance(site, dict) for share in site.values())


def _is_one(share: Any) -> bool:
    try:
        return float(share) == 1
    except (TypeError, ValueError):
        return False


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
    flags = np.asarray(periodic)
    if flags.dtype.kind not in "biuf" or flags.shape not in ((), (1,), (3,)):  # any text, even "F", would count as true
        raise StructureError(f"pbc={str(periodic)[:60]}: write true or false for each of the three directions")
    along = np.broadcast_to(flags.astype(bool), 3).tolist()
    if not all(along):
        raise StructureError(f"pbc={along}: {NOT_PERIODIC}")
    whole = np.asarray(numbers)
    if whole.ndim != 1 or not np.issubdtype(whole.dtype, np.integer):
        raise StructureError("atomic numbers that are not whole numbers")
    odd = next((int(number) for number in whole if not 1 <= number <= len(ELEMENTS)), None)
    if odd is not None:
        raise StructureError(f"atomic number {odd}: the model covers H to {ELEMENTS[-1]} only")
    return frame_text(lattice, [ELEMENTS[number - 1] for number in whole.tolist()], positions)
