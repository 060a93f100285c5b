"""Files to crystals: the only door to pymatgen and spglib.

CIF, POSCAR and pymatgen JSON are told apart by what they contain, not by their names. A file that holds several
structures gives several entries; whatever cannot be read gives an entry with an error, and the rest go on.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import spglib
from pymatgen.core.periodic_table import DummySpecies
from pymatgen.core.sites import PeriodicSite
from pymatgen.core.structure import Structure
from pymatgen.io.cif import CifParser
from pymatgen.io.vasp.inputs import Poscar

from crystalpredict.crystal import ELEMENTS, Crystal, FloatArray, IntArray
from crystalpredict.errors import StructureError
from crystalpredict.neighbors import find_neighbors

os.environ.setdefault("SPGLIB_WARNING", "OFF")  # else the C library writes on stderr where a search fails

SYMPREC = 0.01  # Å, of the search for the primitive cell
CLOSEST = 0.5  # Å, below which two atoms are a mistake: the shortest bond there is, H-H, has 0.74
OCCUPANCY_TOLERANCE = 1.005  # rounded thirds may add up to a little more than 1
CHECK_CIF = "check the cell, the symmetry operations and the atom loop"
THINNEST = 0.1  # Å^3 per atom, below which the lattice is flat or mistyped


@dataclass(frozen=True)
class Entry:
    """One structure asked for: a crystal, or the reason why there is none.

    n_atoms counts the atoms of the cell as it stands in the file; `crystal` may be a smaller cell of the same crystal.
    """

    path: str
    index: int
    formula: str = ""
    n_atoms: int | None = None
    crystal: Crystal | None = None
    warnings: tuple[str, ...] = ()
    error: str = ""


def read_entries(path: str, *, reduce: bool = True) -> Iterator[Entry]:
    """Every structure in a file, in its order; at least one entry, and no exception, whatever the file holds."""
    try:
        structures = parse_text(read_text(Path(path)))
    except StructureError as error:
        yield Entry(path, 0, error=str(error))
        return
    for index, structure in enumerate(structures):
        yield entry_of_structure(structure, path, index, reduce=reduce)


def entry_of_structure(
    structure: Structure | StructureError, path: str = "", index: int = 0, *, reduce: bool = True
) -> Entry:
    """The entry of a structure already parsed, or of the error that its parsing gave."""
    if isinstance(structure, StructureError):
        return Entry(path, index, error=str(structure))
    formula, n_atoms = structure.composition.reduced_formula, len(structure)
    try:
        crystal, notes = crystal_of_structure(structure)
        if reduce:
            crystal, kept = primitive_cell(crystal)
            notes += kept
    except StructureError as error:
        return Entry(path, index, formula, n_atoms, error=str(error))
    return Entry(path, index, formula, n_atoms, crystal, tuple(notes))


def read_text(path: Path) -> str:
    """Text of a file, unpacked if it is gzipped; StructureError if it cannot be read as text."""
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except FileNotFoundError:
        raise StructureError("no such file: check the path") from None
    except IsADirectoryError:
        raise StructureError("a directory, not a structure file") from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StructureError(f"cannot be read ({reason}): check the file and its permissions") from None
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    if encoding == "utf-8-sig" and b"\0" in content:
        raise StructureError("a binary file: give a CIF, a POSCAR or pymatgen JSON")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = content.decode("latin-1")  # old CIFs name their authors in it
    if not text.strip():
        raise StructureError("empty file: write or download it again")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_text(text: str) -> list[Structure | StructureError]:
    """The structures in a CIF, a POSCAR or pymatgen JSON; an error stands in the place of each unreadable one."""
    start = text.lstrip()[:512].lower()
    if start.startswith(("{", "[")):
        return _parse_json(text)
    if start.startswith(("<!doctype", "<html", "<?xml")):
        raise StructureError("a web page, not a structure: download the file itself")
    if re.search(r"^\s*(data_\S*|_cell_length_a|_cell\.length_a)", text, re.MULTILINE | re.IGNORECASE):
        return _parse_cif(text)
    return [_parse_poscar(text)]


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
        elif not in_text and line.lstrip().lower().startswith("data_") and any(part.strip() for part in blocks[-1]):
            blocks.append([])
        blocks[-1].append(line)
    return ["\n".join(block) for block in blocks]


def _parse_block(block: str) -> Structure | StructureError:
    """Structure of one CIF data block."""
    if not re.search(r"^\s*_cell[_.]length_a\s+\S", block, re.MULTILINE | re.IGNORECASE):
        return StructureError("no unit cell in the CIF (_cell_length_a and its kin): no crystal, or a file cut off")
    if not re.search(r"_atom_site[_.](fract|cartn)_x", block, re.IGNORECASE):
        return StructureError("no atoms in the CIF (no _atom_site_fract_x loop): a file cut off, or bibliography only")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            # occupancies are judged later, in crystal_of_structure, where the message can name the site
            parser = CifParser.from_str(block, occupancy_tolerance=100.0)
            structures = parser.parse_structures(primitive=False, check_occu=False)
    except Exception as error:  # pymatgen raises whatever its parsing meets
        return StructureError(f"broken CIF ({_reason(error)}): {CHECK_CIF}")
    if not structures:
        return StructureError(f"no structure in the CIF: {CHECK_CIF}")
    structure = structures[0]
    if any("Incorrect stoichiometry" in str(warning.message) for warning in said):
        structure.properties["crystalpredict_note"] = "composition differs from the formula stated in the CIF"
    return structure


def _parse_poscar(text: str) -> Structure | StructureError:
    """Structure of a POSCAR; it must name its elements."""
    lines = text.split("\n")
    try:
        numbers = [[float(word) for word in line.split()[:3]] for line in lines[2:5]]
        if [len(row) for row in numbers] != [3, 3, 3]:
            raise ValueError
        float(lines[1].split()[0])
    except (ValueError, IndexError):
        return StructureError("not a CIF, a POSCAR or pymatgen JSON: convert it to one of these")
    named = len(lines) > 5 and any(word[:1].isalpha() for word in lines[5].split())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            poscar = Poscar.from_str(text, read_velocities=False)
    except Exception as error:  # pymatgen raises whatever its parsing meets
        return StructureError(f"broken POSCAR ({_reason(error)}): check the counts, the coordinates and their number")
    if not named and not poscar.true_names:
        return StructureError("the POSCAR does not name its elements: add a line of symbols above the line of counts")
    return poscar.structure


def _parse_json(text: str) -> list[Structure | StructureError]:
    """Structures of pymatgen JSON: one object, or a list of them."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise StructureError(f"broken JSON ({_reason(error)})") from None
    items = content if isinstance(content, list) else [content]
    if not items:
        raise StructureError("an empty JSON list: no structures in it")
    return [_structure_of_dict(item) for item in items]


