"""Files to pymatgen structures: CIF, POSCAR, pymatgen JSON and extended XYZ, told apart by what they contain."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from io import StringIO
from typing import Any

import gemmi
import numpy as np
from pymatgen.core.lattice import Lattice
from pymatgen.core.periodic_table import Element
from pymatgen.core.structure import Structure
from pymatgen.io.cif import CifParser, str2float
from pymatgen.symmetry.groups import SpaceGroup

from crystalpredict._warnings import silence
from crystalpredict.crystals.crystal import LONGEST, lattice_of_parameters
from crystalpredict.errors import StructureError
from crystalpredict.io.fast_cif import (
    ATTACHED,
    DUMMY,
    GROUPS,
    HALL,
    MOST_OPERATIONS,
    NOT_MAGNETIC,
    NUMBERS,
    OPERATIONS,
    UNKNOWN,
    exact_thirds,
    fits_cell,
    is_operation,
    values_of,
)
from crystalpredict.io.poscar import is_poscar, structure_of_poscar
from crystalpredict.io.text import STATED_FORMULA
from crystalpredict.io.xyz import frames_of, is_xyz, parse_frame

CHECK_CIF = "check the cell, the symmetry operations and the atom loop"


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
    blocks = cif_blocks(text)
    with_atoms = [block for block in blocks if re.search(r"_atom_site[_.]", block, re.IGNORECASE)]
    return [_parse_block(block) for block in with_atoms or blocks[:1]]


def cif_blocks(text: str) -> list[str]:
    """The data blocks of a CIF; `data_` inside a text field, between lines that start with `;`, begins none."""
    blocks: list[list[str]] = [[]]
    in_text = False
    for line in text.split("\n"):
        if line.startswith(";"):
            in_text = not in_text
        elif in_text:
            line = " " if line.lstrip().lower().startswith("data_") else line  # pymatgen would begin a block there
        elif line.lstrip().lower().startswith("data_"):
            blocks.append([])
        blocks[-1].append(line)
    return ["\n".join(block) for block in blocks[1:] or blocks]  # what stands before the first block is comment


def _parse_block(block: str) -> Structure | StructureError:
    """Structure of one CIF data block."""
    if not re.search(r"^[^\S\n]*_cell[_.]length_a\s+\S", block, re.MULTILINE | re.IGNORECASE):
        return StructureError("no unit cell in the CIF (_cell_length_a and its kin): no crystal, or a file cut off")
    if not re.search(r"_atom_site[_.](fract|cartn)_x", block, re.IGNORECASE):
        return StructureError("no atoms in the CIF (no _atom_site_fract_x loop): a file cut off, or bibliography only")
    try:
        _refuse_repetition(block)
        # occupancies are judged later, in crystal_of_structure, where the message can name the site
        parser = CifParser.from_str(block, occupancy_tolerance=100.0)
        (data,) = (part.data for part in parser._cif.data.values())  # type: ignore[attr-defined]
        for tag in [tag for tag in data if "." in tag]:  # the names of newer dictionaries
            older = tag.replace(".", "_")
            if all(text in UNKNOWN for text in values_of(data, older)):
                data[older] = data[tag]
        _leave_out_dummies(data)
        _refuse_modulated(data)
        _refuse_impossible(data)
        for tag in (f"_atom_site_fract_{axis}" for axis in "xyz"):
            if column := values_of(data, tag):
                data[tag] = [_exact(text) for text in column]
        if occupancies := values_of(data, "_atom_site_occupancy"):
            # "." is the default, 1, which pymatgen reads as 0
            data["_atom_site_occupancy"] = ["1" if text == "." else text for text in occupancies]
        for tag in OPERATIONS:
            if all(text in UNKNOWN for text in values_of(data, tag)):
                data.pop(tag, None)  # pymatgen would send every atom to the origin
        _refuse_nameless(data, parser)
        group = _stated_group(data)
        if not any(values_of(data, tag) for tag in OPERATIONS):
            _list_operations(data, group)
            _hold_group(re.sub(r"[\s_]", "", group))
        magnetic = _magnetic_symmetry(data)
        if not magnetic or ("," not in magnetic and any(values_of(data, tag) for tag in OPERATIONS)):
            parser.feature_flags["magcif"] = False  # type: ignore[attr-defined]  # these would not be carried out
            magnetic = ""
        structures = parser.parse_structures(primitive=False, check_occu=False)
    except StructureError as error:
        return error
    except Exception as error:  # pymatgen raises whatever its parsing meets
        return StructureError(f"broken CIF ({_reason(error)}): {CHECK_CIF}")
    if not structures:
        return StructureError(f"no structure in the CIF: {CHECK_CIF}")
    notes: list[str] = parser.warnings  # type: ignore[attr-defined]
    unread = group and any("Defaulting to P1" in note for note in notes)
    if unread or (magnetic and len(parser.symmetry_operations) == 1):
        named = f"magnetic symmetry {magnetic!r}" if magnetic else f"space group {group!r}"
        return StructureError(f"{named} not understood: list its operations, _symmetry_equiv_pos_as_xyz")
    structure = structures[0]
    rotations = np.array([operation.rotation_matrix for operation in parser.symmetry_operations])
    if max(structure.lattice.abc) <= LONGEST and not fits_cell(structure.lattice.matrix, rotations):
        which = f"of {group!r} " if group else ""
        return StructureError(
            f"the symmetry operations {which}do not fit the cell: check its lengths, angles and setting"
        )
    structure.properties[STATED_FORMULA] = str(data.get("_chemical_formula_sum", ""))
    return structure


def _refuse_repetition(block: str) -> None:
    """StructureError for a data name that comes twice, of which pymatgen takes the last."""
    try:
        gemmi.cif.read_string(block)
    except (ValueError, RuntimeError) as error:
        if twice := re.search(r"duplicate tag (\S+)", str(error)):
            raise StructureError(f"{twice[1]} comes twice in a data block: leave one, or begin a block") from None


def _leave_out_dummies(data: dict[str, Any]) -> None:
    """Take the sites out that are no atoms, by the CIF's own word."""
    flags = values_of(data, "_atom_site_calc_flag")
    if any(flag.lower() == DUMMY for flag in flags):
        for tag, column in data.items():
            if tag.startswith("_atom_site_") and isinstance(column, list) and len(column) == len(flags):
                data[tag] = [text for text, flag in zip(column, flags, strict=True) if flag.lower() != DUMMY]


