"""Plain CIFs by gemmi, twelve times faster than by pymatgen: ordered sites, understood symmetry.

Whatever is not plain, or looks wrong in any way, is left to `pymatgen_parser`, which handles the exceptions and says
what is wrong. Both give the same crystal (tests/unit/test_plain_cif.py; benchmarks/cif_readers.py for many files).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Any

import gemmi
import numpy as np

from crystalpredict.crystals.crystal import ATOMIC_NUMBERS, FloatArray, IntArray, lattice_of_parameters

SAME_SITE = 1e-4  # of fractional coordinates, within which two images of an atom are one: pymatgen's tolerance
_CELL = tuple(
    f"_cell_{name}" for name in ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
)
MOST_OPERATIONS = 1000  # of which Fm-3m has 192: the memory for a site is that of their square
UNKNOWN = ("?", ".", "")  # what stands where a value is not given
METRIC = 0.05  # by how much of a length or a cosine a symmetry operation may change the cell
OPERATIONS = (
    "_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz", "_space_group_symop.operation_xyz",
)  # fmt: skip
GROUPS = ("_symmetry_space_group_name_H-M", "_space_group_name_H-M_alt")
NUMBERS = ("_space_group_IT_number", "_symmetry_Int_Tables_number")
# P1, P11', P1.1', P_S1 (BNS), P_2s1 (OG) and their numbers, without spaces and quotes
NOT_MAGNETIC = re.compile(r"1\..*|P(_\{?[0-9]?[A-Za-z]+\}?|S)?1(\.?1)?'*|[?.]?")
HALL = ("_space_group_name_Hall", "_symmetry_space_group_name_Hall", "_space_group.name_Hall")
ATTACHED = "attached_hydrogens"  # to sites, without coordinates
_SITE = ("label", "fract_x", "fract_y", "fract_z", "?type_symbol", "?occupancy", "?calc_flag", f"?{ATTACHED}")
DUMMY = "dum"  # the calc_flag of a site that is no atom
_ION = re.compile(r"([A-Z][a-z]?)(?:0?\+|0?-|[0-9](?:\.[0-9]*)?[+-]|[+-][0-9])?")
_LABEL = re.compile(r"(?!H2O$)([A-Z][a-z]?)(?:[0-9][0-9A-Za-z]*)?")
_OPERATION = re.compile(r"[xyzXYZ0-9/+,\s-]+")
_IDENTITY = gemmi.Op("x,y,z")
_BLOCK = re.compile(r"^data_\S*", re.MULTILINE | re.IGNORECASE)
_UNUSUAL = re.compile(r"_magn|_moment|_cell[_.]modulation|_ssg[_.]", re.IGNORECASE)


@dataclass(frozen=True)
class PlainCif:
    """lattice (3, 3), Å; fractional (n, 3), in the cell; numbers (n,), atomic numbers; the formula stated, if any."""

    lattice: FloatArray
    fractional: FloatArray
    numbers: IntArray
    stated_formula: str


def read_plain_cif(text: str) -> list[PlainCif]:
    """The crystals of a CIF all of whose blocks are plain; none if the text is anything else."""
    if _UNUSUAL.search(text):
        return []
    crystals = [_read_block(block) for block in _blocks(text)]
    return [crystal for crystal in crystals if crystal] if all(crystals) else []


def _blocks(text: str) -> Iterable[gemmi.cif.Block]:
    """The data blocks; none if gemmi cannot read the text. Programs exist that give all blocks the same name."""
    try:
        return gemmi.cif.read_string(text)
    except (ValueError, RuntimeError) as error:
        if "duplicate block name" not in str(error):
            return []
    numbers = count()
    try:
        return gemmi.cif.read_string(_BLOCK.sub(lambda _: f"data_{next(numbers)}", text))
    except (ValueError, RuntimeError):
        return []


def _read_block(block: gemmi.cif.Block) -> PlainCif | None:
    parameters = [gemmi.cif.as_number(block.find_value(tag) or "?") for tag in _CELL]
    operations = _operations(block, parameters)
    sites = block.find("_atom_site_", _SITE)
    if not (_is_cell(parameters) and operations and len(sites)):
        return None
    if sites.has_column(6) and any(flag.lower() == DUMMY for flag in sites.column(6)):
        return None
    if sites.has_column(7) and any(text not in ("0", *UNKNOWN) for text in sites.column(7)):
        return None
    typed = sites.has_column(4)
    numbers = [_atomic_number(text, _ION if typed else _LABEL) for text in sites.column(4 if typed else 0)]
    full = not sites.has_column(5) or all(_is_full(text) for text in set(sites.column(5)))
    places = np.array([[gemmi.cif.as_number(text) for text in sites.column(axis)] for axis in (1, 2, 3)]).T
    if None in numbers or not full or not np.abs(places).max() < 100:  # false for not-a-number too
        return None
    lattice = lattice_of_parameters(parameters)
    if operations != [_IDENTITY] and not fits_cell(lattice, np.array([op.rot for op in operations]) / gemmi.Op.DEN):
        return None
    stated = block.find_value("_chemical_formula_sum")
    fractional, site = _expand(exact_thirds(places), operations)
    return PlainCif(
        lattice,
        fractional,
        np.array(numbers, dtype=np.int64)[site],
        gemmi.cif.as_string(stated) if stated else "",
    )


def fits_cell(lattice: FloatArray, rotations: FloatArray) -> bool:
    """Whether operations W (n, 3, 3) on fractional coordinates leave the cell as it is, W^T G W = G, up to METRIC."""
    metric = lattice @ lattice.T
    lengths = np.sqrt(np.diag(metric))
    change = np.swapaxes(rotations, 1, 2) @ metric @ rotations - metric
    return bool((np.abs(change) <= 2 * METRIC * np.outer(lengths, lengths)).all())


def _operations(block: gemmi.cif.Block, cell: list[float]) -> list[gemmi.Op]:
    """The operations listed, or those of the space group named, if its name stands for one setting; else none."""
    for tag in OPERATIONS:
        texts = [gemmi.cif.as_string(text) for text in block.find_values(tag)]
        if any(text not in UNKNOWN for text in texts):
            if len(texts) > MOST_OPERATIONS or not all(_OPERATION.fullmatch(text) for text in texts):
                return []  # decimals, which gemmi rounds to 24ths
            try:
                return [gemmi.Op(text) for text in texts]
            except (ValueError, RuntimeError):
                return []
    names, halls = (
        [name for tag in tags if (name := gemmi.cif.as_string(block.find_value(tag) or "?")) not in UNKNOWN]
        for tags in (GROUPS, HALL)
    )
    numbers = {gemmi.cif.as_string(block.find_value(tag) or "?") for tag in NUMBERS} - {*UNKNOWN}
    if len({*names, *halls}) > 1 or (halls and numbers):
        return []  # whether they agree is seen where the exceptions are known
    if halls:
        try:
            return list(gemmi.symops_from_hall(halls[0]))
        except (ValueError, RuntimeError):
            return []
    group = gemmi.find_spacegroup_by_name(names[0], cell[3], cell[5]) if names else None
    if group and not numbers <= {str(group.number)}:
        return []
    # of groups with a choice of axes, R, the one that the cell has; with a choice of origin, none
    return [] if group is None or group.ext not in ("\0", "R", "H") else list(group.operations())


def values_of(data: dict[str, Any], name: str) -> list[str]:
    """Values of an item of a CIF block, one for each row of its loop; empty if the item is absent."""
    values = data.get(name, [])
    return [values] if isinstance(values, str) else values


def is_operation(text: str) -> bool:
    """Whether a text is a symmetry operation such as -x,y+1/2,z."""
    try:
        gemmi.Op(text)
    except (ValueError, RuntimeError):
        return False
    return True


def _is_cell(parameters: list[float]) -> bool:
    lengths, angles = parameters[:3], parameters[3:]
    if not (all(0.5 < length < 1000 for length in lengths) and all(2 < angle < 178 for angle in angles)):
        return False  # false for not-a-number too
    x, y, z = (math.cos(math.radians(angle)) for angle in angles)
    return 1 + 2 * x * y * z - x * x - y * y - z * z > 1e-6


@lru_cache(4096)  # labels differ without end, and memory must not grow with the files
def _atomic_number(symbol: str, form: re.Pattern[str]) -> int | None:
    """Atomic number of an element, an ion or a label; none for an isotope, a water or a mistake."""
    parts = form.fullmatch(symbol)
    return ATOMIC_NUMBERS.get(parts[1]) if parts else None


def _is_full(occupancy: str) -> bool:
    return occupancy == "." or gemmi.cif.as_number(occupancy) == 1


def exact_thirds(places: FloatArray) -> FloatArray:
    """Fractional coordinates with rounded positive thirds, 0.3333 or 0.6667, made exact, as symmetry needs them."""
    thirds = np.rint(3 * places) / 3
    rounded = (np.abs(places - thirds) < SAME_SITE * thirds) & (thirds != np.rint(places))
    return np.where(rounded, thirds, places)


def _expand(places: FloatArray, operations: list[gemmi.Op]) -> tuple[FloatArray, IntArray]:
    """Images (n, 3) of the sites under all operations, inside the cell, each once, and the site (n,) of each image."""
    if operations == [_IDENTITY]:
        return places - np.floor(places), np.arange(len(places))
    rotations = np.array([operation.rot for operation in operations]) / gemmi.Op.DEN
    translations = np.array([operation.tran for operation in operations]) / gemmi.Op.DEN
    images = np.einsum("oij,sj->soi", rotations, places) + translations  # (sites, operations, 3)
    images -= np.floor(images)
    found, sites = [], []
    for site, own in enumerate(images):
        offsets = own[:, None] - own[None]
        same = (np.abs(offsets - np.round(offsets)) < SAME_SITE).all(axis=2)
        first = ~np.tril(same, -1).any(axis=1)
        found.append(own[first])
        sites.append(np.full(int(first.sum()), site))
    return np.concatenate(found), np.concatenate(sites)
