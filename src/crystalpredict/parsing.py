"""Files to pymatgen structures: CIF, POSCAR, pymatgen JSON and extended XYZ, told apart by what they contain."""

from __future__ import annotations

import json
import re
from io import StringIO
from typing import Any

from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from crystalpredict.crystal import lattice_of_parameters
from crystalpredict.errors import StructureError
from crystalpredict.extended_xyz import frames_of, is_xyz, parse_frame
from crystalpredict.files import CIF_SITE, CIF_WARNINGS, STATED_FORMULA
from crystalpredict.plain_cif import CifCrystal, read_cif
from crystalpredict.poscar import is_poscar, structure_of_poscar
from crystalpredict.silence import silence


def parse_text(text: str) -> list[Structure | StructureError]:
    """The structures in a CIF, a POSCAR, pymatgen JSON or XYZ; an error stands in the place of each unreadable one."""
    with silence():  # what matters is judged later, and told with the name of the file
        return _parse(text)


def _parse(text: str) -> list[Structure | StructureError]:
    if is_poscar(text):  # whatever its title looks like
        return [_parse_poscar(text)]
    start = text.lstrip()[:512].lower()
    if start.startswith(("{", "[")):
        return _parse_json(text)
    if start.startswith(("<!doctype", "<html", "<?xml")):
        raise StructureError("a web page, not a structure: download the file itself")
    if is_xyz(text):
        return _parse_xyz(text)
    if re.search(r"^[^\S\n]*(data_\S*|_cell_length_a|_cell\.length_a)", text, re.MULTILINE | re.IGNORECASE):
        return _parse_cif(text)
    raise StructureError("not a CIF, a POSCAR or pymatgen JSON: convert it to one of these")


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
        return Structure(lattice, symbols, positions, coords_are_cartesian=True)
    except StructureError as error:
        return error
    except Exception as error:  # pymatgen raises whatever its parsing meets
        return StructureError(f"broken XYZ ({_reason(error)}): check the symbols and the cell")


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


def _parse_poscar(text: str) -> Structure | StructureError:
    """Structure of a POSCAR."""
    try:
        return structure_of_poscar(text)
    except StructureError as error:
        return error
    except Exception as error:  # pymatgen raises whatever its parsing meets
        return StructureError(f"broken POSCAR ({_reason(error)}): check the counts, the coordinates and their number")


def _parse_json(text: str) -> list[Structure | StructureError]:
    """Structures of pymatgen JSON, of jarvis-tools' or of plain arrays: one object, or a list of them."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StructureError(f"broken JSON ({_reason(error)})") from None
    items = content if isinstance(content, list) else [content]
    if not items:
        raise StructureError("an empty JSON list: no structures in it")
    return [_structure_of_dict(item) for item in items]


def _structure_of_dict(item: Any) -> Structure | StructureError:
    for key in ("structure", "atoms"):  # a computed entry, or a row of a data set
        if isinstance(item, dict) and isinstance(item.get(key), dict):
            item = item[key]
    keys = set(item) if isinstance(item, dict) else set()
    try:
        if {"lattice_mat", "coords", "elements"} <= keys:  # jarvis-tools
            symbols = [str(symbol).strip() for symbol in item["elements"]]
            cartesian = bool(item.get("cartesian"))
            return Structure(item["lattice_mat"], symbols, item["coords"], coords_are_cartesian=cartesian)
        if {"lattice", "species", "frac_coords"} <= keys:
            lattice_of_parameters(item["lattice"])  # pymatgen makes some cell of any numbers
            return Structure(Lattice.from_parameters(*item["lattice"]), item["species"], item["frac_coords"])
        if "sites" not in keys:
            return StructureError("JSON, but no pymatgen Structure: write it with structure.to(filename=...)")
        if "lattice" not in keys:
            return StructureError("a molecule without a lattice: a periodic cell is needed")
        if "matrix" not in item["lattice"]:
            lattice_of_parameters([item["lattice"][name] for name in ("a", "b", "c", "alpha", "beta", "gamma")])
        # no more than the crystal: of properties pymatgen makes objects, and imports the modules that they name
        sites = [{"species": site["species"], "abc": site["abc"]} for site in item["sites"]]
        return Structure.from_dict({"lattice": item["lattice"], "sites": sites})
    except Exception as error:  # pymatgen raises whatever its parsing meets
        return StructureError(f"broken pymatgen JSON ({_reason(error)})")


def _reason(error: Exception) -> str:
    """First line of an exception, or its type; a lack of memory is no fault of the text, and is passed on."""
    if isinstance(error, MemoryError):
        raise error
    text = str(error).strip().split("\n")[0].rstrip(".")
    return text[:160] if text else type(error).__name__