def _refuse_impossible(data: dict[str, Any]) -> None:
    """StructureError for what pymatgen passes over in silence: impossible cells, occupancies, names of elements."""
    lengths = [str2float(data[f"_cell_length_{axis}"]) for axis in "abc"]
    angles = [str2float(data[f"_cell_angle_{angle}"]) for angle in ("alpha", "beta", "gamma")]
    if not all(0 < length < np.inf for length in lengths):
        raise StructureError(f"cell lengths {lengths} Å: each must be a positive number")
    x, y, z = np.cos(np.radians(angles))
    if not (all(0 < angle < 180 for angle in angles) and 1 + 2 * x * y * z - x * x - y * y - z * z > 1e-6):
        raise StructureError(f"cell angles {angles}°: no cell has these angles")
    if (count := max(len(values_of(data, tag)) for tag in OPERATIONS)) > MOST_OPERATIONS:
        raise StructureError(f"{count} symmetry operations: no space group has so many, list each once")
    for tag in OPERATIONS:
        for text in values_of(data, tag):
            if text not in UNKNOWN and not is_operation(text):
                raise StructureError(f"symmetry operation {text!r} not understood: write it like -x,y+1/2,z")
    for axis in "xyz":
        for site, text in enumerate(values_of(data, f"_atom_site_fract_{axis}"), start=1):
            if text in UNKNOWN:
                raise StructureError(f"no {axis} coordinate at site {site}: give one, or leave the site out")
    for site, text in enumerate(values_of(data, "_atom_site_occupancy"), start=1):
        if text not in (".", "?") and str2float(text) <= 0:
            raise StructureError(f"occupancy {text} at site {site}: it must be above 0; leave an empty site out")
    for site, text in enumerate(values_of(data, f"_atom_site_{ATTACHED}"), start=1):
        if text not in ("0", *UNKNOWN):
            raise StructureError(f"{text} hydrogens attached to site {site} have no coordinates: add them as sites")
    for site, symbol in enumerate(values_of(data, "_atom_site_type_symbol"), start=1):
        named = re.fullmatch(r"([A-Za-z]{1,2})[0-9.]*[+-]?[0-9.]*", symbol)
        if named is None or not Element.is_valid_symbol(named[1].capitalize()):
            raise StructureError(f"unknown element {symbol!r} at site {site}: name a chemical element")


def _refuse_nameless(data: dict[str, Any], parser: CifParser) -> None:
    """StructureError for sites without a type whose label names no element: pymatgen leaves some out, or guesses."""
    if values_of(data, "_atom_site_type_symbol"):
        return
    for site, label in enumerate(values_of(data, "_atom_site_label"), start=1):
        element = parser._parse_symbol(label)
        if not element or re.fullmatch(r"(T|V[aA][cC]?|[Ww]at|O-H|NO3|HO|REE?)[0-9]*|H2O", label):
            raise StructureError(f"label {label!r} of site {site} names no element: add _atom_site_type_symbol")