def _structure_of_dict(item: Any) -> Structure | StructureError:
    if isinstance(item, dict) and isinstance(item.get("structure"), dict):
        item = item["structure"]  # a computed entry, or a row of a data set
    if not isinstance(item, dict) or "sites" not in item:
        return StructureError("JSON, but no pymatgen Structure: write it with structure.to(filename=...)")
    if "lattice" not in item:
        return StructureError("a molecule without a lattice: a periodic cell is needed")
    try:
        return Structure.from_dict(item)
    except Exception as error:  # pymatgen raises whatever its parsing meets
        return StructureError(f"broken pymatgen JSON ({_reason(error)})")


def crystal_of_structure(structure: Structure) -> tuple[Crystal, list[str]]:
    """The crystal of a pymatgen structure and what was decided about it; StructureError if it is none.

    Oxidation states, spins and isotopes are dropped. A site shared by several elements, or partly vacant, keeps its
    occupancies.
    """
    if not len(structure):
        raise StructureError("no atoms in the cell")
    lattice = np.array(structure.lattice.matrix, dtype=float)
    positions = np.array(structure.cart_coords, dtype=float)
    if not (np.isfinite(lattice).all() and np.isfinite(positions).all()):
        raise StructureError("a cell length, an angle or a coordinate is not a number")
    if abs(np.linalg.det(lattice)) < THINNEST * len(structure):
        volume = f"{abs(np.linalg.det(lattice)):.3g} Å^3 for {len(structure)} atoms"
        raise StructureError(f"the cell has {volume}: check its lengths and angles")
    sites = [_occupants(site, number) for number, site in enumerate(structure, start=1)]
    columns = max(len(site) for site in sites)
    numbers = np.ones((len(sites), columns), dtype=np.int64)
    occupancies = np.zeros((len(sites), columns))
    for row, site in enumerate(sites):
        for column, (number, occupancy) in enumerate(sorted(site.items())):
            numbers[row, column], occupancies[row, column] = number, occupancy
    _refuse_close_atoms(structure, lattice, positions)
    notes = []
    partial = int((occupancies.max(axis=1) < 1).sum())
    if partial:
        notes.append(f"{partial} of {len(sites)} sites partly occupied: predicted for the average site, unverified")
    if "crystalpredict_note" in structure.properties:
        notes.append(structure.properties["crystalpredict_note"])
    return Crystal(lattice, positions, numbers, occupancies), notes


