"""Parse text as CIF, POSCAR, JSON or extended XYZ, recognised by its content, to pymatgen structures."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO

import numpy as np
from pymatgen.core.lattice import Lattice
from pymatgen.core.periodic_table import Element
from pymatgen.core.structure import Structure

from crystalpredict.errors import StructureError, suppress_warnings
from crystalpredict.io.calculations import ULM, is_calculation, is_cif, last_frame, reader_of
from crystalpredict.io.cif import CifCrystal, read_cif
from crystalpredict.io.json_structures import structures_of_json
from crystalpredict.io.other_formats import describe_markup, describe_text
from crystalpredict.io.poscar import has_poscar, is_poscar, structures_of_poscar
from crystalpredict.io.text import CIF_SITE, CIF_WARNINGS, STATED_FORMULA
from crystalpredict.io.vasp_outputs import frames_of_xdatcar, is_xdatcar
from crystalpredict.io.xyz import frames_of, is_xyz, parse_frame


def parse_text(text: str) -> list[Structure | StructureError]:
    """Return the structures in a text, or the error of each that cannot be read.

    Raises:
        StructureError: The whole text cannot be read.
    """
    with suppress_warnings():  # crystals are checked later, with warnings that name the file
        return _parse(text)


def _parse(text: str) -> list[Structure | StructureError]:
    if is_poscar(text):  # first: its title can be any text
        return structures_of_poscar(last_frame(frames_of_xdatcar, text) if is_xdatcar(text) else text)
    start = text.lstrip()[:512].lower()
    if start.startswith(("{", "[")):
        return structures_of_json(text)
    if start.startswith(("<!doctype", "<html", "<?xml", "<modeling")):
        return _of_calculation(text, describe_markup)
    if start.startswith(ULM.lower()):
        return _of_calculation(text, describe_text)
    if is_xyz(text):
        return _parse_xyz(text)
    if is_calculation(text):
        return _of_calculation(text, describe_text)
    if is_cif(text):
        return _parse_cif(text)
    if has_poscar(text):  # after a broken one
        return structures_of_poscar(text)
    raise StructureError(describe_text(text))


def _of_calculation(text: str, describe: Callable[[str], str]) -> list[Structure | StructureError]:
    """Return the last structure of a calculation's file; StructureError with a description for any other text."""
    if reader := reader_of(text):
        return structures_of_json(last_frame(reader, text))
    raise StructureError(describe(text))


def _parse_xyz(text: str) -> list[Structure | StructureError]:
    """Return one structure for each frame."""
    structures = []
    try:
        for frame in frames_of(StringIO(text)):
            structures.append(_parse_frame(frame))
    except StructureError as error:
        structures.append(error)
    return structures


def _parse_frame(text: str) -> Structure | StructureError:
    """Return the structure of one frame of extended XYZ, or its error."""
    try:
        lattice, symbols, positions = parse_frame(text)
    except StructureError as error:
        return error
    if odd := next((symbol for symbol in symbols if not Element.is_valid_symbol(symbol)), None):
        return StructureError(f"unknown element {odd!r} in an XYZ frame: name a chemical element")
    try:
        return Structure(lattice, symbols, positions, coords_are_cartesian=True)
    except np.linalg.LinAlgError:
        return StructureError("broken XYZ: the three vectors of Lattice lie in a plane")


def _parse_cif(text: str) -> list[Structure | StructureError]:
    """Return one structure for each data block with atoms; blocks without a structure are skipped."""
    return [each if isinstance(each, StructureError) else _structure_of_cif(each) for each in read_cif(text)]


def _structure_of_cif(crystal: CifCrystal) -> Structure | StructureError:
    """Return the structure of a CIF block; occupancies and elements are checked later, as for other formats."""
    try:
        places, species, names, warnings = crystal.at_each_place()
    except StructureError as error:
        return error
    structure = Structure(Lattice(crystal.lattice), species, places, site_properties={CIF_SITE: names})
    structure.properties[STATED_FORMULA] = crystal.formula
    structure.properties[CIF_WARNINGS] = warnings
    return structure