def _refuse_modulated(data: dict[str, Any]) -> None:
    """StructureError for a crystal that has no cell: its operations are those of superspace."""
    dimension = (data.get(tag, "0") for tag in ("_cell_modulation_dimension", "_cell.modulation_dimension"))
    superspace = (tag for tag in data if re.search(r"symop(_magn)?_ssg_operation|symop_ssg\.", tag))
    if any(number not in ("0", *UNKNOWN) for number in dimension) or any(superspace):
        raise StructureError("a modulated structure, which no cell repeats: give an approximant, a supercell of it")


def _exact(text: str) -> str:
    """A coordinate, as rounded thirds are meant."""
    number = str2float(text)
    exact = float(exact_thirds(np.array([number]))[0])
    return text if exact == number else repr(exact % 1)


def _stated_group(data: dict[str, Any]) -> str:
    """Space group that a CIF block names, unless it is P 1; empty if it names none."""
    tags = ("_symmetry_space_group_name_H-M", "_space_group_name_H-M_alt", "_space_group_IT_number")
    newer = ("_space_group_name_H-M_ref", "_space_group_name_H-M_full")
    names = (str(data.get(tag, "")).strip("'\" ") for tag in (*tags, "_symmetry_Int_Tables_number", *HALL, *newer))
    return next((name for name in names if name.replace(" ", "") not in ("", "?", ".", "P1", "1")), "")


def _magnetic_symmetry(data: dict[str, Any]) -> str:
    """Magnetic group that a CIF block names, or the first operation that it lists, unless these are those of P 1."""
    for tag, value in data.items():
        if re.search(r"symop.*magn.*_xyz$", tag) and len(values_of(data, tag)) > 1:
            return values_of(data, tag)[1]
        name = str(value).strip("'\" ").replace(" ", "")
        if re.search(r"_magn_(name|number)_(BNS|OG)", tag) and not NOT_MAGNETIC.fullmatch(name):
            return str(value)
    return ""


def _list_operations(data: dict[str, Any], group: str) -> None:
    """List the operations of the setting that is named; StructureError if the name leaves its origin open.

    A Hall symbol goes before the name of the `group`. Of groups with a choice of axes the cell says which.
    """
    alpha, gamma = (str2float(data[f"_cell_angle_{angle}"]) for angle in ("alpha", "gamma"))
    named = _named_group(group, alpha, gamma)
    names = [name for tag in (*GROUPS, *NUMBERS) if (name := str(data.get(tag, "")).strip("'\" ")) not in UNKNOWN]
    numbers = {each.number for name in names if (each := _named_group(name, alpha, gamma))}
    if len(numbers) > 1:
        raise _different_groups(names)
    operations = None
    for hall in (str(data.get(tag, "")).strip() for tag in HALL):  # a symbol may end with a double quote
        try:
            operations = operations or (None if hall in UNKNOWN else gemmi.symops_from_hall(hall))
        except (ValueError, RuntimeError):  # a mistyped symbol is as good as none
            continue
        found = operations and gemmi.find_spacegroup_by_ops(operations)
        if found and numbers and {found.number} != numbers:
            raise _different_groups([*names, hall])
    if operations is None and named and (":" in group or named.ext in ("\0", "R", "H")):
        operations = named.operations()
    if operations:
        data["_symmetry_equiv_pos_as_xyz"] = [operation.triplet() for operation in operations]
    elif named and {"1", "2"} <= {each.ext for each in gemmi.spacegroup_table() if each.number == named.number}:
        raise StructureError(f"space group {group!r} has two origins: list its operations, _symmetry_equiv_pos_as_xyz")


def _different_groups(names: list[str]) -> StructureError:
    return StructureError(f"{' and '.join(map(repr, names))} are different space groups: list the operations")


def _named_group(name: str, alpha: float, gamma: float) -> gemmi.SpaceGroup | None:
    """Space group of a name or a number, with the axes that the angles of the cell tell."""
    if name.isdecimal():
        numbered = gemmi.find_spacegroup_by_number(int(name)) if 0 < int(name) <= 230 else None  # 0 would be P 1
        name = numbered.hm if numbered else ""
    return gemmi.find_spacegroup_by_name(name, alpha, gamma)


@lru_cache(256)
def _hold_group(symbol: str) -> SpaceGroup | None:
    """A space group, which takes pymatgen half a second, and which it forgets as soon as nobody holds it."""
    try:
        return SpaceGroup(symbol)
    except ValueError:
        return None


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
