"""Turn ASE Atoms, and their JSON, into plain arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from crystalpredict.crystals.crystal import FloatArray
from crystalpredict.errors import StructureError
from crystalpredict.io.frames import PARTLY_OCCUPIED, frame_of_numbers, is_partly_occupied


def text_of_atoms(atoms: Any) -> str:
    """Return ASE Atoms as JSON of plain arrays; StructureError if they are not a periodic crystal."""
    return frame_of_numbers(np.asarray(atoms.cell), atoms.numbers, atoms.positions, atoms.pbc)


def text_of_dictionary(atoms: dict[str, Any]) -> str:
    """Return the dictionary of ASE Atoms, as `Atoms.todict` or ASE's JSON has it, as JSON of plain arrays.

    Raises:
        StructureError: An array is missing or of the wrong kind, the atoms are not a periodic crystal, or sites are
            partly occupied.
    """
    data = atoms.get("data")  # beside a row of a database
    if any(map(is_partly_occupied, (atoms.get("info"), data, data.get("info") if isinstance(data, dict) else None))):
        raise StructureError(PARTLY_OCCUPIED)
    numbers, positions, cell = (_array(atoms[name], name) for name in ("numbers", "positions", "cell"))
    return frame_of_numbers(cell, numbers, positions, _array(atoms.get("pbc", False), "pbc"))


def _array(value: Any, name: str) -> FloatArray:
    """Return an array that is a list, or in the JSON of ASE: {"__ndarray__": [shape, type, values]}."""
    try:
        if isinstance(value, dict):
            value = value.get("array", value)
        if isinstance(value, dict):
            shape, kind, flat = value["__ndarray__"]
            values = np.array(flat)
            if values.dtype == object or str(kind).startswith(("O", "obj")):
                raise StructureError(f"{name} of ASE's Atoms is not an array of numbers")
            return values.reshape([int(length) for length in shape])
        return np.array(value)
    except (KeyError, TypeError, ValueError):
        raise StructureError(f"{name} of ASE's Atoms is not an array of numbers") from None
