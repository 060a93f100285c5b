"""Crystals of fully occupied sites, from texts that can be read without building pymatgen structures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from crystalpredict.crystals.crystal import ATOMIC_NUMBERS, FloatArray, IntArray

MAX_CELLS_AWAY_PLAIN = 100  # of the coordinates of a plain crystal


class PlainCrystal(NamedTuple):
    """A crystal of n fully occupied sites.

    Attributes:
        lattice: (3, 3), Å.
        fractional: Coordinates in the cell, (n, 3).
        numbers: Atomic numbers, (n,).
        stated_formula: As in the file; empty if there is none.
    """

    lattice: FloatArray
    fractional: FloatArray
    numbers: IntArray
    stated_formula: str = ""


def plain_crystal(
    lattice: Any, symbols: Sequence[Any], coordinates: Any, *, cartesian: bool = False
) -> PlainCrystal | None:
    """Return a crystal from the values in a file; None if they are unusual or wrong, and need all checks.

    Args:
        lattice: Three rows of three numbers, Å.
        symbols: Element of each site.
        coordinates: A row of three numbers for each site.
        cartesian: Whether the coordinates are Cartesian, Å, instead of fractional.
    """
    try:
        numbers = [ATOMIC_NUMBERS[symbol] for symbol in symbols]
        cell, places = np.array(lattice), np.array(coordinates)
        usual = cell.dtype.kind in "if" and places.dtype.kind in "if"
        if not usual or cell.shape != (3, 3) or places.shape != (len(numbers), 3) or not numbers:
            return None
        cell = cell.astype(float)
        fractional = places @ np.linalg.inv(cell) if cartesian else places.astype(float)
    except (KeyError, TypeError, ValueError, np.linalg.LinAlgError):
        return None
    if not np.abs(fractional).max() < MAX_CELLS_AWAY_PLAIN:  # true for not-a-number too
        return None
    return PlainCrystal(cell, fractional - np.floor(fractional), np.array(numbers))


def plain_of_text(text: str) -> Sequence[PlainCrystal]:
    """Return the crystals of a POSCAR or of JSON; none if one of them is unusual, or for any other format.

    The formats are told apart as by `parse_text`, which reads what is not read here.
    """
    from crystalpredict.io.poscar import is_poscar, plain_of_poscar
    from crystalpredict.io.vasp_outputs import is_xdatcar

    with np.errstate(all="ignore"):  # infinite and invalid values are refused later
        if is_poscar(text):
            return () if is_xdatcar(text) else plain_of_poscar(text)
        if text.lstrip()[:1] in ("{", "["):
            from crystalpredict.io.json_structures import plain_of_json

            return plain_of_json(text)
        return ()


def all_or_none(crystals: Sequence[PlainCrystal | None]) -> Sequence[PlainCrystal]:
    """Return the crystals, or none if one of them is None."""
    found = [crystal for crystal in crystals if crystal]
    return found if len(found) == len(crystals) else ()