def _occupants(site: PeriodicSite, number: int) -> dict[int, float]:
    """Occupancy by atomic number of one site."""
    occupants: dict[int, float] = {}
    for species, occupancy in site.species.items():
        if isinstance(species, DummySpecies):
            raise StructureError(f"unknown element {species.symbol!r} at site {number}: name a chemical element")
        if not 1 <= species.Z <= len(ELEMENTS):
            raise StructureError(f"element {species.symbol} at site {number}: the model knows H to {ELEMENTS[-1]} only")
        if not occupancy >= 0:  # not a number is neither
            raise StructureError(f"occupancy {occupancy:g} of {species.symbol} at site {number}: must lie in 0 to 1")
        occupants[species.Z] = occupants.get(species.Z, 0.0) + float(occupancy)
    total = sum(occupants.values())
    if total > OCCUPANCY_TOLERANCE:
        raise StructureError(f"occupancies at site {number} add up to {total:.3g}: they must not exceed 1")
    if total <= 0:
        raise StructureError(f"nobody lives at site {number}: every occupancy is 0")
    scale = 1 / total if abs(total - 1) <= OCCUPANCY_TOLERANCE - 1 else 1.0
    return {z: occupancy * scale for z, occupancy in occupants.items() if occupancy > 0}


def _refuse_close_atoms(structure: Structure, lattice: FloatArray, positions: FloatArray) -> None:
    """StructureError if two atoms, images included, are closer than CLOSEST."""
    edges = find_neighbors(lattice, positions, CLOSEST)
    if len(edges.indices) == len(positions):  # the self edges alone
        return
    centres = np.repeat(np.arange(len(positions)), np.diff(edges.first))
    others = np.flatnonzero(np.arange(len(centres)) != edges.first[centres])
    edge = others[np.argmin(edges.distances[others])]
    one, two = int(centres[edge]), int(edges.indices[edge])
    names = [f"{structure[site].species_string} (site {site + 1})" for site in (one, two)]
    hint = "give an ordered model" if not structure.is_ordered else "remove the duplicate or check the cell"
    raise StructureError(f"{names[0]} and {names[1]} are {edges.distances[edge]:.2f} Å apart: {hint}")


def primitive_cell(crystal: Crystal) -> tuple[Crystal, list[str]]:
    """The primitive cell of the same crystal, or the crystal itself with the reason.

    The cell that spglib finds is taken only if composition, volume per atom (1 %) and shortest distance survive; the
    prediction does not depend on the choice, only its cost does.
    """
    (numbers, occupancies), kind_of_site = _kinds(crystal)
    fractional = crystal.positions @ np.linalg.inv(crystal.lattice)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            cell = (crystal.lattice, fractional, kind_of_site)
            found = spglib.standardize_cell(cell, to_primitive=True, no_idealize=True, symprec=SYMPREC)  # type: ignore[arg-type]
        except Exception:  # spglib's own error classes changed between releases
            found = None
    if found is None:
        return crystal, ["cell kept as given: no symmetry found"]
    lattice, reduced, kind_of_reduced = (np.asarray(part) for part in found)
    if len(reduced) >= crystal.n_atoms:
        return crystal, []
    small = Crystal(lattice, reduced @ lattice, numbers[kind_of_reduced], occupancies[kind_of_reduced])
    reason = _difference(crystal, kind_of_site, small, kind_of_reduced)
    return (crystal, [f"cell kept as given: reduction would change the {reason}"]) if reason else (small, [])


def _kinds(crystal: Crystal) -> tuple[tuple[IntArray, FloatArray], IntArray]:
    """Distinct occupants (numbers, occupancies) of the sites, and the kind of each site (n,)."""
    table = np.concatenate([crystal.numbers, crystal.occupancies], axis=1)
    distinct, kind_of_site = np.unique(table, axis=0, return_inverse=True)
    columns = crystal.numbers.shape[1]
    return (distinct[:, :columns].astype(np.int64), distinct[:, columns:]), kind_of_site.reshape(-1)


def _difference(before: Crystal, kinds_before: IntArray, after: Crystal, kinds_after: IntArray) -> str:
    """What a reduction changed: composition, volume per atom, shortest distance; empty if nothing."""
    count = int(kinds_before.max()) + 1
    shares = [np.bincount(kinds, minlength=count) / len(kinds) for kinds in (kinds_before, kinds_after)]
    if np.abs(shares[0] - shares[1]).max() > 1e-9:
        return "composition"
    per_atom = [crystal.volume / crystal.n_atoms for crystal in (before, after)]
    if abs(per_atom[1] / per_atom[0] - 1) > 0.01:
        return "volume per atom"
    shortest = [shortest_distance(crystal) for crystal in (before, after)]
    if abs(shortest[0] - shortest[1]) > 0.05:
        return "shortest distance"
    return ""


def shortest_distance(crystal: Crystal) -> float:
    """Distance of the two closest atoms, images included, Å."""
    radius = 2.0 * (crystal.volume / crystal.n_atoms) ** (1 / 3)
    while True:
        edges = find_neighbors(crystal.lattice, crystal.positions, radius)
        if len(edges.distances) > crystal.n_atoms:
            own = np.zeros(len(edges.distances), dtype=bool)
            own[edges.first[:-1]] = True
            return float(edges.distances[~own].min())
        radius *= 2


def _reason(error: Exception) -> str:
    """First line of an exception, or its type."""
    text = str(error).strip().split("\n")[0].rstrip(".")
    return text[:160] if text else type(error).__name__
