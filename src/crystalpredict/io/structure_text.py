"""Text of a structure file to pymatgen structures: CIF, POSCAR, JSON or extended XYZ, told apart by its content."""

from __future__ import annotations

import re
from io import StringIO

import numpy as np
from pymatgen.core.lattice import Lattice
from pymatgen.core.periodic_table import Element
from pymatgen.core.structure import Structure

from crystalpredict.errors import StructureError, suppress_warnings
from crystalpredict.io.cif import CifCrystal, read_cif
from crystalpredict.io.json_structures import structures_of_json
from crystalpredict.io.other_formats import what_is, what_is_markup
from crystalpredict.io.poscar import has_poscar, is_poscar, structures_of_poscar
from crystalpredict.io.text import CIF_SITE, CIF_WARNINGS, STATED_FORMULA
from crystalpredict.io.xyz import frames_of, is_xyz, parse_frame


def parse_text(text: str) -> list[Structure | StructureError]:
    """The structures in a CIF, a POSCAR, pymatgen JSON or XYZ; an error stands in the place of each unreadable one."""
    with suppress_warnings():  # what matters is judged later, and told with the name of the file
        return _parse(text)


def _parse(text: str) -> list[Structure | StructureError]:
    if is_poscar(text):  # whatever its title looks like
        return structures_of_poscar(text)
    start = text.lstrip()[:512].lower()
    if start.startswith(("{", "[")):
        return structures_of_json(text)
    if start.startswith(("<!doctype", "<html", "<?xml", "<modeling")):
        raise StructureError(what_is_markup(text))
    if is_xyz(text):
        return _parse_xyz(text)
    if re.search(r"^[^\S\n]*(data_\S*|_cell_length_a|_cell\.length_a)", text, re.MULTILINE | re.IGNORECASE):
        return _parse_cif(text)
    if has_poscar(text):  # below one that is broken
        return structures_of_poscar(text)
    raise StructureError(what_is(text))


def _parse_xyz(text: str) -> list[Structure | StructureError]:
    """One structure for each frame."""
    structures = []
    try:
        for frame in frames_of(StringIO(text)):
            structures.append(_parse_frame(frame))
    except StructureError as error:
        structures.append(error)
    return structures


def _parse_frame(text: str) -> Structure | StructureError:
    """Structure of one frame of extended XYZ."""
    try:
        lattice, symbols, positions = parse_frame(text)
    except StructureError as error:
        return error
    if odd := next((symbol for symbol in symbols if not Element.is_valid_symbol(symbol)), None):
        return StructureError(f"unknown element {odd!r} in an XYZ frame: name a chemical element")
    try:
        return Structure(lattice, symbols, positions, coords_are_cartesian=True)
    except np.linalg.LinAlgError:
        return StructureError("broken XYZ: the three vectors of its Lattice lie in a plane")


def _parse_cif(text: str) -> list[Structure | StructureError]:
    """One structure for each data block that describes one; blocks of mere bibliography are passed over."""
    return [each if isinstance(each, StructureError) else _structure_of_cif(each) for each in read_cif(text)]


def _structure_of_cif(crystal: CifCrystal) -> Structure | StructureError:
    """Structure of a CIF block; occupancies and elements are judged later, with those of other files."""
    try:
        places, species, names, warnings = crystal.at_each_place()
    except StructureError as error:
        return error
    structure = Structure(Lattice(crystal.lattice), species, places, site_properties={CIF_SITE: names})
    structure.properties[STATED_FORMULA] = crystal.formula
    structure.properties[CIF_WARNINGS] = warnings
    return structure
