"""Read the geometry.in of FHI-aims: its cell and atoms."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from crystalpredict.errors import StructureError
from crystalpredict.io.frames import frame_text
from crystalpredict.io.text import number_of

_SPECIES = re.compile(r"([A-Z][a-z]?)(?:[_\-0-9].*)?")  # with a label: Fe_up, Fe1


_OTHER = re.compile(  # words that neither move nor add an atom
    "constrain_relaxation|initial_moment|initial_charge|initial_spin|velocity|multipole|esp_constraint|empty|"
    "nuclear_constraint|hessian_\\w+|symmetry_\\w+|trust_radius|set_vacuum_level|homogeneous_field|"
    "calculate_friction|magnetic_response|magnetic_moment|nuclear_spin|isotope|RT_TDDFT_initial_velocity|"
    "verbatim_writeout|rrs_pbc_\\w+|lattice_constraint",
    re.IGNORECASE,
)


def frames_of_geometry(text: str, *, last: bool) -> Iterator[str]:
    """Yield the structure of a geometry.in as JSON of plain arrays; `last` changes nothing, there is one.

    Ghost atoms (`empty`), moments and constraints are left out.

    Raises:
        StructureError: It is broken or not periodic, or has a line of an unknown kind, as `pseudocore` or `Atom`.
    """
    cell: list[list[float]] = []
    symbols: list[str] = []
    places: list[list[float]] = []
    fractional: list[bool] = []
    for number, line in enumerate(text.split("\n"), start=1):
        words = line.split("#")[0].split()
        if not words or _OTHER.fullmatch(words[0]):
            continue
        if words[0] not in ("lattice_vector", "atom", "atom_frac"):
            raise StructureError(
                f"broken geometry.in: {words[0][:40]!r} on line {number} is not read: only lattice_vector, atom, "
                "atom_frac and what does not change the structure"
            )
        is_atom = words[0] != "lattice_vector"
        try:
            place = [number_of(word) for word in words[1:4]]
        except ValueError as error:
            raise StructureError(f"broken geometry.in: {error}, line {number}") from None
        named = _SPECIES.fullmatch(words[4]) if is_atom and len(words) > 4 else None
        if len(place) < 3 or (is_atom and named is None):
            raise StructureError(f"broken geometry.in: line {number} needs three numbers{' and an element' * is_atom}")
        if named:
            symbols.append(named[1])
            places.append(place)
            fractional.append(words[0] == "atom_frac")
        else:
            cell.append(place)
    if len(cell) != 3:
        raise StructureError(f"a geometry.in with {len(cell)} lines lattice_vector: a periodic cell of three is needed")
    lattice, positions = np.array(cell), np.array(places).reshape(-1, 3)
    inside = np.array(fractional, dtype=bool)
    positions[inside] = positions[inside] @ lattice
    yield frame_text(lattice, symbols, positions)
